"""Scripts: what is understood, and every problem of a bad one at once."""

import re
from pathlib import Path

import pytest

from stream_app.dev.simulator import Script, ScriptError, load_script, parse_script
from stream_app.dev.simulator.command import HELP
from stream_app.dev.simulator.script import FAULTS, Fault

BAD = """
sed = 1
auto_create = "yes"
limits = { rate_per_s = -1, retry_after = "soon" }
[workspaces.acme]
credit = 5
[table.latency]
median_s = 10
p95_s = 5
[[table.columns]]
credits = 1
[webhooks.x]
token = 5
[[fault]]
kind = "status_before"
status = 200
[[fault]]
kind = "refuse"
share = 0.5
[[fault]]
kind = "explode"
[[fault]]
at_s = 1
"""


def test_every_problem_is_one_line_and_none_hides_another() -> None:
    with pytest.raises(ScriptError) as failure:
        parse_script(BAD)
    problems = failure.value.problems
    assert all("\n" not in problem for problem in problems)
    for place in (
        "sed: unknown",
        "auto_create:",
        "limits.rate_per_s:",
        "limits.retry_after:",
        "workspaces.acme.credit: unknown",
        "table.latency.p95_s:",
        "table.columns[0].name: missing",
        "webhooks.x.token:",
        "fault[0].status:",
        "fault[1].share: does not belong to 'refuse'",
        "fault[2].kind: 'explode' is unknown",
        "fault[3].kind: missing",
    ):
        assert any(problem.startswith(place) for problem in problems), place


def test_not_toml_and_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="not TOML"):
        parse_script("seed = ")
    with pytest.raises(ScriptError, match="cannot be read"):
        load_script(tmp_path / "missing.toml")


def test_an_empty_script_is_the_facts() -> None:
    script = parse_script("")
    assert script == Script()
    assert (script.limits.rate_per_s, script.limits.burst) == (10, 20)
    assert (script.limits.lifetime, script.limits.lifetime_status) == (50_000, 200)
    assert sum(column.credits for column in script.table.columns) == 6
    assert script.table.callback.timeout_s == 100


def test_a_webhook_inherits_the_table() -> None:
    script = parse_script(
        "[table]\nauto_run = false\nlatency = { scale = 0.5, min_s = 1 }\n"
        '[webhooks.x]\ntoken = "t"\nlatency = { scale = 0 }\n'
    )
    webhook = script.webhooks["x"]
    assert (webhook.auto_run, webhook.token) == (False, "t")
    assert (webhook.latency.scale, webhook.latency.min_s) == (0, 1)


@pytest.mark.parametrize("kind", sorted(FAULTS))
def test_every_kind_has_its_defaults_and_stands_in_the_help(kind: str) -> None:
    (fault,) = parse_script(f'[[fault]]\nkind = "{kind}"\n').fault
    assert fault == Fault(kind=kind)
    assert {name: getattr(fault, name) for name in FAULTS[kind]} == FAULTS[kind]
    assert kind in HELP


def test_the_example_in_the_help_is_a_good_script() -> None:
    example = re.split(r"example script:\n|\nkinds of faults", HELP)[1]
    script = parse_script("\n".join(line.removeprefix("    ") for line in example.splitlines()))
    assert script.seed == 7
    assert script.webhooks["acme--crm"].callback.headers == {"x-token": "{{callback_token}}"}
    assert script.webhooks["acme--crm"].callback.retries == 2
    assert script.fault[0].status == 502
