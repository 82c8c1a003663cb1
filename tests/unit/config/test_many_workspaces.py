"""A configuration with many workspaces: what it inherits is shared, and three that are wrong are named."""

from pathlib import Path

from benchmarks.whole_worker import configuration, environment
from stream_app.config import load_settings
from tests.unit.config.files import problems

MANY = 1_000


def test_policies_that_no_table_changes_are_one_object_for_all(tmp_path: Path) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text(configuration(MANY))
    settings = load_settings(path, environment(MANY))
    assert len(settings.workspaces) == len(settings.destinations) == MANY
    assert len({id(here.breaker) for here in settings.workspaces.values()}) == 1
    assert len({id(here.budget) for here in settings.workspaces.values()}) == MANY
    assert {here.default_destination for here in settings.workspaces.values()} == settings.destinations.keys()


def test_three_wrong_ones_among_many_are_named(tmp_path: Path) -> None:
    text = configuration(MANY).replace("credits_per_day = 1042", "credits_per_day = -1")
    text = text.replace('workspace = "w00077"', 'workspace = "w7"') + "[workspaces.w00099.rate]\nburst = 0\n"
    found = problems(tmp_path, text, environment(MANY))
    assert [line.partition(" ")[0] for line in found] == [
        "workspaces.w00042.budget.credits_per_day",
        "workspaces.w00099.rate.burst",
        "destinations.d00077.workspace",
        "workspaces.w00077:",
    ]


def test_near_names_are_looked_for_a_few_times_only(tmp_path: Path) -> None:
    """Each look compares a name with all others."""
    text = configuration(MANY).replace('workspace = "w', 'workspace = "W')
    found = problems(tmp_path, text, environment(MANY))
    assert len(found) == 2 * MANY - sum("did you mean" in line for line in found)
    assert 0 < sum("did you mean" in line for line in found) <= 10
