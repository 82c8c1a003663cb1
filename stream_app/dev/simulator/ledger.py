"""The ledger: one line for each event, in a file, with running totals for `/ledger/summary`.

Tests compare with it.

Every line has `seq` (from 1, without gaps), `at_ms` (epoch, UTC) and `kind`: `start` · `request` ·
`run` (an item of a routine's run) · `poll` (a read of the Public API) · `notify` (a completion
webhook) · `row` (the end of a row's run) · `charge` · `refund` · `callback` (one attempt) ·
`control` (a control call) · `listener` (refuse began or ended) · `stop`. No line holds a token, a
URL, or a field of a payload except the two echo fields. Absent values are left out. Memory is one
small entry per lead and a few numbers per workspace.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple

import msgspec

Leads = Literal["all", "repeated", "none"]


class LedgerLine(
    msgspec.Struct,
    omit_defaults=True,
    kw_only=True,
    tag_field="kind",
    tag=lambda name: name.removesuffix("Line").lower(),
):
    """Base of all lines. The ledger sets `seq`, and `at_ms` if the writer did not."""

    seq: int = 0
    at_ms: int = 0
    workspace: str | None = None


class StartLine(LedgerLine):
    """The simulator started."""

    seed: int


class StopLine(LedgerLine):
    """The simulator stopped."""


class RequestLine(LedgerLine):
    """A request to a webhook. `at_ms` is its arrival.

    `status` is the HTTP status of the response, or "hang", "reset" or "garbage". `rows` is 1, or 0
    if the payload could not be read; `accepted` is 1 if it became a row. `fault` is the fault that
    was played.
    """

    webhook: str
    rows: int
    status: int | str
    accepted: int
    lead_id: str | None = None
    delivery_id: str | None = None
    fault: str | None = None


class RunLine(RequestLine):
    """One item of a request to run a routine, which `webhook` names.

    `run_id` is empty if no run was made. `delivery_id` is the id of the item.
    """

    run_id: str = ""


class PollLine(LedgerLine):
    """A request to the Public API that changes nothing. `run_id`: whose results were asked for."""

    endpoint: str
    status: int | str
    routine: str = ""
    run_id: str = ""
    fault: str | None = None


class NotifyLine(LedgerLine):
    """A completion webhook was told that a run has finished.

    `status` is the HTTP status of the response, "timeout", "error" (no response), or "lost" (not
    sent).
    """

    routine: str
    run_id: str
    status: int | str


class RowLine(LedgerLine):
    """The end of a row.

    Attributes:
        state: `done`, `errors`, `out_of_credits`, `not_run` (auto-run is off) or `deduped`.
    """

    webhook: str
    row: int
    run: int
    state: str
    filled: int = msgspec.field(default=0, name="found")
    lead_id: str | None = None
    delivery_id: str | None = None


class ChargeLine(LedgerLine):
    """The charge of a column when it starts. `column` is "callback" for the HTTP column."""

    webhook: str
    row: int
    column: str
    credits: int = 0
    actions: int = 0
    lead_id: str | None = None


class RefundLine(ChargeLine):
    """The refund of a column that failed."""


class CallbackLine(LedgerLine):
    """One attempt to report a row.

    `status` is the HTTP status of the response, "timeout" or "error" (no response; `error` is its
    code), "lost", "out_of_actions" or "condition_not_met" (nothing was sent). `cell` is the
    beginning of the response body, which Clay shows in the cell. `repeats` is true if another
    attempt follows.
    """

    webhook: str
    row: int
    run: int
    attempt: int
    status: int | str
    ms: int = 0
    faults: list[str] = []
    error: str | None = None
    cell: str | None = None
    repeats: bool = False
    lead_id: str | None = None
    delivery_id: str | None = None


class ControlLine(LedgerLine):
    """A control call, with what it did."""

    did: str


class ListenerLine(LedgerLine):
    """The webhooks' port opened or closed."""

    listening: bool


AnyLine = (
    StartLine
    | StopLine
    | RequestLine
    | RunLine
    | PollLine
    | NotifyLine
    | RowLine
    | ChargeLine
    | RefundLine
    | CallbackLine
    | ControlLine
    | ListenerLine
)
RESET: Final = "reset"
"""What the control line of a reset did: nothing before it counts."""


class LeadCount(NamedTuple):
    """Requests and accepted rows of one lead."""

    requests: int = 0
    accepted: int = 0


# Leads with the same counts share one tuple, so that a million leads cost only their keys.
_shared = cache(LeadCount)


class WorkspaceTotals(msgspec.Struct):
    """Totals of one workspace.

    `requests`, `rows`, `callbacks` and `polls` are counted by status or state.
    """

    requests: Counter[str] = msgspec.field(default_factory=Counter)
    accepted: int = 0
    rows: Counter[str] = msgspec.field(default_factory=Counter)
    callbacks: Counter[str] = msgspec.field(default_factory=Counter)
    polls: Counter[str] = msgspec.field(default_factory=Counter)
    credits_charged: int = 0
    credits_refunded: int = 0
    actions_charged: int = 0


