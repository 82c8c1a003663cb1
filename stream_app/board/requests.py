"""Reads what a browser sends: small forms, files, words and places in an address.

Everything is bounded.

A file goes into an unnamed temporary file, so memory does not grow with it.
"""

import asyncio
import tempfile
from base64 import b32encode
from collections.abc import AsyncIterator, Iterable, Mapping
from hashlib import blake2b
from typing import IO, Any, Final, Literal, cast, get_args
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from stream_app.board.access import PATH, AccessRefused
from stream_app.board.read_model.query import ListPlace

MAX_PARAMETER_CHARACTERS: Final = 300
_MAX_FORM_BYTES: Final = 8_192
_MAX_FIELDS: Final = 20
_FORM_WITHIN_S: Final = 10.0
_IN_PATH: Final = "/:@!$&'()*+,;=~"
_IN_QUERY: Final = f"{_IN_PATH}?%"
"""What a query may have as it is: it is not decoded."""


async def read_form(
    request: Request,
    max_bytes: int = _MAX_FORM_BYTES,
    max_fields: int = _MAX_FIELDS,
) -> dict[str, str]:
    """Read a small form. Raises AccessRefused if it is no form, too large, or too slow."""
    if (
        request.headers.get("content-type", "").partition(";")[0]
        != "application/x-www-form-urlencoded"
    ):
        raise AccessRefused(415, "no_form", "Send the form of the page")
    body = bytearray()
    try:
        async with asyncio.timeout(_FORM_WITHIN_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise AccessRefused(413, "too_large", "The form is too large: enter less text")
    except TimeoutError:
        raise AccessRefused(408, "too_slow", "The form did not arrive in time: try again") from None
    try:
        return dict(
            parse_qsl(
                body.decode("utf-8", "replace"),
                keep_blank_values=True,
                max_num_fields=max_fields,
            ),
        )
    except ValueError:
        raise AccessRefused(400, "no_form", "Send the form of the page") from None


def address_of(request: Request) -> str:
    """Return the path and the query that were requested, in printable ASCII, as headers need it."""
    path = quote(request.scope["path"], safe=_IN_PATH)
    query = quote(request.scope["query_string"], safe=_IN_QUERY)
    return f"{path}?{query}" if query else path


def own_path(path: str) -> str:
    """Return a path of the board, and nothing that leads elsewhere."""
    parts = urlsplit(path)
    own = parts.path == PATH or parts.path.startswith(f"{PATH}/")
    clean = not (
        parts.scheme or parts.netloc or "\\" in path or "//" in parts.path or ".." in parts.path
    )
    return path if own and clean and path.isascii() and path.isprintable() else PATH


Query = Mapping[str, str]
"""The words of an address, by name."""
ChartSpan = Literal["hour", "day"]


def word(query: Query, name: str) -> str:
    """Return a word of the address; '' if it is not there."""
    return query.get(name, "")[:MAX_PARAMETER_CHARACTERS]


def words(query: Query, names: Iterable[str]) -> dict[str, str]:
    """Return words of the address, by name."""
    return {name: word(query, name) for name in names}


def one_of(query: Query, name: str, allowed: tuple[str, ...]) -> str:
    """Return a word of the address if it is allowed, else ''."""
    value = word(query, name)
    return value if value in allowed else ""


def span_of(query: Query) -> ChartSpan | None:
    """Return the time that a chart shows; None if the address names none."""
    return cast(ChartSpan, one_of(query, "span", get_args(ChartSpan))) or None


def number(query: Query, name: str) -> int | None:
    """Return a number of the address; None if it is not there."""
    return _number(word(query, name))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def after_of(query: Query) -> ListPlace | None:
    """Return the place after which the page of a list begins; None for the first page."""
    at_ms, _, record = map(_number, word(query, "after").partition("-"))
    return None if at_ms is None or record is None else ListPlace(at_ms, record)


def lead_id_of(path: Mapping[str, Any]) -> str:
    """Return the lead id in the parameters of a path. Raises AccessRefused if it cannot be one."""
    lead_id = str(path["lead_id"])
    if "@" in lead_id or len(lead_id) > MAX_PARAMETER_CHARACTERS:
        raise AccessRefused(
            400,
            "no_id",
            "This is not a lead id. Enter an e-mail or a URL in the search of the page Leads",
        )
    return lead_id


MAX_FILE_BYTES: Final = 50 * 2**20
STALL_S: Final = 30.0
WITHIN_S: Final = 900.0
MAX_FILES_AT_ONCE: Final = 2
_FRAMING_BYTES: Final = 65_536
"""The form around the file."""


def too_large() -> AccessRefused:
    """Return the refusal of a file that is too large."""
    text = (
        f"The file has more than {MAX_FILE_BYTES // 2**20} MB, the most that this page takes: "
        "split it, or publish it with `stream-app publish`, which has no limit"
    )
    return AccessRefused(413, "too_large", text)


class Received(msgspec.Struct, frozen=True):
    """A file.

    Attributes:
        digest: Six characters that the same bytes always have.
    """

    file: IO[bytes]
    name: str
    size: int
    digest: str


class FileReceiver:
    """Receives at most a few files at once."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_FILES_AT_ONCE)

    async def receive(self, request: Request, field: str) -> Received:
        """Receive the file in one field of a form.

        The caller has checked who sends it, and closes the file.

        Raises:
            AccessRefused: It is too large, too slow, or no such form. Nothing is kept then.
        """
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get("boundary", "")
        if kind != "multipart/form-data" or not 0 < len(boundary) <= 200:
            raise AccessRefused(415, "no_form", "Send the form of the page")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > MAX_FILE_BYTES + _FRAMING_BYTES:
            raise too_large()
        if self._places.locked():
            raise AccessRefused(
                503,
                "busy",
                f"{MAX_FILES_AT_ONCE} files are arriving on this board: try again in a minute",
            )
        async with self._places:
            file = tempfile.TemporaryFile(prefix="upload-")  # noqa: SIM115 (the caller closes it)
            try:
                async with asyncio.timeout(WITHIN_S):
                    return await _receive(request, boundary, field, file)
            except BaseException as error:
                file.close()
                if isinstance(error, TimeoutError):
                    raise AccessRefused(
                        408,
                        "too_slow",
                        "The file did not arrive in time: try again",
                    ) from None
                if isinstance(error, MultipartError | ClientDisconnect):
                    raise AccessRefused(
                        400,
                        "no_form",
                        "The form did not arrive whole: try again",
                    ) from None
                if isinstance(error, OSError):
                    text = (
                        f"The board's temporary folder has no room ({error.strerror}): set "
                        "TMPDIR to a larger one"
                    )
                    raise AccessRefused(507, "no_room", text) from None
                raise


async def _receive(request: Request, boundary: str, field: str, file: IO[bytes]) -> Received:
    digest = blake2b(digest_size=4)
    part = ""
    name = ""
    size = 0
    arrived = 0
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
        raise AccessRefused(422, "no_file", "Choose a CSV file first")
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
