"""The webhook: decides about a request, writes it to the ledger, and answers as the faults require."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web
from attrs import define, field

from stream_app.dev.simulator import answers, lines
from stream_app.dev.simulator.chance import digest
from stream_app.dev.simulator.ledger import Ledger, now_ms
from stream_app.dev.simulator.script import REFUSING, Fault, workspace_of
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


class Arrival(NamedTuple):
    """A request as it arrived."""

    at_ms: int
    slug: str
    token: str | None
    submission: Submission
    about: str
    occurrence: int


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
        arrival = self._arrival(request, at_ms, body)
        webhook = self._world.webhook(arrival.slug)
        workspace = webhook.workspace.name if webhook else workspace_of(arrival.slug)
        fault = self._timeline.request_fault(workspace, arrival.slug, arrival.about, arrival.occurrence)
        if fault is not None and (fault.kind in REFUSING or fault.accepted is False):
            self._write(arrival, workspace, _NO_STATUS.get(fault.kind, fault.status or 0), fault)
            return await answers.played(fault, request, answers.refused(fault.status or 500, {}), self._stopping)
        status = self._decide(webhook, arrival)
        if webhook is None or status != 200:
            limits = self._world.limits
            headers = answers.retry_after(limits.retry_after, limits.retry_after_s) if status == 429 else {}
            self._write(arrival, workspace, status, None)
            return answers.refused(status, headers)
        self._accept(webhook, arrival, fault)
        answer = answers.accepted(len(body or b""))
        return answer if fault is None else await answers.played(fault, request, answer, self._stopping)

    async def handle_root(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /` and `HEAD /`, which submit nothing: 404, or as a fault of the whole host requires."""
        self._roots += 1
        fault = self._timeline.request_fault("", "", "", self._roots)
        if fault is None or fault.kind not in _OF_HOST:
            return answers.refused(404, {})
        return await answers.played(fault, request, answers.refused(fault.status or 500, {}), self._stopping)

    def _arrival(self, request: web.Request, at_ms: int, body: bytes | None) -> Arrival:
        script = self._world.script
        submission = read_submission(
            body, self._world.limits.payload_bytes, script.lead_id_field, script.delivery_id_field
        )
        lead_id = submission.echoes[0][0] if submission.echoes and not submission.is_array else None
        if lead_id is not None:
            about, occurrence = lead_id, self._ledger.tally.of(lead_id).requests
        else:
            nameless = digest(body or b"")
            about, occurrence = str(nameless), self._world.occurrence_of(nameless)
        slug, token = request.match_info["slug"], request.headers.get(TOKEN_HEADER)
        return Arrival(at_ms, slug, token, submission, about, occurrence)

    def _decide(self, webhook: WebhookState | None, arrival: Arrival) -> int:
        """Return the status that a working Clay answers."""
        limits = self._world.limits
        if webhook is None:
            return 404
        if webhook.settings.token is not None and webhook.settings.token != arrival.token:
            return 401
        if arrival.submission.refusal is not None:
            return arrival.submission.refusal
        if limits.lifetime_status == 403 and 0 < limits.lifetime <= webhook.submissions:
            return 403
        if not webhook.workspace.take(len(arrival.submission.bodies), limits, self._world.now_s):
            return 429
        return 200

    def _accept(self, webhook: WebhookState, arrival: Arrival, fault: Fault | None) -> None:
        tally = self._ledger.tally
        about = [
            f"{lead}#{tally.of(lead).accepted}.{n}" if lead else f"{arrival.about}#{arrival.occurrence}.{n}"
            for n, (lead, _) in enumerate(arrival.submission.echoes)
        ]
        rows = self._world.add_rows(webhook, arrival.submission, about)
        status: int | str = 200
        if fault is not None:
            status = _NO_STATUS.get(fault.kind, fault.status or 200)
        self._write(arrival, webhook.workspace.name, status, fault, accepted=len(rows))
        for row in rows:
            self._start(row)

    def _write(
        self, arrival: Arrival, workspace: str, status: int | str, fault: Fault | None, accepted: int | None = None
    ) -> None:
        submission = arrival.submission
        echo = (None, None) if submission.is_array or not submission.echoes else submission.echoes[0]
        self._ledger.write(
            lines.Request(
                at_ms=arrival.at_ms,
                webhook=arrival.slug,
                workspace=workspace,
                rows=len(submission.bodies),
                status=status,
                accepted=accepted or 0,
                lead_id=echo[0],
                delivery_id=echo[1],
                elements=submission.echoes if submission.is_array else None,
                fault=fault.kind if fault else None,
                full=accepted is not None and accepted < len(submission.bodies),
            )
        )
