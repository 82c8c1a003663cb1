"""A lane moves to another partition: where it resides, and what one owner hands over to the next.

docs/decisions/09-moving-a-lane.md describes the protocol. A workspace keeps its *home*, the partition that the
configuration gives it: records for it arrive there, and its events, results and views are written there. A move changes
its *residence* only, the partition whose owner holds its lane and its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from stream_app.domain.delivery.envelope import PREFIX
from stream_app.domain.lane.command import Answered
from stream_app.domain.record import ConsumedRecord, Headers

MOVES_HEADER: Final = PREFIX + "moves"
"""Of a record that followed its workspace: how often the workspace had moved by then."""

_CHUNK_BYTES: Final = 400_000  # below the limit of a record, and a short transaction
_COPIED: Final = (b"e/", b"k/")

Phase = Literal["draining", "leaving", "left", "arriving", "here"]
"""draining: what is under way ends. leaving: rows are handed over. left, here: the move is over."""


class Residence(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of the row that says where a workspace resides that has moved. Fields are only ever added.

    Attributes:
        phase: How far the move is, in the partition of the row.
        other: The partition that the lane goes to or came from.
        home: The partition that the configuration gives the workspace. It must not change.
        moves: How often the workspace has moved, this move included.
        chunks: How many chunks of rows were handed over or taken in.
    """

    phase: Phase
    other: int
    home: int
    moves: int
    chunks: int = 0


class HandOver(msgspec.Struct, frozen=True, array_like=True):
    """A record on `stream-app-moves`, from the owner of one partition to the owner of another. In MessagePack.

    Attributes:
        workspace: The workspace that moves.
        moves: As `Residence.moves`.
        source: The partition that it leaves.
        home: As `Residence.home`.
        chunk: The number of the record in its move, from 0.
        rows: Key and value of rows.
        lane: The lane's row. It is in the last record only.
    """

    workspace: str
    moves: int
    source: int
    home: int
    chunk: int
    rows: list[tuple[bytes, bytes]] = []
    lane: bytes = b""


encode_residence: Final = msgspec.json.Encoder().encode
decode_residence: Final = msgspec.json.Decoder(Residence).decode
encode_hand_over: Final = msgspec.msgpack.Encoder().encode
decode_hand_over: Final = msgspec.msgpack.Decoder(HandOver).decode
_answered: Final = msgspec.json.Decoder(Answered)


def residence_key(workspace: str) -> bytes:
    """Return the key of the row with a `Residence`."""
    return f"m/{workspace}".encode()


def resident_of(key: bytes) -> str | None:
    """Return the workspace of such a key; None for the key of another kind of row."""
    return key[2:].decode() if key.startswith(b"m/") else None


def hand_over_key(part: HandOver) -> bytes:
    """Return the key of the record: no two are equal, so that compaction removes none before it is taken in."""
    return f"{part.workspace}/{part.moves}/{part.chunk}".encode()


def stays_too(key: bytes) -> bool:
    """Return True if the partition keeps the row, too: it forbids something, and expires by itself or never."""
    return key[:2] in _COPIED


def rows_to_move(workspace: str, rows: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the rows of a workspace, except its lane's. Markers belong to the partition, as does what is in all."""
    name = workspace.encode()
    own = tuple(kind + name + b"/" for kind in (b"d/", b"f/", b"p/", b"e/", b"x/lead/", b"x/import/"))
    return [
        (key, value)
        for key, value in rows
        if key.startswith(own) or (key.startswith(b"k/") and _answered.decode(value).workspace == workspace)
    ]


def chunks_of(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield the rows in chunks that fit into a record."""
    chunk: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in rows:
        if chunk and size + len(key) + len(value) > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append((key, value))
        size += len(key) + len(value)
    if chunk:
        yield chunk


def moves_of(consumed: ConsumedRecord) -> int:
    """Return the number in the header of a record that followed its workspace; 0 if it has none."""
    text = consumed.header(MOVES_HEADER) if consumed.headers else None
    return int(text) if text and text.isdecimal() and len(text) < 10 else 0


def followed(moves: int) -> Headers:
    """Return the headers of a record that follows its workspace."""
    return ((MOVES_HEADER, str(moves).encode()),)
