"""Nothing is left over: each setting, topic, field of a message and value of the chart is used by
something.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest
import yaml

from stream_app.config import Settings
from stream_app.config.gone import GONE
from stream_app.config.load import keys_of
from stream_app.dev.schemas import MESSAGES
from stream_app.domain.model.topics import Retention, TopicNames, plan
from stream_app.kafka.rights import rights_of
from tests.unit.deploy.pods import leaves

ROOT = Path(__file__).parents[2]
CODE = ROOT / "stream_app"
DEFINITIONS = {"config/model.py", "config/gone.py"}


@cache
def names_used() -> frozenset[str]:
    """Every attribute that the code reads, and every keyword and text that it passes, outside the
    definitions.
    """
    used: set[str] = set()
    for path in CODE.rglob("*.py"):
        if str(path.relative_to(CODE)) in DEFINITIONS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.keyword) and node.arg:
                used.add(node.arg)
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value.isidentifier()
            ):
                used.add(node.value)
    for template in CODE.rglob("*.html"):
        used |= set(re.findall(r"\.(\w+)", template.read_text(encoding="utf-8")))
    return frozenset(used)


def keys(kind: type[msgspec.Struct], place: str = "") -> Iterator[tuple[str, str]]:
    """Each key of the configuration: its name, and its place."""
    for key, hint in keys_of(kind).items():
        inner = [part for part in (hint, *getattr(hint, "__args__", ())) if isinstance(part, type)]
        tables = [part for part in inner if issubclass(part, msgspec.Struct)]
        for table in tables:
            yield from keys(table, f"{place}{key}.")
        if not tables:
            yield key, f"{place}{key}"


def test_each_setting_is_read_by_the_code() -> None:
    model = (CODE / "config" / "model.py").read_text(encoding="utf-8")
    read = names_used() | set(re.findall(r"self\.\w+\.(\w+)", model))
    assert not [place for key, place in keys(Settings) if not {key, f"{key}_"} & read]


def test_no_setting_that_is_gone_exists() -> None:
    places = {
        place.replace("destinations.", "destinations.*.").replace("workspaces.", "workspaces.*.")
        for _, place in keys(Settings)
    }
    assert not [
        place
        for place in GONE
        if place in places or any(key.startswith(f"{place}.") for key in places)
    ]


def test_each_topic_is_written_and_read_by_something() -> None:
    names = TopicNames()
    tiers_s = (2, 10)
    rights = rights_of(names, tiers_s).values()
    written = frozenset().union(*(program.write for program in rights))
    read = frozenset().union(*(program.read for program in rights))
    by_users = {names.leads, names.bulk}  # producers write them; `publish` is one
    for topic in plan(names, 4, 1, Retention(), tiers_s):
        assert topic.name in written | by_users, topic.name
        assert topic.name in read, topic.name


def test_each_right_is_on_a_topic_that_exists() -> None:
    names = TopicNames()
    tiers_s = (2, 10)
    topics = {topic.name for topic in plan(names, 4, 1, Retention(), tiers_s)}
    for process, rights in rights_of(names, tiers_s).items():
        assert rights.topics | rights.create <= topics, process


def test_each_program_that_asks_for_its_rights_has_some() -> None:
    asked: set[str] = set()
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and len(node.args) > 1
            ):
                program = node.args[1]
                if node.func.id in ("on_kafka", "kafka_ready", "check_kafka") and isinstance(
                    program,
                    ast.Constant,
                ):
                    asked.add(str(program.value))
    assert asked
    assert asked <= rights_of(TopicNames(), (2, 10)).keys()


@pytest.mark.parametrize("message", MESSAGES)
def test_each_field_of_a_message_is_used(message: str) -> None:
    assert not [field for field in MESSAGES[message].__struct_fields__ if field not in names_used()]


# ----------------------------------------------------------------------------------- the Helm chart


def test_each_value_of_the_chart_is_read_by_a_template() -> None:
    """The processes share the template of their pod; tests/unit/deploy looks at what it renders."""
    chart = ROOT / "deploy" / "chart"
    read = {
        name
        for path in (chart / "templates").rglob("*.*")
        for name in re.findall(r"\.(\w+)", path.read_text())
    }
    values = leaves(yaml.safe_load((chart / "values.yaml").read_text()))
    places = {re.sub(r"\.(requests|limits)$", "", place) for place in values}
    assert not [place for place in places if not read.issuperset(place.split("."))]
