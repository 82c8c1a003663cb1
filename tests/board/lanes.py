"""The lanes of the scene of the board: one moves, the others are held, each for another reason."""

from collections.abc import Iterator
from typing import Any, Final

from stream_app.domain.lane.holds import BREAKER_OPEN
from stream_app.domain.limits.balance import Booked, Reading
from stream_app.domain.limits.breaker import OPENED_BECAUSE, Outage
from stream_app.domain.limits.meters import Estimate, Meter
from stream_app.domain.limits.suspension import Suspension
from stream_app.domain.limits.webhook_quota import Webhook
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Actor, Change
from stream_app.domain.views.lane import (
    AS_PROBE,
    DestinationView,
    LaneChange,
    PartHold,
    RunsView,
)
from tests.board.clock import DAY_MS, HOUR_MS, MINUTE_MS, NOW_MS
from tests.board.model_records import Made, lane

_NAMES: Final = TopicNames()
_PART_SINCE_MS: Final = NOW_MS - 26 * MINUTE_MS


def _meters(
    day: int,
    day_cap: int | None,
    month: int,
    month_cap: int | None,
    reserved: int = 0,
) -> dict[str, Meter]:
    day_ends = NOW_MS + 7 * HOUR_MS + 8 * MINUTE_MS
    month_ends = NOW_MS + 9 * DAY_MS + 7 * HOUR_MS + 8 * MINUTE_MS
    return {
        "credits_day": Meter(
            "2026-09-21",
            day_ends,
            day_cap,
            day,
            reserved,
            begins_ms=day_ends - DAY_MS,
        ),
        "credits_month": Meter(
            "2026-09",
            month_ends,
            month_cap,
            month,
            reserved,
            begins_ms=month_ends - 30 * DAY_MS,
        ),
    }


_GONE: Final = Suspension(
    "gone",
    "webhook w-gone of acme-people takes no leads: HTTP 404: Clay does not know it",
    NOW_MS - DAY_MS,
    NOW_MS + HOUR_MS,
    HOUR_MS,
    destination="acme-people",
)


