"""Topics for both apps, and a garbage collection after each test."""

import gc
from collections.abc import Iterator

import pytest

from stream_app.dev.kafka import Broker
from tests.support.kafka import create_topics


@pytest.fixture
async def topics(kafka: Broker, namespace: str) -> None:
    """Create stock Faust's changelog, too: one that it makes itself is not always there at its
    first assignment.
    """
    names = ("leads", "state", "stock-counts-changelog")
    await create_topics(kafka.bootstrap, *(namespace + name for name in names))


@pytest.fixture(autouse=True)
def collect_garbage() -> Iterator[None]:
    """A failed task that is first collected, and so reported, while pytest parses sources for its
    summary crashes pytest on CPython 3.11 ("AST constructor recursion depth mismatch").
    """
    yield
    gc.collect()
