"""Group commit: all steps that were submitted during a transaction are committed by the next one.

The first transaction of a partition begins with the row that says what its namespace began with (domain/system.py).
A step is never split over two transactions. The lanes' rows are a snapshot of the moment at which the steps are
collected. If a transaction fails, none of it is committed, and every step in it and behind it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.errors import StateStoreError
from stream_app.domain.record import Record
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer, StateStore

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0


class Committer:
    """The only writer of one partition.

    `spacing_s` is the shortest time from the end of a transaction to the start of the next one. `failed` is called
    after a failed transaction.

    Attributes:
        opening: The record that the partition begins with, until it is committed.
    """

    def __init__(
        self,
        store: StateStore,
        state_topic: str,
        spacing_s: float,
        lanes: Lanes,
        observer: Observer,
        failed: Callable[[StateStoreError], None],
    ) -> None:
        self._store = store
        self._state_topic = state_topic
        self._spacing_s = spacing_s
        self._lanes = lanes
        self._observer = observer
        self._failed = failed
        self._waiting: list[tuple[WriteBatch, asyncio.Future[None]]] = []
        self._submitted = asyncio.Event()
        self.opening: Record | None = None
        self.failures = 0  # since the last transaction that succeeded
        self._batches = 0
        self._busy = False

    def submit(self, step: WriteBatch) -> asyncio.Future[None]:
        """Return a future that is done when the step is committed. Steps are committed in the order of these calls."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, future))
        self._submitted.set()
        return future

    def forget(self) -> None:
        """Drop the steps that were submitted since a failure: their records start again from the rows."""
        self._waiting.clear()
        self._submitted.clear()

    @property
    def under_way(self) -> int | None:
        """None if there is nothing to commit, else the number of transactions so far."""
        return self._batches if self._waiting or self._busy else None

    @property
    def pause_s(self) -> float:
        """How long to wait before a retry: 0 after the first failed transaction, then longer after each."""
        return 0.0 if self.failures < 2 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures - 2, 10))

    async def run(self) -> None:
        """Commit until a transaction fails or the task is cancelled."""
        now = asyncio.get_running_loop().time
        ended = now() - self._spacing_s
        while True:
            await self._submitted.wait()
            # A transaction costs as much as two leads: under load they are spaced, and a lone step does not wait.
            # From the end of the last one: leads that it let go and that are answered meanwhile share the next one.
            await asyncio.sleep(max(0.0, ended + self._spacing_s - now()))
            batch, records = self._take()
            self._busy = True
            began = now()
            try:
                await self._store.transact(records)
            except StateStoreError as error:
                self._busy = False
                self._fail(batch, error)
                self._failed(error)
                return
            ended = now()
            self.failures, self._busy, self.opening = 0, False, None
            self._batches += 1
            self._lanes.committed()
            for _, future in batch:
                if not future.done():
                    future.set_result(None)
            self._observer.committed([step for step, _ in batch], len(records), ended - began)

    def _take(self) -> tuple[list[tuple[WriteBatch, asyncio.Future[None]]], list[Record]]:
        """Collect all waiting steps. A lane's snapshot must not contain a step of a later transaction."""
        batch, self._waiting = self._waiting, []
        self._submitted.clear()
        records = [self.opening] if self.opening is not None else []
        lanes: set[str] = set()
        for step, _ in batch:
            records.extend(Record(self._state_topic, key, value) for key, value in step.rows)
            records.extend(step.records)
            if step.workspace:
                lanes.add(step.workspace)
        records.extend(self._lanes.records(lanes))
        return batch, records

    def _fail(self, batch: list[tuple[WriteBatch, asyncio.Future[None]]], error: StateStoreError) -> None:
        self.failures += 1
        for _, future in [*batch, *self._waiting]:
            if not future.done():
                future.set_exception(error)
                future.exception()  # marks it as retrieved: the task that waits for it may have been cancelled
        self._waiting.clear()
