"""Receives Clay's callbacks: reads them within bounds, verifies whose they are, has them safe on Kafka, then answers.

`POST /callbacks/<workspace>/<destination>`, top to bottom in `_answer`. What the head shows is checked before the body
is read, and the token before the body is decoded: a request without proof costs little memory and CPU. A callback that
comes twice, late or in the wrong order is taken like any other: what it still means is the worker's to decide.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from stream_app.domain.callback.body import BadBody, Body, callback_of, read_body
from stream_app.domain.callback.token import Keys, Verified, problem_of, verify
from stream_app.domain.errors import BrokerUnavailable
from stream_app.domain.messages import Callback
from stream_app.domain.record import Record
from stream_app.domain.topics import MAX_INPUT_BYTES
from stream_app.gateway import answers
from stream_app.gateway.answers import Answer
from stream_app.gateway.reading import Room, Share

PREFIX: Final = "/callbacks/"
_LARGEST_RECORD_BYTES: Final = MAX_INPUT_BYTES - 4_096
_json: Final = msgspec.json.Encoder()


class Inbox(Protocol):
    """Where callbacks are kept."""

    async def put(self, record: Record) -> None:
        """Return when it is safe, within a bounded time; raise BrokerUnavailable when that is not known."""


class Observer(Protocol):
    """Is told what was answered; never anything of a lead. `destination`: one of the configured, or "other"."""

    def answered(self, destination: str, code: str, seconds: float) -> None: ...

    def repaired(self, destination: str) -> None: ...

    def not_kept(self, because: str) -> None: ...


class Erasures(Protocol):
    """Knows which leads were erased."""

    async def is_forgotten(self, workspace: str, lead_id: str, at_ms: int) -> bool:
        """Whether a lead was erased and not sent again since, as far as is known at `at_ms`. Never raises."""


@dataclass(frozen=True, slots=True)
class Table:
    """A Clay table that calls back. `partition`: its workspace's home. `secrets`: each is good, none: tokens only."""

    workspace: str
    destination: str
    partition: int
    secrets: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one callback: its bytes, and the time until it is there in whole. Of all together: bytes under way."""

    max_body_bytes: int
    read_timeout_s: float
    max_bytes_under_way: int = 64 * 2**20


class Receiver:
    """An ASGI app for everything under `PREFIX`. `keys` None: only tables with secrets of their own call back."""

    def __init__(
        self,
        tables: Iterable[Table],
        keys: Keys | None,
        topic: str,
        inbox: Inbox,
        now_ms: Callable[[], int],
        limits: Limits,
        observer: Observer,
        erasures: Erasures,
    ) -> None:
        self._tables = {f"{PREFIX}{table.workspace}/{table.destination}": table for table in tables}
        self._keys = keys
        self._topic = topic
        self._inbox = inbox
        self._now_ms = now_ms
        self._limits = limits
        self._observer = observer
        self._erasures = erasures
        self._room = Room(limits.max_bytes_under_way)
        self._decoding = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        table = self._tables.get(scope["path"])
        answer: Answer | None = answers.CRASHED
        try:
            with self._room.share((scope.get("client") or ("",))[0]) as share:
                answer = await self._answer(Request(scope, receive), table, share)
        finally:
            self._observer.answered(
                table.destination if table else "other",
                answer.code if answer else "gone",
                time.perf_counter() - began,
            )
        if answer is not None:
            response = PlainTextResponse(f"{answer.text}\n", answer.status, answer.headers)
            await response(scope, receive, send)

    async def _answer(self, request: Request, table: Table | None, share: Share) -> Answer | None:
        """None: nobody is there any more to be answered."""
        if request.method != "POST":
            return answers.NOT_POST
        if table is None:
            return answers.NOT_HERE
        if request.headers.get("content-encoding", "identity") not in ("", "identity"):
            return answers.ENCODED
        if not _is_json(request.headers.get("content-type", "application/json")):
            return answers.WRONG_TYPE
        problem = self._problem(request, table)
        if problem is not None:
            return problem
        raw = await share.read(request, self._limits.max_body_bytes, self._limits.read_timeout_s)
        if not isinstance(raw, bytes):
            return raw
        body = read_body(raw)
        if isinstance(body, BadBody):
            return answers.refused(body)
        origin = self._verify(request, table, body)
        if isinstance(origin, Answer):
            return origin
        callback = await self._callback(body, table, origin)
        if isinstance(callback, BadBody):
            return answers.refused(callback)
        return await self._keep(callback, table)

    def _problem(self, request: Request, table: Table) -> Answer | None:
        """Why a request is refused by its head alone."""
        token = _header_token(request)
        if "{{" in token:
            return answers.TEMPLATE
        if self._keys is None:
            return _problem_of_secret(request, table)
        problem = problem_of(self._keys, token) if token else None
        return answers.REFUSED_TOKEN[problem] if problem else None

    def _verify(self, request: Request, table: Table, body: Body) -> str | Answer:
        """The origin of the forced lead that it is about, else ""; or why it is not believed."""
        token = _header_token(request) or body.token
        if token and self._keys is not None:
            verdict = verify(self._keys, token, table.workspace, table.destination, body.lead_id)
            return verdict.forced_origin if isinstance(verdict, Verified) else answers.REFUSED_TOKEN[verdict]
        return "" if self._keys is None else _problem_of_secret(request, table) or ""

    async def _callback(self, body: Body, table: Table, origin: str) -> Callback | BadBody:
        """What a proven body says. A costly one is decoded in a thread, one at a time."""
        said = (body, table.workspace, table.destination, self._now_ms(), origin)
        if not body.costly:
            return callback_of(*said)
        async with self._decoding:
            return await asyncio.to_thread(callback_of, *said)

    async def _keep(self, callback: Callback, table: Table) -> Answer:
        if await self._erasures.is_forgotten(callback.workspace, callback.lead_id, callback.at_ms):
            callback = msgspec.structs.replace(callback, fields={}, text="")
        value = _json.encode(callback)
        if len(value) > _LARGEST_RECORD_BYTES:
            return answers.TOO_LARGE
        try:
            await self._inbox.put(Record(self._topic, table.workspace.encode(), value, (), table.partition))
        except BrokerUnavailable as error:
            self._observer.not_kept(str(error))
            return answers.KAFKA_AWAY
        if callback.repaired:
            self._observer.repaired(table.destination)
        return answers.received(callback)


def _header_token(request: Request) -> str:
    return request.headers.get("x-callback-token", "").strip()


def _problem_of_secret(request: Request, table: Table) -> Answer | None:
    """Why the table's secret does not prove the request."""
    if not table.secrets:
        return answers.NO_TOKEN
    secret = request.headers.get("x-callback-secret", "").encode("latin-1")  # the bytes as they came
    if not secret:
        return answers.NO_SECRET
    good = [hmac.compare_digest(secret, each) for each in table.secrets]
    return None if any(good) else answers.BAD_SECRET


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("application/json", "") or (kind.startswith("application/") and kind.endswith("+json"))
