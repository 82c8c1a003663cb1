"""The webhook of a workflow: each POST is one run.

It is a webhook of the script, and its runs are rows of that. Their HTTP step calls back as a
table's HTTP column does. There is no token, no rate and no lifetime, because Clay states those for
tables only (docs/reference/clay.md, "A workflow's webhook").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web
from attrs import define

from stream_app.dev.simulator.inbound import Inbound
from stream_app.dev.simulator.world import Submission, WebhookState

WORKFLOW_ROUTE: Final = "/v3/tc-workflows/streams/{slug}/webhook"


@define(eq=False, repr=False)
class WorkflowInbound(Inbound):
    """Handles `POST /v3/tc-workflows/streams/<id>/webhook`."""

    def _refusal(
        self,
        webhook: WebhookState | None,
        sent: Submission | None,
        headers: Mapping[str, str],
    ) -> web.Response | None:
        if webhook is None:
            return _error(404, "Stream not found")
        if not webhook.settings.active:
            return _error(400, "Stream is not active")
        return _error(400, "The body must be a JSON object.") if sent is None else None

    def _accepted(self, run: int) -> web.Response:
        return web.json_response(
            {
                "success": True,
                "workflowRunId": f"wfr_{run}",
                "message": "Workflow run started",
            },
            status=202,
        )

    def _refuse(
        self,
        status: int,
        message: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        wait_s = (headers or {}).get("Retry-After", "")
        if status == 429 and wait_s.isdecimal():
            body = {"error": "Too many requests", "retryAfter": int(wait_s)}
            return web.json_response(body, status=status)
        return Inbound._refuse(self, status, message, headers)


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
