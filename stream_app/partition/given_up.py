"""What happens to the copy of a dead letter that an operator gives up.

The copy is not sent. It ends its lead, or its record.

    bytes -> lock the lead -> does its row say what the dead letter says? -> commit the end -> ack

A dead letter of a lead without a row, or of a record that is no lead, ends with one event. The
replay process writes no more than one such copy, in the transaction that records that it did.
"""

from attrs import define

from stream_app.clock import Clock
from stream_app.domain.dead_letter.replay import given_up_text
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import CommitStep, DeliveryRecorder
from stream_app.domain.delivery.resolve import LeadRef
from stream_app.domain.delivery.state_machine import (
    CONCLUDED,
    NEXT,
    Delivery,
    Reason,
    delivery_key,
    mark_key,
)
from stream_app.domain.delivery.without_row import step_without_row
from stream_app.domain.lead.identity import is_plain_id
from stream_app.domain.plan import Destination, Plan
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import InFlight
from stream_app.partition.key_locks import KeyLocks
from stream_app.partition.rows import Rows


@define(eq=False, repr=False, kw_only=True)
class GivenUp:
    """Ends the dead letters of one partition that operators give up."""

    _plan: Plan
    _clock: Clock
    _rows: Rows
    _locks: KeyLocks
    _commits: Commits

    async def process(self, in_flight: InFlight, envelope: Envelope) -> None:
        """Process one copy.

        Returns when its end is committed, or when it is certain that there is nothing to end.
        """
        in_flight.release_next()
        workspace = (in_flight.consumed.key or b"").decode("utf-8", "replace")
        alias = envelope.destination
        destination = self._plan.destination(workspace, alias) or Destination(alias, workspace, ())
        keys = _row_keys(workspace, envelope)
        async with self._locks.lock(in_flight, lambda: keys):
            # The rows are read under the lock only: a replay of this lead may have held it before
            # and changed the row. From here on nothing suspends until a step is submitted.
            if await self._commits.end_if_concluded(in_flight):
                return
            present = ((row_key, self._rows.delivery(row_key)) for row_key in keys)
            mine = [
                (row_key, row)
                for row_key, row in present
                if row is not None and row.origin == envelope.origin
            ]
            if mine:
                await self._end_lead(in_flight, envelope, destination, *mine[0])
            else:
                await self._end_record(in_flight, envelope, destination)

    async def _end_lead(
        self,
        in_flight: InFlight,
        envelope: Envelope,
        destination: Destination,
        key: bytes,
        row: Delivery,
    ) -> None:
        """End the lead, if this is its latest dead letter."""
        if row.seq != envelope.seq or "suppressed" not in NEXT.get(row.state, ()):
            await self._commits.commit_unchanged(in_flight, key)
            return
        lead = LeadRef(in_flight.consumed, envelope, envelope.lead_id, destination, key)
        recorder = DeliveryRecorder(self._plan, lead, row)
        recorder.go(
            "suppressed",
            self._clock.now_ms(),
            _why(in_flight),
            final=True,
            **recorder.freed(),
        )
        await self._commits.commit_last(in_flight, recorder.step())

    async def _end_record(
        self,
        in_flight: InFlight,
        envelope: Envelope,
        destination: Destination,
    ) -> None:
        """End a record without a row.

        A lead that failed has a row. If this copy finds none, another record counts for the lead.
        """
        if envelope.disposition == "failed":
            marker = mark_key(in_flight.consumed.record_id)
            await self._commits.commit_last(in_flight, CommitStep([(marker, CONCLUDED)], [], []))
            return
        step = step_without_row(
            self._plan,
            in_flight.consumed,
            envelope,
            "suppressed",
            self._clock.now_ms(),
            _why(in_flight),
            envelope.lead_id,
            destination=destination,
        )
        await self._commits.commit_last(in_flight, step)


def _row_keys(workspace: str, envelope: Envelope) -> tuple[bytes, ...]:
    """Return the keys under which the lead of a dead letter may have its row.

    The key of a forced lead comes first.
    """
    lead_id = envelope.lead_id
    alias = envelope.destination
    if not (lead_id and is_plain_id(alias) and is_plain_id(workspace)):
        return ()
    forced = delivery_key(workspace, alias, lead_id, envelope.dead_letter or envelope.origin)
    return forced, delivery_key(workspace, alias, lead_id)


def _why(in_flight: InFlight) -> Reason:
    return Reason("given_up", given_up_text(in_flight.consumed.value))
