"""Requests about partitions that the partitions of a process share.

A process takes over many partitions at once, and each of these has to look at the same topics. All
take-overs that ask at the same time share one request to each broker, so that the work grows with
the partitions and not with their square. Each answer is that of a request that began after the
question, because a look at transactions depends on that.

Some requests ask which broker leads a partition. A broker that was frozen for long still believes
that it is the leader when it resumes. Until it has read the cluster's metadata, it answers reads
from a log in which newer records are missing, and names itself the leader. State that was read
there would miss leads that were sent. Writes are safe, because they need the other replicas.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from time import monotonic
from typing import Any, Final, Generic, NamedTuple, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, NotLeaderForPartitionError, for_code
from aiokafka.protocol.offset import OffsetRequest

from stream_app.kafka.bounded_client import BoundedClient
from stream_app.kafka.connection import KafkaConnection, forget_dead, kafka_client
from stream_app.kafka.protocol import DescribeProducers, Metadata
from stream_app.tasks import retrieve

K = TypeVar("K")
R = TypeVar("R")
PartitionAnswer = tuple[TopicPartition, int, R]
"""A partition, the error code of the answer about it, and what the answer says if that is 0."""
Answers = dict[TopicPartition, R | Exception]
_EARLIEST = -2
_LATEST = -1
_READ_UNCOMMITTED: Final = 0
_PATIENCE_S: Final = 0.5
# Below aiokafka's metadata_max_age_ms, so that one client in five minutes asks for all.
_FRESH_S: Final = 240.0
_METADATA: Final = (
    *("_brokers", "controller", "_partitions", "_broker_partitions"),
    *("unauthorized_topics", "internal_topics"),
)
_WITHIN_S: Final = 1.0
NO_LEADER: Final = (
    "has no leader: look at whether it exists, at the brokers that have it, and at their disks"
)


class Batched(Generic[K, R]):
    """Answers all questions that wait with one call of `ask`, about the union of their subjects.

    Args:
        ask: Called once at a time, as long as it answers soon.
        patience_s: How long a call waits for the one before it, in seconds; None: to its end. A
            broker that hangs must not hold up questions that may reach its successor.
    """

    def __init__(
        self,
        ask: Callable[[Collection[K]], Awaitable[R]],
        patience_s: float | None = _PATIENCE_S,
    ) -> None:
        self._ask = ask
        self._patience_s = patience_s
        self._about: dict[K, None] = {}
        self._next: asyncio.Task[R] | None = None
        self._last: asyncio.Task[R] | None = None

    async def __call__(self, about: Iterable[K]) -> R:
        """Return the answer of a call that began after this one."""
        self._about.update(dict.fromkeys(about))
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._last))
            self._last = self._next
            self._next.add_done_callback(retrieve)
        return await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task[R] | None) -> R:
        if before is None or before.done():
            await asyncio.sleep(0)  # Questions of this turn of the event loop join.
        else:
            await asyncio.wait({before}, timeout=self._patience_s)
        # No await from here to the request: a question that comes from now on joins the next call.
        # So an answer never comes from a request that began before its question.
        about = self._about
        self._about = {}
        self._next = None
        try:
            return await self._ask(about)
        except KafkaError:
            raise
        # The connection was closed during the request. A cancellation of this task is passed on.
        except (RuntimeError, asyncio.CancelledError) as closed:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise KafkaConnectionError(f"the connection was closed: {closed!r}") from closed


class PartitionProducers(NamedTuple):
    """What a leader answered about the open transactions of a partition.

    Attributes:
        node: The broker that was asked.
        open: The first offset of each open transaction by the id of its producer.
    """

    node: int
    open: Mapping[int, int]


PartitionSpan = tuple[int, int, int]
"""The first offset of a partition, its high water mark, and the broker that was asked."""


class ClusterView:
    """The shared requests of one process, on one client. Each of them raises KafkaError.

    Attributes:
        refresh: Reads the metadata of topics.
        leaders: Asks all brokers who leads the partitions of topics.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._client: BoundedClient | None = None
        self._connecting = asyncio.Lock()
        self._topics: set[str] = set()
        self._refreshed_s = -_FRESH_S
        self.refresh: Batched[str, None] = Batched(self._refresh, patience_s=None)
        self.leaders: Batched[str, NewestLeaders] = Batched(self._leaders)
        self._producers = Batched(self._ask_producers)
        self._spans = Batched(self._ask_spans)

    async def producers(
        self,
        places: Collection[TopicPartition],
    ) -> dict[TopicPartition, PartitionProducers]:
        """Return who has an open transaction in each partition.

        `refresh` must have read their topics.
        """
        return answered(places, await self._producers(places))

    async def span(self, place: TopicPartition) -> PartitionSpan:
        return answered([place], await self._spans([place]))[place]

    def supply(self, client: BoundedClient, topics: Iterable[str]) -> None:
        """Have a client take its metadata from here, instead of asking for it.

        `refresh` must have read the topics.
        """
        client.take_metadata_from(self._supply, topics)
        self._copy_to(client)

    async def close(self) -> None:
        # Cleared before the await: a question that comes meanwhile connects again, and does not get
        # a client that is closing.
        client = self._client
        self._client = None
        if client is not None:
            forget_dead(client)
            await client.close()

    async def _supply(self, client: BoundedClient, topics: Iterable[str], forced: bool) -> None:
        if forced or monotonic() - self._refreshed_s > _FRESH_S:
            await self.refresh(topics)
        self._copy_to(client)

    def _copy_to(self, client: BoundedClient) -> None:
        if self._client is not None:
            # aiokafka replaces each of them as a whole, and changes none in place.
            for name in _METADATA:
                setattr(client.cluster, name, getattr(self._client.cluster, name))

    async def _connected(self) -> BoundedClient:
        async with self._connecting:
            # Second look: the task that held the lock before may have connected.
            if self._client is not None:
                return self._client
            client = kafka_client(**self._connection.settings(), client_id="stream-app-view")
            try:
                await client.bootstrap()
            except BaseException:
                await client.close()
                raise
            self._client = client
            return client

    async def _refresh(self, topics: Collection[str]) -> None:
        client = await self._connected()
        self._topics = self._topics | set(topics)
        client._topics = self._topics
        update = client.force_metadata_update()
        await asyncio.wait({update, client._sync_task}, return_when=asyncio.FIRST_COMPLETED)
        if not (update.done() and update.result()):
            # The brokers that the client knows may be gone. The next client learns of the present
            # ones from the configured addresses.
            await self.close()
            raise KafkaConnectionError("no metadata could be read")
        self._refreshed_s = monotonic()

    async def _leaders(self, topics: Collection[str]) -> NewestLeaders:
        return await newest_leaders(await self._connected(), topics)

    async def _ask_producers(
        self,
        places: Collection[TopicPartition],
    ) -> Answers[PartitionProducers]:
        return await ask_producers(await self._connected(), None, places)

    async def _ask_spans(self, places: Collection[TopicPartition]) -> Answers[PartitionSpan]:
        if new := {place.topic for place in places} - self._topics:
            await self.refresh(new)
        client = await self._connected()

        async def ask(node: int, led: list[TopicPartition]) -> list[PartitionAnswer[PartitionSpan]]:
            # The beginning is asked for first, so that what retention deletes in between cannot
            # move it beyond the end.
            begins = await _offsets(client, node, led, _EARLIEST)
            ends = await _offsets(client, node, led, _LATEST)
            return [
                (place, code or ends[place][0], (begin, ends[place][1], node))
                for place, (code, begin) in begins.items()
            ]

        return await _ask_leaders(client, places, ask)


