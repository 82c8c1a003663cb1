"""The webhook.

It reads a request, decides about it, writes it to the ledger, and answers as the faults require.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import accumulate

import msgspec
from aiohttp import web
from attrs import define, field

from stream_app.dev.simulator.chance import Timeline, digest
from stream_app.dev.simulator.kept import RowFile
from stream_app.dev.simulator.ledger import Ledger, RequestLine, now_ms
from stream_app.dev.simulator.script import REFUSING, Fault, RetryAfter, workspace_of
from stream_app.dev.simulator.world import Row, Submission, WebhookState, World

WEBHOOK_PATH = "/v3/sources/webhook/{slug}"
TOKEN_HEADER = "x-clay-webhook-auth"
READ_AT_MOST_BYTES = 16_000_000

_ECHO_CHARACTERS = 200
_MOST_LEVELS = 100  # a parser recurses on them
_JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
_raw_elements = msgspec.json.Decoder(list[msgspec.Raw])

_OF_HOST = frozenset({"status_before", "reset_before_accept", "hang_after_read"})
"""Faults that are an outage: unless they name a workspace or a webhook, nothing on the host answers
well.
"""

# The ledger's status of a fault that answers without one.
_NO_STATUS = {
    "reset_before_accept": "reset",
    "reset_after_read": "reset",
    "hang_after_read": "hang",
    "garbage": "garbage",
}
_CHUNK = b" " * 65_536

# Clay's response has no reliable shape, so it varies from request to request.
_ACCEPTED = (
    ("", "text/plain"),
    ("OK", "text/plain"),
    ('{"success":true}', "application/json"),
    ('{"message":"Webhook received"', "application/json"),
    ("[]", "application/json"),
    ("<html><body>Thanks!</body></html>", "text/html"),
)
_REFUSED = {
    400: "The body is not valid JSON.",
    401: "Missing or wrong x-clay-webhook-auth.",
    402: "Payment required.",
    403: "This source cannot take more records.",
    404: "No such webhook.",
    413: "The payload is too large.",
    422: "Expected a JSON object, or a list of them.",
    429: "Too many records.",
}


@define(eq=False, repr=False)
class Inbound:
    """Handles `POST /v3/sources/webhook/<slug>`. `start` is called with each row to run."""

    _world: World
    _timeline: Timeline
    _ledger: Ledger
    _start: Callable[[Row], None]
    _stopping: asyncio.Event
    _kept: RowFile | None = None
    _roots: int = field(init=False, default=0)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        at_ms = now_ms()
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            body = None
        slug = request.match_info["slug"]
        script = self._world.script
        limits = self._world.limits
        sent = _read_submission(
            body,
            limits.payload_bytes,
            script.lead_id_field,
            script.delivery_id_field,
        )
        webhook = self._world.webhook(slug)
        line = RequestLine(
            at_ms=at_ms,
            webhook=slug,
            workspace=webhook.workspace.name if webhook else workspace_of(slug),
            rows=len(sent.bodies),
            status=200,
            accepted=0,
            elements=sent.echoes if sent.is_array else None,
        )
        if sent.echoes and not sent.is_array:
            line.lead_id, line.delivery_id = sent.echoes[0]
        if line.lead_id is not None:
            about = line.lead_id
            occurrence = self._ledger.tally.of(line.lead_id).requests
        else:
            nameless = digest(body or b"")
            about = str(nameless)
            occurrence = self._world.occurrence_of(nameless)
        fault = self._timeline.request_fault(line.workspace or "", slug, about, occurrence)
        if fault is not None and (fault.kind in REFUSING or fault.accepted is False):
            line.status = _NO_STATUS.get(fault.kind, fault.status or 0)
            line.fault = fault.kind
            self._ledger.write(line)
            return await _played(fault, request, _refused(fault.status or 500, {}), self._stopping)
        status = self._decide(webhook, sent, request.headers.get(TOKEN_HEADER))
        if webhook is None or status != 200:
            line.status = status
            self._ledger.write(line)
            headers = (
                _retry_after(limits.retry_after, limits.retry_after_s) if status == 429 else {}
            )
            return _refused(status, headers)
        if fault is not None:
            line.status = _NO_STATUS.get(fault.kind, fault.status or 200)
            line.fault = fault.kind
        self._accept(webhook, sent, line, f"{about}#{occurrence}")
        answer = _accepted(len(body or b""))
        return answer if fault is None else await _played(fault, request, answer, self._stopping)

    async def handle_root(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /` and `HEAD /`, which submit nothing.

        The answer is 404, or what a fault of the whole host requires.
        """
        self._roots += 1
        fault = self._timeline.request_fault("", "", "", self._roots)
        if fault is None or fault.kind not in _OF_HOST:
            return _refused(404, {})
        return await _played(fault, request, _refused(fault.status or 500, {}), self._stopping)

    def _decide(self, webhook: WebhookState | None, sent: Submission, token: str | None) -> int:
        """Return the status that a working Clay answers."""
        limits = self._world.limits
        if webhook is None:
            return 404
        if webhook.settings.token is not None and webhook.settings.token != token:
            return 401
        if sent.refusal is not None:
            return sent.refusal
        if limits.lifetime_status == 403 and 0 < limits.lifetime <= webhook.submissions:
            return 403
        if not webhook.workspace.take(len(sent.bodies), limits, self._world.now_s):
            return 429
        return 200

    def _accept(
        self,
        webhook: WebhookState,
        sent: Submission,
        line: RequestLine,
        nameless: str,
    ) -> None:
        """Create the rows and start them.

        `nameless` stands for the lead of a row that names none.
        """
        tally = self._ledger.tally
        about = [
            f"{lead}#{tally.of(lead).accepted}.{n}" if lead else f"{nameless}.{n}"
            for n, (lead, _) in enumerate(sent.echoes)
        ]
        rows = self._world.add_rows(webhook, sent, about)
        line.accepted = len(rows)
        line.full = len(rows) < len(sent.bodies)
        self._ledger.write(line)
        if self._kept is not None:
            # Both before the answer: a kill must not take back what was accepted.
            self._kept.add(rows)
            self._ledger.flush()
        for row in rows:
            self._start(row)


