"""What becomes of a lead, of its money and of its lane after each answer of Clay about a run.

The simulator gives the answers, and a partition takes them through the HTTP client, over real
sockets. Each fault has a lane of its own, so all of them take no longer than the slowest.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from stream_app.clay.client import ClayClient, HostCheck, Webhooks
from stream_app.clay.runs import ApiEndpoint, ClayApi, Doors, Routines
from stream_app.dev.simulator import Simulator
from stream_app.dev.simulator.ledger import PollLine, RunLine
from stream_app.dev.simulator.routines import API
from stream_app.dev.simulator.script import (
    ClayLimits,
    Fault,
    PaidColumn,
    Routine,
    RowLatency,
    Script,
)
from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from stream_app.domain.limits.suspension import SuspensionPolicy
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.outcome import Outcome
from stream_app.domain.views.explain import ConsumerGroup, Facts, Finding, LaneFacts, explain
from stream_app.partition import results
from tests.simulation.schedule import Setup, routine_of
from tests.support.pace import BUSY
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import now_ms
from tests.support.raw_server import EGRESS

COST: Final = 3
"""What the routine reports. A lead without a report is booked at 6, or at 20 if nothing is known.
"""
POLL_AFTER_S: Final = tuple(number / 4 for number in range(1, 2_000))
SHORT_S: Final = 1.5
"""The deadline of a lead whose result never comes, and the grace after it."""
WITHIN_S: Final = 20 * BUSY
_row: Final = msgspec.json.Decoder(Delivery)


class Case(NamedTuple):
    """A fault of the simulator, and what it comes to.

    Attributes:
        kind: The fault; '' if the lead lacks an input that the routine requires.
        endpoint: The requests that it changes; None if it is a fault of the run or of its result.
        more: Its further parameters.
        lasts: The lead ends only when the fault is over.
        finding: The code by which `explain` tells what the fault does to the lane.
        what: Words of that.
        status: The last status of the lead.
        reason: That of its last event.
        text: Words of its last event.
        credits: What is booked for the lead.
        runs: How many runs Clay has made for it.
    """

    kind: str
    endpoint: str | None = None
    more: dict[str, Any] | None = None
    lasts: bool = False
    finding: str = "moves"
    what: str = ""
    status: str = "enriched"
    reason: str = ""
    text: str = ""
    credits: int = COST
    runs: int = 1


def refused(endpoint: str, status: int, finding: str = "", what: str = "") -> Case:
    """Clay refuses all requests of a kind, until it does so no more."""
    return Case(
        "status_before",
        endpoint,
        {"status": status},
        lasts=True,
        finding=finding or f"http_{status}",
        what=what,
    )


def unread(kind: str, what: str = "1 run is open", **more: Any) -> Case:
    """Clay gives no answer about the run, until it does so again."""
    return Case(
        kind,
        "results",
        more,
        lasts=True,
        finding="runs_open",
        what=what,
    )


def uncertain(kind: str, text: str, runs: int = 0, **more: Any) -> Case:
    """Nobody knows whether Clay has made a run, and nothing will show it."""
    return Case(
        kind,
        "run",
        more,
        status="parked",
        reason="uncertain",
        text=text,
        credits=20,
        runs=runs,
    )


def parked(reason: str, text: str, kind: str, endpoint: str | None = None, **more: Any) -> Case:
    """A run whose result cannot be had."""
    return Case(
        kind,
        endpoint,
        more,
        status="parked",
        reason=reason,
        text=text,
        credits=20,
    )


CASES: Final = {
    "400": Case(
        "",
        status="rejected_invalid",
        reason="http_400",
        text="Missing required field: phone",
        credits=0,
        runs=0,
    ),
    "422": Case(
        "status_before",
        "run",
        {"status": 422},
        status="rejected_invalid",
        reason="http_422",
        text="HTTP 422",
        credits=0,
        runs=0,
    ),
    "401": refused("run", 401, what="Clay refuses the workspace's API key"),
    "402": refused("run", 402, what="HTTP 402"),
    "403": refused("run", 403, what="HTTP 403"),
    "404": refused("run", 404, "webhook_out", "Clay does not start the routine"),
    "409": refused("run", 409, what="HTTP 409"),
    "429": Case(
        "rate_limited",
        "run",
        lasts=True,
        finding="rate_limited",
        what="Clay said 429 and when to come back",
    ),
    "500": uncertain("status_before", "it may have reached Clay (http_500)", status=500),
    "503": uncertain("status_before", "it may have reached Clay (http_503)", status=503),
    "reset": uncertain("reset_after_read", "it may have reached Clay (reset)", runs=1),
    "garbage": uncertain("garbage", "it may have reached Clay (broken_answer)", runs=1),
    "answer cut": parked("no_callback", "its run id was lost", "run_answer_cut"),
    "polls 401": refused("results", 401, what="Clay refuses the workspace's API key"),
    "polls 402": refused("results", 402, what="HTTP 402"),
    "polls 403": refused("results", 403, what="HTTP 403"),
    "polls 409": refused("results", 409, what="HTTP 409"),
    "polls 404": parked("result_gone", "HTTP 404", "gone", "results"),
    "polls 422": parked("result_gone", "HTTP 422", "status_before", "results", status=422),
    "polls 429": unread("rate_limited", "polls wait for the rate of the lane"),
    "polls 500": unread("status_before", status=500),
    "polls 503": unread("status_before", status=503),
    "polls reset": unread("reset_after_read"),
    "polls garbage": unread("garbage"),
    "polls endless": parked(
        "result_too_large",
        "more than 2,097,152 bytes",
        "huge_answer",
        "results",
        size_bytes=50_000_000,
    ),
    "failed": Case("item_failed", status="enrich_error", text="Internal error", credits=6),
    "hung": parked("no_callback", "did not finish", "item_hung"),
    "unknown state": parked("result_unknown_state", "skipped", "item_status_unknown"),
    "empty": Case("result_empty", status="no_data", credits=6),
    "nested": Case("result_nested", credits=6),
    "500 KB": Case("result_huge", more={"size_bytes": 500_000}, credits=6),
    "2 MB": parked("result_too_large", "is too large", "result_huge"),
    "3 MB": parked(
        "result_too_large",
        "more than 2,097,152 bytes",
        "result_huge",
        size_bytes=3_000_000,
    ),
}
LANE_OF: Final = {name: f"lane{number}" for number, name in enumerate(CASES)}


class Ended(NamedTuple):
    """What is left of a lead: its end, its row, what its lane has booked, and its runs at Clay."""

    status: str
    reason: str
    row: str
    booked: int
    spent: int
    reserved: int
    runs: int


def expected(case: Case) -> Ended:
    return Ended(
        case.status,
        case.reason,
        row=case.status,
        booked=case.credits,
        spent=case.credits,
        reserved=0,
        runs=case.runs,
    )


def script() -> Script:
    return Script(
        limits=ClayLimits(api_per_minute=0),
        api_keys={lane: f"key-{lane}" for lane in LANE_OF.values()},
        routines={
            routine_of(LANE_OF[name]): Routine(
                workspace=LANE_OF[name],
                requires=() if case.kind else ("phone",),
                columns=(PaidColumn(name="title", credits=COST, values=("CTO",)),),
                latency=RowLatency(scale=0),
                cost_output="credits",
            )
            for name, case in CASES.items()
        },
        fault=tuple(
            Fault(
                kind=case.kind,
                workspace=LANE_OF[name],
                endpoint=case.endpoint,  # type: ignore[arg-type]  # one of the five
                **(case.more or {}),
            )
            for name, case in CASES.items()
            if case.kind
        ),
    )


class FaultyLanes:
    """A partition with a lane for each fault, and the simulator that it sends to."""

    def __init__(self, sim: Simulator, doors: Doors) -> None:
        self.sim = sim
        self._met: set[str] = set()
        self.bench = Bench(
            Setup(routines=True, lanes=len(CASES), max_in_flight=100),
            clay=lambda _: doors,  # type: ignore[arg-type, return-value]  # no fake
            runs=doors.routines,
        )
        self.bench.change_workspaces(suspension=SuspensionPolicy(probe_s=1.0, probe_cap_s=1.0))
        for name, lane in LANE_OF.items():
            is_short = name in ("answer cut", "hung")
            destination = msgspec.structs.replace(
                self.bench.plan.destinations[f"{lane}-main"],
                poll_after_s=POLL_AFTER_S,
                callback_deadline_s=SHORT_S if is_short else 1_800.0,
                callback_grace_s=SHORT_S if is_short else 1_800.0,
            )
            self.bench.plan.put_destination(destination)

    def publish(self, name: str, lead_id: str) -> None:
        """Publish a lead for the lane of a case."""
        lead = {"lead_id": lead_id, "fields": {"email": f"{lead_id}@example.com"}}
        self.bench.produce(lead, key=LANE_OF[name].encode())

    def last(self) -> dict[str, StatusEvent]:
        """The last event of each lead, by the name of its case."""
        last = {event.workspace: event for event in self.bench.events()}
        return {name: last[lane] for name, lane in LANE_OF.items() if lane in last}

    def findings(self, name: str) -> list[Finding]:
        """What `explain` says of the lane of a case."""
        lane = LANE_OF[name]
        group = ConsumerGroup("Stable", 1)
        view = self.bench.partition.state.lanes.view(lane)
        return explain(Facts(now_ms(), group, group, [LaneFacts(lane, 0, view, {})]))

    def unmet(self) -> dict[str, list[Finding]]:
        """What `explain` says where a fault has not done all that it does while it lasts.

        A lane that was limited moves between two attempts, so what was once seen counts.
        """
        last = self.last()
        faulty = Counter(
            line.workspace
            for line in self.sim.ledger.lines()
            if isinstance(line, PollLine | RunLine) and line.fault is not None
        )
        unmet: dict[str, list[Finding]] = {}
        for name in CASES.keys() - self._met:
            case = CASES[name]
            findings = self.findings(name)
            is_told = any(
                finding.code == case.finding and case.what in finding.what for finding in findings
            )
            is_met = faulty[LANE_OF[name]] > 0
            if not case.lasts:
                is_met = name in last and last[name].status == case.status
            if is_told and is_met:
                self._met.add(name)
            else:
                unmet[name] = findings
        return unmet

    def ended(self) -> dict[str, Ended]:
        runs = Counter(
            line.workspace
            for line in self.sim.ledger.lines()
            if isinstance(line, RunLine) and line.run_id
        )
        return {name: self._ended(name, event, runs) for name, event in self.last().items()}

    def _ended(self, name: str, event: StatusEvent, runs: Counter[str | None]) -> Ended:
        lane = LANE_OF[name]
        history = [other for other in self.bench.events() if other.workspace == lane]
        row = _row.decode(self.bench.last(delivery_key(lane, f"{lane}-main", lane)))
        days = self.bench.partition.state.lanes[lane].budget.days
        return Ended(
            event.status,
            event.reason,
            row=row.state,
            booked=sum(other.credits or 0 for other in history),
            spent=sum(day.credits_spent for day in days),
            reserved=sum(day.credits_reserved for day in days),
            runs=runs[lane],
        )

    def held(self) -> set[str]:
        """The cases whose lanes hold leads."""
        return {name for name in CASES if any(finding.holds for finding in self.findings(name))}


@asynccontextmanager
async def faulty_lanes() -> AsyncIterator[FaultyLanes]:
    sim = Simulator(script())
    await sim.start()
    check = HostCheck(EGRESS)
    client = ClayClient(
        request_timeout_s=60.0,
        connect_timeout_s=20.0,
        pool_timeout_s=20.0,
        max_connections=100,
        keepalive_s=5.0,
    )

    def unnoticed(destination: str, outcome: Outcome, trace_id: str) -> None:
        pass

    try:
        async with client:
            apis = {
                f"{lane}-main": ApiEndpoint(f"{sim.url}{API}", f"key-{lane}")
                for lane in LANE_OF.values()
            }
            routines = Routines(ClayApi(client), apis, {}, unnoticed)
            lanes = FaultyLanes(sim, Doors(Webhooks(client, {}, unnoticed, check), routines))
            await lanes.bench.serve()
            try:
                yield lanes
            finally:
                await lanes.bench.kill()
                await asyncio.gather(*lanes.bench.serving.values(), return_exceptions=True)
    finally:
        await check.close()
        await sim.stop()


async def comes_to(seen: Callable[[], object], wanted: object) -> None:
    """Wait until this is seen."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + WITHIN_S
    while seen() != wanted and loop.time() < deadline_s:  # noqa: ASYNC110 - a fault sets no event
        await asyncio.sleep(0.1)
    assert seen() == wanted


@pytest.mark.timeout(300)
async def test_each_answer_about_a_run_ends_its_lead_as_it_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "_GONE_AGAIN_MS", 100)
    async with faulty_lanes() as lanes:
        bench = lanes.bench
        for name, lane in LANE_OF.items():
            lanes.publish(name, lane)
        await comes_to(lanes.unmet, {})
        lanes.sim.clay.timeline.clear()
        await comes_to(lanes.ended, {name: expected(case) for name, case in CASES.items()})
        await comes_to(lanes.held, set())
        last = lanes.last()
        for name, case in CASES.items():
            assert case.text in last[name].text, name
        fields = {result.lead_id: result.fields for result in bench.results()}
        enriched = [name for name, case in CASES.items() if case.status == "enriched"]
        assert fields.keys() == {LANE_OF[name] for name in enriched}
        assert fields[LANE_OF["nested"]]["title"] == '{"value":"CTO","sources":["CTO"]}'
        assert len(str(fields[LANE_OF["500 KB"]]["Research"])) == 500_000
        bench.books()
        bench.no_alarms()
