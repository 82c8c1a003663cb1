"""What is set up outside this program.

Topics and users become resources of Strimzi, and a destination becomes a table in Clay.
docs/reference/clay.md describes how Clay behaves. The output holds no secret, only the names of
their variables.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from shlex import quote
from typing import Any, Final

from stream_app.client.publish.rows import USUAL_FIELDS
from stream_app.config import Settings
from stream_app.domain.model.addresses import WORKFLOW_PATH
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.plan import Destination
from stream_app.kafka.rights import Rights, rights_of

_API: Final = "kafka.strimzi.io/v1"
# What makes a Clay column wait for an answer and call again (docs/callbacks.md). Its timeout is
# longer than the gateway holds a callback, and below Clay's bound of 100,000 ms.
_COLUMN_WAITS_MS: Final = 95_000
_COLUMN_STATUSES: Final = "408, 429, 500, 501, 502, 503 and 504"
_COLUMN_ERRORS: Final = "ECONNREFUSED, ECONNRESET and ETIMEDOUT"
_COLUMN_RETRIES: Final = 5
_OUTPUT_ADVICE: Final = (
    "Set no run condition there: a run whose condition is not met never ends, and its lead is "
    "overdue.",
    "Each output is a field of the result, under its name. Lists and objects become JSON text.",
    (
        "An output credits is booked as what the lead cost. Without it the estimate is booked, "
        "because no answer of the API names a cost."
    ),
    (
        "An output status may be enriched, partial, no_data or error. Without it, it is derived "
        "from the other outputs."
    ),
)
_TYPES: Final = {"Topic": "topic", "Group": "group", "TransactionalId": "transactionalId"}


def resources(settings: Settings, cluster: str) -> dict[str, Any]:
    """Return a list for `kubectl apply`: a KafkaTopic for each topic, a KafkaUser for each process.

    `cluster` is the name of the Kafka resource that they belong to.
    """

    def resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        # a topic may have capitals and underscores, the name of a resource may not
        own = re.sub(r"[^a-z0-9.-]", "-", name.lower()).strip("-.")
        metadata = {"name": own, "labels": {"strimzi.io/cluster": cluster}}
        return {"apiVersion": _API, "kind": kind, "metadata": metadata, "spec": spec}

    items = []
    for topic in settings.topic_plan():
        size = {"partitions": topic.partitions, "replicas": topic.replication}
        items.append(
            resource(
                "KafkaTopic",
                topic.name,
                {"topicName": topic.name, **size, "config": topic.config},
            ),
        )
    rights = rights_of(settings.names, settings.replay.tiers_s)
    programs = {name: name for name in ("worker", "replay", "gateway", "trace")} | {
        "board": settings.board_rights,
    }
    for name, program in programs.items():
        allowed = {"type": "simple", "acls": _acls(rights[program])}
        spec = {"authentication": {"type": "scram-sha-512"}, "authorization": allowed}
        items.append(resource("KafkaUser", f"{settings.names.worker_app}-{name}", spec))
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _acls(rights: Rights) -> list[dict[str, Any]]:
    operations = defaultdict[tuple[str, str, bool], list[str]](list)
    for acl in rights.acls:
        operations[acl.resource, acl.name, acl.prefixed].append(acl.operation)
    return [
        {
            "resource": {
                "type": _TYPES[resource],
                "name": name,
                "patternType": "prefix" if prefixed else "literal",
            },
            "operations": granted,
        }
        for (resource, name, prefixed), granted in operations.items()
    ]


def clay_setup(settings: Settings, alias: str) -> dict[str, Any]:
    """Describe the set-up for a destination. Raises SettingsError if there is none.

    `{{name}}` stands for a column: insert it with / in Clay. `http_column` is None with callbacks =
    false. For a routine, `routine` describes it, and what is for webhooks is None.
    """
    destination = settings.destinations.get(alias)
    if destination is None:
        known = ", ".join(settings.destinations) or "none is configured"
        raise SettingsError([f"there is no [destinations.{alias}]; there are: {known}"])
    if destination.routine is not None:
        return _routine_setup(settings, alias, destination, destination.routine)
    signs = destination.callbacks and bool(settings.gateway.token_keys_env)
    return {
        "destination": alias,
        "workspace": destination.workspace,
        "routine": None,
        "webhook": {
            "url_variables": list(destination.webhooks_env),
            "token_header": "x-clay-webhook-auth" if destination.token_env else None,
            "token_variable": destination.token_env,
            "columns": [
                {"name": name, "holds": holds}
                for name, holds in _columns(settings, destination, signs=signs)
            ],
        },
        "dedupe_column": "callback_token" if signs else "lead_id",
        "dedupe_advice": (
            (
                "Clay drops a second row of the same lead, but keeps a forced one, "
                "because its token differs"
            )
            if signs
            else "Clay drops a second row of the same lead, also of a forced one"
        ),
        "http_column": _http_column(settings, alias, destination)
        if destination.callbacks
        else None,
        "workflow": {
            "trigger": "On webhook call",
            "path": WORKFLOW_PATH,
            "sample": dict(_columns(settings, destination, signs=signs)),
            "http_step": _http_call(settings, alias, destination)
            if destination.callbacks
            else None,
        },
    }


def _routine_setup(
    settings: Settings,
    alias: str,
    destination: Destination,
    routine: str,
) -> dict[str, Any]:
    """Describe the set-up of a routine."""
    is_function = routine.startswith("function:")
    has_address = settings.gateway.public_url is not None
    url = settings.run_webhook_url(alias) if has_address else None
    return {
        "destination": alias,
        "workspace": destination.workspace,
        "routine": {
            "id": routine,
            "open": (
                "In the details of the function, switch the API on."
                if is_function
                else "Give the workflow a manual trigger, publish it, and expose it as API under "
                "Integrations."
            ),
            "inputs": [{"name": name, "holds": holds} for name, holds in _inputs(destination)],
            "output_step": '"Send data back"' if is_function else "the output of the workflow",
            "advice": list(_OUTPUT_ADVICE),
            "key_variable": settings.workspaces[destination.workspace].api_key_env,
            "completion_webhook": {
                "command": f"clay webhooks create {quote(url)}" if url is not None else None,
                "url": url,
                "id": destination.run_webhook,
                "secret_variable": destination.run_webhook_secret_env,
            },
        },
        "webhook": None,
        "dedupe_column": None,
        "dedupe_advice": None,
        "http_column": None,
        "workflow": None,
    }


def _columns(
    settings: Settings,
    destination: Destination,
    *,
    signs: bool,
) -> Iterator[tuple[str, str]]:
    """Yield each column of the table, and its content.

    Without `columns`, each usual field has its own name.
    """
    yield from _inputs(destination)
    yield "lead_id", "the lead id; sent back with the result"
    if destination.callbacks:
        yield "callback_url", "the URL to which the result is sent"
    if signs:
        yield "callback_token", "proves that the result belongs to this lead"
    if settings.trace.endpoint is not None:
        yield "traceparent", "the lead's trace, for an HTTP API column that continues it"


def _inputs(destination: Destination) -> Iterator[tuple[str, str]]:
    """Yield each name under which a field of a lead is sent, and what it holds."""
    for name, column in destination.columns.items():
        yield column, f"the lead's {name}"
    if not destination.columns:
        for name in dict.fromkeys(USUAL_FIELDS.values()):
            yield name, f"the lead's {name}, where it has one"


def _http_call(settings: Settings, alias: str, destination: Destination) -> dict[str, Any]:
    """Return the call by which a result comes back."""
    headers = {"Content-Type": "application/json"}
    if destination.callback_secrets_env:
        headers["x-callback-secret"] = f"<what is in {destination.callback_secrets_env[0]}>"
    elif settings.gateway.token_keys_env:
        headers["x-callback-token"] = "{{callback_token}}"
    return {
        "method": "POST",
        "url": settings.callback_url(alias),
        "headers": headers,
        "body": {
            "lead_id": "{{lead_id}}",
            "title": "{{Title}}",
            "company_size": "{{Company Size}}",
            "status": "",
            "error": "",
            "credits": "",
        },
    }


def _http_column(settings: Settings, alias: str, destination: Destination) -> dict[str, Any]:
    return {
        **_http_call(settings, alias, destination),
        "advice": [
            (
                "title and company_size are examples: use your own names, "
                "with a column for each result you want."
            ),
            (
                "status may be enriched, partial, no_data or error. "
                "If empty, it is derived from the results."
            ),
            "credits: what the row cost, if a column has it. If empty, the estimate is booked.",
            (
                "Keep each {{column}} between double quotes. Numbers as text are accepted; lists "
                "and objects are not."
            ),
            (
                'Leave "Only run if" empty: a row without a callback counts as lost, and its '
                "credits stay booked."
            ),
            (
                "Each field of the body has a toggle that makes it required. Leave it on for "
                "lead_id alone: for a row in which a required field is empty, Clay makes no call."
            ),
            (
                "Run it automatically after all other columns, with a Response timeout of "
                f"{_COLUMN_WAITS_MS:,} ms."
            ),
            (
                "Have it repeat calls, because by default Clay repeats one once, and not after a "
                f"5xx: {_COLUMN_RETRIES} retries, on the status codes {_COLUMN_STATUSES} and the "
                f"errors {_COLUMN_ERRORS}. Name all of them: what you set replaces the defaults."
            ),
            "Each call costs 1 Action. Its cell shows our answer, including any error.",
            (
                "Never send results back into this table: "
                "the loop ends only when the credits are used up."
            ),
        ],
    }
