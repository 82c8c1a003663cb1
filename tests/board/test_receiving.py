"""A file that arrives: as it was sent, bounded, and never in memory as a whole."""

import asyncio
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from starlette.requests import Request

from stream_app.board import requests
from stream_app.board.access import AccessRefused
from stream_app.board.requests import MAX_FILE_BYTES, FileReceiver, Received

CHUNK = 16_384


def form(
    content: bytes,
    file: str = "leads.csv",
    field: str = "file",
    boundary: str = "xYx",
) -> bytes:
    head = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="{field}"; filename="{file}"\r\n\r\n'
    )
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()


class Sent:
    """A request whose body comes in chunks. `consumed`: the bytes that were asked for."""

    def __init__(
        self,
        chunks: Iterator[bytes],
        headers: Mapping[str, str] | None = None,
        *,
        ends: bool = True,
    ) -> None:
        self.chunks = chunks
        self.ends = ends
        self.consumed = 0
        named = {"content-type": "multipart/form-data; boundary=xYx", **(headers or {})}
        raw = [(name.encode(), value.encode()) for name, value in named.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw}
        self.request = Request(scope, self.receive)

    async def receive(self) -> dict[str, Any]:
        chunk = next(self.chunks, None)
        if chunk is None:
            if not self.ends:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": b"", "more_body": False}
        self.consumed += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}


def pieces(raw: bytes, size: int = CHUNK) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


async def receive(
    raw: bytes,
    size: int = CHUNK,
    headers: Mapping[str, str] | None = None,
) -> Received:
    return await FileReceiver().receive(Sent(pieces(raw, size), headers).request, "file")


@pytest.mark.parametrize("size", [1, 7, CHUNK])
async def test_a_file_arrives_as_it_was_sent(size: int) -> None:
    content = b"email,note\r\n--xY\r\n\r\n--x\r\nada@example.com,\xff\x00\r\n"
    received = await receive(form(content), size)
    received.file.seek(0)
    assert received.file.read() == content
    assert received.size == len(content)
    assert received.name == "leads.csv"
    received.file.close()


async def test_the_same_bytes_have_the_same_digest() -> None:
    received = [
        await receive(form(content, name))
        for content, name in ((b"a", "x"), (b"a", "y"), (b"b", "x"))
    ]
    assert received[0].digest == received[1].digest != received[2].digest
    assert all(len(file.digest) == 6 for file in received)


@pytest.mark.parametrize("name", ["C:\\\\Users\\\\ada\\\\leads.csv", "/home/ada/leads.csv"])
async def test_only_the_name_of_the_file_is_kept(name: str) -> None:
    assert (await receive(form(b"a", name))).name == "leads.csv"


async def test_a_file_that_says_it_is_too_large_is_refused_before_it_is_read() -> None:
    sent = Sent(pieces(b"x" * CHUNK), {"content-length": str(100 * 2**20)})
    with pytest.raises(AccessRefused, match=r"more than 50 MB.*stream-app publish") as refused:
        await FileReceiver().receive(sent.request, "file")
    assert refused.value.status == 413
    assert sent.consumed == 0


async def test_a_file_that_does_not_say_its_size_is_read_to_the_limit() -> None:
    def endless() -> Iterator[bytes]:
        yield form(b"email\n").removesuffix(b"\r\n--xYx--\r\n")
        while True:
            yield b"a@example.com\n" * 1_000

    sent = Sent(endless())
    tracemalloc.start()
    with pytest.raises(AccessRefused, match="more than 50 MB"):
        await FileReceiver().receive(sent.request, "file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent.consumed < MAX_FILE_BYTES + 2**20
    assert peak < 4 * 2**20


@pytest.mark.parametrize(
    ("raw", "headers", "status"),
    [
        (b"", {}, 400),
        (form(b"a")[:-6], {}, 400),
        (form(b"a", boundary="other"), {}, 400),
        (form(b"a", field="other"), {}, 422),
        (form(b"", file=""), {}, 422),
        (form(b"a"), {"content-type": "application/x-www-form-urlencoded"}, 415),
        (form(b"a"), {"content-type": "multipart/form-data"}, 415),
        (form(b"a"), {"content-type": "multipart/form-data; boundary=" + "x" * 300}, 415),
        (b"--xYx\r\n" + b"a: " + b"b" * 10_000 + b"\r\n\r\n", {}, 400),
        (b"--xYx\r\n" + b"a: b\r\n" * 1_000 + b"\r\n", {}, 400),
        (b"".join(form(b"a")[:-8] + b"\r\n" for _ in range(50)), {}, 400),
    ],
)
async def test_what_is_no_form_with_a_file_is_refused(
    raw: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    with pytest.raises(AccessRefused) as refused:
        await receive(raw, CHUNK, headers)
    assert refused.value.status == status


async def test_a_file_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "STALL_S", 0.01)
    sent = Sent(pieces(form(b"a" * 100)[:50]), ends=False)
    with pytest.raises(AccessRefused, match="did not arrive in time"):
        await FileReceiver().receive(sent.request, "file")


async def test_only_a_few_files_arrive_at_once() -> None:
    receiver = FileReceiver()
    stalled = [
        asyncio.create_task(
            receiver.receive(Sent(pieces(b"--xYx\r\n"), ends=False).request, "file"),
        )
        for _ in range(requests.MAX_FILES_AT_ONCE)
    ]
    await asyncio.sleep(0)
    with pytest.raises(AccessRefused, match="2 files are arriving"):
        await receiver.receive(Sent(pieces(form(b"a"))).request, "file")
    for task in stalled:
        task.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)
    assert (await receiver.receive(Sent(pieces(form(b"a"))).request, "file")).size == 1
