"""The part of a campaign with three brokers: one at a time is killed, stopped or frozen, and
nothing else is.

    python -m tests.chaos --brokers 3 --seconds 300

Before such a fault everything is well, so a stop of a lane then is the broker's doing, and it is
bounded.
"""

import asyncio
import random
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.groups import look_at
from tests.chaos.schedule import Fault, Kind
from tests.e2e.fleet import Fleet, now_ms
from tests.support.cluster import all_in_sync
from tests.support.local_cluster import LocalCluster

SESSION_S: Final = 15
BOUND_S: Final = SESSION_S + 10.0
"""What any one broker may cost a lane."""

BUDGETED: Final = ("w3", "w5")
"""Alone in its partition, so that its leads wait in Kafka; and beside w1, so that they are
deferred.
"""

MEANING: Final[dict[Kind, str]] = {
    "broker_kill": "kill -9 of one of three brokers",
    "broker_stop": "SIGTERM and restart of one of three brokers",
    "broker_freeze": "SIGSTOP of one of three brokers, and SIGCONT",
}
_LASTS_S: Final = {
    "broker_kill": (1.0, 20.0),
    "broker_stop": (1.0, 20.0),
    "broker_freeze": (2.0, 30.0),
}
_OTHERS: Final[tuple[Kind, ...]] = (
    "kill",
    "kill",
    "term",
    "stop",
    "join",
    "replay",
    "hang",
    "reset",
)
_OTHERS_LAST_S: Final = {
    "stop": (SESSION_S + 1.0, SESSION_S + 6.0),
    "join": (5.0, 10.0),
    "hang": (1.0, 3.0),
    "reset": (1.0, 3.0),
}
_IN_SYNC_S: Final = 90.0
_AFTERWARDS_S: Final = 3.0


class Window(NamedTuple):
    """The time from a broker's fault until all was well again."""

    kind: Kind
    node: int
    begin_ms: int
    end_ms: int


def draw(seed: int) -> Iterator[Fault]:
    """Draw faults without end: each broker fault twice a round, between them those of workers,
    replay and Clay.
    """
    rng = random.Random(seed)
    while True:
        deck = [*MEANING, *MEANING, *_OTHERS]
        rng.shuffle(deck)
        for kind in deck:
            lasts_s = rng.uniform(*(_LASTS_S | _OTHERS_LAST_S).get(kind, (0.0, 0.0)))
            yield Fault(rng.uniform(1, 3), kind, rng.randrange(3), lasts_s, rng.random() < 0.5)


class BrokerFaults:
    """Breaks one broker when `quiet` has returned.

    Returns when all is well again. `windows`: when that was.
    """

    def __init__(
        self,
        line: Fleet,
        cluster: LocalCluster,
        workers: int,
        quiet: Callable[[], Awaitable[None]],
    ) -> None:
        self.windows: list[Window] = []
        self._lanes = [name for name in line.names if name not in BUDGETED]
        self._line = line
        self._cluster = cluster
        self._workers = workers
        self._quiet = quiet

    async def hit(self, fault: Fault) -> None:
        await self._quiet()
        await self._steady()
        await self._line.first_request(self._lanes, now_ms(), SESSION_S + 30)
        broker = self._cluster.brokers[fault.who]
        began_ms = now_ms()
        match fault.kind:
            case "broker_freeze":
                broker.freeze()
                try:
                    await asyncio.sleep(fault.lasts_s)
                finally:
                    broker.thaw()
            case _:
                await asyncio.to_thread(
                    broker.kill if fault.kind == "broker_kill" else broker.terminate,
                )
                await asyncio.sleep(fault.lasts_s)
                await asyncio.to_thread(broker.restart)
        topics = [topic.name for topic in self._line.settings.topic_plan()]
        await all_in_sync(self._cluster.bootstrap, topics, _IN_SYNC_S)
        await asyncio.sleep(_AFTERWARDS_S)
        self.windows.append(Window(fault.kind, fault.who + 1, began_ms, now_ms()))

    async def _steady(self) -> None:
        """Wait until the group has exactly these workers: a killed one stays in it until its
        session ends.
        """
        name = self._line.settings.names.worker_app
        deadline = time.monotonic() + _IN_SYNC_S
        wanted = ConsumerGroup("Stable", self._workers)
        while (
            seen := (await look_at(KafkaConnection(self._line.bootstrap), [name]))[name][0]
        ) != wanted:
            assert time.monotonic() < deadline, f"the group is {seen}, within {_IN_SYNC_S:.0f} s"
            await asyncio.sleep(0.5)


class LaneStop(NamedTuple):
    """How long a lane with waiting leads sent nothing, in one window."""

    seconds: float
    lane: str
    window: Window


async def read_stops(line: Fleet, windows: Iterable[Window]) -> list[LaneStop]:
    """Return the longest stop of each lane in each window; lanes without budget are left out."""
    waits: dict[str, list[tuple[int, int]]] = defaultdict(list)
    never_ms = now_ms()
    for topic in (line.settings.names.leads, line.settings.names.bulk):
        for record in await line.read(topic):
            history = line.histories.get(f"{record.topic}/{record.partition}/{record.offset}")
            waits[_workspace(record)].append(
                (record.timestamp, history[0].at_ms if history else never_ms),
            )
    posts: dict[str, list[int]] = defaultdict(list)
    for request in line.requests():
        posts[request.workspace or ""].append(request.at_ms)
    lanes = [name for name in line.names if name not in BUDGETED]
    return [
        LaneStop(
            longest_stop_s(waits[lane], posts[lane], window.begin_ms, window.end_ms),
            lane,
            window,
        )
        for window in windows
        for lane in lanes
    ]


def longest_stop_s(
    waits: Iterable[tuple[int, int]],
    posts: Iterable[int],
    begin_ms: int,
    end_ms: int,
) -> float:
    """Return the longest time in seconds without a POST in which a lead waited.

    waits: from when to when each lead waited. posts: when the lane sent one. Both in ms, in any
        order.
    """
    times = sorted(posts)
    longest_ms = 0
    for first_ms, last_ms in _merged(waits):
        first_ms = max(first_ms, begin_ms)
        last_ms = min(last_ms, end_ms)
        if first_ms < last_ms:
            edges = [
                first_ms,
                *times[bisect_left(times, first_ms) : bisect_right(times, last_ms)],
                last_ms,
            ]
            longest_ms = max(longest_ms, *(after - before for before, after in pairwise(edges)))
    return longest_ms / 1000


def too_long(stops: Iterable[LaneStop]) -> list[str]:
    """Return those above the bound, as text."""
    return [
        (
            f"lane {lane} stood {seconds:.1f} s (at most {BOUND_S:.0f}): {MEANING[window.kind]}, "
            f"broker {window.node}"
        )
        for seconds, lane, window in stops
        if seconds >= BOUND_S
    ]


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _workspace(record: Any) -> str:
    return (record.key or b"").decode("utf-8", "replace")
