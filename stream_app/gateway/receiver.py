"""Receives Clay's callbacks: reads them within limits, verifies and stores them, then answers.

They are stored on Kafka, or held in memory until Kafka is back.

    POST /callbacks/<workspace>/<destination>
        -> head -> read the body -> token or secret -> decode -> store or hold -> answer
    POST /callbacks/<workspace>/<destination>/run
        -> head -> read the body -> signature -> decode -> store or hold -> answer

`Receiver._answer` shows the whole sequence. It checks the head before it reads the body, and the
token before it decodes the body, so an unproved request costs little memory and CPU. A callback
that arrives twice, late or out of order is stored like any other: the worker decides what it means.
"""

import asyncio
import hmac
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from attrs import define, field
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from stream_app.config.model import Gateway
from stream_app.domain.callback.body import BadBody, Body, callback_of, read_body
from stream_app.domain.callback.run_webhook import (
    RUN_SIGNATURE,
    RunTest,
    announced_run,
    is_signature,
    is_signed,
)
from stream_app.domain.model.messages import Callback, RunNotification
from stream_app.domain.model.records import Record
from stream_app.domain.model.tokens import Keys, Verified, problem_of, verify
from stream_app.domain.model.topics import MAX_INPUT_BYTES
from stream_app.gateway import callback_answers as answers
from stream_app.gateway.callback_answers import CallbackAnswer
from stream_app.gateway.holding import MAX_CALLBACKS, Holding
from stream_app.gateway.lead_bound import LeadBound
from stream_app.gateway.tables import PREFIX, CallbackTable, Tables

MAX_CONNECTIONS: Final = MAX_CALLBACKS + 1_000
"""Connections of a gateway: with those above `MAX_CALLBACKS` it answers while it is full."""
_MAX_RECORD_BYTES: Final = MAX_INPUT_BYTES - 4_096
_json: Final = msgspec.json.Encoder()
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
_MAX_READ_BYTES: Final = 64 * 2**20
"""Bytes of bodies that are being read and decoded at once."""
_MAX_SIGNED_BYTES: Final = 16 * 2**10
"""Bytes of an announcement, which has about 150: nothing proves it before all of it is read."""
_RECEIVED: Final = frozenset(
    {"enriched", "partial", "no_data", "enrich_error"}
    | {"run_announced", "run_repeated", "run_test"},
)
_SAY_AGAIN_AFTER_S: Final = 60.0
_RUN_AS_ORIGIN: Final = "run"
"""Where `LeadBound` has the origin of a forced lead, which is never this word."""


class GatewayMetrics:
    """Counts the receiver's answers.

    It gets nothing about a lead. Labels are few: configured aliases, or "other".
    """

    def __init__(self, registry: CollectorRegistry, log: FilteringBoundLogger) -> None:
        self._log = log
        self._warned: dict[tuple[str, str], tuple[float, int]] = {}
        counter = partial(Counter, registry=registry)
        self._callbacks = counter(
            "stream_app_callbacks",
            "Callbacks answered, by outcome or by the code of the refusal.",
            ("destination", "answer"),
        )
        self._repaired = counter(
            "stream_app_callbacks_repaired",
            "Callbacks whose JSON was invalid and was repaired.",
            ("destination",),
        )
        self._seconds = Histogram(
            "stream_app_callback_seconds",
            "Time until a callback is answered.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._responses = counter(
            "stream_app_gateway_responses",
            "All HTTP answers of the gateway.",
            ("status",),
        )
        self._tables = Gauge(
            "stream_app_gateway_tables_info",
            "1, with a fingerprint of tables, secrets and keys: equal where two gateways "
            "accept the same callbacks.",
            ("digest",),
            registry=registry,
        )

    def adopted(self, digest: str) -> None:
        """Report which tables, secrets and keys the gateway has from now on."""
        self._tables.clear()
        self._tables.labels(digest).set(1)

    def answered(self, destination: str, code: str, seconds: float) -> None:
        """Report an answered callback.

        Refusals are logged at most once a minute for each destination and code.
        """
        self._callbacks.labels(destination, code).inc()
        self._seconds.observe(seconds)
        if code not in _RECEIVED:
            self.say("callback_not_received", destination, code)

    def repaired(self, destination: str) -> None:
        self._repaired.labels(destination).inc()

    def say(self, event: str, destination: str, because: str) -> None:
        """Log an event at most once a minute for each destination and reason."""
        now = time.monotonic()
        due, more = self._warned.get((destination, because), (now, 0))
        if now < due:
            self._warned[destination, because] = due, more + 1
            return
        self._warned[destination, because] = now + _SAY_AGAIN_AFTER_S, 0
        self._log.warning(event, destination=destination, because=because, more_before=more)

    def responded(self, status: int) -> None:
        self._responses.labels(status).inc()


