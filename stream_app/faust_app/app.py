"""Builds a Faust app with the options, table and fixes that a pipeline without loss needs."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn, Protocol

import faust
from faust.events import Event
from faust.serializers.schemas import Schema
from faust.stores import memory

from stream_app.config import Kafka
from stream_app.faust_app.buffers import BoundedBuffer
from stream_app.faust_app.fixes.safe_app import SafeApp
from stream_app.faust_app.stream import Agent, GapCheck, run_agent
from stream_app.kafka.connection import KafkaConnection

# When another member dies, a member learns by its next heartbeat that it has to join again.
_HEARTBEAT_S: Final = 0.5


class OwnedPartitions(Protocol):
    """The partitions that this process owns, with their state. `worker.Worker` is one.

    Calls of `assigned` and `revoked` do not overlap. An exception raised by either stops the
    worker.
    """

    @property
    def rows(self) -> Mapping[bytes, bytes]:
        """The rows of all owned partitions by key.

        A row may be one transaction ahead of the state topic.
        """

    async def assigned(self, partitions: set[int]) -> None:
        """Fence and load newly assigned partitions.

        Faust delivers none of their records before this returns.

        A rebalance or a stop cancels the call. `revoked` is then called for all of `partitions`.
        """

    async def revoked(self, partitions: set[int]) -> None:
        """Drop the state of revoked partitions at once.

        Faust does not call it when the worker stops. `run_worker` does then.
        """


class StateTable(faust.Table):  # type: ignore[misc]  # faust ships no types
    """A read-only view of the state: `app.tables[name][key]` is the row of an owned partition.

    The state topic is the changelog. Rows are written to it by the transactions of the partition's
    owner, never by Faust, so that a row is committed together with its events.
    """

    def __init__(self, app: Any, *, owned: OwnedPartitions, **options: Any) -> None:
        super().__init__(app, key_type=bytes, value_type=bytes, **options)
        self.owned_partitions = owned

    def on_key_set(self, key: bytes, value: bytes) -> NoReturn:
        raise TypeError(
            "the state table is read-only: write rows with the partition's TransactionalState",
        )

    def on_key_del(self, key: bytes) -> NoReturn:
        raise TypeError(
            "the state table is read-only: delete rows with the partition's TransactionalState",
        )

    def _new_store(self) -> OwnedRowsStore:
        return OwnedRowsStore("memory://", self.app, self, table_name=self.name, loop=self.loop)


class OwnedRowsStore(memory.Store):  # type: ignore[misc]  # faust ships no types
    """Reads the rows of the owned partitions, and passes on what was assigned and revoked.

    Upstream's in-memory store keeps one dict for all partitions and fills it from the changelog row
    by row. This store has no rows of its own: the owner of a partition loads them in bulk after it
    has fenced the previous owner.
    """

    def __post_init__(self) -> None:
        self.owned: set[int] = set()

    @property
    def data(self) -> Mapping[bytes, bytes]:
        rows: Mapping[bytes, bytes] = self.table.owned_partitions.rows
        return rows

    async def on_rebalance(
        self,
        assigned: set[Any],
        revoked: set[Any],
        newly_assigned: set[Any],
        generation_id: int = 0,
    ) -> None:
        """Revoke the partitions that this process no longer owns.

        If the group had evicted it, these are all, because others may have owned them meanwhile.
        """
        topic = self.table.changelog_topic_name
        kept = (
            set()
            if self.app.consumer.was_evicted
            else {tp.partition for tp in assigned if tp.topic == topic}
        )
        lost = self.owned - kept
        if lost:
            self.owned -= lost
            await self.table.owned_partitions.revoked(lost)

    async def on_recovery_completed(self, active_tps: set[Any], standby_tps: set[Any]) -> None:
        new = {tp.partition for tp in active_tps} - self.owned
        if not new:
            return
        try:
            await self.table.owned_partitions.assigned(new)
        except BaseException:
            await self.table.owned_partitions.revoked(new)
            raise
        self.owned |= new


class App(SafeApp):
    """A Faust app with the fixes, whose agents read records as raw bytes.

    Args:
        buffer_bytes: see `build_app`.

    Attributes:
        gaps: checks every gap in the offsets of the consumed topics.
    """

    def __init__(
        self,
        app_id: str,
        *,
        connection: KafkaConnection,
        buffer_bytes: int,
        **options: Any,
    ) -> None:
        self._buffer_bytes = buffer_bytes
        super().__init__(app_id, connection=connection, **options)
        self.gaps = GapCheck(connection)

    def FlowControlQueue(  # noqa: N802 - Faust's name
        self,
        maxsize: int | None = None,
        *,
        clear_on_resume: bool = False,
    ) -> BoundedBuffer:
        """Return a queue of Faust's that is bounded by bytes, too."""
        return BoundedBuffer(
            maxsize or 0,
            max_bytes=self._buffer_bytes,
            flow_control=self.flow_control,
            clear_on_resume=clear_on_resume,
        )

    def agent(self, topic: str) -> Callable[[Agent], Any]:
        """As `faust.App.agent`, for a topic by its name, and an agent that is given `Generations`.

        Keys and values are raw bytes. The agent is an `async def` and has the name of its topic.
        Each assigned partition has a stream of its own, so that a full partition does not block
        another one. The agent is not registered for Faust's autodiscovery, which this app does not
        use because that takes 45 ms of a start.
        """

        def add(function: Agent) -> Any:
            async def run(stream: Any) -> None:
                await run_agent(self, stream, function)

            agent = self.conf.Agent(
                run,
                name=topic,
                app=self,
                channel=self.topic(topic, schema=RawBytes()),
                isolated_partitions=True,
                on_error=self._on_agent_error,
                help=function.__doc__,
            )
            self.agents[topic] = agent
            self.topics.beacon.add(agent)
            return agent

        return add

    def add_state_table(self, topic: str, owned: OwnedPartitions) -> None:
        """Add a table with the rows of `owned`.

        Its name is `topic`, and the topic of that name is its changelog.
        """
        partitions = self.conf.topic_partitions
        changelog = self.topic(topic, schema=RawBytes(), partitions=partitions, acks=False)
        self.tables.add(
            StateTable(
                self,
                owned=owned,
                name=topic,
                partitions=partitions,
                changelog_topic=changelog,
            ),
        )


