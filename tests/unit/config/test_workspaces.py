"""The policies of workspaces, and which of them count."""

import math
from pathlib import Path

import pytest

from benchmarks.whole_worker import configuration, environment
from stream_app.config import rules
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.plan import Workspace
from tests.unit.config.files import CAP, PEOPLE, SECRETS, URL, load, problems


def test_a_hot_share_that_leaves_bulk_just_one_lead_is_accepted(tmp_path: Path) -> None:
    rules = "[workspaces.acme]\nbudget = { credits_per_day = 200, hot_share = 0.9 }\n"
    people = PEOPLE.replace("[workspaces.acme]\n", "")
    assert load(tmp_path, rules + people).workspaces["acme"].budget.hot_share == 0.9


@pytest.mark.parametrize(
    ("lane", "line"),
    [
        (
            'time_zone = "Europe/Atlantis"',
            ".time_zone = 'Europe/Atlantis': no such time zone; use a name like",
        ),
        (
            "budget.credits_per_day = -1",
            ".budget.credits_per_day = -1: must be from 0 to 1000000000000",
        ),
        (
            "budget.credits_per_day = 19",
            ".budget.credits_per_day = 19: below destinations.people.ceiling_credits = 20",
        ),
        (
            "budget.actions_per_month = 4",
            ".budget.actions_per_month = 4: below destinations.people.ceiling_actions",
        ),
        (
            "budget = { credits_per_day = 9000, credits_per_month = 8000 }",
            "must not be above credits_per_month = 8000",
        ),
        (
            "budget = { credits_per_day = 30, hot_share = 0.5 }",
            ".budget.hot_share = 0.5: leaves bulk 15 of",
        ),
        (
            "budget = { unlimited = true, hot_share = 0.5 }",
            ".budget.hot_share = 0.5: is a share of a cap, and no cap",
        ),
        (
            "budget = { unlimited = true, credits_per_day = 500 }",
            ".budget.unlimited = true: contradicts credits_per_day = 500; remove one of the two",
        ),
        (
            "budget = { credits_per_day = 100, hot_share = 1.5 }",
            ".budget.hot_share = 1.5: must be from 0 to 0.9",
        ),
        (
            "budget.soft_limits = [80, 50]",
            ".budget.soft_limits = [80, 50]: must be percents from 1 to 99",
        ),
        (
            "budget.soft_limits = [0, 150]",
            ".budget.soft_limits = [0, 150]: must be percents from 1 to 99",
        ),
        ("budget.billing_day = 0", ".budget.billing_day = 0: must be from 1 to 31"),
        (
            "budget.opening_credits = 5",
            ".budget.opening_month = '': the month of the opening balance",
        ),
        ('budget.tz = "Europe/Berlin"', ".budget.tz: the workspace's time_zone sets it; remove it"),
        ("rate.rate_per_s = nan", ".rate.rate_per_s = nan: must be from 0.01 to 1000"),
        ("rate.retry_after_max_s = 0.5", ".rate.retry_after_max_s = 0.5: must be from"),
        ("breaker.min_calls = 0", ".breaker.min_calls = 0: must be from 1 to"),
        (
            "breaker = { open_s = 60, open_cap_s = 30 }",
            ".breaker.open_s = 60.0: must not be above open_cap_s = 30.0",
        ),
        (
            "breaker.probe_lease_s = 40",
            ".breaker.probe_lease_s: must be above delivery.max_request_start_age_s",
        ),
        ('breaker.mode = "open"', ".breaker.mode: Invalid enum value 'open'"),
        (
            "suspension.probe_lease_s = 40",
            ".suspension.probe_lease_s: must be above delivery.max_request_start_age_s",
        ),
        (
            "quota = { warn_at = 46000 }",
            (
                ".quota.warn_at = 46000: must not be above rotate_at, which is 45000 for "
                "destinations.people"
            ),
        ),
        (
            "quota = { rotate_at = 60000 }",
            (
                ".quota.rotate_at = 60000: must not be above the lifetime of the webhooks of "
                "destinations.people (quota_lifetime = 50000)"
            ),
        ),
        ("max_in_flight = 7", ".max_in_flight: delivery.max_in_flight sets it; remove it"),
        ("flood_guard.share = 0", ".flood_guard.share = 0.0: must be from 0.01 to 1"),
        ("callback_health.overdue = 0", ".callback_health.overdue = 0: must be from 1 to 10000"),
    ],
)
def test_a_contradiction_in_a_lane_is_one_line(tmp_path: Path, lane: str, line: str) -> None:
    people = PEOPLE.replace(CAP, "") if "unlimited" in lane else PEOPLE
    lines = problems(tmp_path, people.replace("[workspaces.acme]", f"[workspaces.acme]\n{lane}"))
    assert len(lines) == 1
    assert lines[0].startswith("workspaces.acme")
    assert line in lines[0]


