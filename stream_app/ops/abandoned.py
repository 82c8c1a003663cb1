"""Drops asyncio's reports about objects that aiokafka abandons. Nothing is lost with them."""

from __future__ import annotations

from logging import LogRecord


def is_not_abandoned(record: LogRecord) -> bool:
    """Return False for a report about a connection, commit or future that aiokafka no longer needs.

    These are connections of a cancelled `bootstrap`, commits whose caller was cancelled, internal futures of a failed
    producer, and TLS connections that were closed while the broker still sent. A task of this program that has failed
    is always reported.
    """
    report, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
    of_aiokafka = type(error).__module__ == "aiokafka.errors"
    of_closing = getattr(error, "reason", None) == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
    coroutine = report.partition(" exception=")[0]
    forgotten = "exception was never retrieved" in report and "stream_app" not in coroutine
    return not ((forgotten and (of_aiokafka or of_closing)) or report.startswith("Unclosed AIOKafkaConnection"))
