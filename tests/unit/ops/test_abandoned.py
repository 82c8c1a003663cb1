"""Only reports about what aiokafka abandons are dropped."""

import logging
import ssl

import pytest
from aiokafka.errors import KafkaConnectionError

from stream_app.tasks import is_not_abandoned

NEVER = "Future exception was never retrieved"
TASK = "Task exception was never retrieved\nfuture: <Task finished name='Task-7' coro=<{}> exception=KafkaError('x')>"
OF_AIOKAFKA = TASK.format("AIOKafkaClient.ready() done, defined at /site-packages/aiokafka/client.py:9")
OURS = TASK.format("follow() done, defined at /app/stream_app/kafka/topic_watch.py:9")


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
