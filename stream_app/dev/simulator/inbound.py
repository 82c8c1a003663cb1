"""The webhook: decides about a request, writes it to the ledger, and answers as the faults require."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from attrs import define, field

from stream_app.dev.simulator import answers, lines
from stream_app.dev.simulator.chance import digest
from stream_app.dev.simulator.ledger import Ledger, now_ms
from stream_app.dev.simulator.script import REFUSING, workspace_of
from stream_app.dev.simulator.submission import Submission, read_submission
from stream_app.dev.simulator.timeline import Timeline
from stream_app.dev.simulator.world import Row, WebhookState, World

WEBHOOK_PATH = "/v3/sources/webhook/{slug}"
TOKEN_HEADER = "x-clay-webhook-auth"
READ_AT_MOST_BYTES = 16_000_000

_OF_HOST = frozenset({"status_before", "reset_before_accept", "hang_after_read"})
"""Faults that are an outage: unless they name a workspace or a webhook, nothing on the host answers well."""

# The ledger's status of a fault that answers without one.
_NO_STATUS = {
    "reset_before_accept": "reset",
    "reset_after_read": "reset",
    "hang_after_read": "hang",
    "garbage": "garbage",
}


@define(eq=False, repr=False)
class Inbound:
    """Handles `POST /v3/sources/webhook/<slug>`. `start` is called with each row to run."""

    _world: World
    _timeline: Timeline
    _ledger: Ledger
    _start: Callable[[Row], None]
    _stopping: asyncio.Event
    _roots: int = field(init=False, default=0)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        at_ms = now_ms()
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            body = None
        slug, script, limits = request.match_info["slug"], self._world.script, self._world.limits
        sent = read_submission(body, limits.payload_bytes, script.lead_id_field, script.delivery_id_field)
        webhook = self._world.webhook(slug)
        line = lines.Request(
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
            about, occurrence = line.lead_id, self._ledger.tally.of(line.lead_id).requests
        else:
            nameless = digest(body or b"")
            about, occurrence = str(nameless), self._world.occurrence_of(nameless)
        fault = self._timeline.request_fault(line.workspace or "", slug, about, occurrence)
        if fault is not None and (fault.kind in REFUSING or fault.accepted is False):
            line.status, line.fault = _NO_STATUS.get(fault.kind, fault.status or 0), fault.kind
            self._ledger.write(line)
            return await answers.played(fault, request, answers.refused(fault.status or 500, {}), self._stopping)
        status = self._decide(webhook, sent, request.headers.get(TOKEN_HEADER))
        if webhook is None or status != 200:
            line.status = status
            self._ledger.write(line)
            headers = answers.retry_after(limits.retry_after, limits.retry_after_s) if status == 429 else {}
            return answers.refused(status, headers)
        if fault is not None:
            line.status, line.fault = _NO_STATUS.get(fault.kind, fault.status or 200), fault.kind
        self._accept(webhook, sent, line, f"{about}#{occurrence}")
        answer = answers.accepted(len(body or b""))
        return answer if fault is None else await answers.played(fault, request, answer, self._stopping)

    async def handle_root(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /` and `HEAD /`, which submit nothing: 404, or as a fault of the whole host requires."""
        self._roots += 1
        fault = self._timeline.request_fault("", "", "", self._roots)
        if fault is None or fault.kind not in _OF_HOST:
            return answers.refused(404, {})
        return await answers.played(fault, request, answers.refused(fault.status or 500, {}), self._stopping)

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

    def _accept(self, webhook: WebhookState, sent: Submission, line: lines.Request, nameless: str) -> None:
        """Create the rows and start them. `nameless` stands for the lead of a row that names none."""
        tally = self._ledger.tally
        about = [
            f"{lead}#{tally.of(lead).accepted}.{n}" if lead else f"{nameless}.{n}"
            for n, (lead, _) in enumerate(sent.echoes)
        ]
        rows = self._world.add_rows(webhook, sent, about)
        line.accepted, line.full = len(rows), len(rows) < len(sent.bodies)
        self._ledger.write(line)
        for row in rows:
            self._start(row)
