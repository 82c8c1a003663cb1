"""The line, broken on purpose: each mutant takes away one thing that a promise rests on, and must be found out.

The first dozen are the usual ways to be wrong; the rest undo a repair that a run of the simulation led to.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from stream_app import aside
from stream_app import line as line_module
from stream_app.aside import Aside
from stream_app.core import breaker, budget, delivery, lane, rate, seen, story
from stream_app.core.case import Case
from stream_app.core.delivery import Delivery, Verdict
from stream_app.core.envelope import Envelope, read_envelope
from stream_app.core.errors import BrokerUnavailable
from stream_app.core.lane import Entry, Report
from stream_app.core.messages import Status
from stream_app.core.outcome import Outcome as PostOutcome
from stream_app.core.outcome import Refused
from stream_app.core.record import Record, Taken
from stream_app.core.replay import ReplayPolicy
from stream_app.core.story import Posted, Step, Story
from stream_app.line import Line
from stream_app.partition.desk import Partition
from stream_app.partition.gate import Gate
from stream_app.partition.lanes import Lanes
from stream_app.partition.marks import Marks
from stream_app.partition.prefix import Prefix
from stream_app.partition.walk import Walk
from tests.simulation.bases import bases
from tests.simulation.client import MemoryLedger, NoAnswer
from tests.simulation.mutant import MUTANTS, Patch, crowded, family, mutant, shuffled
from tests.simulation.schedule import drawn

__all__ = ["MUTANTS"]

# ------------------------------------------------------------------------------------------- the order of things


@mutant()
def ack_before_the_commit() -> Patch:
    async def commit(self: Partition, step: Step) -> None:
        self._submit(step)

    return patch.object(Partition, "commit", commit)


@mutant()
def no_write_ahead() -> Patch:
    def write_ahead(self: Line, walk: Walk, told: Story, entry: Entry) -> Step:
        told.go("sending", self._clock.now_ms(), reservation=entry.reservation, webhook_id=entry.webhook_id)
        walk.posted = Posted(told.row, entry)
        return Step([], [], [], entry.destination.workspace)  # row and events come with the next step

    return patch.object(Line, "_write_ahead", write_ahead)


@mutant()
def post_before_the_commit() -> Patch:
    real = Gate.admit

    async def admit(self: Gate, walk: Walk, ask: Any, write_ahead: Any) -> Any:
        submit = self._submit

        def at_once(step: Step) -> Any:
            done = submit(step).get_loop().create_future()
            done.set_result(None)
            return done

        with patch.object(self, "_submit", at_once):
            return await real(self, walk, ask, write_ahead)

    return patch.object(Gate, "admit", admit)


@mutant()
def ack_out_of_order() -> Patch:
    async def finish(self: Prefix, walk: Walk) -> None:
        await self._inlet.ack(walk.taken)

    return patch.object(Prefix, "finish", finish)


@mutant(shuffled)
def acks_overtake_each_other() -> Patch:
    async def finish(self: Prefix, walk: Walk) -> None:
        walk.finished = True
        if self._broken:
            self.give_up(walk)
            return
        while self._walks and self._walks[0].finished:
            await self._inlet.ack(self._walks.popleft().taken)

    return patch.object(Prefix, "finish", finish)


@mutant()
def given_up_is_acked() -> Patch:
    def give_up(self: Prefix, walk: Walk) -> None:
        walk.finished = True
        self._inlet.give_up(walk.taken)

    return patch.object(Prefix, "give_up", give_up)


# ------------------------------------------------------------------------------------------------------ ownership


@mutant()
def no_fence() -> Patch:
    def fence(self: MemoryLedger) -> int:
        return max(1, self._kafka._producers[self.transactional_id].epoch)

    real = MemoryLedger._fence

    def first_only(self: MemoryLedger) -> int:
        return real(self) if not self._kafka._producers[self.transactional_id].epoch else fence(self)

    return patch.object(MemoryLedger, "_fence", first_only)


@mutant(family("fine", "freeze"))
def read_before_fence() -> Patch:
    async def take_over(self: MemoryLedger, _: float) -> dict[bytes, bytes]:
        try:
            rows = await self._link.ask("load", self._load)
            self._epoch = await self._link.ask("fence", self._fence)
        except NoAnswer:
            raise BrokerUnavailable("no answer") from None
        return rows

    return patch.object(MemoryLedger, "take_over", take_over)


@mutant()
def own_sending_taken_for_a_predecessors() -> Patch:
    @asynccontextmanager
    async def alone(self: Partition, walk: Walk, keys: tuple[bytes, ...]) -> Any:
        yield

    return patch.object(Partition, "alone", alone)


@mutant()
def memory_kept_after_an_aborted_commit() -> Patch:
    def load(self: Partition, rows: dict[bytes, bytes]) -> None:
        if not self._rows:
            real(self, rows)

    real = Partition._load
    return patch.object(Partition, "_load", load)


@mutant(family("unsure", "freeze"))
def done_is_acked_unconfirmed() -> Patch:
    async def confirm(self: Partition, key: bytes) -> None: ...

    return patch.object(Partition, "confirm", confirm)


@mutant()
def sends_whenever_it_wakes_up() -> Patch:
    real = Line._post

    async def post(self: Line, walk: Walk, case: Case) -> Posted:
        assert walk.posted is not None
        fresh = msgspec.structs.replace(walk.posted.entry, at_boot_ms=self._clock.boot_ms())
        walk.posted = msgspec.structs.replace(walk.posted, entry=fresh)
        return await real(self, walk, case)

    return patch.object(Line, "_post", post)


# ---------------------------------------------------------------------------------------------- states and copies


def _judged(change: Callable[[Delivery | None, Envelope, Verdict], Verdict]) -> Patch:
    def judge(row: Delivery | None, envelope: Envelope, now_ms: int, freshness_ms: int) -> Verdict:
        return change(row, envelope, delivery.judge(row, envelope, now_ms, freshness_ms))

    return patch.object(seen, "judge", judge)


@mutant()
def a_state_moves_back() -> Patch:
    def unguarded(row: Delivery, state: Status, now_ms: int, **changes: object) -> Delivery:
        return msgspec.structs.replace(row, state=state, seq=row.seq + 1, at_ms=now_ms, **changes)

    stack = ExitStack()
    stack.enter_context(patch.object(story, "step", unguarded))
    stack.enter_context(
        _judged(lambda row, _, verdict: "resume" if row and verdict == "done" and row.state == "accepted" else verdict)
    )
    return stack


@mutant()
def uncertain_is_sent_again() -> Patch:
    return _judged(lambda row, _, verdict: "resume" if row and row.state == "sending" else verdict)


@mutant()
def any_copy_ends_the_grace() -> Patch:
    def change(row: Delivery | None, envelope: Envelope, verdict: Verdict) -> Verdict:
        ours = row is not None and row.state == "send_uncertain" and row.origin == envelope.origin
        return "decide" if ours and envelope.way == "uncertain" else verdict

    return _judged(change)


@mutant(lambda: map(drawn, range(4_000)))
def any_copy_of_a_dead_letter_counts() -> Patch:
    def change(row: Delivery | None, envelope: Envelope, verdict: Verdict) -> Verdict:
        ours = row is not None and row.state == "dead_lettered" and row.origin == envelope.origin
        return "return" if ours and envelope.way == "replayed" else verdict

    return _judged(change)


@mutant()
def replay_count_not_checked() -> Patch:
    real = Line.__init__

    def init(self: Line, plan: Any, *others: Any) -> None:
        real(self, msgspec.structs.replace(plan, replay=ReplayPolicy(max_replays=99)), *others)

    return patch.object(Line, "__init__", init)


@mutant()
def mark_row_missing() -> Patch:
    def unmarked(*args: Any) -> Step:
        step = story.brief(*args)
        return Step([], step.records, step.events)

    return patch.object(aside, "brief", unmarked)


@mutant(family("replaced", "freeze"))
def mark_of_a_replaced_story_missing() -> Patch:
    def plain(plan: Any, case: Case, row: Delivery, replaced: Delivery | None = None) -> Story:
        return Story(plan, case, row)

    return patch.object(line_module, "Story", plain)


@mutant()
def marks_are_dropped_too_early() -> Patch:
    return patch.object(Partition, "_committed", lambda self, topic: 1_000_000)


@mutant(family("outlived", "rebalance"))
def marks_are_asked_for_before_waiting() -> Patch:
    early: dict[str, bytes | None] = {}
    real = Line.take

    async def take(self: Line, walk: Walk) -> None:
        early[walk.taken.place] = self._desk.marked(walk.taken.place, read_envelope(walk.taken).origin)
        await real(self, walk)

    async def is_concluded(self: Aside, taken: Taken, envelope: Envelope) -> bool:
        mark = early[taken.place]
        if mark is not None:
            await self._desk.confirm(mark)
        return mark is not None

    stack = ExitStack()
    stack.enter_context(patch.object(Line, "take", take))
    stack.enter_context(patch.object(Aside, "is_concluded", is_concluded))
    return stack


@mutant(family("late", "freeze"))
def dropped_marks_are_asked_for_again() -> Patch:
    return patch.object(Marks, "is_passed", lambda self, taken: False)


@mutant()
def person_not_looked_up() -> Patch:
    return patch.object(Partition, "alias", lambda self, key: None)


@mutant(bases)
def person_known_only_once_sent() -> Patch:
    real = Story.step

    def step(self: Story, *records: Record) -> Step:
        if self.row.state != "sending":
            self._once = [(key, value) for key, value in self._once if key != self.case.person]
        return real(self, *records)

    return patch.object(Story, "step", step)


# ---------------------------------------------------------------------------------------------- money and the lane


@mutant()
def refund_twice() -> Patch:
    real = lane.settle

    def settle(policy: Any, state: Any, entry: Entry, outcome: PostOutcome | None, *rest: Any) -> tuple[Any, Report]:
        settled, report = real(policy, state, entry, outcome, *rest)
        if isinstance(outcome, Refused):
            refunded = budget.refund(settled.budget, entry.reservation)
            settled = msgspec.structs.replace(settled, budget=refunded)
        return settled, report

    return patch("stream_app.partition.desk.settle", settle)


@mutant()
def parked_costs_nothing() -> Patch:
    return patch.object(Partition, "charge", lambda self, workspace, reservation: None)


@mutant()
def lanes_not_in_the_same_transaction() -> Patch:
    real = Lanes.records

    def records(self: Lanes, workspaces: set[str]) -> list[Record]:
        late: list[Record] = getattr(self, "_late", [])
        self._late = real(self, workspaces)  # type: ignore[attr-defined]  # the mutant's own
        return late

    return patch.object(Lanes, "records", records)


@mutant()
def retry_after_ignored() -> Patch:
    def on_429(policy: Any, state: Any, *rest: Any) -> Any:
        return state

    return patch.object(rate, "on_429", on_429)


@mutant(crowded)
def tokens_kept_at_take_over() -> Patch:
    def full(state: rate.Rate, now_ms: int) -> rate.Rate:
        return msgspec.structs.replace(state, tokens=10.0, at_ms=now_ms)

    return patch.object(rate, "empty_after_takeover", full)


@mutant()
def open_breaker_lets_through() -> Patch:
    real = breaker.permit

    def permit(policy: Any, state: Any, now_ms: int, mode: Any) -> Any:
        return real(policy, state, state.until_ms if state.phase == "open" else now_ms, mode)

    return patch.object(breaker, "permit", permit)


@mutant()
def not_after_ignored() -> Patch:
    real = Gate.admit

    async def admit(self: Gate, walk: Walk, ask: Any, write_ahead: Any) -> Any:
        return await real(self, walk, msgspec.structs.replace(ask, not_after_ms=None), write_ahead)

    return patch.object(Gate, "admit", admit)


@mutant()
def no_letter_with_the_last_failure() -> Patch:
    real = Story.step

    def step(self: Story, *records: Record) -> Step:
        return real(self) if self.row.state == "dead_lettered" else real(self, *records)

    return patch.object(Story, "step", step)


# --------------------------------------------------------------------------------------------------------- waiting


@mutant(family("crowd", "rebalance"))
def given_up_makes_no_room() -> Patch:
    def give_up_idle(self: Partition) -> None:
        for walk, kept in list(self._walks.items()):
            if walk.suspended.is_set() and (walk.task is None or walk.task.done()):
                del self._walks[walk]
                walk.let_next()
                kept.give_up(walk)

    return patch.object(Partition, "_give_up_idle", give_up_idle)


@mutant()
def held_leads_are_kept_at_a_rebalance() -> Patch:
    return patch.object(Gate, "give_up", lambda self, suspended: None)
