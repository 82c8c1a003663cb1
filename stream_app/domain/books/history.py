"""The history of a record: its events in sequence, and what its last event says.

Both the books and the gateway's read model apply events with `advance`, so they count each record in the same way.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from stream_app.domain.delivery.state_machine import NEXT
from stream_app.domain.messages import ImportSummary

_LEGAL: Final = frozenset((before or "", after) for before, afters in NEXT.items() for after in afters)
_OFFSET_BITS: Final = 44
_MOST_LOGS: Final = 1 << 18


Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""The integers that SQLite can store. A correction may be below 0."""


class Event(msgspec.Struct, gc=False):
    """A StatusEvent as the books and the read model read it. `status` is any word: a newer worker may use new ones."""

    lead_id: str
    status: str
    seq: Number
    at_ms: Number
    origin: str
    workspace: str = ""
    destination: str = ""
    attempt: Number = 0
    replay: Number = 0
    epoch: Number = 0
    reason: str = ""
    text: str = ""
    http_status: Number | None = None
    due_at_ms: Number | None = None
    credits: Number | None = None
    actions: Number | None = None
    day: str = ""
    month: str = ""
    saved: Number | None = None
    trace_id: str = ""
    import_id: str = ""
    import_summary: ImportSummary | None = None


decode_event: Final = msgspec.json.Decoder(Event).decode
"""Raises msgspec.DecodeError, which is a ValueError."""


class RecordHistory(msgspec.Struct, array_like=True, gc=False):
    """What the events of one record say.

    Attributes:
        status: The last status; "" without an event.
        seq: Sequence number of the last event; 0 without an event.
        at_ms: Time of the last event, epoch ms.
        rerouted: True if the first event is `rerouted`. It is in another partition than the rest, so it may come later.
        headless: True if the first event that was read has a sequence number above 1.
    """

    lead_id: str = ""
    workspace: str = ""
    destination: str = ""
    status: str = ""
    seq: int = 0
    at_ms: int = 0
    rerouted: bool = False
    headless: bool = False
    trace_id: str = ""


def advance(history: RecordHistory, event: Event, *, kept: bool) -> tuple[bool, str]:
    """Apply the next event of a partition to its history, which is changed in place.

    `kept`: no event of the partition has been deleted.

    Returns:
        Whether the event counts (a double does not), and what is wrong; "" if nothing is.
    """
    if event.status == "rerouted" and event.seq == 1:
        if history.rerouted:
            return False, "event 1 comes again: a double"
        history.rerouted = True
        if history.seq == 0:
            _take(history, event)
        return True, ""
    problem = ""
    if history.seq == 0 and event.seq > 1 and (event.seq == 2 or not kept):
        history.headless = True
        # Only a rerouted history may begin so: its first event is in another partition. The audit checks that.
        if kept and ("rerouted", event.status) not in _LEGAL:
            problem = "its first event is missing"
    elif event.seq <= history.seq:
        return False, f"event {event.seq} follows {history.seq}: a double"
    elif event.seq > history.seq + 1:
        problem = f"event {event.seq} follows {history.seq}: a gap"
    elif (history.status, event.status) not in _LEGAL:
        problem = f"{event.status} follows {history.status or 'nothing'}, which is no legal step"
    _take(history, event)
    return True, problem


def _take(history: RecordHistory, event: Event) -> None:
    history.lead_id, history.workspace, history.destination = event.lead_id, event.workspace, event.destination
    history.status, history.seq, history.at_ms = event.status, event.seq, event.at_ms
    history.trace_id = event.trace_id


class RecordNumbers:
    """Numbers records, so that SQLite can store them by an integer. A number grows with the record's offset.

    Attributes:
        logs: `topic/partition`, in the order in which they were first seen.
    """

    def __init__(self, logs: list[str] | None = None) -> None:
        self.logs = logs or []
        self._numbers = {name: number for number, name in enumerate(self.logs, 1)}

    def number(self, record_id: str) -> int:
        """Return the number of `topic/partition/offset`. Raises ValueError if it has another form."""
        name, _, digits = record_id.rpartition("/")
        offset = int(digits)
        log = self._numbers.get(name) or len(self.logs) + 1
        if not (name and 0 <= offset < 1 << _OFFSET_BITS and log <= _MOST_LOGS):
            raise ValueError("not a record's position")
        if log > len(self.logs):
            self._numbers[name] = log
            self.logs.append(name)
        return log << _OFFSET_BITS | offset

    def position(self, number: int) -> tuple[str, int]:
        """Return the log and the offset of a number."""
        return self.logs[(number >> _OFFSET_BITS) - 1], number & (1 << _OFFSET_BITS) - 1

    def record_id(self, number: int) -> str:
        """Return `topic/partition/offset` of a number."""
        log, offset = self.position(number)
        return f"{log}/{offset}"
