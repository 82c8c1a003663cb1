"""Rows are read from the partition's real leader, whatever a broker that was frozen believes."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import NodeNotReadyError, NotLeaderForPartitionError

from stream_app.kafka import leaders
from stream_app.kafka.leaders import newest_leaders

PLACE = TopicPartition("rows", 1)
GONE, HANGS = "gone", "hangs"


class Brokers:
    """A client of brokers, each with the epoch and the leader that it knows of; "gone" or "hangs" for one that does not
    answer, and no epoch for old ones."""

    def __init__(self, *known: tuple[int | None, int] | str) -> None:
        self._known = known
        self.cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=node) for node in range(len(known))])

    async def send(self, node: int, _request: Any) -> Any:
        known = self._known[node]
        if known == HANGS:
            await asyncio.Event().wait()
        if isinstance(known, str):
            raise NodeNotReadyError
        epoch, leader = known
        other = {"partition": 0, "leader": 7, "leader_epoch": 99}
        partition = {"partition": 1, "leader": leader} | ({} if epoch is None else {"leader_epoch": epoch})
        topics = [{"topic": "rows", "partitions": [other, partition]}, {"topic": "others", "partitions": [other]}]
        return SimpleNamespace(to_object=lambda: {"topics": topics})


@pytest.mark.parametrize(
    "known",
    [
        [(5, 0), (5, 0), (5, 0)],
        [(5, 0), (4, 2), (4, 2)],  # the others have not heard of it yet
        [(5, 0), GONE, HANGS],
        [(None, 2), (None, 2), (None, 2)],  # before Kafka 2.8
        [GONE, GONE, GONE],
    ],
)
async def test_a_read_from_the_last_leader_is_valid(monkeypatch: pytest.MonkeyPatch, known: list[Any]) -> None:
    monkeypatch.setattr(leaders, "_WITHIN_S", 0.05)
    (await newest_leaders(Brokers(*known), ["rows"])).require({PLACE: 0})


@pytest.mark.parametrize("known", [[(4, 0), (5, 2), (5, 2)], [(4, 0), (5, 2), HANGS], [HANGS, GONE, (5, 2)]])
async def test_a_read_from_an_earlier_leader_is_not_valid(monkeypatch: pytest.MonkeyPatch, known: list[Any]) -> None:
    monkeypatch.setattr(leaders, "_WITHIN_S", 0.05)
    with pytest.raises(NotLeaderForPartitionError, match="rows/1 was read from broker 0"):
        (await newest_leaders(Brokers(*known), ["rows"])).require({PLACE: 0})


async def test_every_read_must_be_from_the_last_leader() -> None:
    brokers = Brokers((4, 0), (5, 0), (5, 0))
    other = TopicPartition("others", 0)
    newest = await newest_leaders(brokers, ["rows", "others"])
    newest.require({PLACE: 0, other: 7})
    with pytest.raises(NotLeaderForPartitionError, match="others/0 was read from broker 0"):
        newest.require({PLACE: 0, other: 0})
