"""What is checked before a body is read, and what before it is decoded."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message

from stream_app.config.model import Gateway as Limits
from stream_app.domain.model.tokens import Keys, sign
from stream_app.gateway import receiver as module
from tests.gateway.support import GONE_KEY, SECRET, URL, Gateway, good, scope_of
from tests.support.pace import BUSY


class Sender:
    """One POST to the app whose body comes in pieces."""

    def __init__(self, gateway: Gateway, url: str = URL, **headers: str) -> None:
        self._pieces: asyncio.Queue[Message] = asyncio.Queue()
        self.asked = 0
        self.status = 0
        lines = {"content_type": "application/json"} | headers
        scope = scope_of(
            url,
            ((name.replace("_", "-"), value.encode("latin-1")) for name, value in lines.items()),
        )
        self._task = asyncio.ensure_future(gateway.app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        self.asked += 1
        return await self._pieces.get()

    async def _send(self, message: Message) -> None:
        self.status = message.get("status", self.status)

    async def send(self, piece: bytes, *, last: bool = False) -> None:
        """A piece of the body. Returns when the app has done what it can with it."""
        self._pieces.put_nowait({"type": "http.request", "body": piece, "more_body": not last})
        for _ in range(5):
            await asyncio.sleep(0)

    async def answer(self) -> int:
        """The status."""
        async with asyncio.timeout(10 * BUSY):
            await self._task
        return self.status


def small(**more: Any) -> Gateway:
    return Gateway(limits=Limits(max_body_bytes=5_000, read_timeout_s=60), **more)


BODY = json.dumps(good()).encode()


@pytest.mark.parametrize(
    ("url", "headers", "status", "code"),
    [
        ("/callbacks/acme/none/", {}, 404, "not_here"),
        (URL, {"content_type": "text/plain"}, 415, "wrong_type"),
        (URL, {"content_type": "application/x-www-form-urlencoded"}, 415, "wrong_type"),
        (URL, {"content_encoding": "gzip"}, 415, "encoded"),
        (URL, {"content_encoding": "br"}, 415, "encoded"),
        (URL, {"content_length": "5001"}, 413, "too_large"),
        (URL, {"content_length": "9" * 30}, 413, "too_large"),
        (URL, {"x_callback_token": "x"}, 403, "malformed_token"),
        (URL, {"x_callback_token": "\xff\xfe"}, 403, "malformed_token"),
        (
            URL,
            {"x_callback_token": sign(Keys([GONE_KEY]), "acme", "people", "crm-17")},
            403,
            "unknown_key",
        ),
        (URL, {"x_callback_token": "{{callback_token}}"}, 400, "template"),
    ],
)
async def test_a_bad_head_is_answered_before_the_body_is_read(
    url: str,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    gateway = small()
    sender = Sender(gateway, url, **headers)
    assert await sender.answer() == status
    assert sender.asked == 0
    assert gateway.counted() == {code: 1}
    assert not gateway.shelf.records


@pytest.mark.parametrize(("secret", "status"), [({}, 401), ({"x_callback_secret": "wrong"}, 403)])
async def test_without_keys_a_wrong_secret_is_answered_before_the_body_is_read(
    secret: dict[str, str],
    status: int,
) -> None:
    sender = Sender(small(keys=None), "/callbacks/beta/static", **secret)
    assert await sender.answer() == status
    assert sender.asked == 0
    right = Sender(small(keys=None), "/callbacks/beta/static", x_callback_secret=SECRET)
    await right.send(BODY, last=True)
    assert await right.answer() == 200


async def test_a_body_without_proof_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []
    monkeypatch.setattr(module, "callback_of", lambda *args: decoded.append(args))
    gateway = small()
    fields = {f"f{number}": number for number in range(200)}
    broken = BODY[:-1].replace(b"crm-17", b"crm-18") + b', "note": "a "b" c"}'
    for body in (
        json.dumps(good() | fields | {"lead_id": "crm-18"}).encode(),
        broken,
        broken.replace(b"{", b'{"a":"'),
    ):
        sender = Sender(gateway)
        await sender.send(body, last=True)
        assert await sender.answer() in (400, 403)
    assert not decoded
