"""Any order of arrivals, holds, POSTs and interruptions: no lead is lost, the window is bounded,
lanes do not mix.
"""

import asyncio
from collections import defaultdict
from random import Random
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.lane.admission import AdmissionRequest, Grant, Held
from stream_app.domain.model.outcome import Accepted, Refused
from stream_app.domain.plan import Actor
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.in_flight import InFlight, Recalled, Source, StreamSuspended
from stream_app.partition.intake import Intake
from stream_app.partition.lanes import HostWatch, Lanes
from stream_app.partition.ports import Observer
from tests.simulation.loop import SimLoop
from tests.simulation.schedule import Setup, plan_of
from tests.support.narrow import of_type
from tests.support.partition.clay import NoClay
from tests.support.partition.virtual import (
    CommitsAtOnce,
    VirtualClock,
    in_flight,
    nothing_ahead,
    now_ms,
)

WINDOW: Final = 4
PATIENCE_S: Final = 2.0
LANES: Final = ("acme", "lane0", "lane1")
WELL: Final = "gamma"
SOURCES: Final[tuple[Source, ...]] = ("hot", "retry", "bulk")
Answer = Grant | Held | StreamSuspended | Recalled | asyncio.CancelledError


class Lead:
    """A record under way, and all that it was answered since it last asked."""

    def __init__(self, record: InFlight, workspace: str) -> None:
        self.record = record
        self.workspace = workspace
        self.asked_ms = 0
        self.request: AdmissionRequest
        self.answers: list[Answer] = []
        self.task: asyncio.Task[None] | None = None

    @property
    def waits(self) -> bool:
        return self.task is not None and not self.task.done()


