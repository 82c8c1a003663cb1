"""The line, broken on purpose: each mutant takes away one thing that a promise rests on, and must
be found out.

The first dozen are the usual ways to be wrong; the rest undo a repair that a run of the simulation
led to.
"""

from collections.abc import Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from stream_app.domain.delivery import resolve as seen
from stream_app.domain.delivery import state_machine as delivery
from stream_app.domain.delivery import without_row
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.delivery.recorder import AdmittedPost, CommitStep, DeliveryRecorder
from stream_app.domain.delivery.resolve import ResolvedLead
from stream_app.domain.delivery.state_machine import Delivery, Verdict
from stream_app.domain.lane.admission import Grant, Held
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Plan, ReplayPolicy
from stream_app.partition import lead as line_module
from stream_app.partition.ack_tracker import AckTracker
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.commits import Commits
from stream_app.partition.conclusions import Conclusions
from stream_app.partition.in_flight import InFlight
from stream_app.partition.key_locks import KeyLocks, KeysNow
from stream_app.partition.lane_queue import Admitted
from stream_app.partition.lead import LeadPipeline, LeadRecorder
from stream_app.partition.rows import Rows
from stream_app.partition.runner import RecordRunner
from stream_app.partition.state import PartitionState
from tests.simulation.bases import bases
from tests.simulation.client import MemoryStateStore, NoAnswer
from tests.simulation.mutant import Patch, dead_lettered_again, family, mutant, shuffled, unguarded
from tests.simulation.neighbours import crowded

# ------------------------------------------------------------------------------ the order of things


@mutant("begin")
def a_partition_ends_its_first_step_with_its_system() -> Patch:
    take = Commits._collect

    def last(self: Commits) -> Any:
        batch, (first, *others) = take(self)
        return batch, [*others, first]

    return patch.object(Commits, "_collect", last)


@mutant("begin")
def a_partition_forgets_that_it_has_begun() -> Patch:
    real = PartitionState._opening

    def opening(self: PartitionState, rows: dict[bytes, bytes]) -> Record | None:
        return real(self, rows) or real(self, {})

    return patch.object(PartitionState, "_opening", opening)


@mutant("2", "6")
def headers_of_producers_are_believed() -> Patch:
    return patch.object(
        line_module,
        "lead_envelope",
        lambda consumed, inputs: read_envelope(consumed),
    )


@mutant("2")
def ack_before_the_commit() -> Patch:
    async def commit_last(self: Commits, in_flight: InFlight, step: CommitStep) -> None:
        self.submit(step)

    return patch.object(Commits, "commit_last", commit_last)


@mutant("3", "4")
def no_write_ahead() -> Patch:
    def write_ahead(
        self: DeliveryRecorder[ResolvedLead],
        grant: Grant,
        now_ms: int,
        read: Any,
    ) -> CommitStep:
        self.go("sending", now_ms, reservation=grant.reservation, webhook_id=grant.webhook_id)
        # row and events come with the next step
        return CommitStep([], [], [], grant.destination.workspace)

    return patch.object(DeliveryRecorder, "write_ahead", write_ahead)


@mutant("3")
def post_before_the_commit() -> Patch:
    real = AdmissionQueue._try_admit

    def try_admit(self: AdmissionQueue, *asked: Any) -> Any:
        answer = real(self, *asked)
        if isinstance(answer, Held):
            return answer
        done = answer.committed.get_loop().create_future()
        done.set_result(None)
        return Admitted(answer.grant, done)

    return patch.object(AdmissionQueue, "_try_admit", try_admit)


@mutant("2")
def ack_out_of_order() -> Patch:
    async def finish(self: AckTracker, in_flight: InFlight) -> None:
        await self._stream.ack(in_flight.consumed)

    return patch.object(AckTracker, "finish", finish)


@mutant("2", hunt=shuffled)
def acks_overtake_each_other() -> Patch:
    async def finish(self: AckTracker, in_flight: InFlight) -> None:
        self._finished.add(in_flight)
        if self._broken:
            self.give_up(in_flight)
            return
        while self._unacked and self._unacked[0] in self._finished:
            await self._stream.ack(self._unacked.popleft().consumed)

    return patch.object(AckTracker, "finish", finish)


