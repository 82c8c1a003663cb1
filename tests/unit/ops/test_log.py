"""What a process writes to stderr: one event a line, and of an exception where and what kind, never its data."""

import json
import subprocess
import sys

import pytest

from stream_app.ops import logs as log
from tests.support.pace import BUSY


@pytest.fixture(params=["json", "console"])
def form(request: pytest.FixtureRequest) -> log.Format:
    chosen: log.Format = request.param
    return chosen


def written(form: log.Format, event: str) -> str:
    """What a process of its own writes when `event` happens: logging is the process's."""
    run = [sys.executable, "-c", f"from tests.unit.ops import log_lines; log_lines.{event}({form!r})"]
    return subprocess.run(run, capture_output=True, text=True, timeout=30 * BUSY, check=False).stderr


@pytest.mark.parametrize(
    "event",
    ["by_structlog", "by_the_standard_library", "by_a_task_without_an_awaiter", "by_the_end_of_the_process"],
)
def test_an_exception_is_logged_with_its_place_and_type_and_without_its_data(form: log.Format, event: str) -> None:
    said = written(form, event)
    assert "example.com" not in said
    for reported in ("ExceptionGroup", "KeyError", "ValueError", "log_lines.py", "in bug"):
        assert reported in said, said
    if form == "json":
        [line] = said.splitlines()
        assert json.loads(line)["level"] in ("error", "critical")


def test_all_fields_of_our_own_log_lines_are_kept() -> None:
    said = written("json", "two_lines")
    one, two = (json.loads(line) for line in said.splitlines())
    assert (one["event"], one["process"], one["lead_id"]) == ("sent", "worker", "crm-17")
    assert two["event"] == "no Kafka at 127.0.0.1:9092 yet"


def test_sessions_that_aiokafka_leaves_open_are_not_logged() -> None:
    said = [json.loads(line) for line in written("json", "of_asyncio").splitlines()]
    assert [line["event"] for line in said] == ["Unclosed client session", "Task exception was never retrieved"]
    assert "ValueError: ours" in said[1]["exception"]


def test_a_repeated_failure_is_logged_once_a_minute() -> None:
    reported: list[str] = []
    times_s = iter([0.0, 1.0, 59.0, 60.0, 61.0, 62.0, 63.0, 64.0])
    say = log.Throttled(reported.append, lambda: next(times_s))
    for _ in range(5):
        say("gone")
    assert reported == ["gone"] * 2
    say("full")
    say("gone")
    assert reported[2:] == ["full", "gone"]
    say.reset()
    say("gone")
    assert reported[4:] == ["gone"]
