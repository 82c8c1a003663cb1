"""What is set up outside the program, in whole: the table in Clay, and the resources of Strimzi."""

from typing import Any

import msgspec
import pytest

from stream_app.client.doctor.setup import clay_setup, resources
from stream_app.client.publish.rows import USUAL_FIELDS
from stream_app.config import Kafka, Settings
from stream_app.config.model import Board, Gateway, Trace
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.plan import Destination, Workspace
from stream_app.kafka.rights import rights_of

SETTINGS = Settings(
    kafka=Kafka(namespace="Prod_EU.", partitions=4, replication=3),
    workspaces={"acme": Workspace("acme"), "beta": Workspace("beta")},
    destinations={
        "people": Destination(
            "people",
            "acme",
            webhooks_env=("A", "B"),
            token_env="TOKEN",
            columns={"email": "E-Mail", "first_name": "First"},
        ),
        "static": Destination(
            "static",
            "beta",
            webhooks_env=("C",),
            callback_secrets_env=("NEW", "OLD"),
        ),
        "quiet": Destination("quiet", "beta", webhooks_env=("D",), callbacks=False),
    },
    gateway=Gateway(public_url="https://leads.example.com", token_keys_env=("KEY",)),
)
WITHOUT_KEYS = msgspec.structs.replace(
    SETTINGS,
    gateway=Gateway(public_url="https://leads.example.com"),
)
ID = {"name": "lead_id", "holds": "the lead id; sent back with the result"}
CALLBACK_URL = {
    "name": "callback_url",
    "holds": "the URL to which the result is sent",
}
CALLBACK_TOKEN = {
    "name": "callback_token",
    "holds": "proves that the result belongs to this lead",
}
USUAL = [
    {"name": name, "holds": f"the lead's {name}, where it has one"}
    for name in dict.fromkeys(USUAL_FIELDS.values())
]


def without_words(document: dict[str, Any]) -> dict[str, Any]:
    """The document without its advice, which is for people."""
    assert document.pop("dedupe_advice")
    column = document["http_column"]
    if column is not None:
        assert len(column.pop("advice")) > 5
    return document


