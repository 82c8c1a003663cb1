"""What a process writes to stderr: one event a line, and of an exception where and what kind, never its data."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys

import pytest
from aiokafka.errors import ProducerFenced, UnknownMemberIdError

from stream_app.ops import logs as log

EMAIL = "ada@example.com"


@pytest.fixture(params=["json", "console"])
def form(request: pytest.FixtureRequest) -> log.Format:
    chosen: log.Format = request.param
    return chosen


def written(form: log.Format, event: str) -> str:
    """What a process of its own writes when `event` happens: logging is the process's."""
    run = [sys.executable, "-c", f"from tests.unit.ops import test_log; test_log.{event}({form!r})"]
    return subprocess.run(run, capture_output=True, text=True, timeout=30, check=False).stderr


def bug(email: str = EMAIL) -> None:
    """An exception whose frames, message, cause, note and group all hold an address."""
    lead = {"email": email}
    try:
        lead[f"no field of {email}"]
    except KeyError as cause:
        error = ExceptionGroup(f"of {email}", [ValueError(f"not a lead: {lead}")])
        error.add_note(f"while {email} was sent")
        raise error from cause


def by_structlog(form: log.Format) -> None:
    log.configure(form)
    try:
        bug()
    except ExceptionGroup:
        log.get("worker").error("trouble", lead_id="l1", exc_info=True)


def by_the_standard_library(form: log.Format) -> None:
    log.configure(form)
    try:
        bug()
    except ExceptionGroup:
        logging.getLogger("stream_app.somewhere").exception("trouble")


def by_a_task_without_an_awaiter(form: log.Format) -> None:
    log.configure(form)

    async def main() -> None:
        async def die() -> None:
            bug()

        asyncio.ensure_future(die())  # noqa: RUF006 - the point
        await asyncio.sleep(0)

    asyncio.run(main())


def by_the_end_of_the_process(form: log.Format) -> None:
    log.configure(form)
    bug()


@pytest.mark.parametrize(
    "event",
    ["by_structlog", "by_the_standard_library", "by_a_task_without_an_awaiter", "by_the_end_of_the_process"],
)
def test_an_exception_is_logged_with_its_place_and_type_and_without_its_data(form: log.Format, event: str) -> None:
    said = written(form, event)
    assert "example.com" not in said
    for reported in ("ExceptionGroup", "KeyError", "ValueError", "test_log.py", "in bug"):
        assert reported in said, said
    if form == "json":
        [line] = said.splitlines()
        assert json.loads(line)["level"] in ("error", "critical")


def test_all_fields_of_our_own_log_lines_are_kept() -> None:
    said = written("json", "two_lines")
    one, two = (json.loads(line) for line in said.splitlines())
    assert (one["event"], one["process"], one["lead_id"]) == ("sent", "worker", "crm-17")
    assert two["event"] == "no Kafka at 127.0.0.1:9092 yet"


def two_lines(form: log.Format) -> None:
    log.configure(form)
    log.get("worker").info("sent", lead_id="crm-17")
    logging.getLogger("stream_app.faust_app.run").warning("no Kafka at %s yet", "127.0.0.1:9092")


def test_sessions_that_aiokafka_leaves_open_are_not_logged() -> None:
    said = [json.loads(line) for line in written("json", "of_asyncio").splitlines()]
    assert [line["event"] for line in said] == ["Unclosed client session", "Task exception was never retrieved"]
    assert "ValueError: ours" in said[1]["exception"]


def of_asyncio(form: log.Format) -> None:
    log.configure(form)
    for what in ("Unclosed AIOKafkaConnection\nconn: <AIOKafkaConnection host=here port=1>", "Unclosed client session"):
        logging.getLogger("asyncio").error(what)
    for error in (UnknownMemberIdError("of a commit that was cancelled"), ValueError("ours")):
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
    of_a_batch = ProducerFenced("of a batch that failed with its producer")
    logging.getLogger("asyncio").error("Future exception was never retrieved", exc_info=of_a_batch)


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