class _Unusable(msgspec.Struct, frozen=True):
    """A callback that is proved, and from which nothing can be stored.

    Attributes:
        lead: What `LeadBound` counts.
    """

    answer: CallbackAnswer
    lead: tuple[str, str, str, str]


class _VerifiedCallback(msgspec.Struct, frozen=True):
    """A verified callback, as it is stored.

    Attributes:
        lead: What `LeadBound` counts.
        answer_if_stored: The answer once it is on Kafka.
    """

    callback_id: str
    record: Record
    lead: tuple[str, str, str, str]
    answer_if_stored: CallbackAnswer
    is_repaired: bool


@define(eq=False, repr=False)
class Receiver:
    """An ASGI app for every path under `tables.PREFIX`. `tables` may be replaced while it runs.

    `holding` stores what is verified. `limits` are those of one callback; `ops.http` bounds how
    many are under way.
    """

    tables: Tables
    _topic: str
    _holding: Holding
    _now_ms: Callable[[], int]
    _limits: Gateway
    _metrics: GatewayMetrics
    _bound: LeadBound = field(init=False, factory=LeadBound)
    _decoding: asyncio.Lock = field(init=False, factory=asyncio.Lock)
    _read_bytes: int = field(init=False, default=0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        # Read once for the whole request: `tables` may be replaced while its body arrives.
        tables = self.tables
        table = tables.at(scope["path"], scope["query_string"])
        answer: CallbackAnswer | None = answers.CRASHED
        try:
            answer = await self._answer(Request(scope, receive), table, tables.keys)
        finally:
            self._metrics.answered(
                _label_of(table),
                answer.code if answer else "gone",
                time.perf_counter() - began,
            )
        if answer is not None:
            response = PlainTextResponse(f"{answer.text}\n", answer.status, answer.headers)
            await response(scope, receive, send)

    async def _answer(
        self,
        request: Request,
        table: CallbackTable | None,
        keys: Keys | None,
    ) -> CallbackAnswer | None:
        """Process one request. None if the peer disconnected."""
        if request.method != "POST":
            return answers.NOT_POST
        if table is None:
            return answers.NOT_HERE
        if request.headers.get("content-encoding", "identity") not in ("", "identity"):
            return answers.ENCODED
        if not _is_json(request.headers.get("content-type", "application/json")):
            return answers.WRONG_TYPE
        problem = (
            _problem_of_signature(request)
            if table.signs
            else _problem_of_head(request, table, keys)
        )
        if problem:
            return problem
        received = await self._receive(request, table, keys)
        if isinstance(received, _VerifiedCallback):
            return await self._store(received, table)
        if not isinstance(received, _Unusable):
            return received
        try:
            if answers.LATE_HEADER in request.headers:
                # `doctor` asks for this late answer. Only a request that was proved comes here, and
                # it counts for its lead, so that no stranger can make the gateway wait. Its body
                # has been released.
                await asyncio.sleep(self._limits.hold_s)
        finally:
            self._bound.give_back(*received.lead)
        return received.answer

    async def _receive(
        self,
        request: Request,
        table: CallbackTable,
        keys: Keys | None,
    ) -> _VerifiedCallback | _Unusable | CallbackAnswer | None:
        """Read and verify a callback, or return the answer that refuses it.

        The body and what was decoded of it are released with this call, because the callback may be
        held for a long time. None if the peer disconnected.
        """
        body = bytearray()
        max_bytes = self._limits.max_body_bytes
        try:
            if table.signs:
                refused = await self._read(request, body, min(max_bytes, _MAX_SIGNED_BYTES))
                return refused or self._verify_run(request, table, bytes(body))
            refused = await self._read(request, body, max_bytes)
            return refused or await self._verify_and_decode(request, table, keys, bytes(body))
        except ClientDisconnect:
            return None
        finally:
            self._read_bytes -= len(body)

    async def _verify_and_decode(
        self,
        request: Request,
        table: CallbackTable,
        keys: Keys | None,
        raw: bytes,
    ) -> _VerifiedCallback | _Unusable | CallbackAnswer:
        """Verify a body and decode it."""
        body = read_body(raw)
        if isinstance(body, BadBody):
            return answers.refused(body)
        origin = _verify(request, table, keys, body)
        if isinstance(origin, CallbackAnswer):
            return origin
        lead = (table.workspace, table.destination, body.lead_id, origin)
        # Counted before the first await: the same token may come in many requests at once.
        if not self._bound.take(*lead):
            return answers.TOO_OFTEN
        callback = await self._decode(body, table, origin)
        if isinstance(callback, BadBody):
            return _Unusable(answers.refused(callback), lead)
        value = _json.encode(callback)
        if len(value) > _MAX_RECORD_BYTES:
            return _Unusable(answers.TOO_LARGE, lead)
        return _VerifiedCallback(
            callback.id,
            Record(self._topic, table.workspace.encode(), value, (), table.partition),
            lead,
            answers.received(callback),
            callback.repaired,
        )

    def _verify_run(
        self,
        request: Request,
        table: CallbackTable,
        raw: bytes,
    ) -> _VerifiedCallback | CallbackAnswer:
        """Verify the announcement of a run and decode it."""
        if not is_signed(request.headers[RUN_SIGNATURE], raw, table.secrets):
            return answers.BAD_SIGNATURE
        run = announced_run(raw)
        if run is None:
            return answers.NO_RUN
        if isinstance(run, RunTest):
            return answers.RUN_TEST
        # A signature has no time, so a recorded announcement can be sent again and again.
        announced = (table.workspace, table.destination, run, _RUN_AS_ORIGIN)
        if not self._bound.take(*announced):
            return answers.RUN_REPEATED
        value = RunNotification(table.workspace, table.destination, run, self._now_ms())
        return _VerifiedCallback(
            f"run {table.workspace} {table.destination} {run}",
            Record(
                self._topic,
                table.workspace.encode(),
                _json.encode(value),
                (),
                table.partition,
            ),
            announced,
            answers.RUN_ANNOUNCED,
            is_repaired=False,
        )

    async def _read(
        self,
        request: Request,
        body: bytearray,
        max_bytes: int,
    ) -> CallbackAnswer | None:
        """Read a body of at most `max_bytes` into `body`.

        Returns the answer that rejects it, or None. Raises ClientDisconnect.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
            return answers.TOO_LARGE
        try:
            async with asyncio.timeout(self._limits.read_timeout_s):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > max_bytes:
                        return answers.TOO_LARGE
                    if self._read_bytes + len(chunk) > _MAX_READ_BYTES:
                        return answers.TOO_MANY
                    body += chunk
                    self._read_bytes += len(chunk)
        except TimeoutError:
            return answers.TOO_SLOW
        return None

    async def _decode(self, body: Body, table: CallbackTable, origin: str) -> Callback | BadBody:
        """Decode a verified body. An expensive one is decoded in a thread, one at a time."""
        arguments = (body, table.workspace, table.destination, self._now_ms(), origin)
        if not body.costly:
            return callback_of(*arguments)
        async with self._decoding:
            return await asyncio.to_thread(callback_of, *arguments)

    async def _store(self, callback: _VerifiedCallback, table: CallbackTable) -> CallbackAnswer:
        """Store a callback, or hold it."""
        try:
            kept = await self._holding.keep(callback.callback_id, callback.record)
        except Exception:
            self._bound.give_back(*callback.lead)
            raise
        if kept == "full":
            self._bound.give_back(*callback.lead)
            return answers.HOLDING_FULL
        if callback.is_repaired:
            self._metrics.repaired(_label_of(table))
        return callback.answer_if_stored if kept == "stored" else answers.KAFKA_AWAY


def _problem_of_signature(request: Request) -> CallbackAnswer | None:
    """Reject an announcement whose signature is missing or cannot be one, before it is read."""
    signature = request.headers.get(RUN_SIGNATURE)
    if signature is None:
        return answers.NO_SIGNATURE
    return None if is_signature(signature) else answers.BAD_SIGNATURE


def _header_token(request: Request) -> str:
    return request.headers.get("x-callback-token", "").strip()


def _problem_of_head(
    request: Request,
    table: CallbackTable,
    keys: Keys | None,
) -> CallbackAnswer | None:
    """Reject a request by its head alone.

    None if the head is acceptable, which proves nothing yet.
    """
    token = _header_token(request)
    if "{{" in token:
        return answers.TEMPLATE
    if keys is None:
        return _problem_of_secret(request, table)
    problem = problem_of(keys, token) if token else None
    return answers.REFUSED_TOKEN[problem] if problem else None


def _verify(
    request: Request,
    table: CallbackTable,
    keys: Keys | None,
    body: Body,
) -> str | CallbackAnswer:
    """Verify the token, else the secret.

    Returns the origin of the forced lead (else ""), or the refusal.
    """
    token = _header_token(request) or body.token
    if token and keys is not None:
        verdict = verify(keys, token, table.workspace, table.destination, body.lead_id)
        return (
            verdict.forced_origin
            if isinstance(verdict, Verified)
            else answers.REFUSED_TOKEN[verdict]
        )
    return _problem_of_secret(request, table) or ""


def _problem_of_secret(request: Request, table: CallbackTable) -> CallbackAnswer | None:
    """Check the table's secret. None if it proves the request."""
    if not table.secrets:
        return answers.NO_TOKEN
    # the original bytes of the header
    secret = request.headers.get("x-callback-secret", "").encode("latin-1")
    if not secret:
        return answers.NO_SECRET
    # all of them, in constant time
    good = [hmac.compare_digest(secret, known) for known in table.secrets]
    return None if any(good) else answers.BAD_SECRET


def _label_of(table: CallbackTable | None) -> str:
    """Return the destination for metrics. Only configured destinations are bounded in number."""
    return table.destination if table is not None and table.is_configured else "other"


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("application/json", "") or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def refuse_more(metrics: GatewayMetrics) -> ASGIApp:
    """Build the app that refuses a request because too many are under way, before it is read."""

    async def refused(scope: Scope, receive: Receive, send: Send) -> None:
        answer = answers.TOO_MANY
        metrics.answered("other", answer.code, 0.0)
        metrics.responded(answer.status)
        response = PlainTextResponse(f"{answer.text}\n", answer.status, answer.headers)
        await response(scope, receive, send)

    return refused


def build_asgi(receiver: ASGIApp, on_response: Callable[[int], None]) -> ASGIApp:
    """Build the gateway's public app: callbacks and a liveness check.

    `on_response` gets the status of each response.

    It reveals no customer's name, nor anything about a lead: metrics and /readyz are on the
    operations port.
    """

    async def healthz(request: Request) -> Response:
        options = {option.strip() for option in request.headers.get("connection", "").split(",")}
        headers = {answers.UNPROXIED_HEADER: "1"} if answers.UNPROXIED in options else None
        return PlainTextResponse("ok\n", headers=headers)

    async def crashed(_: Request, __: Exception) -> Response:
        return PlainTextResponse(
            f"{answers.CRASHED.text}\n",
            answers.CRASHED.status,
            answers.CRASHED.headers,
        )

    app = Starlette(
        routes=[Route(f"{PREFIX}{{address:path}}", receiver), Route("/healthz", healthz)],
        exception_handlers={Exception: crashed},
    )
    app.router.redirect_slashes = False

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                on_response(message["status"])
            await send(message)

        await app(scope, receive, seen)

    return counted
