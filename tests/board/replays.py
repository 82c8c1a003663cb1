"""Replays of operators in the scene, and what a plan says there."""

from collections import Counter
from collections.abc import Iterator

from stream_app.board.replays import Wanted
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import (
    Fate,
    PricedPlan,
    ReplayPhase,
    ReplayPlan,
    ReplayProgress,
    progress_row,
)
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Actor
from stream_app.domain.views.price import Part, Quote
from stream_app.kafka.readers import Progress
from tests.board.clock import HOUR_MS, MINUTE_MS, NOW_MS
from tests.board.model_records import Made


async def priced(
    settings: Settings,
    wanted: Wanted,
    progress: Progress,
) -> tuple[dict[int, int], PricedPlan]:
    """A plan of 167 of 231 dead letters, for the budget of acme."""
    progress(4_000, 4_000)
    fates = Counter[Fate](
        {"goes": 167, "delivered": 41, "suppressed": 2, "may_be_at_clay": 6, "sent_back": 15},
    )
    part = Part("acme-people", 167, 2.0, 334, 1_002, 167, 167)
    price = Quote("acme", [part], {"credits_day": 1_140}, True, 84.0)
    return {0: 231}, PricedPlan(
        231,
        fates,
        Counter({"http_503": 160, "connect_timeout": 7}),
        [price],
        {"acme": 2.0},
    )


def replays(hostile: str) -> Iterator[Made]:
    """Return four replays of operators: one runs, one was stopped, one is done, one was refused."""
    plan = ReplayPlan(
        NOW_MS - HOUR_MS,
        "dlq",
        Filter(reasons=frozenset({"http_503"})),
        {0: 231},
        167,
        1_002,
        167,
    )
    states: tuple[tuple[ReplayPhase, int, str], ...] = (
        ("running", 96, ""),
        ("stopped", 40, "stopped after 40 of 167 dead letters by joe"),
        ("done", 165, "165 dead letters were sent back, 2 refused"),
        (
            "refused",
            0,
            (
                "acme: 167 leads cost about 334 credits and 167 actions, and 120 credits of "
                "today are left"
            ),
        ),
    )
    for number, (state, sent, text) in enumerate(states):
        refusals = {
            "leads.dlq/0/17": "it no longer holds its lead: publish the lead again",
            "leads.dlq/0/19": hostile,
        }
        progress = ReplayProgress(
            f"r-{number}b9c40e1f2a",
            state,
            "jane",
            f"Clay is up again {hostile}",
            NOW_MS - number * HOUR_MS,
            plan,
            updated_at_ms=NOW_MS - 2_000,
            total=167,
            sent=sent,
            refused=2 if state == "done" else 0,
            refusals=refusals if state == "done" else {},
            credits=334,
            text=text,
            by=Actor("joe", "a look first", NOW_MS - MINUTE_MS) if state == "stopped" else None,
        )
        key, value = progress_row(progress)
        yield Made(TopicNames().replay_state, key, value, 0, number)
