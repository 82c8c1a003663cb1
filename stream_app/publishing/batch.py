"""Checked leads before they are published: in memory, and above 16 MiB in an unnamed file in TMPDIR."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

import msgspec

from stream_app.domain.errors import StreamAppError
from stream_app.publishing.check import Ready

_IN_MEMORY_BYTES: Final = 16 * 2**20
_LENGTH_BYTES: Final = 4

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Ready).decode


class Batch:
    """A context manager. Every method raises StreamAppError if the temporary folder is full."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, prefix="publish-")  # noqa: SIM115 (closed below)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the leads."""
        self._file.close()

    def add(self, lead: Ready) -> None:
        """Append a lead."""
        raw = _encode(lead)
        with _room():
            self._file.write(len(raw).to_bytes(_LENGTH_BYTES) + raw)

    def __iter__(self) -> Iterator[Ready]:
        """Iterate over all leads, in order."""
        with _room():
            self._file.seek(0)
            while length := self._file.read(_LENGTH_BYTES):
                yield _decode(self._file.read(int.from_bytes(length)))


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StreamAppError(no_room(error)) from error


def no_room(error: OSError) -> str:
    """Say that the temporary folder is full, and what to do."""
    return f"the temporary folder has no room for the leads ({error.strerror}): set TMPDIR to a larger one"
