"""The ledger's file: appends, counts and reads lines."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from stream_app.dev.simulator.lines import Line, Stop
from stream_app.dev.simulator.tally import Tally

FLUSH_AFTER_S = 0.05
_INDEX_EVERY = 1024
_READ_BYTES = 1 << 18


class _Head(msgspec.Struct):
    seq: int
    kind: str
    workspace: str | None = None


class Ledger:
    """Appends to a file (a temporary one without a path). Flushes within 50 ms of a line and at close."""

    def __init__(self, path: Path | None) -> None:
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

    def write(self, line: Line) -> None:
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

    def read(self, since: int = 0, kind: str | None = None, workspace: str | None = None) -> Iterator[bytes]:
        """Yield this run's lines after number `since`, read from the file. Each ends in a newline."""
        self.flush()
        end = self._offset
        offset = self._index[min(since // _INDEX_EVERY, len(self._index) - 1)]
        decode = msgspec.json.Decoder(_Head).decode
        while offset < end:
            self._file.seek(offset)
            for data in self._file.readlines(_READ_BYTES):
                offset += len(data)
                head = decode(data)
                if head.seq > since and kind in (None, head.kind) and workspace in (None, head.workspace):
                    yield data

    def close(self) -> None:
        self.write(Stop())
        self.flush()
        self._file.close()


def now_ms() -> int:
    """The time in epoch milliseconds, UTC."""
    return time.time_ns() // 1_000_000