def _reading(ago_min: int, others: int) -> Reading:
    """Clay's balance of acme so many minutes ago: leads have taken 2 credits a minute."""
    paid = 2 * (24 * 60 - ago_min)
    booked = Booked(paid, paid - paid // 4, paid)
    return Reading(NOW_MS - ago_min * MINUTE_MS, 9_140.5 - paid - others, booked, open=12)


def lanes() -> Iterator[Made]:
    jane = Actor("jane", "Clay's sales call said so", NOW_MS - 3 * HOUR_MS)
    common: dict[str, Any] = {
        "at_ms": NOW_MS - 5_000,
        "calls": 240,
        "p50_ms": 120,
        "p95_ms": 240,
        "p99_ms": 900,
    }
    common |= {"concurrency": 12}
    held = "Clay refuses its token (401)"
    for minutes in range(23 * 60, 40, -20):
        turn = minutes // 20
        values = {"score": 97 - turn % 5, "p95_ms": 200 + 30 * (turn % 4), "calls": 90}
        read = _reading(minutes, others=180 if minutes < 600 else 0)
        yield _lane("acme", 0, at_ms=NOW_MS - minutes * MINUTE_MS, reading=read, **values)
    for ago_min, kind, text in (
        (23 * 60, "moves", "no longer paused"),
        (38, "held", f"stopped: {held}"),
    ):
        news = (LaneChange(kind, text),)
        yield _lane(
            "acme",
            0,
            at_ms=NOW_MS - ago_min * MINUTE_MS,
            score=71,
            p95_ms=240,
            calls=90,
            news=news,
        )
    yield _lane(
        "acme",
        0,
        **common | {"score": 71.0, "health": "degraded", "rate_per_s": 0},
        holds="http_401",
        text=held,
        since_ms=NOW_MS - 38 * MINUTE_MS,
        until_ms=NOW_MS + 5 * MINUTE_MS,
        meters=_meters(3_720, 6_000, 60_100, 150_000, 240),
        news=(LaneChange("health_degraded", "240 calls, score 71, p95 240 ms"),),
        webhooks={
            "w-1f2e": Webhook(41_200),
            "w-77aa": Webhook(45_000, "used up"),
            "w-gone": Webhook(9, "", _GONE),
        },
        estimates={"acme-people": Estimate(5.8, 1.2, 900)},
        destinations={
            "acme-people": DestinationView(38.5, "unhealthy", 70, "open"),
            "acme-firms": DestinationView(99.4, "healthy", 160),
            "acme-jobs": DestinationView(100, "insufficient_data", 10),
        },
        submissions_left={"acme-people": 3_800},
        changes=(Change("rate.rate_per_s", 10, 6, jane),),
        reading=_reading(0, others=180),
    )
    yield _lane(
        "globex",
        1,
        **common | {"score": 99.0, "rate_per_s": 10},
        holds="budget_credits_day",
        text="the next lead may cost 20 credits, and the budget credits_day has less left",
        since_ms=NOW_MS - 2 * HOUR_MS,
        until_ms=NOW_MS + 7 * HOUR_MS + 8 * MINUTE_MS,
        meters=_meters(3_980, 4_000, 70_000, None, 20),
        estimates={"globex-people": Estimate(6.1, 1.0, 400)},
    )
    for number, (name, score, rate, p95, day, cap, breaker) in enumerate(
        (
            ("hooli", 100.0, 9.8, 160, 6_480, 8_000, "closed"),
            ("initech", 99.0, 7.9, 180, 5_140, 10_000, "closed"),
            ("umbrella", 83.0, 1.2, 2_100, 1_050, 5_000, "half_open"),
        ),
    ):
        more = common | {
            "score": score,
            "rate_per_s": rate,
            "p95_ms": p95,
            "p99_ms": p95 * 3,
            "breaker": breaker,
        }
        if breaker == "half_open":
            more |= _held_between_probes()
        if name == "hooli":
            more |= _held_in_part()
            (part,) = more["partly"]
            change = LaneChange("held_in_part", f"no callbacks: {part.text}", "no_callbacks")
            yield _lane(name, 2, at_ms=_PART_SINCE_MS, score=100, p95_ms=150, news=(change,))
        yield _lane(
            name,
            (2, 3, 5)[number],
            **{"meters": _meters(day, cap, day * 14, cap * 30, 150)} | _of(name) | more,
        )
    for hours in range(23, 0, -1):
        score = 100 - 20 * (hours == 9) - hours % 4
        yield _lane(
            "initech",
            3,
            at_ms=NOW_MS - hours * HOUR_MS,
            score=score,
            p95_ms=150 + 40 * (hours % 5),
            calls=90,
        )
    for ago_h, kind, text in (
        (9.2, "breaker_open", "5 of 8 calls failed"),
        (9, "held", "breaker open: 5 of 8 failed"),
    ):
        yield _lane(
            "initech",
            3,
            at_ms=NOW_MS - int(ago_h * HOUR_MS),
            news=(LaneChange(kind, text),),
        )
    for ago_h, kind in ((8.7, "breaker_half_open"), (8.5, "breaker_closed"), (8.5, "moves")):
        text = (
            "no longer breaker open"
            if kind == "moves"
            else f"the circuit breaker is {kind[8:].replace('_', ' ')}"
        )
        yield _lane(
            "initech",
            3,
            at_ms=NOW_MS - int(ago_h * HOUR_MS) + len(kind),
            news=(LaneChange(kind, text),),
        )
    more = common | {"score": 99.0, "rate_per_s": 7.9, "p95_ms": 180}
    yield _lane(
        "initech",
        3,
        **more,
        meters=_meters(5_140, 10_000, 61_900, 150_000, 150),
        **_of("initech"),
    )


def _held_between_probes() -> dict[str, Any]:
    """The breaker is half open and no probe is in flight, so the next lead goes as one."""
    outage = Outage("http_503", NOW_MS - 9 * MINUTE_MS, NOW_MS - MINUTE_MS, 47)
    return {
        "health": "degraded",
        "outage": outage,
        "holds": BREAKER_OPEN,
        "text": f"the circuit breaker is half open: {OPENED_BECAUSE['consecutive_failures']}",
        "since_ms": outage.since_ms,
        "turns": {"umbrella-people": AS_PROBE},
        "probe_due": True,
    }


def _held_in_part() -> dict[str, Any]:
    """One of two destinations is suspended, and the leads of the other one go."""
    text = (
        "Clay took 20 leads of destination hooli-firms in a row and called back for none: check "
        "the workspace's credits and the table's auto-run"
    )
    until_ms = NOW_MS + 4 * MINUTE_MS
    part = PartHold(("hooli-firms",), "no_callbacks", text, until_ms, since_ms=_PART_SINCE_MS)
    return {
        "partly": (part,),
        "runs": RunsView(12, NOW_MS + 14_000),
        "destinations": {
            "hooli-people": DestinationView(100, "healthy", 240),
            "hooli-firms": DestinationView(100, "insufficient_data", 3),
        },
        "estimates": {
            "hooli-people": Estimate(6.0, 1.1, 2_000),
            "hooli-firms": Estimate(2.4, 1.0, 310),
        },
    }


def _of(name: str) -> dict[str, Any]:
    return {
        "webhooks": {f"w-{name[:4]}": Webhook(12_345)},
        "estimates": {f"{name}-people": Estimate(6.0, 1.1, 2_000)},
        "submissions_left": {f"{name}-people": 32_655},
    }


def _lane(name: str, partition: int, **more: Any) -> Made:
    return lane(_NAMES, name, partition=partition, **more)
