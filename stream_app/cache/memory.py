"""The cache port (`fallback.Cache`) in the memory of this process, for a worker without Redis."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from stream_app.domain.result.cache_entry import Entry, decode, merged

MOST_ENTRIES: Final = 100_000
MOST_BYTES: Final = 64 * 2**20


class MemoryCache:
    """A cache that evicts the least recently used entries."""

    def __init__(self, most_entries: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._bytes = 0
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._filled_to: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._values)

    async def find(self, slots: Sequence[str]) -> list[Entry]:
        for slot in slots:
            if slot in self._values:
                self._values.move_to_end(slot)
        return [decode(self._values.get(slot)) for slot in slots]

    async def add(self, changes: Sequence[tuple[str, Entry]]) -> bool:
        for slot, value in merged({slot: self._values.get(slot) for slot, _ in changes}, changes).items():
            self._drop(slot)
            self._values[slot] = value
            self._bytes += len(value)
        while len(self._values) > self._most_entries or self._bytes > self._most_bytes:
            self._drop(next(iter(self._values)))
        return True

    async def forget(self, slots: Sequence[str]) -> bool:
        for slot in slots:
            self._drop(slot)
        return True

    async def filled_to(self, partition: int) -> int | None:
        return self._filled_to.get(partition, 0)

    async def set_filled_to(self, partition: int, offset: int) -> bool:
        self._filled_to[partition] = offset
        return True

    def _drop(self, slot: str) -> None:
        self._bytes -= len(self._values.pop(slot, b""))
