"""All rows of one partition by their key on the state topic, those of the lanes included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stream_app.partition.lanes import Lanes
from stream_app.partition.state import Rows


class PartitionTable(Mapping[bytes, bytes]):
    """Reads the rows that the partition holds in memory. They may be one transaction ahead of the state topic."""

    def __init__(self, rows: Rows, lanes: Lanes) -> None:
        self._rows = rows
        self._lanes = lanes

    def __getitem__(self, key: bytes) -> bytes:
        row = self._rows.get(key)
        if row is None:
            row = self._lanes.row(key)
        if row is None:
            raise KeyError(key)
        return row

    def __iter__(self) -> Iterator[bytes]:
        yield from self._lanes.keys()
        yield from self._rows

    def __len__(self) -> int:
        return len(self._lanes.keys()) + len(self._rows)
