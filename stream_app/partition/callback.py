"""What happens to one callback from Clay, top to bottom.

It settles its lead, or it is reported as a duplicate or as unmatched.

    bytes -> decode -> does it settle the lead? -> lock the lead -> look again -> result
          -> book the cost -> commit -> ack

`interpret.result_of` makes the record of `leads.enriched`. The announcement of a run becomes a
callback first, or nothing (`announcements.py`).

The row, its events, the result, the lane's budget and the callback's marker are one step. A
callback never waits for admission. A lead that waits for admission while its callback waits for the
lock is recalled: it starts again after the callback, and finds its row settled. When
`CallbackPipeline.process` returns, the callback may be acked.
"""

from typing import Final

from attrs import define

from stream_app.clock import Clock
from stream_app.domain.callback.interpret import read_callback
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.state_machine import (
    CONCLUDED,
    Delivery,
    Reason,
    delivery_key,
    mark_key,
    match_callback,
)
from stream_app.domain.delivery.without_row import step_without_row
from stream_app.domain.model.messages import Callback, RunNotification, Status
from stream_app.domain.plan import Plan
from stream_app.partition.announcements import Announcements
from stream_app.partition.commits import Commits
from stream_app.partition.endings import Endings
from stream_app.partition.in_flight import InFlight
from stream_app.partition.key_locks import KeyLocks
from stream_app.partition.rows import Rows

_UNKNOWN: Final = Reason(
    "unknown_lead",
    "this partition has no row of such a lead, or no longer has it",
)
_NOT_EXPECTED: Final = Reason(
    "not_expected",
    "its lead was not sent, or was concluded in another way",
)
_ANSWERED: Final = Reason("answered", "an earlier callback has settled its lead")


@define(eq=False, repr=False, kw_only=True)
class CallbackPipeline:
    """Matches the callbacks of one partition with their leads.

    Many callbacks are under way at the same time.
    """

    _plan: Plan
    _clock: Clock
    _rows: Rows
    _locks: KeyLocks
    _commits: Commits
    _endings: Endings
    _announcements: Announcements

    async def process_pending(self, in_flight: InFlight) -> None:
        """Process a callback that came while no worker owned the partition.

        The announcement of a run is left to the stream, which has it, too: all leads wait until
        these callbacks are processed, and they must not wait for Clay.
        """
        came = read_callback(self._plan, in_flight.consumed)
        if not isinstance(came, RunNotification):
            await self._process_callback(in_flight, came)

    async def process(self, in_flight: InFlight) -> None:
        """Process one callback. Returns when everything about it is committed."""
        in_flight.release_next()
        came = read_callback(self._plan, in_flight.consumed)
        if isinstance(came, RunNotification):
            async with self._announcements.asking(in_flight, came) as says:
                await self._conclude_run(in_flight, came, says)
        else:
            await self._process_callback(in_flight, came)

    async def _process_callback(self, in_flight: InFlight, came: Callback | Reason) -> None:
        """Process what was read of a record: a callback, or the reason why it is none."""
        if isinstance(came, Reason):
            await self._settle_nothing(in_flight, "callback_unmatched", came)
        else:
            await self._conclude(in_flight, came)

    async def _conclude_run(
        self,
        in_flight: InFlight,
        announced: RunNotification,
        says: Callback | Reason | None,
    ) -> None:
        """Commit what an announced run says of a lead; None if there is nothing to do about it."""
        if says is None:
            # What is known of the run may come from a step that is not committed yet. If that step
            # fails, the run is unknown again, so its announcement is acked after this commit only.
            step = CommitStep([], [], [], announced.workspace)
            await self._commits.commit_last(in_flight, step)
        elif isinstance(says, Reason):
            await self._settle_nothing(in_flight, "callback_unmatched", says, announced)
        else:
            await self._conclude(in_flight, says, announced.run)

    async def _conclude(self, in_flight: InFlight, callback: Callback, run: str = "") -> None:
        """Settle the lead of a callback, or report that it settles none.

        `run`: the run whose announcement it follows, if any.
        """
        key = delivery_key(
            callback.workspace,
            callback.destination,
            callback.lead_id,
            callback.forced_origin,
        )
        row = self._rows.delivery(key)
        # Checked before the lock, too: a callback that settles nothing must neither wait for a lead
        # nor recall it.
        if row is not None and match_callback(row, callback.outcome) == "settles":
            async with self._locks.lock(in_flight, lambda: (key,)):
                # Second look: while this callback waited for the lock, another one may have settled
                # the lead, or the lead itself may have gone on.
                row = self._rows.delivery(key)
                if row is not None and match_callback(row, callback.outcome) == "settles":
                    await self._settle(in_flight, callback, key, row, run)
                    return
        await self._settle_nothing(in_flight, *_why_not(row, callback.outcome), callback, row)

    async def _settle(
        self,
        in_flight: InFlight,
        callback: Callback,
        key: bytes,
        row: Delivery,
        run: str,
    ) -> None:
        # The bootstrap and the stream may both have this callback. The first of them may have
        # settled nothing, because the lead was sent only after that. Then the second one must not
        # settle the lead. Deadlines take no lock, so no await may lie between the look at the row
        # and the submission: where `end_if_concluded` returns False, it has not suspended.
        if await self._commits.end_if_concluded(in_flight):
            return
        step = self._endings.settle(callback, key, row, in_flight.consumed, run)
        if isinstance(step, Reason):
            await self._settle_nothing(in_flight, "callback_unmatched", step, callback, row)
            return
        step.rows.append((mark_key(in_flight.consumed.record_id), CONCLUDED))
        await self._commits.commit_last(in_flight, step)

    # ---------------------------------------------------------------- callbacks that settle nothing

    async def _settle_nothing(
        self,
        in_flight: InFlight,
        status: Status,
        why: Reason,
        about: Callback | RunNotification | None = None,
        row: Delivery | None = None,
    ) -> None:
        """Commit one event for a callback that settles nothing.

        The origin of the event is the callback's own record.
        """
        if await self._commits.end_if_concluded(in_flight):
            return
        envelope = Envelope(
            origin=in_flight.consumed.record_id,
            trace_id=row.trace_id if row else "",
        )
        lead_id = about.lead_id if isinstance(about, Callback) else ""
        now_ms = self._clock.now_ms()
        destination = self._plan.destinations[about.destination] if about else None
        step = step_without_row(
            self._plan,
            in_flight.consumed,
            envelope,
            status,
            now_ms,
            why,
            lead_id,
            destination=destination,
        )
        await self._commits.commit_last(in_flight, step)


def _why_not(row: Delivery | None, outcome: Status) -> tuple[Status, Reason]:
    """The status and reason of a callback that settles nothing."""
    if match_callback(row, outcome) == "duplicate":
        return "callback_duplicate", _ANSWERED
    return "callback_unmatched", _UNKNOWN if row is None else _NOT_EXPECTED
