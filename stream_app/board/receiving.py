"""Receives a file that a browser sends, into an unnamed temporary file. Memory does not grow with the file."""

from __future__ import annotations

import asyncio
import tempfile
from base64 import b32encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import IO, Final

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from stream_app.board.api_access import Refused

MAX_FILE_BYTES: Final = 50 * 2**20
STALL_S: Final = 30.0
WITHIN_S: Final = 900.0
MOST_AT_ONCE: Final = 2
_FRAMING_BYTES: Final = 65_536
"""The form around the file."""


def too_large() -> Refused:
    """Return the refusal of a file that is too large."""
    text = (
        f"The file has more than {MAX_FILE_BYTES // 2**20} MB, the most that this page takes: split it, or publish it "
        "with `stream-app publish`, which has no limit"
    )
    return Refused(413, "too_large", text)


class Received(msgspec.Struct, frozen=True):
    """A file. `digest`: six characters that the same bytes always have."""

    file: IO[bytes]
    name: str
    size: int
    digest: str


class FileReceiver:
    """Receives at most a few files at once."""

    def __init__(self) -> None:
        self._free = MOST_AT_ONCE

    async def receive(self, request: Request, field: str) -> Received:
        """Receive the file in one field of a form. The caller has checked who sends it, and closes the file.

        Raises:
            Refused: It is too large, too slow, or no such form. Nothing is kept then.
        """
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get("boundary", "")
        if kind != "multipart/form-data" or not 0 < len(boundary) <= 200:
            raise Refused(415, "no_form", "Send the form of the page")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > MAX_FILE_BYTES + _FRAMING_BYTES:
            raise too_large()
        async with self._place():
            file = tempfile.TemporaryFile(prefix="upload-")  # noqa: SIM115 (the caller closes it)
            try:
                async with asyncio.timeout(WITHIN_S):
                    return await _receive(request, boundary, field, file)
            except BaseException as error:
                file.close()
                if isinstance(error, TimeoutError):
                    raise Refused(408, "too_slow", "The file did not arrive in time: try again") from None
                if isinstance(error, MultipartError | ClientDisconnect):
                    raise Refused(400, "no_form", "The form did not arrive whole: try again") from None
                if isinstance(error, OSError):
                    text = f"The board's temporary folder has no room ({error.strerror}): set TMPDIR to a larger one"
                    raise Refused(507, "no_room", text) from None
                raise

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if not self._free:
            raise Refused(503, "busy", f"{MOST_AT_ONCE} files are arriving on this board: try again in a minute")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def _receive(request: Request, boundary: str, field: str, file: IO[bytes]) -> Received:
    digest, part, name, size, arrived = blake2b(digest_size=4), "", "", 0, 0
    with PushMultipartParser(boundary, max_header_size=4_096, max_segment_count=4) as parser:
        async for chunk in _chunks(request):
            arrived += len(chunk)
            if arrived > MAX_FILE_BYTES + _FRAMING_BYTES:
                raise too_large()
            for event in parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    part = event.name or ""
                    if part == field:
                        name = event.filename or ""
                elif event and part == field:
                    size += len(event)
                    if size > MAX_FILE_BYTES:
                        raise too_large()
                    digest.update(event)
                    file.write(event)
    if not name:
        raise Refused(422, "no_file", "Choose a CSV file first")
    file.flush()
    base = name.replace("\\", "/").rpartition("/")[2]
    return Received(file, base, size, b32encode(digest.digest()).decode().lower()[:6])


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        async with asyncio.timeout(STALL_S):
            chunk = await anext(stream, b"")
        if not chunk:
            return
        yield chunk