class Tally:
    """Totals since the start or the last reset."""

    def __init__(self) -> None:
        self._leads: dict[str, LeadCount] = {}
        self._workspaces: dict[str, WorkspaceTotals] = {}

    def of(self, lead: str) -> LeadCount:
        """Return how many requests named this lead, and how many rows it has.

        A request counts whatever its response was.
        """
        return self._leads.get(lead, _shared())

    def workspaces(self) -> dict[str, WorkspaceTotals]:
        """Return the totals of each workspace, by its name."""
        return dict(self._workspaces)

    def add(self, line: LedgerLine) -> None:
        if line.workspace is None:
            return
        totals = self._workspaces.get(line.workspace)
        if totals is None:
            totals = WorkspaceTotals()
            self._workspaces[line.workspace] = totals
        match line:
            case RequestLine():
                self._add_request(line, totals)
            case RefundLine():
                totals.credits_refunded += line.credits
            case ChargeLine():
                totals.credits_charged += line.credits
                totals.actions_charged += line.actions
            case RowLine():
                totals.rows[line.state] += 1
            case CallbackLine():
                totals.callbacks[str(line.status)] += 1
            case PollLine():
                totals.polls[str(line.status)] += 1

    def _add_request(self, line: RequestLine, totals: WorkspaceTotals) -> None:
        totals.requests[str(line.status)] += 1
        totals.accepted += line.accepted
        if line.lead_id is not None:
            count = self.of(line.lead_id)
            self._leads[line.lead_id] = _shared(count.requests + 1, count.accepted + line.accepted)

    def summary(self, leads: Leads) -> dict[str, object]:
        """Return the totals as plain data.

        Args:
            leads: Whose accepted rows to list: all, those with more than one, or none.
        """
        least = {"all": 1, "repeated": 2, "none": 1 << 62}[leads]
        workspaces = self._workspaces.values()
        return {
            "requests": sum(totals.requests.total() for totals in workspaces),
            "accepted": sum(totals.accepted for totals in workspaces),
            "by_status": sum((totals.requests for totals in workspaces), Counter()),
            "callbacks": sum((totals.callbacks for totals in workspaces), Counter()),
            "workspaces": self._workspaces,
            "leads_accepted": sum(count.accepted > 0 for count in self._leads.values()),
            "leads_repeated": sum(count.accepted > 1 for count in self._leads.values()),
            "leads": {lead: n.accepted for lead, n in self._leads.items() if n.accepted >= least},
        }


FLUSH_AFTER_S = 0.05
_INDEX_EVERY = 1024
_READ_BYTES = 1 << 18


class _Head(msgspec.Struct):
    seq: int
    kind: str
    workspace: str | None = None


class Ledger:
    """Appends to a file (a temporary one without a path).

    Flushes within 50 ms of a line and at close.

    Args:
        path: The file.
        goes_on: Continue the numbers and totals of the file's last run, instead of beginning with
            new ones.
    """

    def __init__(self, path: Path | None, *, goes_on: bool = False) -> None:
        self._file: BinaryIO
        if path is None:
            self._file = tempfile.TemporaryFile(prefix="sim-ledger-")  # noqa: SIM115 # closed by close()
        else:
            self._file = path.open("a+b")
        self._offset = self._file.seek(0, 2)
        self._buffer: list[bytes] = []
        self._index = [self._offset]
        self._encode = msgspec.json.Encoder().encode
        self._flusher: asyncio.TimerHandle | None = None
        self.seq = 0
        self.tally = Tally()
        if goes_on:
            self._read_again()

    def _read_again(self) -> None:
        """Count the lines of the last run that began with new numbers.

        A line that a kill cut off is taken away.
        """
        decode = msgspec.json.Decoder(AnyLine).decode
        offset = 0
        self._index = [0]
        self._file.seek(0)
        for data in self._file:
            if not data.endswith(b"\n"):
                self._file.truncate(offset)
                break
            line = decode(data)
            if line.seq == 1:
                self.tally = Tally()
                self._index = [offset]
            elif isinstance(line, ControlLine) and line.did == RESET:
                self.tally = Tally()
            self.tally.add(line)
            self.seq = line.seq
            offset += len(data)
            if self.seq % _INDEX_EVERY == 0:
                self._index.append(offset)
        self._offset = offset

    def lines(self) -> list[AnyLine]:
        """Return the lines since the last reset."""
        decode = msgspec.json.Decoder(AnyLine).decode
        lines: list[AnyLine] = []
        for data in self.read():
            line = decode(data)
            if isinstance(line, ControlLine) and line.did == RESET:
                lines.clear()
            lines.append(line)
        return lines

    def write(self, line: LedgerLine) -> None:
        """Add a line. Call it on the event loop."""
        self.seq += 1
        line.seq = self.seq
        if not line.at_ms:
            line.at_ms = now_ms()
        self.tally.add(line)
        data = self._encode(line) + b"\n"
        self._buffer.append(data)
        self._offset += len(data)
        if self.seq % _INDEX_EVERY == 0:
            self._index.append(self._offset)
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self.flush)

    def flush(self) -> None:
        """Hand all lines so far to the operating system."""
        if self._flusher is not None:
            self._flusher.cancel()
            self._flusher = None
        if self._buffer:
            self._file.seek(0, 2)
            self._file.write(b"".join(self._buffer))
            self._buffer.clear()
            self._file.flush()

    def read(
        self,
        since: int = 0,
        kind: str | None = None,
        workspace: str | None = None,
    ) -> Iterator[bytes]:
        """Yield this run's lines after number `since`, read from the file.

        Each ends in a newline.
        """
        self.flush()
        end = self._offset
        offset = self._index[min(since // _INDEX_EVERY, len(self._index) - 1)]
        decode = msgspec.json.Decoder(_Head).decode
        while offset < end:
            self._file.seek(offset)
            for data in self._file.readlines(_READ_BYTES):
                offset += len(data)
                head = decode(data)
                if (
                    head.seq > since
                    and kind in (None, head.kind)
                    and workspace in (None, head.workspace)
                ):
                    yield data

    def close(self) -> None:
        self.write(StopLine())
        self.flush()
        self._file.close()


def now_ms() -> int:
    """The time in epoch milliseconds, UTC."""
    return time.time_ns() // 1_000_000