def test_what_clay_agreed_to_can_be_configured(tmp_path: Path) -> None:
    """Its support raises the rate, and a table with auto-delete has no end."""
    agreed = PEOPLE.replace(
        "[workspaces.acme]",
        """[workspaces.acme]
rate = { rate_per_s = 25, burst = 60 }
quota = { warn_at = 150000, rotate_at = 190000 }""",
    ).replace("[destinations.people]", "[destinations.people]\nquota_lifetime = 200000")
    settings = load(tmp_path, agreed)
    policy = settings.workspaces["acme"]
    assert policy.rate.rate_per_s == 25
    assert policy.rate.burst == 60
    assert policy.limits(settings.destinations["people"]) == (150_000, 190_000)
    endless = agreed.replace("quota_lifetime = 200000", "quota_lifetime = 0")
    settings = load(tmp_path, endless)
    limits = settings.workspaces["acme"].limits(settings.destinations["people"])
    assert limits == (math.inf, math.inf)


def test_each_workspace_has_a_table_and_each_table_a_destination(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, PEOPLE.replace("[workspaces.acme]", ""))
    assert line == (
        "destinations.people.workspace = acme: there is no [workspaces.acme]; add it, with a budget"
    )
    more = (
        '[workspaces.beta]\n[destinations.more]\nworkspace = "bta"\nwebhooks_env = ["B"]\n'
        "callbacks = false\n"
    )
    (line,) = problems(tmp_path, PEOPLE + more, {**SECRETS, "B": URL + "2"})
    assert (
        line
        == "destinations.more.workspace = bta: there is no [workspaces.bta]; did you mean beta?"
    )
    (line,) = problems(tmp_path, PEOPLE + "[workspaces.acm.budget]\ncredits_per_day = 100")
    assert line.startswith(
        "workspaces.acm: no destination names this workspace, so the table has no effect; did you",
    )
    (line,) = problems(tmp_path, PEOPLE + "[workspaces.other]")
    assert line.endswith("; remove it, or add its destination")


def test_all_workspaces_have_the_defaults_key_by_key(tmp_path: Path) -> None:
    defaults = """
        [workspace_defaults]
        hold = "degrade"
        time_zone = "Europe/Berlin"
        budget = { credits_per_day = 500, soft_limits = [90] }
        rate.burst = 5
        [workspaces.beta]
        time_zone = "America/New_York"
        budget.credits_per_day = 40
        [destinations.more]
        workspace = "beta"
        webhooks_env = ["B"]
        callbacks = false
    """
    settings = load(tmp_path, PEOPLE.replace(CAP, "") + defaults, needs=())
    acme = settings.workspaces["acme"]
    beta = settings.workspaces["beta"]
    assert acme.hold == "degrade"
    assert acme.rate.burst == 5
    assert acme.rate.rate_per_s == Workspace("").rate.rate_per_s
    assert acme.budget.credits_per_day == 500
    assert acme.budget.soft_limits == (90,)
    assert acme.budget.tz == "Europe/Berlin"
    assert beta.hold == "degrade"
    assert beta.rate.burst == 5
    assert beta.budget.credits_per_day == 40
    assert beta.budget.soft_limits == (90,)
    assert beta.budget.tz == "America/New_York"