def http_column(path: str, **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {
        "method": "POST",
        "url": f"https://leads.example.com/callbacks/{path}",
        "headers": {"Content-Type": "application/json", **named},
        "body": {
            "lead_id": "{{lead_id}}",
            "title": "{{Title}}",
            "company_size": "{{Company Size}}",
            "status": "",
            "error": "",
            "credits": "",
        },
    }


def workflow(columns: list[dict[str, str]], step: dict[str, Any]) -> dict[str, Any]:
    """The same for the webhook of a workflow: its sample has what a table has as columns."""
    return {
        "trigger": "On webhook call",
        "path": "/v3/tc-workflows/streams/<id>/webhook",
        "sample": {column["name"]: column["holds"] for column in columns},
        "http_step": step,
    }


def test_a_table_whose_callbacks_are_signed() -> None:
    document = clay_setup(SETTINGS, "people")
    assert "keeps a forced one" in document["dedupe_advice"]
    columns = [
        {"name": "E-Mail", "holds": "the lead's email"},
        {"name": "First", "holds": "the lead's first_name"},
        ID,
        CALLBACK_URL,
        CALLBACK_TOKEN,
    ]
    call = http_column("acme/people", x_callback_token="{{callback_token}}")
    assert without_words(document) == {
        "destination": "people",
        "workspace": "acme",
        "routine": None,
        "webhook": {
            "url_variables": ["A", "B"],
            "token_header": "x-clay-webhook-auth",
            "token_variable": "TOKEN",
            "columns": columns,
        },
        "dedupe_column": "callback_token",
        "http_column": call,
        "workflow": workflow(columns, call),
    }


def test_a_table_with_a_secret_of_its_own() -> None:
    traced = msgspec.structs.replace(
        WITHOUT_KEYS,
        trace=Trace(endpoint="http://trace.example/v1/traces"),
    )
    document = clay_setup(traced, "static")
    assert "also of a forced one" in document["dedupe_advice"]
    columns = [
        *USUAL,
        ID,
        CALLBACK_URL,
        {
            "name": "traceparent",
            "holds": "the lead's trace, for an HTTP API column that continues it",
        },
    ]
    call = http_column("beta/static", x_callback_secret="<what is in NEW>")
    assert without_words(document) == {
        "destination": "static",
        "workspace": "beta",
        "routine": None,
        "webhook": {
            "url_variables": ["C"],
            "token_header": None,
            "token_variable": None,
            "columns": columns,
        },
        "dedupe_column": "lead_id",
        "http_column": call,
        "workflow": workflow(columns, call),
    }
    both = clay_setup(SETTINGS, "static")
    assert both["http_column"]["headers"] == {
        "Content-Type": "application/json",
        "x-callback-secret": "<what is in NEW>",
    }
    assert both["dedupe_column"] == "callback_token"
    assert "x-callback-token" not in clay_setup(WITHOUT_KEYS, "people")["http_column"]["headers"]


def test_a_table_that_does_not_call_back() -> None:
    document = clay_setup(SETTINGS, "quiet")
    assert document["http_column"] is None
    assert document["workflow"]["http_step"] is None
    assert document["webhook"]["columns"] == [*USUAL, ID]
    assert document["dedupe_column"] == "lead_id"


@pytest.mark.parametrize(
    ("settings", "known"),
    [(SETTINGS, "people, static, quiet"), (Settings(), "none is configured")],
)
def test_a_destination_that_is_not_configured(settings: Settings, known: str) -> None:
    with pytest.raises(SettingsError) as error:
        clay_setup(settings, "person")
    assert str(error.value) == f"there is no [destinations.person]; there are: {known}"


def test_the_resources_of_strimzi_are_those_of_the_plan_and_the_rights() -> None:
    document = resources(SETTINGS, "my-cluster")
    items = document["items"]
    assert {**document, "items": []} == {"apiVersion": "v1", "kind": "List", "items": []}
    plan = SETTINGS.topic_plan()
    labels = {"strimzi.io/cluster": "my-cluster"}
    names = [topic.name.lower().replace("_", "-") for topic in plan]
    assert names[0].startswith("prod-eu."), "no name has capitals or underscores"
    assert items[: len(plan)] == [
        {
            "apiVersion": "kafka.strimzi.io/v1",
            "kind": "KafkaTopic",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "topicName": topic.name,
                "partitions": topic.partitions,
                "replicas": topic.replication,
                "config": topic.config,
            },
        }
        for name, topic in zip(names, plan, strict=True)
    ]
    users = items[len(plan) :]
    rights = rights_of(SETTINGS.names, SETTINGS.replay.tiers_s)
    assert [user["metadata"] for user in users] == [
        {"name": f"prod-eu.stream-app-{process}", "labels": labels}
        for process in ("worker", "replay", "gateway", "trace", "board")
    ]
    for process, user in zip(("worker", "replay", "gateway", "trace"), users[:4], strict=True):
        assert user["kind"] == "KafkaUser"
        assert user["apiVersion"] == "kafka.strimzi.io/v1"
        assert user["spec"]["authentication"] == {"type": "scram-sha-512"}
        acls = user["spec"]["authorization"]["acls"]
        assert user["spec"]["authorization"] == {"type": "simple", "acls": acls}
        assert sum(len(acl["operations"]) for acl in acls) == len(rights[process].acls)
        places = [tuple(acl["resource"].items()) for acl in acls]
        assert len(set(places)) == len(places), "the operations on one resource are together"
    board = rights[SETTINGS.board_rights]
    assert sum(len(acl["operations"]) for acl in users[4]["spec"]["authorization"]["acls"]) == len(
        board.acls,
    )


def test_the_rights_of_the_board_follow_what_it_may_do() -> None:
    operated = msgspec.structs.replace(SETTINGS, board=Board(operator_token_env="OPERATORS"))
    assert operated.board_rights != SETTINGS.board_rights
    acls = [
        resources(settings, "c")["items"][-1]["spec"]["authorization"]["acls"]
        for settings in (SETTINGS, operated)
    ]
    assert acls[0] != acls[1]
