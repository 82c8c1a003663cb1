"""What `stream-app clay-setup` says to set up in Clay works: a column set up so is received."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stream_app.cli.main import main
from stream_app.config.model import Gateway as Limits
from stream_app.dev.simulator.callbacks import body_text, fill
from stream_app.dev.simulator.script import HttpColumn
from stream_app.domain.model.tokens import sign
from tests.gateway.support import KEYS, SECRET, Gateway

CONFIG = """
[gateway]
public_url = "https://leads.example.com"
token_keys_env = ["CALLBACK_KEY"]
[workspaces]
acme = {}
beta = {}
[destinations.people]
workspace = "acme"
webhooks_env = ["CLAY_WEBHOOK", "CLAY_WEBHOOK_2"]
token_env = "CLAY_TOKEN"
[destinations.people.columns]
email = "Work Email"
first_name = "First Name"
[destinations.static]
workspace = "beta"
webhooks_env = ["CLAY_WEBHOOK_3"]
callback_secrets_env = ["CALLBACK_SECRET"]
[destinations.quiet]
workspace = "acme"
webhooks_env = ["CLAY_WEBHOOK_4"]
callbacks = false
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "stream_app.toml"
    path.write_text(CONFIG)
    return str(path)


def setup(config: str, alias: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["clay-setup", alias, "--config", config, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(("alias", "workspace"), [("people", "acme"), ("static", "beta")])
async def test_a_column_that_is_set_up_so_is_received(
    alias: str,
    workspace: str,
    config: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    http = setup(config, alias, capsys)["http_column"]
    token = sign(KEYS, workspace, alias, "crm-17")
    cells = {
        "lead_id": "crm-17",
        "callback_token": token,
        "Title": 'Head of "R&D"',
        "Company Size": None,
    }
    headers = {name: fill(value, cells) for name, value in http["headers"].items()}
    if "x-callback-secret" in headers:
        assert headers["x-callback-secret"] == "<what is in CALLBACK_SECRET>"
        headers["x-callback-secret"] = SECRET
    gateway = Gateway()
    path = http["url"].removeprefix("https://leads.example.com")
    for escape in (True, False):
        body = body_text(http["body"], cells, typed=False, escape=escape)
        answer = await gateway.post(body, path, headers)
        assert answer.text.startswith("Received: lead crm-17, enriched."), answer.text
    assert [callback.fields for callback in gateway.inbox.callbacks()] == 2 * [
        {"title": 'Head of "R&D"'},
    ]
    assert http["method"] == "POST"


def test_the_column_waits_longer_than_we_hold_and_repeats_what_we_answer(
    config: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The advice is the column that the simulator calls well set."""
    advice = " ".join(setup(config, "people", capsys)["http_column"]["advice"])
    column = HttpColumn(well_set=True)
    assert f"{column.waits_s * 1_000:,.0f} ms" in advice
    assert Limits().hold_s < column.waits_s < 100, "which is Clay's own bound"
    retry = column.retry_in_force
    assert f"{retry.most} retries" in advice
    numbers = re.search(r"status codes ([0-9, and]+) and", advice)
    assert numbers is not None
    assert tuple(map(int, re.findall(r"[0-9]+", numbers[1]))) == retry.statuses
    assert set(re.findall(r"\bE[A-Z]{4,}", advice)) == set(retry.errors)


def test_an_empty_result_keeps_no_column_from_calling(
    config: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Clay makes no call for a row in which a required field of the body is empty."""
    column = setup(config, "people", capsys)["http_column"]
    may_be_empty = [name for name in column["body"] if name != "lead_id"]
    assert {"title", "status", "credits"} <= set(may_be_empty)
    (advice,) = [line for line in column["advice"] if "required" in line]
    assert "Leave it on for lead_id alone" in advice


def test_the_columns_are_those_that_are_sent(
    config: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    people = setup(config, "people", capsys)
    static = setup(config, "static", capsys)
    assert [column["name"] for column in people["webhook"]["columns"]] == [
        *("Work Email", "First Name"),
        *("lead_id", "callback_url", "callback_token"),
    ]
    assert {"email", "linkedin_url"} <= {column["name"] for column in static["webhook"]["columns"]}
    assert people["webhook"]["url_variables"] == ["CLAY_WEBHOOK", "CLAY_WEBHOOK_2"]
    Path(config).write_text(f'{CONFIG}[trace]\nendpoint = "http://127.0.0.1:4318/v1/traces"\n')
    assert setup(config, "people", capsys)["webhook"]["columns"][-1]["name"] == "traceparent"
    assert people["dedupe_column"] == "callback_token"
    assert setup(config, "quiet", capsys)["dedupe_column"] == "lead_id"


@pytest.mark.parametrize(("alias", "workspace"), [("people", "acme"), ("static", "beta")])
async def test_the_http_step_of_a_workflow_that_is_set_up_so_is_received(
    alias: str,
    workspace: str,
    config: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    described = setup(config, alias, capsys)
    workflow = described["workflow"]
    names = [column["name"] for column in described["webhook"]["columns"]]
    assert list(workflow["sample"]) == names, "the inputs are what is sent"
    step = workflow["http_step"]
    sent = {
        "lead_id": "crm-17",
        "callback_token": sign(KEYS, workspace, alias, "crm-17"),
        "Title": "CTO",
        "Company Size": "38",
    }
    headers = {name: fill(value, sent) for name, value in step["headers"].items()}
    if "x-callback-secret" in headers:
        headers["x-callback-secret"] = SECRET
    gateway = Gateway()
    body = body_text(step["body"], sent, typed=False, escape=True)
    path = step["url"].removeprefix("https://leads.example.com")
    answer = await gateway.post(body, path, headers)
    assert answer.text.startswith("Received: lead crm-17, enriched."), answer.text


def test_the_set_up_of_a_workflow_is_a_section_of_its_own(
    config: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["clay-setup", "people", "--config", config]) == 0
    table, title, section = capsys.readouterr().out.partition("In place of the table: a workflow")
    assert title
    assert "On webhook call" in section
    assert "/v3/tc-workflows/streams/<id>/webhook" in section
    assert "CLAY_WEBHOOK and one more into CLAY_WEBHOOK_2" in section
    assert "remove token_env" in section
    assert "https://leads.example.com/callbacks/acme/people" in section
    assert "HTTP API column" in table
    for word in ("table", "column", "row"):
        assert word not in section, word
    assert main(["clay-setup", "quiet", "--config", config]) == 0
    section = capsys.readouterr().out.partition("In place of the table: a workflow")[2]
    assert "callbacks = false" in section
    assert "token_env" not in section, "none is configured"


def test_an_unknown_destination_names_those_that_there_are(
    config: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["clay-setup", "person", "--config", config]) == 2
    assert "there is no [destinations.person]; there are: people, static, quiet" in (
        capsys.readouterr().err
    )
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert main(["clay-setup", "people", "--config", str(empty)]) == 2
    assert "there are: none is configured" in capsys.readouterr().err


def test_the_advice_on_forced_rows_follows_the_column_that_dedupes(
    config: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only a token differs between a lead and the same lead that is forced."""
    signed = setup(config, "people", capsys)
    assert signed["dedupe_column"] == "callback_token"
    assert "keeps a forced one" in signed["dedupe_advice"]
    quiet = setup(config, "quiet", capsys)
    assert quiet["dedupe_column"] == "lead_id"
    assert "also of a forced one" in quiet["dedupe_advice"]
