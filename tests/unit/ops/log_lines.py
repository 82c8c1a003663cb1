"""What a process of `test_log` logs. It starts quickly: this file imports no pytest."""

import asyncio
import logging
import sys

from stream_app.ops import logs as log

EMAIL = "ada@example.com"


def bug(email: str = EMAIL) -> None:
    """An exception whose frames, message, cause, note and group all hold an address."""
    lead = {"email": email}
    try:
        lead[f"no field of {email}"]
    except KeyError as cause:
        error = ExceptionGroup(f"of {email}", [ValueError(f"not a lead: {lead}")])
        error.add_note(f"while {email} was sent")
        raise error from cause


def by_structlog(form: log.LogFormat) -> None:
    log.configure(form)
    try:
        bug()
    except ExceptionGroup:
        log.get("worker").error("trouble", lead_id="l1", exc_info=True)


def by_the_standard_library(form: log.LogFormat) -> None:
    log.configure(form)
    try:
        bug()
    except ExceptionGroup:
        logging.getLogger("stream_app.somewhere").exception("trouble")


def by_a_task_without_an_awaiter(form: log.LogFormat) -> None:
    log.configure(form)

    async def main() -> None:
        async def die() -> None:
            bug()

        asyncio.ensure_future(die())  # noqa: RUF006 - the point
        await asyncio.sleep(0)

    asyncio.run(main())


def by_the_end_of_the_process(form: log.LogFormat) -> None:
    log.configure(form)
    bug()


def two_lines(form: log.LogFormat) -> None:
    log.configure(form)
    log.get("worker").info("sent", lead_id="crm-17")
    logging.getLogger("stream_app.faust_app.run").warning("no Kafka at %s yet", "127.0.0.1:9092")


def of_asyncio(form: log.LogFormat) -> None:
    from aiokafka.errors import ProducerFenced, UnknownMemberIdError  # slow to import

    log.configure(form)
    for what in (
        "Unclosed AIOKafkaConnection\nconn: <AIOKafkaConnection host=here port=1>",
        "Unclosed client session",
    ):
        logging.getLogger("asyncio").error(what)
    for error in (UnknownMemberIdError("of a commit that was cancelled"), ValueError("ours")):
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
    of_a_batch = ProducerFenced("of a batch that failed with its producer")
    logging.getLogger("asyncio").error("Future exception was never retrieved", exc_info=of_a_batch)


def by_a_crash_of_the_app(form: log.LogFormat) -> None:
    """As `run_app` ends: mode logs the crash with the app's logger, and the error is raised."""
    from mode import Service

    from stream_app.domain.model.errors import TopicsError

    class App(Service):  # type: ignore[misc]  # mode ships no types
        logger = logging.getLogger("stream_app.faust_app.app")

    log.configure(form)
    app = App()
    asyncio.run(app.crash(TopicsError(["leads: the topic was deleted"])))
    assert app.crash_reason is not None
    sys.stderr.write(f"{app.crash_reason}\n")
