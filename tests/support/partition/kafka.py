"""Fakes of the way from a partition to Kafka, and of what is there."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import ConsumedRecord
from tests.simulation.client import MemoryStateStore, NoAnswer

T = TypeVar("T")


class Losing:
    """A link that loses these transactions, counted from 0, before they reach the broker (or only
    their answers).
    """

    def __init__(self, lost: Collection[int], answers_only: bool = False) -> None:
        self._lost = lost
        self._answers_only = answers_only
        self._commits = -1

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        self._commits += what == "commit"
        if what != "commit" or self._commits not in self._lost:
            return request()
        if self._answers_only:
            request()
        raise NoAnswer(what)


class SlowCommits:
    """A link to Kafka whose commits take this long, from `begins_s` on."""

    def __init__(self, takes_s: float, begins_s: float = 0.0) -> None:
        self._takes_s = takes_s
        self._begins_s = begins_s

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        is_slow = what == "commit" and asyncio.get_running_loop().time() >= self._begins_s
        await asyncio.sleep(self._takes_s if is_slow else 0.001)
        return request()


class AwayStateStore(MemoryStateStore):
    """Cannot read single records again so many times (`away`), and then it can."""

    away = 0

    async def fetch(self, places: Sequence[str]) -> dict[str, ConsumedRecord]:
        if places and self.away:
            self.away -= 1
            raise BrokerUnavailable("away")
        return await super().fetch(places)
