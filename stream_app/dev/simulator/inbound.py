"""The webhook.

It reads a request, decides about it, writes it to the ledger, and answers as the faults require.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from itertools import accumulate

import msgspec
from aiohttp import web
from attrs import define, field

from stream_app.dev.simulator.chance import Timeline, digest
from stream_app.dev.simulator.kept import RowFile
from stream_app.dev.simulator.ledger import Ledger, RequestLine, now_ms
from stream_app.dev.simulator.played import error_answer, play, retry_after, status_of
from stream_app.dev.simulator.script import REFUSING, Script, workspace_of
from stream_app.dev.simulator.world import (
    Submission,
    TableRow,
    WebhookState,
    World,
    cells_of,
    is_submission,
)

WEBHOOK_ROUTE = "/v3/sources/webhook/{slug}"
TOKEN_HEADER = "x-clay-webhook-auth"
MAX_READ_BYTES = 16_000_000

_ECHO_CHARACTERS = 200
_MAX_LEVELS = 100  # a parser recurses on them
_JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
_MEDIA_TYPE = "application/json"

_OF_HOST = frozenset({"status_before", "reset_before_accept", "hang_after_read"})
"""Faults that are an outage: unless they name a workspace or a webhook, nothing on the host answers
well.
"""

# Clay's response has no reliable shape, so it varies from request to request.
_ACCEPTED = (
    ("", "text/plain"),
    ("OK", "text/plain"),
    ('{"success":true}', "application/json"),
    ('{"message":"Webhook received"', "application/json"),
    ("[]", "application/json"),
    ("<html><body>Thanks!</body></html>", "text/html"),
)
_FULL = "Record limit reached for webhook"
_TOO_MANY = {
    "type": "TooManyRequests",
    "message": "Too many requests. Wait a bit and retry.",
    "details": None,
}


@define(eq=False, repr=False)
class Inbound:
    """Handles `POST /v3/sources/webhook/<slug>`. `start` is called with each row to run."""

    _world: World
    _timeline: Timeline
    _ledger: Ledger
    _start: Callable[[TableRow], None]
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
        sent = _read_submission(body, request.content_type, script)
        webhook = self._world.webhook(slug)
        line = RequestLine(
            at_ms=at_ms,
            webhook=slug,
            workspace=webhook.workspace.name if webhook else workspace_of(slug),
            rows=0 if sent is None else 1,
            status=0,
            accepted=0,
        )
        if sent is not None:
            line.lead_id = sent.lead_id
            line.delivery_id = sent.delivery_id
        if line.lead_id is not None:
            about = line.lead_id
            occurrence = self._ledger.tally.of(line.lead_id).requests
        else:
            nameless = digest(body or b"")
            about = str(nameless)
            occurrence = self._world.occurrence_of(nameless)
        fault = self._timeline.request_fault(line.workspace or "", slug, about, occurrence)
        if fault is not None and (fault.kind in REFUSING or fault.accepted is False):
            line.status = status_of(fault, 0)
            line.fault = fault.kind
            self._note(webhook, line)
            answer = self._refuse(fault.status or 500)
            return await play(fault, request, answer, self._stopping, self._refuse)
        refusal = self._refusal(webhook, sent, request.headers)
        if webhook is None or sent is None or refusal is not None:
            assert refusal is not None  # the webhook is unknown, or the payload cannot be read
            line.status = refusal.status
            self._note(webhook, line)
            return refusal
        answer = self._accepted(len(body or b""))
        line.status = answer.status
        if fault is not None:
            line.status = status_of(fault, line.status)
            line.fault = fault.kind
        self._accept(webhook, sent, line, f"{about}#{occurrence}")
        if fault is None:
            return answer
        return await play(fault, request, answer, self._stopping, self._refuse)

    async def handle_root(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /` and `HEAD /`, which submit nothing.

        The answer is 404, or what a fault of the whole host requires.
        """
        self._roots += 1
        fault = self._timeline.request_fault("", "", "", self._roots)
        if fault is None or fault.kind not in _OF_HOST:
            return error_answer(404)
        return await play(fault, request, error_answer(fault.status or 500), self._stopping)

    def _refusal(
        self,
        webhook: WebhookState | None,
        sent: Submission | None,
        headers: Mapping[str, str],
    ) -> web.Response | None:
        """Return how a working Clay refuses, or None. A POST counts for the rate in any case."""
        limits = self._world.limits
        if webhook is None:
            return error_answer(limits.unknown_status)
        if webhook.settings.token not in (None, headers.get(TOKEN_HEADER)):
            return error_answer(401)
        if not webhook.workspace.take(limits, self._world.now_s):
            waits = retry_after(limits.retry_after, limits.retry_after_s)
            return web.json_response(_TOO_MANY, status=429, headers=waits)
        if sent is None:
            return error_answer(400)
        if 0 < limits.lifetime <= webhook.submissions:
            return error_answer(403, _FULL)
        return None

    def _accepted(self, about: int) -> web.Response:
        """Return that Clay took the row; `about` selects the body."""
        text, content_type = _ACCEPTED[about % len(_ACCEPTED)]
        status = self._world.limits.accepted_status
        return web.Response(status=status, text=text, content_type=content_type)

    def _refuse(
        self,
        status: int,
        message: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        """Return the answer of a fault that has a status of its own."""
        return error_answer(status, message, headers)

    def _note(self, webhook: WebhookState | None, line: RequestLine) -> None:
        self._ledger.write(line)
        if webhook is not None:
            webhook.submissions += is_submission(line, self._world.limits)

    def _accept(
        self,
        webhook: WebhookState,
        sent: Submission,
        line: RequestLine,
        nameless: str,
    ) -> None:
        """Create the row and start it, unless the table is full.

        `nameless` stands for the lead of a row that names none.
        """
        lead = sent.lead_id
        row = None
        if line.fault != "table_full":
            again = self._ledger.tally.of(lead).accepted if lead else 0
            # ".0" because scripts know what their seed draws, from when an array was many rows
            about = f"{lead}#{again}.0" if lead else f"{nameless}.0"
            row = self._world.new_row(webhook, sent, about)
        line.accepted = int(row is not None)
        self._note(webhook, line)
        if self._kept is not None:
            # Both before the answer: a kill must not take back what was accepted.
            if row is not None:
                self._kept.add(row)
            self._ledger.flush()
        if row is not None:
            self._start(row)


def _read_submission(body: bytes | None, media_type: str, script: Script) -> Submission | None:
    """Return the row of a request, or None if Clay cannot read it.

    Args:
        body: None if it is larger than the server reads.
        media_type: Of the header Content-Type, without its parameters.
        script: Has the names of the echo fields, and the limit of a payload.
    """
    if body is None or len(body) > script.limits.payload_bytes or media_type != _MEDIA_TYPE:
        return None
    if _levels(body) > _MAX_LEVELS:
        return None
    try:
        content = msgspec.json.decode(body)
    except ValueError:  # msgspec's own errors, and bytes that are not UTF-8
        return None
    if not isinstance(content, dict | list):
        return None
    cells = cells_of(content)
    return Submission(
        body=body,
        cells=cells,
        lead_id=_echo(cells.get(script.lead_id_field)),
        delivery_id=_echo(cells.get(script.delivery_id_field)),
    )


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
