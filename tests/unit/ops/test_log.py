"""What a process writes to stderr: one event a line, never data, and one line when it ends without
Kafka.
"""

import json
import logging
import ssl
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, TopicAuthorizationFailedError

from stream_app.cli.processes import run_process
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.ops import logs as log
from stream_app.ops.logs import _LEVELS
from stream_app.tasks import is_not_abandoned
from tests.support.pace import BUSY


@pytest.fixture(params=["json", "console"])
def form(request: pytest.FixtureRequest) -> log.LogFormat:
    chosen: log.LogFormat = request.param
    return chosen


def written(form: log.LogFormat, event: str) -> str:
    """What a process of its own writes when `event` happens: logging is the process's."""
    run = [
        sys.executable,
        "-c",
        f"from tests.unit.ops import log_lines; log_lines.{event}({form!r})",
    ]
    return subprocess.run(
        run,
        capture_output=True,
        text=True,
        timeout=30 * BUSY,
        check=False,
    ).stderr


@pytest.mark.parametrize(
    "event",
    [
        "by_structlog",
        "by_the_standard_library",
        "by_a_task_without_an_awaiter",
        "by_the_end_of_the_process",
    ],
)
def test_an_exception_is_logged_with_its_place_and_type_and_without_its_data(
    form: log.LogFormat,
    event: str,
) -> None:
    text = written(form, event)
    assert "example.com" not in text
    for reported in ("ExceptionGroup", "KeyError", "ValueError", "log_lines.py", "in bug"):
        assert reported in text, text
    if form == "json":
        [line] = text.splitlines()
        assert json.loads(line)["level"] in ("error", "critical")


def test_all_fields_of_our_own_log_lines_are_kept() -> None:
    text = written("json", "two_lines")
    one, two = (json.loads(line) for line in text.splitlines())
    assert one["event"] == "sent"
    assert one["process"] == "worker"
    assert one["lead_id"] == "crm-17"
    assert two["event"] == "no Kafka at 127.0.0.1:9092 yet"


def test_a_process_that_ends_says_why_once(form: log.LogFormat) -> None:
    assert written(form, "by_a_crash_of_the_app").splitlines() == ["leads: the topic was deleted"]


def test_sessions_that_aiokafka_leaves_open_are_not_logged() -> None:
    lines = [json.loads(line) for line in written("json", "of_asyncio").splitlines()]
    assert [line["event"] for line in lines] == [
        "Unclosed client session",
        "Task exception was never retrieved",
    ]
    assert "ValueError: ours" in lines[1]["exception"]


def test_a_problem_with_a_changing_number_is_one_problem_and_keeps_its_fields() -> None:
    reported: list[tuple[str, object]] = []
    times_s = iter([0.0, 1.0, 2.0, 61.0])
    say = log.Throttled(
        lambda text, partition: reported.append((text, partition)),
        lambda: next(times_s),
    )
    for number, side in enumerate(("ahead", "ahead", "behind", "behind")):
        say(f"{number} s {side}", same=side, partition=number)
    assert reported == [("0 s ahead", 0), ("2 s behind", 2)]


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


NEVER = "Future exception was never retrieved"
TASK = (
    "Task exception was never retrieved\nfuture: <Task finished name='Task-7' coro=<{}> "
    "exception=KafkaError('x')>"
)
OF_AIOKAFKA = TASK.format(
    "AIOKafkaClient.ready() done, defined at /site-packages/aiokafka/client.py:9",
)
OURS = TASK.format("follow() done, defined at /app/stream_app/kafka/topics.py:9")


def report(text: str, error: Exception | None = None) -> logging.LogRecord:
    raised = None if error is None else (type(error), error, None)
    return logging.LogRecord("asyncio", logging.ERROR, __file__, 1, text, None, raised)


def after_close(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("text", "error", "kept"),
    [
        (NEVER, KafkaConnectionError("gone"), False),
        (NEVER, after_close("APPLICATION_DATA_AFTER_CLOSE_NOTIFY"), False),
        (OF_AIOKAFKA, KafkaConnectionError("gone"), False),
        ("Unclosed AIOKafkaConnection", None, False),
        (OURS, KafkaConnectionError("a task of ours has died of it"), True),
        (NEVER, after_close("CERTIFICATE_VERIFY_FAILED"), True),
        (NEVER, ValueError("a bug"), True),
        ("Task was destroyed but it is pending!", None, True),
    ],
)
def test_which_reports_are_dropped(text: str, error: Exception | None, kept: bool) -> None:
    assert is_not_abandoned(report(text, error)) is kept


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """`run_process` configures logging for its process: restore what later tests expect."""
    structlog_config = structlog.get_config()
    handlers = logging.root.handlers[:]
    level = logging.root.level
    hook = sys.excepthook
    levels = {name: logging.getLogger(name).level for name in _LEVELS}
    yield
    structlog.configure(**structlog_config)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    sys.excepthook = hook
    for name, one in levels.items():
        logging.getLogger(name).setLevel(one)


async def fails(error: Exception) -> None:
    raise error


def test_a_request_that_no_broker_answered_ends_the_process_with_one_line() -> None:
    with pytest.raises(
        BrokerUnavailable,
        match=r"^Kafka has stopped .*broker 2 takes no connection\)\. Is it",
    ):
        run_process("json", fails(NodeNotReadyError("broker 2 takes no connection")))


def test_an_error_that_a_retry_cannot_help_is_raised_unchanged() -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        run_process("json", fails(TopicAuthorizationFailedError("leads")))
