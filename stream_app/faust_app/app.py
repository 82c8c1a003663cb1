"""The one place that builds a Faust app: an isolated agent a topic, and the state table whose rows the owner holds."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import faust
from faust.stores import memory

from stream_app.faust_app.fixes.consumer import SafeApp
from stream_app.faust_app.stream import GapCheck, Handler, LostRecords, PartitionStream, serve
from stream_app.kafka.connection import KafkaConnection

__all__ = ["FaustOptions", "GapCheck", "Handler", "LostRecords", "Owner", "PartitionStream", "build_app"]

log = logging.getLogger(__name__)


class Owner(Protocol):
    """Who holds the state of the partitions that this process owns.

    Neither method is called twice at once, and an exception out of one stops the worker.
    """

    async def assigned(self, partitions: set[int]) -> None:
        """These are newly ours: fence and load here. No event of theirs is delivered before it returns.

        A rebalance or a stop cancels it; then `revoked` is called for all of `partitions`.
        """

    async def revoked(self, partitions: set[int]) -> None:
        """These are no longer ours: forget them at once. Not called when the worker stops."""


@dataclass(frozen=True, slots=True)
class FaustOptions:
    """`app_id` is the consumer group. `state_topic` (with an owner) has as many partitions as all topics: `partitions`.

    All topics exist already: Faust creates none. Leads in flight must end within `rebalance_timeout_s` - 20 s.
    """

    app_id: str
    connection: KafkaConnection
    partitions: int
    state_topic: str | None = None
    session_timeout_s: float = 15.0
    heartbeat_s: float = 3.0
    rebalance_timeout_s: float = 90.0
    commit_interval_s: float = 0.5
    max_poll_records: int = 200
    buffer_records: int = 4096


def build_app(options: FaustOptions, handlers: Mapping[str, Handler], owner: Owner | None = None) -> SafeApp:
    """An app with one agent for each topic of `handlers`; call it inside the running loop, then `run_app` it.

    Partition p of all these topics and of the state topic is always this worker's, or none of them is.
    """
    _mute_debug()
    # A poll must fit in the last 20 % of a buffer, or one full partition stops them all (hazard 6).
    if options.max_poll_records > options.buffer_records // 5:
        raise ValueError("max_poll_records must be at most a fifth of buffer_records")
    app = SafeApp(
        options.app_id,
        connection=options.connection,
        broker=["kafka://" + address.strip() for address in options.connection.bootstrap.split(",")],
        canonical_url=f"http://{uuid.uuid4().hex}",  # members are told apart by it; nothing listens there
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=options.partitions,
        table_standby_replicas=0,
        broker_commit_interval=options.commit_interval_s,
        broker_session_timeout=options.session_timeout_s,
        broker_heartbeat_interval=options.heartbeat_s,
        broker_rebalance_timeout=options.rebalance_timeout_s,
        broker_request_timeout=options.rebalance_timeout_s + 10,  # a JoinGroup is answered when the last member is in
        broker_max_poll_interval=86400,
        broker_max_poll_records=options.max_poll_records,
        stream_buffer_maxsize=options.buffer_records,
        stream_wait_empty=True,
        stream_recovery_delay=0,
        producer_linger=0.005,
        producer_request_timeout=30,
    )
    app.gaps = GapCheck(options.connection)
    for topic, handler in handlers.items():
        _add_agent(app, topic, handler)
    if owner is not None:
        if options.state_topic is None:
            raise ValueError("an owner needs a state_topic")
        _add_state_table(app, options.state_topic, options.partitions, owner)
    return app


def _add_agent(app: SafeApp, name: str, handler: Handler) -> None:
    async def agent(stream: Any) -> None:
        await serve(app, stream, handler, app.gaps)

    topic = app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    app.agent(topic, name=name, isolated_partitions=True)(agent)


def _add_state_table(app: SafeApp, topic: str, partitions: int, owner: Owner) -> None:
    table = _StateTable(
        app,
        owner=owner,
        name=topic,
        partitions=partitions,
        changelog_topic=app.topic(
            topic,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=partitions,
            acks=False,
        ),
    )
    app.tables.add(table)


class _StateStore(memory.Store):  # type: ignore[misc]  # faust ships no types
    """Where Faust tells of partitions that come and go. It holds no row: the owner does."""

    owner: Owner
    owned: set[int]

    async def on_rebalance(
        self, assigned: set[Any], revoked: set[Any], newly_assigned: set[Any], generation_id: int = 0
    ) -> None:
        topic = self.table.changelog_topic_name
        kept = set() if self.app.consumer.was_evicted else {tp.partition for tp in assigned if tp.topic == topic}
        lost = self.owned - kept
        if lost:
            self.owned -= lost
            await self.owner.revoked(lost)

    async def on_recovery_completed(self, active_tps: set[Any], standby_tps: set[Any]) -> None:
        new = {tp.partition for tp in active_tps} - self.owned
        if not new:
            return
        try:
            await self.owner.assigned(new)
        except BaseException:
            await self.owner.revoked(new)
            raise
        self.owned |= new


class _StateTable(faust.Table):  # type: ignore[misc]  # faust ships no types
    def __init__(self, app: SafeApp, *, owner: Owner, **kwargs: Any) -> None:
        super().__init__(app, key_type=bytes, value_type=bytes, **kwargs)
        self._owner = owner

    def _new_store(self) -> _StateStore:
        store = _StateStore("memory://", self.app, self, table_name=self.name, loop=self.loop)
        store.owner = self._owner
        store.owned = set()
        return store


def _mute_debug() -> None:
    """Keep the libraries from building debug records, even when the root logger is at DEBUG: they do it a record."""
    for name in ("aiokafka", "faust", "mode"):
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)
