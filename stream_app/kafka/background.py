"""Asks Kafka something again and again, but not for each request that wants to know it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import Final, Generic, TypeVar

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused
from stream_app.tasks import cancel

T = TypeVar("T")

ANSWER_WITHIN_S: Final = 5.0
"""How long Kafka has to answer."""


class Background(ABC, Generic[T]):
    """Keeps the last answer of Kafka, and asks only when someone wants to know it and the answer is old.

    Args:
        fresh_s: How long an answer is kept, in seconds. That Kafka did not answer is kept as long.
    """

    def __init__(self, fresh_s: float) -> None:
        self._fresh_s = fresh_s
        self._asking: asyncio.Task[None] | None = None
        self._known: T | None = None
        self._known_s = -fresh_s
        self.is_first = True
        """Kafka was not asked yet, or the first question is still open."""

    @abstractmethod
    async def _ask(self) -> T:
        """Ask Kafka. May raise BrokerUnavailable and KafkaRefused."""

    async def look(self, within_s: float) -> T | None:
        """Return what is known; None if Kafka does not answer. After `within_s` that is its last answer."""
        if self._asking is None and time.monotonic() - self._known_s >= self._fresh_s:
            self._asking = asyncio.create_task(self._refresh())
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=within_s)
        return self._known

    async def close(self) -> None:
        """End an open question to Kafka."""
        if self._asking is not None:
            await cancel([self._asking])

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                self._known = await self._ask()
        except (BrokerUnavailable, KafkaRefused, TimeoutError):
            self._known = None
        finally:
            self._known_s, self._asking, self.is_first = time.monotonic(), None, False
