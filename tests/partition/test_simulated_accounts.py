"""The bill, the health of each destination and the yield, in drawn histories of the simulator.

A worker's partition sends the leads of three tables to the simulator of Clay, which has faults. A
read model reads what the partition writes. Every number is held against the simulator's ledger,
which knows each charge, each request and each answer. Of the partition only the times are used at
which it has settled a lead.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import dropwhile, groupby, pairwise
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import httpx
import msgspec
import pytest

from stream_app.board.read_model import query
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.history import yield_windows
from stream_app.board.read_model.store import LogPosition, ReadModel
from stream_app.client.results.answers import Bill, ColumnYield
from stream_app.dev.simulator.ledger import (
    AnyLine,
    ChargeLine,
    ControlLine,
    PollLine,
    RefundLine,
    RequestLine,
    RunLine,
)
from stream_app.dev.simulator.script import (
    ClayPlan,
    Fault,
    HttpColumn,
    PaidColumn,
    Routine,
    RowLatency,
    Script,
    ScriptWebhook,
)
from stream_app.domain.books import bill
from stream_app.domain.callback import interpret
from stream_app.domain.limits import window
from stream_app.domain.limits.balance import Booked, Reading, balance_reading
from stream_app.domain.limits.budget import Budget
from stream_app.domain.views.lane import LaneView
from stream_app.partition import balances
from tests.board.model_records import Made
from tests.simulation.account_counts import sources_of, topics_of
from tests.simulation.parts import THE_REST, each_part, of_part
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.simulated import (
    ANSWER_S,
    KEY,
    REQUEST_TIMEOUT_S,
    Simulated,
    hook,
)
from tests.support.partition.virtual import now_ms, run

HISTORIES: Final = 500
HUNTED: Final = 60
CREDITS: Final = 100_000
CEILING: Final = 20
ESTIMATE: Final = 6
ANSWERED: Final = {"enriched", "partial", "no_data", "enrich_error"}
MIDNIGHT_S: Final = 86_460.0
"""The second midnight of the loop's time."""
HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000
HALF_MINUTE_MS: Final = 30_000
SAYS: Final = "acme-main"  # a routine whose results have what it cost
SILENT: Final = "acme-jobs"  # a routine whose results do not
FINAL: Final = "acme-firms"  # a table that does not call back
SLUGS: Final = {SAYS: "function:t_acme", SILENT: "function:t_jobs", FINAL: "firms"}
COLUMNS: Final = (
    PaidColumn(name="work_email", credits=2, miss_share=0.3, values=("a@b.example",)),
    PaidColumn(name="phone", credits=3, miss_share=0.2, error_share=0.2, values=("1",)),
    PaidColumn(name="research", credits=9, error_share=0.3),
)
COUNTED: Final = ("work_email", "phone")
NAMED: Final = "number"
"""The field by which the ledger names a lead: a routine gets no lead id of ours."""
LATER_MS: Final = 22 * HOUR_MS
"""Then some answers are of the last day, and others were before it."""
WINDOWS: Final = ("hour", "day", "before")
SLOW_S: Final = 12.0
LOOKS_UP_S: Final = 200.0
"""How long before the end an operator looks up costs."""


@dataclass(frozen=True, slots=True)
class History:
    """What happens, in seconds from its beginning.

    begins_s   how long before midnight it begins.
    ends_s     when it ends.
    leads      when each comes, and to which destination.
    strangers  when somebody else puts a row into the table of the account.
    top_ups    when credits are added, and how many.
    scales     how slow the rows of each destination are.
    is_resolved  an operator looks up in Clay what the parked leads cost.
    """

    seed: int
    begins_s: float
    ends_s: float
    leads: tuple[tuple[float, str], ...]
    strangers: tuple[float, ...]
    top_ups: tuple[tuple[float, int], ...]
    faults: tuple[Fault, ...]
    scales: dict[str, float]
    is_resolved: bool