def test_a_mistake_in_the_defaults_is_reported_once(tmp_path: Path) -> None:
    more = (
        '[workspaces.beta]\n[destinations.more]\nworkspace = "beta"\nwebhooks_env = ["B"]\n'
        "callbacks = false\n"
    )
    wrong = """
        [workspace_defaults]
        budget.credits_per_month = 100000
        rate.rate_per_s = 0
        bugdet = {}
        hold = "stop"
        partition = 3
    """
    lines = problems(tmp_path, wrong + PEOPLE.replace(CAP, "") + more, {**SECRETS, "B": URL + "2"})
    assert [line.partition(" ")[0].rstrip(":") for line in lines] == [
        "workspace_defaults.bugdet",
        "workspace_defaults.partition",
        "workspace_defaults.hold",
        "workspace_defaults.rate.rate_per_s",
    ]
    assert "did you mean budget?" in lines[0]


MANY = 1_000


def test_policies_that_no_table_changes_are_one_object_for_all(tmp_path: Path) -> None:
    settings = load(tmp_path, configuration(MANY), environment(MANY))
    assert len(settings.workspaces) == len(settings.destinations) == MANY
    assert len({id(workspace.breaker) for workspace in settings.workspaces.values()}) == 1
    assert len({id(workspace.budget) for workspace in settings.workspaces.values()}) == MANY
    assert {
        workspace.default_destination for workspace in settings.workspaces.values()
    } == settings.destinations.keys()


def test_near_names_are_looked_for_a_few_times_only(tmp_path: Path) -> None:
    """Each look compares a name with all others."""
    text = configuration(MANY).replace('workspace = "w', 'workspace = "W')
    lines = problems(tmp_path, text, environment(MANY))
    assert len(lines) == 2 * MANY - sum("did you mean" in line for line in lines)
    assert 0 < sum("did you mean" in line for line in lines) <= 10


def uncapped(tmp_path: Path, budget: str, destination: str = "") -> list[str]:
    """What a worker is told about a workspace with this budget, and nothing in the defaults."""
    text = PEOPLE.replace(CAP, "").replace(
        "[workspaces.acme]",
        f"[workspaces.acme]\nbudget = {{ {budget} }}",
    )
    settings = load(tmp_path, text + destination, needs=())
    lines = [f"{tmp_path / 'stream_app.toml'}: {line}" for line in rules.uncapped(settings)]
    if not lines:
        load(tmp_path, text + destination)
        return []
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, text + destination)
    assert refused.value.problems == lines
    return lines


@pytest.mark.parametrize(
    ("budget", "destination"),
    [
        ("credits_per_day = 500", ""),
        ("credits_per_month = 500", ""),
        ("unlimited = true", ""),
        ("unlimited = true, credits_per_day = 500, shadow = true", ""),
        ("actions_per_day = 500", "estimate_credits = 0\nceiling_credits = 0"),
    ],
)
def test_a_worker_takes_a_workspace_that_somebody_limited_or_calls_unlimited(
    tmp_path: Path,
    budget: str,
    destination: str,
) -> None:
    assert uncapped(tmp_path, budget, destination) == []


@pytest.mark.parametrize(
    "budget",
    ["", "actions_per_day = 500", "credits_per_day = 500, shadow = true"],
)
def test_a_worker_refuses_a_workspace_whose_credits_nobody_limited(
    tmp_path: Path,
    budget: str,
) -> None:
    (line,) = uncapped(tmp_path, budget)
    assert "workspaces.acme.budget: " in line
    assert "set credits_per_day or credits_per_month, or unlimited = true" in line
    assert ("shadow = true only counts" in line) is ("shadow" in budget)


def test_the_defaults_cannot_call_every_workspace_unlimited(tmp_path: Path) -> None:
    defaults = "[workspace_defaults.budget]\nunlimited = true\n"
    (line,) = problems(tmp_path, PEOPLE.replace(CAP, defaults))
    assert line.startswith(
        "workspace_defaults.budget.unlimited: would let a new workspace spend without a limit",
    )
