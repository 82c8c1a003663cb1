"""The books of a system, running or stopped: what `stream-app books` prints, as a Python function."""

from __future__ import annotations

from collections.abc import Callable

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.books.histories import Books, Report, Terms
from stream_app.kafka.books_reader import BooksReader
from stream_app.kafka.readers import Progress
from stream_app.ops.clock import SystemClock

_DAY_MS = 86_400_000


async def read_books(settings: Settings, *, limit: int, progress: Progress, say: Callable[[str], None]) -> Report:
    """Read all topics and close the books.

    Args:
        settings: The configuration.
        limit: Name at most so many problems; all are counted.
        progress: Called often with offsets read and offsets in all.
        say: Called with a line while waiting for Kafka.

    Raises:
        TopicsError, KafkaRefused, BrokerUnavailable: Kafka is not ready.
    """
    await kafka_ready(settings, "books", say)
    reader = BooksReader(
        connection_of(settings), settings.names, settings.kafka.partitions, settings.replay.tiers_s, progress
    )
    return await reader.read(Books(terms_of(settings), limit=limit), SystemClock().now_ms)


def terms_of(settings: Settings) -> Terms:
    """Return the part of the configuration that the books need. It holds no webhook or token."""
    return Terms(
        workspaces={name: here.budget for name, here in settings.workspaces.items()},
        destinations=settings.destinations,
        freshness_ms=settings.delivery.freshness_days * _DAY_MS,
        topics=settings.names,
    )