@mutant("2")
def given_up_is_acked() -> Patch:
    def give_up(self: AckTracker, in_flight: InFlight) -> None:
        self._finished.add(in_flight)
        self._stream.give_up(in_flight.consumed)

    return patch.object(AckTracker, "give_up", give_up)


# ---------------------------------------------------------------------------------------- ownership


@mutant("2", "3", "6")
def no_fence() -> Patch:
    real = MemoryStateStore._fence

    async def first_only(self: MemoryStateStore) -> int:
        epoch = self._kafka._producers[self.transactional_id].epoch
        return await self._link.ask("fence", lambda: epoch) if epoch else await real(self)

    return patch.object(MemoryStateStore, "_fence", first_only)


@mutant("3", "6", hunt=family("fine", "freeze"))
def read_before_fence() -> Patch:
    async def take_over(self: MemoryStateStore, _: float) -> dict[bytes, bytes]:
        try:
            rows = await self._link.ask("load", self._load)
            self._epoch = await self._fence()
        except NoAnswer:
            raise BrokerUnavailable("no answer") from None
        return rows

    return patch.object(MemoryStateStore, "take_over", take_over)


@mutant("3", "6")
def own_sending_taken_for_a_predecessors() -> Patch:
    @asynccontextmanager
    async def lock(self: KeyLocks, in_flight: InFlight, keys: KeysNow) -> Any:
        yield

    return patch.object(KeyLocks, "lock", lock)


@mutant("2", "6")
def memory_kept_after_an_aborted_commit() -> Patch:
    def load(self: PartitionState, rows: dict[bytes, bytes]) -> None:
        if not self.rows:
            real(self, rows)

    real = PartitionState.load
    return patch.object(PartitionState, "load", load)


@mutant("3")
def sends_whenever_it_wakes_up() -> Patch:
    real = LeadPipeline._post

    async def post(
        self: LeadPipeline,
        in_flight: InFlight,
        recorder: LeadRecorder,
        grant: Grant,
    ) -> AdmittedPost:
        fresh = msgspec.structs.replace(grant, at_boot_ms=self._clock.boot_ms())
        return await real(self, in_flight, recorder, fresh)

    return patch.object(LeadPipeline, "_post", post)


# -------------------------------------------------------------------------------- states and copies


def _checked(change: Callable[[Delivery | None, Envelope, Verdict], Verdict]) -> Patch:
    def classify_record(
        row: Delivery | None,
        envelope: Envelope,
        now_ms: int,
        freshness_ms: int,
    ) -> Verdict:
        return change(row, envelope, delivery.classify_record(row, envelope, now_ms, freshness_ms))

    return patch.object(seen, "classify_record", classify_record)


@mutant("6")
def a_state_moves_back() -> Patch:
    return unguarded(
        _checked(
            lambda row, _, verdict: (
                "resume" if row and verdict == "done" and row.state == "accepted" else verdict
            ),
        ),
    )


@mutant("3", "6")
def uncertain_is_sent_again() -> Patch:
    return unguarded(
        _checked(lambda row, _, verdict: "resume" if row and row.state == "sending" else verdict),
    )


@mutant("3")
def any_copy_ends_the_grace() -> Patch:
    def change(row: Delivery | None, envelope: Envelope, verdict: Verdict) -> Verdict:
        ours = row is not None and row.state == "send_uncertain" and row.origin == envelope.origin
        return "decide" if ours and envelope.way == "uncertain" else verdict

    return _checked(change)


@mutant("7", hunt=dead_lettered_again)
def any_copy_of_a_dead_letter_counts() -> Patch:
    def change(row: Delivery | None, envelope: Envelope, verdict: Verdict) -> Verdict:
        ours = row is not None and row.state == "dead_lettered" and row.origin == envelope.origin
        return "return" if ours and envelope.way == "replayed" else verdict

    return _checked(change)


