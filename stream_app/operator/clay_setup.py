"""What to set up in Clay for a destination: the webhook's columns, auto-dedupe, and the HTTP column that calls back.

Clay's ways are in clay-facts, "Inbound" and "Outbound". No secret is in it: where one belongs, its variable is named.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.config import Destination, Settings
from stream_app.domain.errors import SettingsError

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
"""Fields that leads usually have; a destination without `columns` is sent each under its own name."""


class Column(msgspec.Struct, frozen=True):
    """A column of the table, and what is in it."""

    name: str
    holds: str


class Webhook(msgspec.Struct, frozen=True):
    """The webhook that is the table's source."""

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
    """All of it. `http_column` None: nothing comes back from this table (callbacks = false)."""

    destination: str
    workspace: str
    webhook: Webhook
    dedupe_column: str
    dedupe_advice: str
    http_column: HttpColumn | None


def clay_setup(settings: Settings, alias: str) -> ClaySetup:
    """For one destination. Raises SettingsError: there is none of that name."""
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
            columns=[*_lead_columns(there), *_our_columns(there, signs=signs)],
        ),
        dedupe_column="callback_token" if signs else "lead_id",
        dedupe_advice=(
            "a second row of the same lead is dropped, and one that was forced is not: its token is another"
            if signs
            else "a second row of the same lead is dropped; a lead that is forced is dropped with it"
        ),
        http_column=_http_column(settings, alias, there) if there.callbacks else None,
    )


def _lead_columns(there: Destination) -> list[Column]:
    if there.columns:
        return [Column(column, f"the lead's {name}") for name, column in there.columns.items()]
    return [Column(name, f"the lead's {name}, where it has one") for name in USUAL_FIELDS]


def _our_columns(there: Destination, *, signs: bool) -> list[Column]:
    columns = [Column("lead_id", "whose row it is; sent back with the result")]
    if there.callbacks:
        columns.append(Column("callback_url", "where the HTTP column sends the result"))
    if signs:
        columns.append(Column("callback_token", "proves that the result is this lead's"))
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
            "title and company_size are examples: put a name of your own and a column for each result that you want.",
            "status may say enriched, partial, no_data or error; left empty, whether any result is there decides.",
            "credits: what the row cost, where a column of yours knows it; left empty, the estimate is booked.",
            "Keep each {{column}} between double quotes; a number as text is understood, a list or an object is not.",
            'Leave "Only run if" empty: a row that does not call back is taken for lost, and its credits stay booked.',
            "Let it run after all other columns, automatically; the timeout at its longest, with 2 or 3 retries.",
            "Each call costs 1 Action. Its cell shows our answer: it says what is wrong, if anything is.",
            "Never send results back into this table: that is a loop that ends when the credits do.",
        ],
    )