class RawBytes(Schema):  # type: ignore[misc]  # faust ships no types
    """Keys and values as they are on Kafka.

    Faust's "raw" codec gives the same, through 16 calls a record.
    """

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return Event(app, message.key, message.value, message.headers, message)

        return decode


def build_app(
    app_id: str,
    connection: KafkaConnection,
    kafka: Kafka,
    *,
    buffer_records: int = 4_000,
    buffer_bytes: int = 2**20,
) -> App:
    """Build an app without agents. Call it inside the running event loop.

    Partition p of all topics that have an agent, and of the state topic, is always assigned to the
    same process.
    All topics must exist: Faust creates none. A lead in flight must end within
    `kafka.rebalance_timeout_s` - 20 s.

    Args:
        app_id: the name of the consumer group.
        connection: how to connect to Kafka.
        kafka: the number of partitions of every topic, the state topic included, and the times of
            the group.
        buffer_records: records that the process buffers for each topic and partition.
        buffer_bytes: bytes of memory that these take, and the most that one fetch brings of a topic
            and partition, unless its next record is larger.
    """
    _mute_debug()
    return App(
        app_id,
        connection=connection,
        buffer_bytes=buffer_bytes,
        broker=["kafka://" + address.strip() for address in connection.bootstrap.split(",")],
        # It identifies the member, and Faust takes no assignment that was made for another URL.
        # Nothing listens there.
        canonical_url=f"http://{uuid.uuid4().hex}",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=kafka.partitions,
        table_standby_replicas=0,
        broker_commit_interval=0.5,  # seconds between commits of offsets
        broker_session_timeout=kafka.session_timeout_s,
        broker_heartbeat_interval=_HEARTBEAT_S,
        broker_rebalance_timeout=kafka.rebalance_timeout_s,
        # The answer to JoinGroup waits for the last member.
        broker_request_timeout=kafka.rebalance_timeout_s + 10,
        broker_max_poll_interval=86400,
        # Faust stops fetching a partition when its buffer is 80 % full. The records of one poll
        # must fit in the rest: a full buffer blocks all partitions (docs/reference/faust.md,
        # behaviour 6).
        broker_max_poll_records=buffer_records // 5,
        consumer_max_fetch_size=buffer_bytes,
        stream_buffer_maxsize=buffer_records,
        stream_wait_empty=True,
        stream_recovery_delay=0,
        producer_linger=0.005,
        producer_request_timeout=30,
    )


def _mute_debug() -> None:
    """Keep the libraries from creating debug log records, which they do for each Kafka record."""
    for name in ("aiokafka", "faust", "mode"):
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)