@mutant("7")
def replay_count_not_checked() -> Patch:
    stack = ExitStack()
    for part in LeadPipeline, Conclusions:
        stack.enter_context(patch.object(part, "__init__", _generous(part.__init__)))
    return stack


def _generous(init: Callable[..., None]) -> Callable[..., None]:
    def generous(self: object, *, plan: Plan, **others: Any) -> None:
        endless = msgspec.structs.replace(plan, replay=ReplayPolicy(max_replays=99))
        init(self, plan=endless, **others)

    return generous


@mutant("6")
def mark_row_missing() -> Patch:
    step_without_row = without_row.step_without_row

    def unmarked(*args: Any, **more: Any) -> CommitStep:
        step = step_without_row(*args, **more)
        return CommitStep([], step.records, step.events)

    return patch.object(without_row, "step_without_row", unmarked)


@mutant("6", hunt=family("replaced", "freeze"))
def mark_of_a_replaced_history_missing() -> Patch:
    def plain(
        plan: Any,
        case: ResolvedLead,
        row: Delivery,
        replaced: Delivery | None = None,
        aliases: Any = None,
    ) -> LeadRecorder:
        return DeliveryRecorder(plan, case, row, aliases=aliases)

    return patch.object(line_module, "DeliveryRecorder", plain)


@mutant("6")
def marks_are_dropped_too_early() -> Patch:
    return patch.object(Commits, "_group_offset", lambda self, topic: 1_000_000)


@mutant("6", hunt=family("outlived", "rebalance"))
def marks_are_asked_for_before_waiting() -> Patch:
    early: dict[str, bytes | None] = {}
    real = LeadPipeline.process

    async def process(self: LeadPipeline, in_flight: InFlight) -> None:
        early[in_flight.consumed.record_id] = self._rows.marker(
            in_flight.consumed.record_id,
            read_envelope(in_flight.consumed).origin,
        )
        await real(self, in_flight)

    asked_now = Commits.end_if_concluded

    async def end_if_concluded(self: Commits, in_flight: InFlight, origin: str = "") -> bool:
        if in_flight.consumed.record_id not in early:  # a callback or a command
            return await asked_now(self, in_flight, origin)
        mark = early[in_flight.consumed.record_id]
        if mark is not None:
            await self.commit_unchanged(in_flight, mark)
        return mark is not None

    stack = ExitStack()
    stack.enter_context(patch.object(LeadPipeline, "process", process))
    stack.enter_context(patch.object(Commits, "end_if_concluded", end_if_concluded))
    return stack


@mutant("6", hunt=family("late", "freeze"))
def dropped_marks_are_asked_for_again() -> Patch:
    return patch.object(Rows, "is_passed", lambda self, consumed: False)


@mutant("3")
def person_not_looked_up() -> Patch:
    get = Rows.get
    return patch.object(
        Rows,
        "get",
        lambda self, key: None if key[:2] in (b"f/", b"p/") else get(self, key),
    )


@mutant("3", hunt=bases)
def person_known_only_once_sent() -> Patch:
    real = DeliveryRecorder.step

    def step(self: LeadRecorder, *records: Record) -> CommitStep:
        if self.row.state != "sending":
            self._once = {
                key: value for key, value in self._once.items() if key not in self.resolved.aliases
            }
        return real(self, *records)

    return patch.object(DeliveryRecorder, "step", step)


# ------------------------------------------------------------------------------------------ waiting


@mutant("rest", hunt=lambda: map(crowded, range(200)))
def given_up_makes_no_room() -> Patch:
    def give_up_idle(self: RecordRunner) -> None:
        for in_flight, kept in list(self._unfinished.items()):
            if in_flight.suspended.is_set() and in_flight.execution.is_idle:
                del self._unfinished[in_flight]
                in_flight.release_next()
                kept.give_up(in_flight)

    return patch.object(RecordRunner, "_give_up_idle", give_up_idle)


@mutant("rest")
def held_leads_are_kept_at_a_rebalance() -> Patch:
    return patch.object(AdmissionQueue, "give_up", lambda self, suspended: None)
