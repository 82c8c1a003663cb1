"""Rows in a file beside the ledger.

A simulator that was killed goes on with them, as Clay would. The ledger says what became of a row,
and this file says what was in it, which is personal data and the token of its callback.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from stream_app.dev.simulator.ledger import AnyLine, CallbackLine, ChargeLine, RefundLine, RowLine
from stream_app.dev.simulator.world import TableRow


class KeptRow(msgspec.Struct, frozen=True):
    """A row as it came. `number` names it in the ledger; `webhook` is the slug."""

    number: int
    webhook: str
    about: str
    body: bytes
    lead_id: str | None
    delivery_id: str | None


class RowFile:
    """Appends rows, and reads those of earlier runs.

    Only the user of this process may open the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b")

    def read(self) -> Iterator[KeptRow]:
        """Yield all rows. One that a kill cut off was never answered for, and is taken away."""
        decode = msgspec.json.Decoder(KeptRow).decode
        offset = 0
        self._file.seek(0)
        for data in self._file:
            if not data.endswith(b"\n"):
                self._file.truncate(offset)
                return
            offset += len(data)
            yield decode(data)

    def add(self, row: TableRow) -> None:
        """Hand a row to the operating system, which keeps it whatever becomes of this process."""
        kept = KeptRow(
            row.number,
            row.webhook.slug,
            row.about,
            row.body,
            row.lead_id,
            row.delivery_id,
        )
        self._file.write(msgspec.json.encode(kept) + b"\n")
        self._file.flush()

    def clear(self) -> None:
        """Forget all rows."""
        self._file.truncate(0)

    def close(self) -> None:
        self._file.close()


class RowProgress(msgspec.Struct):
    """What the ledger says of a row.

    Attributes:
        run: The number of its last run that ended; 0 if none has.
        state: How that run ended; None if none has.
        charged: How often each column was paid for, by name.
        refunded: How often that was given back.
        credits: What the row has cost.
        is_reported: A call of its HTTP column was answered with a 2xx.
        is_over: Its HTTP column makes no further call.
    """

    run: int = 0
    state: str | None = None
    charged: Counter[str] = msgspec.field(default_factory=Counter)
    refunded: Counter[str] = msgspec.field(default_factory=Counter)
    credits: int = 0
    is_reported: bool = False
    is_over: bool = False

    @property
    def paid(self) -> frozenset[str]:
        """The columns that are paid for, and whose money was not given back."""
        return frozenset(self.charged - self.refunded)


def progress_of(lines: Iterable[AnyLine]) -> dict[int, RowProgress]:
    """Return what became of each row, by its number."""
    rows: defaultdict[int, RowProgress] = defaultdict(RowProgress)
    for line in lines:
        match line:
            case RefundLine():
                rows[line.row].refunded[line.column] += 1
                rows[line.row].credits -= line.credits
            case ChargeLine():
                rows[line.row].charged[line.column] += 1
                rows[line.row].credits += line.credits
            case RowLine():
                progress = rows[line.row]
                progress.run = line.run
                progress.state = line.state
                progress.is_reported = False
                progress.is_over = False
            case CallbackLine():
                is_answered = isinstance(line.status, int) and line.status < 300
                rows[line.row].is_reported |= is_answered
                rows[line.row].is_over |= not line.repeats
    return rows
