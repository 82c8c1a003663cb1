"""Fixes of the way of a record from a fetch to its stream, on which nothing else makes it wait."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from stream_app.kafka.consumer import Consumer as KafkaConsumer


class FairFetch(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """Fix: partitions take turns, because one moves behind the others after each poll.

    Upstream: all records of one partition's fetch, up to 1 MB, are delivered before the first record of the next
    partition.

    Report: docs/reference/upstream/one-partition-first.md.

    Tests: tests/integration/test_faust_app.py (test_a_blocked_handler_delays_no_other_partition_or_topic).

    Remove it when aiokafka returns records of all fetched partitions in turn.
    """

    async def _fetch_records(self, consumer: KafkaConsumer, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        waiting = consumer._fetcher._records
        for tp in records:
            if tp in waiting:
                waiting.move_to_end(tp)
        return records


class DirectHandover(Consumer):  # type: ignore[misc]  # faust ships no types
    """Fix: the handover of a record to its stream runs until it must wait, and creates tasks only then.

    Upstream: `Consumer.wait_first` creates four tasks for each record. They cost more than the record itself.

    Report: docs/reference/upstream/four-tasks-a-record.md.

    Tests: benchmarks/line.py measures the CPU a lead; `mode.services.Service.wait_first` is pinned in
    tests/unit/kafka/test_faust_pins.py.

    Remove it when upstream hands over without a task a record.
    """

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:  # noqa: ASYNC109  # upstream's signature
        if timeout is not None or len(coros) != 2:
            return await super().wait_first(*coros, timeout=timeout)
        handing_over, suspended = coros
        try:
            waits_for = handing_over.send(None)
        except StopIteration:
            suspended.close()
            return None
        return await super().wait_first(_rest_of(handing_over, waits_for), suspended)


async def _rest_of(started: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """Run a started coroutine to its end. `waits_for` is what its last `send` returned."""
    return await _go_on(started, waits_for)


@types.coroutine
def _go_on(started: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    try:
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001  # the coroutine handles it, whatever it is
                waits_for = started.throw(error)
            else:
                waits_for = started.send(value)
    except StopIteration as done:
        return done.value
