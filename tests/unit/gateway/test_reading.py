"""What is checked before a body is read, and what before it is decoded."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from starlette.types import Message

from stream_app.config.model import Gateway as Limits
from stream_app.domain.callback.body import callback_of
from stream_app.domain.model.records import Record
from stream_app.domain.model.tokens import Keys, sign
from stream_app.domain.model.topics import MAX_INPUT_BYTES
from stream_app.gateway import holding, lead_bound
from stream_app.gateway import receiver as module
from stream_app.gateway.tables import CallbackTable
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
    assert not gateway.inbox.records


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


@pytest.mark.parametrize(("size", "status"), [(400, 400), (401, 429)])
async def test_all_that_is_read_at_once_counts_together(
    size: int,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_READ_BYTES", 1_000)
    gateway = small()
    first = Sender(gateway)
    await first.send(b" " * 300)
    await first.send(b" " * 300)
    second = Sender(gateway)
    await second.send(b" " * size, last=True)
    assert await second.answer() == status
    assert gateway.receiver._read_bytes == 600, "what the other one had read is released"
    await first.send(b" " * 400, last=True)
    assert await first.answer() == 400
    assert gateway.receiver._read_bytes == 0


async def test_expensive_bodies_are_decoded_in_a_thread_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = threading.current_thread()
    under_way = 0
    seen: list[tuple[bool, int]] = []

    def counted(*args: Any) -> Any:
        nonlocal under_way
        under_way += 1
        seen.append((threading.current_thread() is home, under_way))
        time.sleep(0.01)
        under_way -= 1
        return callback_of(*args)

    monkeypatch.setattr(module, "callback_of", counted)
    gateway = small()
    broken = BODY[:-1] + b', "note": "a "b" c"}'
    answers = await asyncio.gather(*(gateway.post(broken) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert seen == [(False, 1)] * 4
    assert (await gateway.post(BODY)).status_code == 200
    assert seen[4:] == [(True, 1)], "a cheap one is decoded at once"


def padded(length: int) -> bytes:
    return json.dumps(good() | {"note": "x" * length}).encode()


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
async def test_a_record_may_be_as_large_as_its_topic_takes_with_room_for_headers(
    more: int,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lead_bound, "AT_ONCE", 1)
    gateway = Gateway(limits=Limits(max_body_bytes=2 * MAX_INPUT_BYTES))
    assert (await gateway.post(padded(1))).status_code == 200
    least = len(gateway.inbox.records[0].value or b"")
    gateway.receiver._bound = lead_bound.LeadBound()
    room = MAX_INPUT_BYTES - 4_096
    assert (await gateway.post(padded(1 + room - least + more))).status_code == status
    assert len(gateway.inbox.records[-1].value or b"") == (room if status == 200 else least)
    expected = 429 if status == 200 else 200
    assert (await gateway.post(BODY)).status_code == expected, "only what is stored counts"


@pytest.mark.parametrize("bad", [{"title": ["CEO"]}, {"workspace": "beta"}])
async def test_a_body_that_is_refused_when_it_is_decoded_does_not_count_for_its_lead(
    bad: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lead_bound, "AT_ONCE", 1)
    gateway = small()
    for origin in ("", "leads/2/77"):
        for body, status in (
            (good(origin=origin) | bad, 400),
            (good(origin=origin), 200),
            (good(origin=origin), 429),
        ):
            assert (await gateway.post(body)).status_code == status


async def test_a_callback_that_was_not_stored_for_a_bug_does_not_count_for_its_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lead_bound, "AT_ONCE", 1)
    gateway = small()
    gateway.inbox.fails_with = RuntimeError("a bug")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a bug"):
            await gateway.post(good())
    gateway.inbox.fails_with = None
    assert (await gateway.post(good())).status_code == 200
    assert (await gateway.post(good())).status_code == 429


def test_nothing_of_a_request_is_in_a_text_about_the_gateway() -> None:
    """Such a text is in a traceback or a debugger's log."""
    table = CallbackTable("acme", "people", 2, (SECRET.encode(),))
    assert SECRET not in repr(table)
    bound = lead_bound.LeadBound()
    bound.take("acme", "people", "crm-17", "")
    assert repr(bound) == object.__repr__(bound), "it has up to 100,000 leads"
    gateway = small()
    assert repr(gateway.receiver) == object.__repr__(gateway.receiver), "it has all of these"
    # Not "ada": the repr ends with an address in hexadecimal, which may spell it.
    record = Record("leads.callbacks", b"acme", b"lovelace@example.com", (), 0)
    place = holding._Place("c-1", record, 0.0)
    assert "lovelace" not in repr(place)
