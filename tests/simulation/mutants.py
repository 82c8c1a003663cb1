"""The line, broken on purpose: each mutant takes away one thing that a promise rests on, and must be found out.

The first dozen are the usual ways to be wrong; the rest undo a repair that a run of the simulation led to.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from stream_app.domain.dead_letter.replay import ReplayPolicy
from stream_app.domain.delivery import dedup as seen
from stream_app.domain.delivery import recorder as story
from stream_app.domain.delivery import state_machine as delivery
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.delivery.recorder import Posted, Step, Story
from stream_app.domain.delivery.state_machine import Delivery, Verdict
from stream_app.domain.errors import BrokerUnavailable
from stream_app.domain.lane.lane import Entry
from stream_app.domain.lead.resolve import Case
from stream_app.domain.record import Record
from stream_app.partition.acks import Prefix
from stream_app.partition.admission import Gate
from stream_app.partition.in_flight import Walk
from stream_app.partition.key_locks import Keys
from stream_app.partition.markers import Marks
from stream_app.partition.owner import Partition
from stream_app.pipeline import lead as line_module
from stream_app.pipeline import reject as aside
from stream_app.pipeline.lead import Line
from stream_app.pipeline.reject import Aside
from tests.simulation.bases import bases
from tests.simulation.client import MemoryLedger, NoAnswer
from tests.simulation.mutant import Patch, family, lettered_again, mutant, shuffled, unguarded

# ------------------------------------------------------------------------------------------- the order of things


@mutant("2", "6")
def headers_of_producers_are_believed() -> Patch:
    return patch.object(line_module, "lead_envelope", lambda taken, inputs: read_envelope(taken))


@mutant("2")
def ack_before_the_commit() -> Patch:
    async def conclude(self: Partition, walk: Walk, step: Step) -> None:
        self._submit(step)

    return patch.object(Partition, "conclude", conclude)


@mutant("3", "4")
def no_write_ahead() -> Patch:
    def write_ahead(self: Line, walk: Walk, told: Story, entry: Entry) -> Step:
        told.go("sending", self._clock.now_ms(), reservation=entry.reservation, webhook_id=entry.webhook_id)
        walk.posted = Posted(told.row, entry)
        return Step([], [], [], entry.destination.workspace)  # row and events come with the next step

    return patch.object(Line, "_write_ahead", write_ahead)


@mutant("3")
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


@mutant("2")
def ack_out_of_order() -> Patch:
    async def finish(self: Prefix, walk: Walk) -> None:
        await self._inlet.ack(walk.taken)

    return patch.object(Prefix, "finish", finish)


@mutant("2", hunt=shuffled)
def acks_overtake_each_other() -> Patch:
    async def finish(self: Prefix, walk: Walk) -> None:
        walk.finished = True
        if self._broken:
            self.give_up(walk)
            return
        while self._walks and self._walks[0].finished:
            await self._inlet.ack(self._walks.popleft().taken)

    return patch.object(Prefix, "finish", finish)


@mutant("2")
def given_up_is_acked() -> Patch:
    def give_up(self: Prefix, walk: Walk) -> None:
        walk.finished = True
        self._inlet.give_up(walk.taken)

    return patch.object(Prefix, "give_up", give_up)


# ------------------------------------------------------------------------------------------------------ ownership


@mutant("2", "3", "6")
def no_fence() -> Patch:
    real = MemoryLedger._fence

    async def first_only(self: MemoryLedger) -> int:
        epoch = self._kafka._producers[self.transactional_id].epoch
        return await self._link.ask("fence", lambda: epoch) if epoch else await real(self)

    return patch.object(MemoryLedger, "_fence", first_only)


@mutant("3", "6", hunt=family("fine", "freeze"))
def read_before_fence() -> Patch:
    async def take_over(self: MemoryLedger, _: float) -> dict[bytes, bytes]:
        try:
            rows = await self._link.ask("load", self._load)
            self._epoch = await self._fence()
        except NoAnswer:
            raise BrokerUnavailable("no answer") from None
        return rows

    return patch.object(MemoryLedger, "take_over", take_over)


@mutant("3", "6")
def own_sending_taken_for_a_predecessors() -> Patch:
    @asynccontextmanager
    async def alone(self: Partition, walk: Walk, keys: Keys) -> Any:
        yield

    return patch.object(Partition, "alone", alone)


@mutant("2", "6")
def memory_kept_after_an_aborted_commit() -> Patch:
    def load(self: Partition, rows: dict[bytes, bytes]) -> None:
        if not self._rows:
            real(self, rows)

    real = Partition._load
    return patch.object(Partition, "_load", load)


@mutant("2", hunt=family("unsure", "freeze"))
def done_is_acked_unconfirmed() -> Patch:
    async def confirm(self: Partition, walk: Walk, key: bytes) -> None: ...

    return patch.object(Partition, "confirm", confirm)


@mutant("3")
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


@mutant("6")
def a_state_moves_back() -> Patch:
    return unguarded(
        _judged(lambda row, _, verdict: "resume" if row and verdict == "done" and row.state == "accepted" else verdict)
    )


@mutant("3", "6")
def uncertain_is_sent_again() -> Patch:
    return unguarded(_judged(lambda row, _, verdict: "resume" if row and row.state == "sending" else verdict))


@mutant("3")
def any_copy_ends_the_grace() -> Patch:
    def change(row: Delivery | None, envelope: Envelope, verdict: Verdict) -> Verdict:
        ours = row is not None and row.state == "send_uncertain" and row.origin == envelope.origin
        return "decide" if ours and envelope.way == "uncertain" else verdict

    return _judged(change)


@mutant("7", hunt=lettered_again)
def any_copy_of_a_dead_letter_counts() -> Patch:
    def change(row: Delivery | None, envelope: Envelope, verdict: Verdict) -> Verdict:
        ours = row is not None and row.state == "dead_lettered" and row.origin == envelope.origin
        return "return" if ours and envelope.way == "replayed" else verdict

    return _judged(change)


@mutant("7")
def replay_count_not_checked() -> Patch:
    real = Line.__init__

    def init(self: Line, plan: Any, *others: Any) -> None:
        real(self, msgspec.structs.replace(plan, replay=ReplayPolicy(max_replays=99)), *others)

    return patch.object(Line, "__init__", init)


@mutant("6")
def mark_row_missing() -> Patch:
    def unmarked(*args: Any) -> Step:
        step = story.brief(*args)
        return Step([], step.records, step.events)

    return patch.object(aside, "brief", unmarked)


@mutant("6", hunt=family("replaced", "freeze"))
def mark_of_a_replaced_story_missing() -> Patch:
    def plain(plan: Any, case: Case, row: Delivery, replaced: Delivery | None = None, aliases: Any = None) -> Story:
        return Story(plan, case, row, aliases=aliases)

    return patch.object(line_module, "Story", plain)


@mutant("6")
def marks_are_dropped_too_early() -> Patch:
    return patch.object(Partition, "_committed", lambda self, topic: 1_000_000)


@mutant("6", hunt=family("outlived", "rebalance"))
def marks_are_asked_for_before_waiting() -> Patch:
    early: dict[str, bytes | None] = {}
    real = Line.take

    async def take(self: Line, walk: Walk) -> None:
        early[walk.taken.place] = self._desk.marked(walk.taken.place, read_envelope(walk.taken).origin)
        await real(self, walk)

    async def is_concluded(self: Aside, walk: Walk, envelope: Envelope) -> bool:
        mark = early[walk.taken.place]
        if mark is not None:
            await self._desk.confirm(walk, mark)
        return mark is not None

    stack = ExitStack()
    stack.enter_context(patch.object(Line, "take", take))
    stack.enter_context(patch.object(Aside, "is_concluded", is_concluded))
    return stack


@mutant("6", hunt=family("late", "freeze"))
def dropped_marks_are_asked_for_again() -> Patch:
    return patch.object(Marks, "is_passed", lambda self, taken: False)


@mutant("3")
def person_not_looked_up() -> Patch:
    return patch.object(Partition, "alias", lambda self, key: None)


@mutant("3", hunt=bases)
def person_known_only_once_sent() -> Patch:
    real = Story.step

    def step(self: Story, *records: Record) -> Step:
        if self.row.state != "sending":
            self._once = [(key, value) for key, value in self._once if key not in self.case.aliases]
        return real(self, *records)

    return patch.object(Story, "step", step)


# --------------------------------------------------------------------------------------------------------- waiting


@mutant("rest", hunt=family("queue", "rebalance"))
def given_up_makes_no_room() -> Patch:
    def give_up_idle(self: Partition) -> None:
        for walk, kept in list(self._walks.items()):
            if walk.suspended.is_set() and (walk.task is None or walk.task.done()):
                del self._walks[walk]
                walk.let_next()
                kept.give_up(walk)

    return patch.object(Partition, "_give_up_idle", give_up_idle)


@mutant("rest")
def held_leads_are_kept_at_a_rebalance() -> Patch:
    return patch.object(Gate, "give_up", lambda self, suspended: None)
