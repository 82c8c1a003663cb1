"""What to set up in Clay for a destination: the webhook's columns, auto-dedupe, and the HTTP column for callbacks.

docs/reference/clay.md describes how Clay behaves. The output holds no secret, only the names of their variables.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.config import Settings
from stream_app.domain.errors import SettingsError
from stream_app.domain.policy import Destination

USUAL_FIELDS: Final = (
    "email",
    "first_name",
    "last_name",
    "full_name",
    "company_name",
    "domain",
    "linkedin_url",
    "title",
    "phone",
    "country",
)
"""Common lead fields. A destination without `columns` gets each under its own name."""


class Column(msgspec.Struct, frozen=True):
    """A column of the table, and its content."""

    name: str
    holds: str


class Webhook(msgspec.Struct, frozen=True):
    """The webhook source of the table."""

    url_variables: list[str]
    token_header: str | None
    token_variable: str | None
    columns: list[Column]


class HttpColumn(msgspec.Struct, frozen=True):
    """The HTTP API column. `{{name}}` stands for a column: insert it with / in Clay. `body` is one JSON object."""

    method: str
    url: str
    headers: dict[str, str]
    body: dict[str, str]
    advice: list[str]


class ClaySetup(msgspec.Struct, frozen=True):
    """The whole set-up. `http_column` is None for a destination with callbacks = false."""

    destination: str
    workspace: str
    webhook: Webhook
    dedupe_column: str
    dedupe_advice: str
    http_column: HttpColumn | None


def clay_setup(settings: Settings, alias: str) -> ClaySetup:
    """Describe the set-up for a destination. Raises SettingsError if there is none."""
    there = settings.destinations.get(alias)
    if there is None:
        known = ", ".join(settings.destinations) or "none is configured"
        raise SettingsError([f"there is no [destinations.{alias}]; there are: {known}"])
    signs = there.callbacks and bool(settings.gateway.token_keys_env)
    return ClaySetup(
        destination=alias,
        workspace=there.workspace,
        webhook=Webhook(
            url_variables=list(there.webhooks_env),
            token_header="x-clay-webhook-auth" if there.token_env else None,
            token_variable=there.token_env,
            columns=[*_lead_columns(there), *_our_columns(settings, there, signs=signs)],
        ),
        dedupe_column="callback_token" if signs else "lead_id",
        dedupe_advice=(
            "Clay drops a second row of the same lead, but keeps a forced one, because its token differs"
            if signs
            else "Clay drops a second row of the same lead, also of a forced one"
        ),
        http_column=_http_column(settings, alias, there) if there.callbacks else None,
    )


def _lead_columns(there: Destination) -> list[Column]:
    if there.columns:
        return [Column(column, f"the lead's {name}") for name, column in there.columns.items()]
    return [Column(name, f"the lead's {name}, where it has one") for name in USUAL_FIELDS]


def _our_columns(settings: Settings, there: Destination, *, signs: bool) -> list[Column]:
    columns = [Column("lead_id", "the lead id; sent back with the result")]
    if there.callbacks:
        columns.append(Column("callback_url", "the URL to which the HTTP column sends the result"))
    if signs:
        columns.append(Column("callback_token", "proves that the result belongs to this lead"))
    if settings.trace.endpoint is not None:
        columns.append(Column("traceparent", "the lead's trace, for an HTTP API column that continues it"))
    return columns


def _http_column(settings: Settings, alias: str, there: Destination) -> HttpColumn:
    headers = {"Content-Type": "application/json"}
    if there.callback_secrets_env:
        headers["x-callback-secret"] = f"<what is in {there.callback_secrets_env[0]}>"
    elif settings.gateway.token_keys_env:
        headers["x-callback-token"] = "{{callback_token}}"
    return HttpColumn(
        method="POST",
        url=settings.callback_url(alias),
        headers=headers,
        body={
            "lead_id": "{{lead_id}}",
            "title": "{{Title}}",
            "company_size": "{{Company Size}}",
            "status": "",
            "error": "",
            "credits": "",
        },
        advice=[
            "title and company_size are examples: use your own names, with a column for each result you want.",
            "status may be enriched, partial, no_data or error. If empty, it is derived from the results.",
            "credits: what the row cost, if a column has it. If empty, the estimate is booked.",
            "Keep each {{column}} between double quotes. Numbers as text are accepted; lists and objects are not.",
            'Leave "Only run if" empty: a row without a callback counts as lost, and its credits stay booked.',
            "Run it automatically after all other columns, with the longest timeout and 2 or 3 retries.",
            "Each call costs 1 Action. Its cell shows our answer, including any error.",
            "Never send results back into this table: the loop ends only when the credits are used up.",
        ],
    )
