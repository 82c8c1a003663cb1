"""`stream-app clay-setup DESTINATION`: print what to set up in the Clay table."""

from __future__ import annotations

import json

from stream_app.cli.base import COMMON, OK, Common, show, show_json
from stream_app.client import clay_setup as plan


def clay_setup(destination: str, /, *, common: Common = COMMON) -> int:
    """Print what to set up in the Clay table: columns, auto-dedupe, and the HTTP column that sends callbacks.

    example:
      stream-app clay-setup people

    Args:
        destination: alias of the table in the configuration
    """
    setup = plan.clay_setup(common.settings(), destination)
    if common.json:
        show_json(setup)
    else:
        for line in _lines(setup):
            show(line)
    return OK


def _lines(setup: plan.ClaySetup) -> list[str]:
    webhook, http = setup.webhook, setup.http_column
    width = max(len(column.name) for column in webhook.columns)
    token = (
        f"   Authentication: header {webhook.token_header}, its value in {webhook.token_variable}."
        if webhook.token_header
        else "   Authentication: none is configured (token_env); better set one."
    )
    lines = [
        f"Table {setup.destination} in workspace {setup.workspace}",
        "",
        "1. Source: webhook",
        f"   Put its URL into the environment variable {' and one more into '.join(webhook.url_variables)}.",
        token,
        "   Columns:",
        *(f"     {column.name:{width}}  {column.holds}" for column in webhook.columns),
        "",
        "2. Auto-dedupe",
        f"   On the column {setup.dedupe_column}: {setup.dedupe_advice}.",
        "",
    ]
    if http is None:
        return [*lines, "3. No HTTP column: this destination has callbacks = false."]
    return [
        *lines,
        "3. HTTP API column, the last one ({{name}}: insert that column with /)",
        f"   Method   {http.method}",
        f"   URL      {http.url}",
        *(f"   Header   {name}: {value}" for name, value in http.headers.items()),
        "   Body",
        *(f"     {line}" for line in json.dumps(http.body, indent=2).splitlines()),
        *(f"   - {line}" for line in http.advice),
    ]