def drawn(seed: int) -> History:
    rng = Random(seed)
    lasts_s = rng.choice((1_000.0, 4_000.0, 8_000.0))

    def times(most: int) -> list[float]:
        return sorted(rng.uniform(0.0, lasts_s) for _ in range(rng.randrange(most + 1)))

    leads = tuple((at_s, rng.choice(tuple(SLUGS))) for at_s in times(16))
    if rng.random() < 0.5:  # some come together
        leads = tuple(
            (at_s // 1_000 * 1_000 + number * 0.037, alias)
            for number, (at_s, alias) in enumerate(leads)
        )
    return History(
        seed,
        rng.uniform(0.0, lasts_s + 4_500.0),
        lasts_s + rng.choice((600.0, 4_500.0)),
        ((0.0, rng.choice(tuple(SLUGS))), *leads),
        tuple(times(rng.choice((0, 0, 5, 150)))),
        tuple((at_s, rng.choice((1, 8, 500))) for at_s in times(rng.choice((0, 0, 1, 3)))),
        tuple(_fault(rng, lasts_s) for _ in range(rng.choice((0, 1, 2, 4)))),
        {
            SAYS: rng.choice((0.0, 0.1, 1.0)),
            SILENT: rng.choice((0.0, 0.1, 1.0)),
            FINAL: rng.choice((0.0, 1.0, 10.0)),
        },
        rng.random() < 0.5,
    )


def _fault(rng: Random, lasts_s: float) -> Fault:
    kind = rng.choice(
        (
            *("item_failed", "item_hung", "result_empty", "provider_fails", "rate_limited"),
            *("status_before", "status_before", "hang_after_read", "slow"),
        ),
    )
    return Fault(
        kind=kind,
        at_s=rng.uniform(0.0, lasts_s / 2),
        # A worker that is refused for hours asks thousands of times, and finds nothing new.
        for_s=rng.choice((60.0, 400.0 if kind in ("status_before", "rate_limited") else lasts_s)),
        share=rng.choice((0.3, 1.0)),
        webhook=rng.choice((None, *SLUGS.values())),
        delay_s=SLOW_S if kind == "slow" else None,
        endpoint=rng.choice((None, "balance")) if kind == "status_before" else None,
    )


def script_of(history: History) -> Script:
    def latency(alias: str) -> RowLatency:
        return RowLatency(scale=history.scales[alias])

    return Script(
        seed=history.seed,
        auto_create=False,
        lead_id_field=NAMED,
        workspaces={"acme": ClayPlan(credits=CREDITS)},
        api_keys={"acme": KEY},
        webhooks={
            SLUGS[FINAL]: ScriptWebhook(
                workspace="acme",
                columns=COLUMNS,
                latency=latency(FINAL),
                callback=HttpColumn(enabled=False),
            ),
        },
        routines={
            SLUGS[alias]: Routine(
                workspace="acme",
                columns=COLUMNS,
                latency=latency(alias),
                cost_output=cost,
            )
            for alias, cost in ((SAYS, "credits"), (SILENT, None))
        },
        fault=history.faults,
    )


class Past(NamedTuple):
    """What a history has left.

    Attributes:
        bench: The partition, with what it has written.
        lines: The simulator's ledger.
        told: What the simulator has said of the item of each run.
        now_ms: The end.
    """

    bench: Bench
    lines: list[AnyLine]
    told: dict[str, dict[str, Any]]
    now_ms: int


async def lived(history: History) -> Past:
    """Let it happen, until everything rests."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(MIDNIGHT_S - history.begins_s)
    async with Simulated(
        script_of(history),
        webhooks={FINAL: SLUGS[FINAL]},
        routines=(SAYS, SILENT),
        workspace="acme",
    ) as simulated:
        bench = Bench(
            Setup(routines=True, tables=("jobs", "firms"), max_in_flight=100, webhooks=1),
            clay=lambda _: simulated.doors,  # type: ignore[arg-type, return-value]  # no fake
            runs=simulated.runs,
        )
        bench.change_workspaces(api_key_env="KEY")
        for alias, slug in SLUGS.items():
            change: dict[str, object] = {"routine": slug, "webhook_ids": (slug,)}
            if alias == FINAL:
                change = {"kind": "table", "routine": None, "callbacks": False, "yield_": ()}
            known = bench.plan.destinations[alias]
            bench.plan.put_destination(msgspec.structs.replace(known, **change))
        await bench.serve()
        for number, (at_s, alias) in enumerate(history.leads):
            lead_id = f"id{number}"
            fields = {"email": f"{lead_id}@b.example", NAMED: lead_id}
            lead = {"lead_id": lead_id, "fields": fields, "destination": alias}
            loop.call_later(at_s, bench.produce, lead)
        account = simulated.clay.workspace("acme")
        for at_s, credits_ in history.top_ups:

            def top_up(credits_: int = credits_) -> None:
                account.credits += credits_
                simulated.clay.did(f"topped up {credits_} credits", "acme")

            loop.call_later(at_s, top_up)
        strangers = [
            asyncio.create_task(_strange(simulated, at_s, number))
            for number, at_s in enumerate(history.strangers)
        ]
        await asyncio.sleep(history.ends_s - LOOKS_UP_S)
        if history.is_resolved:
            _resolve(bench, simulated)
        await asyncio.sleep(LOOKS_UP_S)
        await asyncio.gather(*strangers)
        await bench.kill()
        return Past(bench, simulated.ledger.lines(), simulated.carried.told, now_ms())


def _resolve(bench: Bench, simulated: Simulated) -> None:
    """Have an operator say of each parked lead what the ledger says that it has cost."""
    costs = costs_of(simulated.ledger.lines())
    parked = [event.lead_id for event in bench.events() if event.status == "parked"]
    for lead_id in parked:
        bench.command("resolve", f"resolve-{lead_id}", lead_id=lead_id, credits=costs[lead_id])


async def _strange(simulated: Simulated, at_s: float, number: int) -> None:
    await asyncio.sleep(at_s)
    row = {"email": f"stranger{number}@b.example"}
    request = httpx.Request("POST", hook(SLUGS[FINAL]), json=row)
    with suppress(TimeoutError):
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await simulated.carried.handle_async_request(request)


class Sums(NamedTuple):
    """What was booked until some time, and what may have been taken for it."""

    credits: int = 0
    least: int = 0
    most: int = 0
    guessed: int = 0
    open: int = 0


class Count:
    """Counts what the ledger has of a history."""

    def __init__(self, past: Past) -> None:
        self.lines = past.lines
        self.told = past.told
        self.runs = {
            line.lead_id: line.run_id
            for line in past.lines
            if isinstance(line, RunLine) and line.run_id and line.lead_id is not None
        }
        self.costs = costs_of(past.lines)
        self.events = sorted(past.bench.events(), key=lambda event: (event.at_ms, event.seq))
        self.calls = {alias: list(self._calls(alias)) for alias in SLUGS}
        self.polls = [
            line
            for line in past.lines
            if isinstance(line, PollLine) and (line.endpoint, line.status) == ("balance", 200)
        ]

    # ------------------------------------------------------------------------------- money

    def left(self, poll: PollLine) -> int:
        """Return the credits that were left when the balance was told."""
        return CREDITS - sum(_taken_by(line) for line in self.lines if line.seq < poll.seq)

    def read(self, poll: PollLine) -> "Read":
        """Return what the answer about a balance comes to."""
        sums = self.booked(poll.at_ms)
        took_s = ANSWER_S + (SLOW_S if poll.fault == "slow" else 0)
        answered = self.booked(poll.at_ms + round(took_s * 1_000))
        # What was booked meanwhile may be in the answer or not.
        return Read(poll, self.left(poll), sums, answered.open + answered.most - sums.most)

    def cost_said(self, lead_id: str) -> int | None:
        """Return the cost of a lead that Clay's answer says; None if it says none."""
        item = self.told.get(self.runs.get(lead_id, ""), {})
        reported = (item.get("result") or {}).get("credits")
        if reported is not None:
            assert reported == self.costs[lead_id]
        return reported if item.get("status") == "complete" else None

    def booked(self, at_ms: int) -> Sums:
        """Return what was booked at this time, from the ledger's costs."""
        sums = Sums()
        reserved: dict[str, int] = {}
        before: dict[str, int] = {}
        for event in self.events:
            if event.at_ms > at_ms:
                break
            lead = event.lead_id
            if event.status == "sending":
                reserved[lead] = CEILING
            elif event.status in ("refused", "dead_lettered", "rejected_invalid"):
                reserved.pop(lead, None)
            elif event.status in ("confirmed", "cost_corrected"):  # by an operator
                cost = costs_of(self.lines, event.at_ms)[lead]
                known = before.pop(lead)
                sums = sums._replace(
                    credits=sums.credits + cost - known,
                    most=sums.most + max(known, cost),
                )
                assert event.credits == cost - known
            elif event.status in ANSWERED and self.cost_said(lead) is not None:
                cost = self.cost(lead)
                reserved.pop(lead)
                sums = sums._replace(
                    credits=sums.credits + cost,
                    least=sums.least + max(0, cost - 1),
                    most=sums.most + cost,
                )
                assert event.credits == cost
            elif lead in reserved and (
                event.status in {*ANSWERED, "parked"}
                or (event.status == "accepted" and event.destination == FINAL)
            ):
                cost = CEILING if event.status == "parked" else ESTIMATE
                reserved.pop(lead)
                if event.status == "parked":
                    before[lead] = cost
                sums = sums._replace(
                    credits=sums.credits + cost,
                    most=sums.most + CEILING,
                    guessed=sums.guessed + CEILING,
                )
                assert event.credits == cost
        return sums._replace(open=sum(reserved.values()))

    def cost(self, lead: str) -> int:
        reported = self.cost_said(lead)
        return ESTIMATE if reported is None else reported

    # ------------------------------------------------------------------------------- health

    def _calls(self, alias: str) -> Iterator[tuple[int, str]]:
        """Yield when each request of a destination was answered, and how: ok, slow, failed."""
        for line in self.lines:
            if (
                not isinstance(line, RequestLine)
                or line.webhook != SLUGS[alias]
                or line.lead_id is None
                or line.status == 429
            ):
                continue
            took_s = ANSWER_S + (SLOW_S if line.fault == "slow" else 0)
            if line.status == "hang":
                took_s = REQUEST_TIMEOUT_S
            is_good = isinstance(line.status, int) and line.status < 300
            word = "slow" if line.fault == "slow" else "ok"
            yield line.at_ms + round(took_s * 1_000), word if is_good else "failed"


def costs_of(lines: Iterable[AnyLine], until_ms: float = math.inf) -> Counter[str]:
    """Return what each lead has cost until some time."""
    costs = Counter[str]()
    for line in lines:
        if isinstance(line, ChargeLine) and line.lead_id is not None and line.at_ms <= until_ms:
            costs[line.lead_id] += _taken_by(line)
    return costs


def _taken_by(line: AnyLine) -> int:
    """Return by how much a line of the ledger lowers the balance."""
    match line:
        case RefundLine():
            return -line.credits
        case ChargeLine():
            return line.credits
        case ControlLine() if line.did.startswith("topped up "):
            return -int(line.did.split()[2])
        case _:
            return 0


def views_of(past: Past) -> list[LaneView]:
    records = past.bench.committed(past.bench.plan.topics.lanes)
    views = [msgspec.json.decode(record.value or b"", type=LaneView) for record in records]
    return [view for view in views if view.workspace == "acme"]


class Read(NamedTuple):
    """A reading of the balance, by the ledger. `open`: what may have been taken and not booked."""

    poll: PollLine
    left: int
    sums: Sums
    open: int


class LedgerDay(NamedTuple):
    """What the ledger has of one day of the bill, in credits.

    Attributes:
        taken: By how much the balance fell.
        booked: The costs of the leads that were settled.
        least: The least that these leads and those in flight explain.
        most: The most that they explain.
        unexplained: What they do not explain.
        unknown_ms: How long nothing is comparable, because the balance rose.
        since_ms: The first reading.
        until_ms: The last one.
    """

    taken: int = 0
    booked: int = 0
    least: int = 0
    most: int = 0
    unexplained: int = 0
    unknown_ms: int = 0
    since_ms: int = 0
    until_ms: int = 0


def days_of_ledger(count: Count) -> list[LedgerDay]:
    """Count the days of the bill, the newest first."""
    every = [count.read(poll) for poll in count.polls]
    # The board keeps the first reading of each hour, and knows the last one.
    hours = groupby(every, key=lambda read: read.poll.at_ms // HOUR_MS)
    kept = [next(of_hour) for _, of_hour in hours]
    kept += every[-1:] if kept[-1:] != every[-1:] else []
    late = {read.poll.seq: _late(read, kept) for read in kept}
    compared = dropwhile(lambda read: late[read.poll.seq] is None, kept)
    rises = {then.poll.seq for first, then in pairwise(every) if then.left > first.left}

    def is_known(span: tuple[Read, Read]) -> bool:
        first, then = span
        return not any(first.poll.seq < rise <= then.poll.seq for rise in rises)

    days: list[LedgerDay] = []
    for _, of_day in groupby(
        pairwise(compared),
        key=lambda span: span[0].poll.at_ms // (24 * HOUR_MS),
    ):
        day = LedgerDay()
        for known, alike in groupby(of_day, key=is_known):
            spans = list(alike)
            first = spans[0][0]
            last = spans[-1][1]
            day = day._replace(
                since_ms=day.since_ms or first.poll.at_ms,
                until_ms=last.poll.at_ms,
            )
            if not known:
                lasted_ms = last.poll.at_ms - first.poll.at_ms
                day = day._replace(unknown_ms=day.unknown_ms + lasted_ms)
                continue
            later = last.open + (late[first.poll.seq] or 0)
            day = day._replace(
                taken=day.taken + first.left - last.left,
                booked=day.booked + last.sums.credits - first.sums.credits,
                least=day.least + last.sums.least - first.sums.least - first.open,
                most=day.most + last.sums.most - first.sums.most + later,
            )
        above = max(0, day.taken - day.most) - max(0, day.least - day.taken)
        days.append(day._replace(unexplained=above))
    return days[::-1]


def _late(read: Read, kept: list[Read]) -> int | None:
    """Return what was guessed in the hour before a reading; None if that is not known."""
    older = [other for other in kept if read.poll.at_ms - other.poll.at_ms >= HOUR_MS]
    if not older and kept[0].sums.guessed:
        return None
    begin = older[-1] if older else kept[0]
    return read.sums.guessed - begin.sums.guessed


def wrong_bill(bills: list[Bill], count: Count) -> str:
    """Return what the bill says otherwise than the ledger; "" if nothing."""
    if not count.polls:
        return f"{bills} without a reading" if bills else ""
    [of_acme] = bills
    last = count.polls[-1]
    if (of_acme.at_ms, of_acme.credits) != (last.at_ms, count.left(last)):
        return (
            f"{of_acme.credits} left at {of_acme.at_ms}, by the ledger {count.left(last)}: {last}"
        )
    shown = [LedgerDay(*(getattr(day, name) for name in LedgerDay._fields)) for day in of_acme.days]
    counted = days_of_ledger(count)
    if shown != counted:
        return f"shown {shown}, by the ledger {counted}"
    for day in of_acme.days:
        if day.drift != day.taken - day.booked:
            return f"a wrong drift: {day}"
        verdict = {1: "more", 0: "agrees", -1: "less"}[_sign(day.unexplained)]
        if day.unknown_ms == day.until_ms - day.since_ms:
            verdict = "unknown"
        if day.verdict != verdict:
            return f"{day.verdict} instead of {verdict}: {day}"
    return ""


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def wrong_health(view: LaneView, count: Count) -> str:
    """Return what a view says of its destinations otherwise than the ledger; "" if nothing."""
    oldest_ms = (view.at_ms // HALF_MINUTE_MS - 9) * HALF_MINUTE_MS
    for alias, seen in view.destinations.items():
        words = Counter(
            word for at_ms, word in count.calls[alias] if oldest_ms <= at_ms <= view.at_ms
        )
        calls = words.total()
        points = 100 * (words["ok"] + words["slow"] / 2) / calls if calls else 100
        if (seen.calls, seen.score) != (calls, round(points, 1)):
            return f"{alias}: {seen}, by the ledger {words} at {view.at_ms}"
    return ""


def wrong_yields(shown: list[ColumnYield], at_ms: int, count: Count) -> str:
    """Return what the yields are otherwise than the ledger's; "" if they are not."""
    hour_ms = (at_ms // MINUTE_MS - 59) * MINUTE_MS
    day_ms = (at_ms // HOUR_MS - 23) * HOUR_MS
    counted = Counter[tuple[str, str, str, str]]()
    for event in count.events:
        if event.status not in ANSWERED:
            continue
        outputs = count.told[count.runs[event.lead_id]].get("result") or {}
        windows = ["day" if event.at_ms >= day_ms else "before"]
        windows += ["hour"] if event.at_ms >= hour_ms else []
        for window_ in windows:
            for column in COUNTED:
                place = (event.destination, column, window_)
                counted[(*place, "answered")] += 1
                counted[(*place, "filled")] += outputs.get(column) is not None
                counted[(*place, "credits")] += count.cost(event.lead_id)
    numbers = {
        (row.destination, row.column, window_, kind): getattr(getattr(row, window_), kind)
        for row in shown
        for window_ in WINDOWS
        for kind in ("answered", "filled", "credits")
    }
    wrong = {
        name: (numbers.get(name, 0), counted[name])
        for name in numbers.keys() | counted.keys()
        if numbers.get(name, 0) != counted[name]
    }
    return f"(shown, by the ledger) {wrong}" if wrong else ""


def wrong_in(past: Past, folder: Path, met: Counter[str]) -> str:
    """Return what is shown otherwise than the ledger has it; "" if nothing.

    met: gets how often the history had what such a comparison needs.
    """
    count = Count(past)
    queries = model_of(past, folder / "model.sqlite")
    bills = queries.bills()
    for shown in bills:
        met.update(day.verdict for day in shown.days)
        met["two days"] += len(shown.days) > 1
        met["in part unknown"] += any(
            day.unknown_ms for day in shown.days if day.verdict != "unknown"
        )
    for alias, calls in count.calls.items():
        met.update(f"{alias} {word}" for _, word in calls)
    met.update(past.bench.states())
    if wrong := wrong_bill(bills, count):
        return wrong
    for at_ms in (past.now_ms, past.now_ms + LATER_MS):
        yields = queries.yields(at_ms)
        for row in yields:
            met.update(f"yield {name}" for name in WINDOWS if getattr(row, name).answered)
        if wrong := wrong_yields(yields, at_ms, count):
            return wrong
    unhealthy = (wrong_health(view, count) for view in views_of(past))
    return next(filter(None, unhealthy), "")


def model_of(past: Past, path: Path) -> BoardQueries:
    """Return the questions to a read model that has read everything."""
    plan = past.bench.plan
    model = ReadModel(path, sources_of(plan))
    model.wipe()
    batch = {
        topic: [
            Made(
                topic,
                record.key,
                record.value,
                record.partition,
                record.offset,
                tuple(record.headers),
                record.timestamp_ms,
            )
            for record in past.bench.committed(topic)
        ]
        for topic in topics_of(plan)
    }
    model.apply(
        batch,
        {(topic, 0): LogPosition(len(records)) for topic, records in batch.items()},
        None,
    )
    model.close()
    return BoardQueries(path, frozenset({FINAL}))


MET: Final = {
    *("agrees", "more", "unknown", "in part unknown", "two days"),
    *("enriched", "no_data", "enrich_error", "parked", "confirmed", "send_uncertain", "refused"),
    *(f"{alias} {word}" for alias in SLUGS for word in ("ok", "slow", "failed")),
    *("yield hour", "yield day", "yield before"),
}
"""What the histories must meet at least, so that equal numbers mean something."""


@each_part
def test_every_number_is_that_of_the_ledger(part: str, tmp_path: Path) -> None:
    met = Counter[str]()
    for seed in of_part(part, range(HISTORIES)):
        wrong = wrong_in(run(lived(drawn(seed))), tmp_path, met)
        assert not wrong, f"history {seed}: {wrong}"
    if part == THE_REST:
        assert met.keys() >= MET, MET - met.keys()


def _all_is_known(first: Reading, then: Reading) -> bool:
    """Take a rise of the balance for something that was taken."""
    return True


def _reported_in_full(booked: Booked, reserved: int, cost: int) -> Booked:
    """Forget that a cost is rounded up."""
    return Booked(booked.credits + cost, booked.least + cost, booked.most + cost, booked.guessed)


def _only_the_estimate(booked: Booked, reserved: int, cost: int) -> Booked:
    """Forget that a lead may cost as much as its ceiling."""
    return Booked(
        booked.credits + cost,
        booked.least,
        booked.most + cost,
        booked.guessed + cost,
    )


def _nothing_in_flight(
    last: Reading | None,
    at_ms: int,
    credits_: float,
    before: Booked,
    after: Booked,
    budget: Budget,
) -> Reading:
    """Forget the leads in flight."""
    return balance_reading(last, at_ms, credits_, before, before, Budget())


def _slow_is_as_good(counts: window.WindowTotals) -> float:
    return 100.0 * counts.success / counts.calls if counts.calls else 100.0


def _short_windows(now_ms: int) -> dict[Any, tuple[int, int, int]]:
    """Count answers for as long as a quarter of an hour less."""
    windows = yield_windows(now_ms).items()
    return {name: (length_s, begin_s + 900, end_s) for name, (length_s, begin_s, end_s) in windows}


@pytest.mark.parametrize(
    "wrong",
    [
        patch.object(bill, "_is_known", _all_is_known),
        patch.object(bill, "_HOUR_MS", HOUR_MS // 2),
        patch.object(Booked, "reported", _reported_in_full),
        patch.object(Booked, "unreported", _only_the_estimate),
        patch.object(balances, "balance_reading", _nothing_in_flight),
        patch.object(window, "score", _slow_is_as_good),
        patch.object(window, "FIVE_MINUTES", window.WindowSpan(9, 30.0)),
        patch.object(interpret, "_is_value", lambda value: True),
        patch.object(query, "yield_windows", _short_windows),
    ],
    ids=[
        "a rise is taken",
        "the hour is short",
        "no cost is rounded",
        "an estimate is the most",
        "nothing is in flight",
        "slow is as good",
        "the window is short",
        "an empty cell is a value",
        "an hour is three quarters of one",
    ],
)
def test_a_wrong_number_is_found_out(wrong: Any, tmp_path: Path) -> None:
    with wrong:
        differences_ = (
            wrong_in(run(lived(drawn(seed))), tmp_path, Counter()) for seed in range(HUNTED)
        )
        assert any(differences_)
