"""A compact table by offset: about 20 bytes per record, so that a million records fit in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

_BITS: Final = 11
_SIZE: Final = 1 << _BITS
_MASK: Final = _SIZE - 1

IN: Final = 1
"""It is an input record."""
PASSED: Final = 2
"""The group's committed offset is beyond the record."""
COPY: Final = 4
"""A copy of it waits in a topic, and its group has not passed that copy."""
REROUTED: Final = 8
"""Its first event is `rerouted`, which is in another partition than the rest."""
ROW: Final = 16
"""A row of the state belongs to it."""
NAMED: Final = 32
"""A problem with it was reported."""
FINAL: Final = 64
"""The destination of its last event has no callbacks."""
HEADLESS: Final = 128
"""Its first known event has number 2 or higher."""


class OffsetPage:
    """A run of offsets, one entry each. `status`, `row_status`: codes, 0 for none."""

    __slots__ = ("at_ms", "flags", "row_seq", "row_status", "seq", "status")

    def __init__(self) -> None:
        self.status = bytearray(_SIZE)
        self.flags = bytearray(_SIZE)
        self.row_status = bytearray(_SIZE)
        self.seq = array("I", bytes(4 * _SIZE))
        self.row_seq = array("I", bytes(4 * _SIZE))
        self.at_ms = array("q", bytes(8 * _SIZE))


class OffsetTable:
    """The pages of one partition, allocated on demand. `begin`: the first offset that Kafka still has."""

    __slots__ = ("_pages", "begin", "name", "number", "partition")

    def __init__(self, number: int, name: str, partition: int) -> None:
        self.number = number
        self.name = name
        self.partition = partition
        self.begin: int | None = None
        self._pages: dict[int, OffsetPage] = {}

    def at(self, offset: int) -> tuple[OffsetPage, int]:
        """Return the page of an offset and the index in it."""
        page = self._pages.get(offset >> _BITS)
        if page is None:
            page = self._pages[offset >> _BITS] = OffsetPage()
        return page, offset & _MASK

    def entries(self) -> Iterator[tuple[int, OffsetPage, int]]:
        """Yield (offset, page, index) of all entries with data, in order."""
        for number in sorted(self._pages):
            page = self._pages[number]
            for i, (flags, status) in enumerate(zip(page.flags, page.status, strict=True)):
                if flags or status:
                    yield (number << _BITS) + i, page, i


class OffsetTables:
    """All tables, by `topic/partition`."""

    def __init__(self) -> None:
        self._by_name: dict[str, OffsetTable] = {}
        self._by_number: list[OffsetTable] = []

    def __iter__(self) -> Iterator[OffsetTable]:
        return iter(self._by_number)

    def get(self, name: str) -> OffsetTable:
        """Return the table of that name; create it if needed."""
        table = self._by_name.get(name)
        if table is None:
            table = OffsetTable(len(self._by_number), name, int(name.rpartition("/")[2]))
            self._by_name[name] = table
            self._by_number.append(table)
        return table

    def find(self, record_id: str) -> tuple[OffsetTable, int]:
        """Return table and offset of `topic/partition/offset`.

        Raises:
            ValueError: The text has another form.
        """
        name, _, offset = record_id.rpartition("/")
        return self.get(name), int(offset)

    def numbered(self, packed: int) -> tuple[OffsetPage, int]:
        """Return the entry of a number that `pack` made."""
        return self._by_number[packed >> 48].at(packed & (1 << 48) - 1)

    @staticmethod
    def pack(table: OffsetTable, offset: int) -> int:
        """Return a table and an offset as one number."""
        return table.number << 48 | offset
