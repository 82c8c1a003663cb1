"""Kafka's own tools, from the Kafka that pip installs."""

import os
from zipfile import ZipFile

import pytest

from stream_app.dev.kafka_tools import TOOLS, TOOLS_JARS, class_path, main


def test_an_unknown_tool_is_refused_with_a_list_of_the_tools(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == main(["kafka-nothing"]) == 2
    assert "kafka-consumer-groups" in capfd.readouterr().err


def test_the_class_of_each_tool_is_in_kafkas_jars() -> None:
    names: set[str] = set()
    for jar in class_path(TOOLS_JARS, lambda _: None).split(os.pathsep):
        with ZipFile(jar) as archive:
            names.update(archive.namelist())
    assert {f"{name.replace('.', '/')}.class" for name in TOOLS.values()} <= names


def test_everything_can_be_fetched_before_it_is_needed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch"]) == 0
    says = capfd.readouterr().err
    assert f"{len(class_path(TOOLS_JARS, lambda _: None).split(os.pathsep))} jars" in says
    assert main(["fetch", "kafka-topics"]) == 2