def _read_submission(
    body: bytes | None,
    max_bytes: int,
    lead_field: str,
    delivery_field: str,
) -> Submission:
    """Parse a body (None: larger than the server reads).

    The refusal is 413 over `max_bytes`, 400 for invalid JSON, 422 if it is not an object or a list
    of objects.
    """
    if body is None or len(body) > max_bytes:
        return Submission(refusal=413)
    if _levels(body) > _MOST_LEVELS:
        return Submission(refusal=400)
    try:
        content = msgspec.json.decode(body)
    except ValueError:  # msgspec's own errors, and bytes that are not UTF-8
        return Submission(refusal=400)
    is_array = isinstance(content, list)
    rows = content if is_array else [content]
    if not rows or not all(isinstance(row, dict) for row in rows):
        return Submission(refusal=422)
    bodies = [bytes(raw) for raw in _raw_elements.decode(body)] if is_array else [body]
    echoes = [(_echo(row.get(lead_field)), _echo(row.get(delivery_field))) for row in rows]
    return Submission(is_array=is_array, bodies=bodies, cells=rows, echoes=echoes)


def _echo(value: object) -> str | None:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)[:_ECHO_CHARACTERS]
    return None


def _levels(body: bytes) -> int:
    """Return how many lists and objects are within each other."""
    tokens = (match[0] for match in _JSON_TOKEN.finditer(body))
    return max(
        accumulate((token in b"[{") - (token in b"]}") for token in tokens if len(token) == 1),
        default=0,
    )


def _accepted(about: int) -> web.Response:
    """Return a 200; `about` selects the body."""
    text, content_type = _ACCEPTED[about % len(_ACCEPTED)]
    return web.Response(text=text, content_type=content_type)


def _refused(status: int, headers: dict[str, str]) -> web.Response:
    """Return a response with an error status."""
    return web.Response(
        status=status,
        text=_REFUSED.get(status, "Something went wrong."),
        headers=headers,
    )


def _retry_after(form: RetryAfter, seconds: int) -> dict[str, str]:
    """Return the header in one of its forms, or no header."""
    match form:
        case "absent":
            return {}
        case "seconds":
            return {"Retry-After": str(seconds)}
        case "date":
            due = datetime.now(UTC) + timedelta(seconds=seconds)
            return {"Retry-After": format_datetime(due, usegmt=True)}
        case "zero":
            return {"Retry-After": "0"}


async def _played(
    fault: Fault,
    request: web.Request,
    answer: web.Response,
    stopping: asyncio.Event,
) -> web.StreamResponse:
    """Answer as the fault requires, where Clay would give `answer`.

    It waits no longer once `stopping` is set.
    """
    match fault.kind:
        case "hang_after_read":
            await stopping.wait()  # or until the sender gives up: aiohttp cancels this then
            return _reset(request)
        case "reset_after_read" | "reset_before_accept":
            return _reset(request)
        case "slow":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), fault.delay_s or 0)
            return answer
        case "garbage":
            if request.transport is not None:
                request.transport.write(b"\x00\xff\x00 this is not HTTP\r\n\r\n")
                request.transport.close()
            return web.Response()
        case "huge_answer":
            return await _huge(request, fault.size_bytes or 0)
    headers = {}
    if fault.retry_after is not None:
        headers = _retry_after(fault.retry_after, fault.retry_after_s or 0)
    if fault.location is not None:
        headers = {"Location": fault.location}
    return _refused(fault.status or 500, headers)


def _reset(request: web.Request) -> web.Response:
    """End the connection with a TCP RST. The returned response is never sent."""
    transport = request.transport
    if transport is not None:
        # On a duplicate socket, because an event loop may return one that cannot be changed.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


async def _huge(request: web.Request, size_bytes: int) -> web.StreamResponse:
    """Respond with 200 and a body of that size."""
    answer = web.StreamResponse(headers={"Content-Length": str(size_bytes)})
    with contextlib.suppress(ConnectionError):  # the sender may stop reading
        await answer.prepare(request)
        left = size_bytes
        while left > 0:
            await answer.write(_CHUNK[:left])
            left -= len(_CHUNK)
    return answer