class Admissions(RuleBasedStateMachine):
    """One partition with four lanes.

    `gamma` is never held and has tokens for all that it is sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = SimLoop(Random(0))
        asyncio.set_event_loop(self.loop)

    @initialize(
        rate_per_s=st.sampled_from((0.5, 2.0, 8.0)),
        max_in_flight=st.sampled_from((1, 100)),
    )
    def begin(self, rate_per_s: float, max_in_flight: int) -> None:
        setup = Setup(
            shared=True,
            lanes=2,
            rate_per_s=rate_per_s,
            burst=2,
            max_in_flight=max_in_flight,
            max_waiting=WINDOW,
            patience_s=PATIENCE_S,
        )
        plan = plan_of(setup)
        well = plan.workspaces[WELL]
        generous = replace(well.rate, rate_per_s=1_000.0, burst=1_000)
        self.plan = replace(
            plan,
            workspaces={**plan.workspaces, WELL: replace(well, rate=generous)},
        )
        self.leads: list[Lead] = []
        self.granted: dict[tuple[str, Source], list[int]] = defaultdict(list)
        self.bugs: list[BaseException] = []
        self.suspended = asyncio.Event()
        self.run(self._begin())

    async def _begin(self) -> None:
        clock = VirtualClock()
        self.lanes = Lanes(0, self.plan, clock, Observer(), Intake())
        for name in (*LANES, WELL):
            assert self.lanes[name]
        await asyncio.sleep(1.0)  # the buckets fill
        hosts = HostWatch(self.plan, self.lanes, clock, NoClay())
        self.queue = AdmissionQueue(
            self.plan,
            self.lanes,
            hosts,
            CommitsAtOnce(),
            clock,
            self.bugs.append,
        )

    def run(self, main: object) -> None:
        self.loop.run_until_complete(main)  # type: ignore[arg-type]  # a coroutine

    async def _ask(self, lead: Lead, request: AdmissionRequest) -> None:
        def ahead(grant: Grant, now_ms: int) -> CommitStep:
            assert grant.destination.workspace == lead.workspace
            if not request.not_before_ms:
                arrivals = self.granted[lead.workspace, lead.record.source]
                arrivals.append(lead.record.admission.arrival)
            return nothing_ahead(grant, now_ms)

        try:
            lead.answers.append(await self.queue.admit(lead.record, request, ahead))
        except (StreamSuspended, Recalled, asyncio.CancelledError) as error:
            lead.answers.append(error)

    async def _start(self, lead: Lead, request: AdmissionRequest) -> None:
        lead.answers.clear()
        lead.request = request
        lead.asked_ms = max(now_ms(), request.not_before_ms)
        lead.task = asyncio.create_task(self._ask(lead, request))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def request(self, workspace: str, **changes: object) -> AdmissionRequest:
        return AdmissionRequest(self.plan.destinations[f"{workspace}-main"], **changes)  # type: ignore[arg-type]  # as given

    # --------------------------------------------------------------------------------- what happens

    @rule(
        workspace=st.sampled_from(LANES),
        source=st.sampled_from(SOURCES),
        many=st.integers(1, 6),
        lives_s=st.sampled_from((None, None, 1.0, 60.0)),
    )
    def arrive(self, workspace: str, source: Source, many: int, lives_s: float | None) -> None:
        async def main() -> None:
            for _ in range(many):
                lead = Lead(in_flight(len(self.leads), source, self.suspended), workspace)
                self.leads.append(lead)
                not_after_ms = None if lives_s is None else now_ms() + int(lives_s * 1000)
                await self._start(
                    lead,
                    self.request(workspace, bulk=source == "bulk", not_after_ms=not_after_ms),
                )

        self.run(main())

    @rule()
    def a_lead_of_the_well_lane_is_admitted_at_once(self) -> None:
        lead = Lead(in_flight(len(self.leads), "hot", self.suspended), WELL)
        self.leads.append(lead)
        self.run(self._start(lead, self.request(WELL)))
        assert [type(answer) for answer in lead.answers] == [Grant]
        self.finish(lead)

    @rule(data=st.data(), refused=st.booleans())
    def end_a_post(self, data: st.DataObject, refused: bool) -> None:
        sent = [lead for lead in self.leads if lead.answers and isinstance(lead.answers[-1], Grant)]
        if not sent:
            return
        lead = data.draw(st.sampled_from(sent))
        if refused:
            grant = of_type(Grant, lead.answers[-1])
            self.run(self._again(lead, grant))
        else:
            self.finish(lead)

    async def _again(self, lead: Lead, grant: Grant) -> None:
        self.queue.settle(grant, Refused("http_503", 1, 503), has_slot=True)
        await self._start(lead, self.request(lead.workspace, not_before_ms=now_ms() + 700))
        self.queue.pump_lane(lead.workspace)

    def finish(self, lead: Lead) -> None:
        grant = of_type(Grant, lead.answers[-1])
        self.leads.remove(lead)

        async def main() -> None:
            self.queue.settle(grant, Accepted(200, 1), has_slot=True)
            self.queue.pump_lane(lead.workspace)

        self.run(main())

    @rule(workspace=st.sampled_from(LANES), paused=st.booleans())
    def pause_or_resume(self, workspace: str, paused: bool) -> None:
        pause = Actor("operator", "", 1) if paused else None
        self.lanes[workspace] = replace(self.lanes[workspace], pause=pause)

        async def main() -> None:
            self.queue.pump_lane(workspace)
            await asyncio.sleep(0)

        self.run(main())

    @rule(workspace=st.sampled_from(LANES), for_s=st.sampled_from((0.5, 1.5, 10.0)))
    def block(self, workspace: str, for_s: float) -> None:
        lane = self.lanes[workspace]
        rate = replace(lane.rate, blocked_until_ms=self._now_ms() + int(for_s * 1000))
        self.lanes[workspace] = replace(lane, rate=rate)

    @rule(seconds=st.sampled_from((0.001, 0.3, 1.0, 2.5)))
    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(data=st.data(), how=st.sampled_from(("cancel", "recall")))
    def interrupt(self, data: st.DataObject, how: str) -> None:
        waiting = [lead for lead in self.leads if lead.waits]
        if not waiting:
            return
        lead = data.draw(st.sampled_from(waiting))

        async def main() -> None:
            if how == "cancel":
                assert lead.task is not None
                lead.task.cancel()
                self.queue.pump_lane(lead.workspace)  # before its task has seen the cancellation
            else:
                self.queue.recall(lead.record)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.run(main())
        assert not lead.waits
        self.leads.remove(lead)

    @rule()
    def ask_again(self) -> None:
        async def main() -> None:
            waiting = [lead for lead in self.leads if lead.waits]
            self.queue.ask_again()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for lead in waiting:
                assert len(lead.answers) == 1
                await self._start(lead, lead.request)

        self.run(main())

    @rule()
    def suspend(self) -> None:
        async def main() -> None:
            self.suspended.set()
            self.queue.give_up(self.suspended)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.suspended = asyncio.Event()

        waiting = [lead for lead in self.leads if lead.waits]
        self.run(main())
        assert all(isinstance(lead.answers[-1], StreamSuspended) for lead in waiting)
        self._forget_answered()

    @rule()
    def record_holds(self) -> None:
        """A lead whose hold was recorded asks again, and keeps its place."""

        async def main() -> None:
            for lead in self.leads:
                answer = lead.answers[-1] if lead.answers else None
                if (
                    isinstance(answer, Held)
                    and not answer.defer
                    and answer.status not in (None, "expired")
                ):
                    await self._start(lead, replace(lead.request, patient=True))

        self.run(main())
        self._forget_answered()

    def _forget_answered(self) -> None:
        self.leads = [
            lead
            for lead in self.leads
            if lead.waits or (lead.answers and isinstance(lead.answers[-1], Grant))
        ]

    # ---------------------------------------------------------------------------- what always holds

    @invariant()
    def the_window_is_bounded(self) -> None:
        assert len(self.queue._queues) == sum(lead.waits for lead in self.leads)
        assert len(self.queue._queues) <= WINDOW

    @invariant()
    def a_lead_has_one_answer_at_most(self) -> None:
        assert all(len(lead.answers) <= 1 for lead in self.leads)
        assert not self.bugs

    @invariant()
    def leads_of_a_lane_and_source_go_in_the_order_of_their_arrival(self) -> None:
        assert all(arrivals == sorted(arrivals) for arrivals in self.granted.values())

    @invariant()
    def no_lead_waits_longer_than_it_may(self) -> None:
        latest_ms = self._now_ms() - int(PATIENCE_S * 1000) - 1
        assert all(lead.asked_ms >= latest_ms for lead in self.leads if lead.waits)

    def _now_ms(self) -> int:
        moments: list[int] = []

        async def main() -> None:
            moments.append(now_ms())

        self.run(main())
        return moments[0]

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.run(asyncio.sleep(2 * PATIENCE_S))
            assert not any(lead.waits for lead in self.leads), "a lead is lost"
            assert len(self.queue._queues) == 0
        self.loop.end()
        asyncio.set_event_loop(None)


TestAdmissions = Admissions.TestCase
TestAdmissions.settings = settings(stateful_step_count=40)