async def _ask_leaders(
    client: BoundedClient,
    places: Iterable[TopicPartition],
    ask: Callable[[int, list[TopicPartition]], Awaitable[list[PartitionAnswer[R]]]],
) -> Answers[R]:
    """Ask all leaders about their partitions at once.

    The partitions of a broker that fails get its error.
    """
    by_node: dict[int, list[TopicPartition]] = defaultdict(list)
    for place in places:
        if (leader := client.cluster.leader_for_partition(place)) not in (None, -1):
            by_node[leader].append(place)
    answers: Answers[R] = {}
    by_leader = await asyncio.gather(
        *(ask(*question) for question in by_node.items()),
        return_exceptions=True,
    )
    for led, answer in zip(by_node.values(), by_leader, strict=True):
        if isinstance(answer, KafkaError | OSError):
            answers |= dict.fromkeys(led, answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            for place, code, value in answer:
                answers[place] = (
                    for_code(code)(f"{place.topic}/{place.partition}") if code else value
                )
    return answers


async def ask_producers(
    client: BoundedClient,
    producer_id: int | None,
    places: Iterable[TopicPartition],
) -> Answers[PartitionProducers]:
    """Ask the leaders where a producer (None: any) has an open transaction."""

    async def ask(
        node: int,
        led: list[TopicPartition],
    ) -> list[PartitionAnswer[PartitionProducers]]:
        request = DescribeProducers(producer_id, led)
        seen = request.read(await client.send(node, request))
        return [
            (place, code, PartitionProducers(node, producers)) for place, code, producers in seen
        ]

    return await _ask_leaders(client, places, ask)


def answered(places: Iterable[TopicPartition], answers: Answers[R]) -> dict[TopicPartition, R]:
    """Return the answers about these places.

    Raises KafkaError where one has no leader or its leader failed.
    """
    if lost := sorted(place for place in places if place not in answers):
        raise KafkaError(
            f"{', '.join(f'{place.topic}/{place.partition}' for place in lost)} {NO_LEADER}",
        )
    seen: dict[TopicPartition, R] = {}
    for place in places:
        answer = answers[place]
        if isinstance(answer, Exception):
            raise answer
        seen[place] = answer
    return seen


async def _offsets(
    client: BoundedClient,
    node: int,
    places: Iterable[TopicPartition],
    when: int,
) -> dict[TopicPartition, tuple[int, int]]:
    """Return the error code and the offset of each partition."""
    topics: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place in places:
        topics[place.topic].append((place.partition, when))
    answer = await client.send(node, OffsetRequest(-1, _READ_UNCOMMITTED, list(topics.items())))
    return {
        TopicPartition(topic, number): (code, offset)
        for topic, partitions in answer.topics
        for number, code, _, offset, *_ in partitions
    }


class NewestLeaders(NamedTuple):
    """What the brokers know of the leaders of partitions.

    Attributes:
        leaders: The leader with the highest epoch. Brokers older than Kafka 2.8 do not send epochs;
            then it is empty.
        topics: Broker -> the topics that it described, each as an answer to Metadata has it.
    """

    leaders: Mapping[TopicPartition, int]
    topics: Mapping[int, Sequence[Mapping[str, Any]]]

    def require(self, nodes: Mapping[TopicPartition, int]) -> None:
        """Check that the brokers from which partitions were read still lead them.

        Raises:
            NotLeaderForPartitionError: Another broker leads one of them.
        """
        for place, node in nodes.items():
            if self.leaders.get(place, node) != node:
                raise NotLeaderForPartitionError(
                    f"{place.topic}/{place.partition} was read from broker {node}",
                )


async def newest_leaders(client: Any, topics: Iterable[str]) -> NewestLeaders:
    """Ask all brokers of a BoundedClient. One that does not answer within a second is left out."""
    request = Metadata(sorted(topics))
    requests = {
        broker.nodeId: asyncio.create_task(client.send(broker.nodeId, request))
        for broker in client.cluster.brokers()
    }
    try:
        if requests:
            await asyncio.wait(requests.values(), timeout=_WITHIN_S)
        answers = {
            node: task.result()
            for node, task in requests.items()
            if task.done() and task.exception() is None
        }
    finally:
        for task in requests.values():
            task.cancel()
    described = {node: answer.to_object()["topics"] for node, answer in answers.items()}
    known: dict[TopicPartition, tuple[int, int]] = {}
    for topic in chain.from_iterable(described.values()):
        for partition in topic["partitions"]:
            if "leader_epoch" in partition:
                place = TopicPartition(topic["topic"], partition["partition"])
                leader = (partition["leader_epoch"], partition["leader"])
                known[place] = max(leader, known.get(place, leader))
    return NewestLeaders({place: leader for place, (_, leader) in known.items()}, described)


def without_leader(client: Any, places: Iterable[TopicPartition]) -> list[str]:
    """Return the partitions without a leader in the client's metadata."""
    leader = client.cluster.leader_for_partition
    return [
        f"{place.topic}/{place.partition}"
        for place in sorted(set(places))
        if leader(place) in (None, -1)
    ]
