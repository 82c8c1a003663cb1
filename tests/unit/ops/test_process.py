"""How a long-running process ends when Kafka does not answer one of its requests: with a line and an exit code."""

import logging
import sys
from collections.abc import Iterator

import pytest
import structlog
from aiokafka.errors import NodeNotReadyError, TopicAuthorizationFailedError

from stream_app.cli.processes import run_process
from stream_app.domain.errors import BrokerUnavailable
from stream_app.ops.logs import _LEVELS


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """`run_process` configures logging for its process: restore what the tests after these expect."""
    structlog_config = structlog.get_config()
    handlers, level, hook = logging.root.handlers[:], logging.root.level, sys.excepthook
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
    with pytest.raises(BrokerUnavailable, match=r"^Kafka has stopped .*broker 2 takes no connection\)\. Is it"):
        run_process("json", fails(NodeNotReadyError("broker 2 takes no connection")))


def test_an_error_that_a_retry_cannot_help_is_raised_unchanged() -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        run_process("json", fails(TopicAuthorizationFailedError("leads")))
