"""aiokafka's client with a bound on the time of each request, because any broker may hang.

aiokafka 0.14 bounds every request alike, by `request_timeout_ms`: 40 s, and for a member of a group
longer than a rebalance. A broker that hangs keeps its connections open, so nothing else ends a
request to it. Differences:

- The bound depends on the request (`_BOUNDS_S`). A JoinGroup or SyncGroup may take as long as a
  rebalance, so the coordinator is asked every few seconds whether it still is the coordinator.
- A request that any broker can answer (metadata, the search for a coordinator) goes to the next
  broker if the first one does not answer soon. The first answer counts.
- Connecting is bounded, and a broker that hangs does not delay connections to the others.
- Error codes that aiokafka ignores are raised. It took "not the coordinator" for "nothing is
  committed" (docs/reference/upstream/offset-fetch-error-ignored.md).

tests/unit/kafka/test_faust_pins.py fails when the source of what is overridden changes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, TypeVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import CloseReason, create_conn
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    for_code,
)
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from stream_app.tasks import retrieve

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_S: Final = 4.0
"""The bound for TCP, TLS, SASL and the exchange of versions together."""
CREATE_S: Final = 30.0
"""The bound for the creation of topics: the broker answers when all exist."""
# Longer than the 5 s that a coordinator waits for the replicas of a committed offset.
_REQUEST_S: Final = 6.0
_BOUNDS_S: Final = {FetchRequest: 10.0, ProduceRequest: 10.0, CreateTopicsRequest: CREATE_S}
_BOOTSTRAP: Final = ("bootstrap", ConnectionGroup.DEFAULT)
_AS_LONG_AS_A_REBALANCE: Final = (JoinGroupRequest, SyncGroupRequest)
_LOOK_EVERY_S: Final = 3.0
_NEXT_AFTER_S: Final = 0.7
_CLOSE_WITHIN_S: Final = 1.0


def bind(client: AIOKafkaClient) -> BoundedClient:
    """Turn a client that aiokafka has made into a BoundedClient."""
    client.__class__ = BoundedClient
    client._opening = {}
    client._asking = set()
    bound: BoundedClient = client
    return bound


MetadataSource = Callable[["BoundedClient", Iterable[str], bool], Awaitable[None]]
"""Brings the client's metadata of these topics up to date, or raises KafkaError. True: what it has
is known to be old.
"""


class BoundedClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka is not followed
    """An AIOKafkaClient with bounded requests. `bind` makes it."""

    _opening: dict[Any, asyncio.Task[Any]]
    _asking: set[asyncio.Task[Any]]
    _sync_task: asyncio.Task[None] | None
    _metadata_source: MetadataSource | None = None

    async def bootstrap(self) -> None:
        """Read the cluster's metadata from the first address that answers.

        Raises KafkaConnectionError.
        """
        hosts = [(host, port) for host, port, _ in self.hosts]
        try:
            metadata = await self._first(partial(self._greet, host, port) for host, port in hosts)
        except KafkaError as error:
            raise KafkaConnectionError(f"Unable to bootstrap from {hosts}: {error}") from error
        self.cluster.update_metadata(metadata)
        if self._sync_task is None:
            self._sync_task = asyncio.create_task(self._md_synchronizer())

    def take_metadata_from(self, source: MetadataSource, topics: Iterable[str]) -> None:
        """Start without a connection, and never ask for metadata by itself."""
        self._metadata_source = source
        self._topics = set(topics)
        self._sync_task = asyncio.create_task(self._md_synchronizer())

    async def close(self) -> None:
        """Close all connections.

        Those to a broker that hangs are aborted, because it never ends TLS.
        """
        for task in (*self._opening.values(), *self._asking):
            task.cancel()
        transports = [
            conn._writer.transport for conn in self._conns.values() if conn._writer is not None
        ]
        try:
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await super().close()
        except TimeoutError:
            for transport in transports:
                transport.abort()

    async def send(
        self,
        node_id: Any,
        request: Any,
        *,
        group: ConnectionGroup = ConnectionGroup.DEFAULT,
    ) -> Any:
        """Return the answer.

        Raises KafkaError within the request's bound, and closes the connection then.
        """
        conn = await self._get_conn(node_id, group=group)
        if conn is None:
            raise NodeNotReadyError(f"broker {node_id} takes no connection")
        try:
            if isinstance(request, _AS_LONG_AS_A_REBALANCE):
                answer = await self._coordinated(node_id, conn, request)
            else:
                async with asyncio.timeout(_BOUNDS_S.get(type(request), _REQUEST_S)):
                    answer = await conn.send(
                        request,
                        expect_response=getattr(request, "required_acks", -1) != 0,
                    )
        except TimeoutError as late:
            conn.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise RequestTimedOutError(
                f"broker {node_id} does not answer {type(request).__name__}",
            ) from late
        except RuntimeError as error:
            if isinstance(error, KafkaError):
                raise
            # uvloop raises it when the connection was closed during the request.
            raise KafkaConnectionError(str(error)) from error
        _look_at_code(request, answer)
        return answer

    async def ask_any(self, request: Any) -> Any:
        """Return the first answer of any broker. Raises KafkaError if none answers."""
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        if _BOOTSTRAP in self._conns:
            nodes.append(_BOOTSTRAP[0])
        random.shuffle(nodes)
        return await self._first(partial(self.send, node, request) for node in nodes)

    async def coordinator_lookup(
        self,
        coordinator_type: CoordinationType,
        coordinator_key: str,
    ) -> int:
        """Return the current coordinator of a group or transactional id. Raises KafkaError."""
        try:
            answer = await self.ask_any(FindCoordinatorRequest(coordinator_key, coordinator_type))
        except KafkaConnectionError as error:  # aiokafka's producer would fail for good
            raise NodeNotReadyError(str(error)) from error
        if answer.error_code:
            raise for_code(answer.error_code)()
        return int(answer.coordinator_id)

    async def _metadata_update(self, cluster_metadata: Any, topics: Iterable[str]) -> bool:
        try:
            if self._metadata_source is not None:
                await self._metadata_source(self, topics, self._md_update_waiter.done())
                return True
            metadata = await self.ask_any(MetadataRequest(list(topics) if topics else None))
        except KafkaError as error:
            log.info("Kafka gives no metadata: %r", error)
            cluster_metadata.failed_update(None)
            return False
        if not metadata.brokers:
            return False
        cluster_metadata.update_metadata(metadata)
        if (kept := self._conns.pop(_BOOTSTRAP, None)) is not None:
            kept.close()
        return True

    async def _get_conn(
        self,
        node_id: Any,
        *,
        group: ConnectionGroup = ConnectionGroup.DEFAULT,
        no_hint: bool = False,
    ) -> Any:
        """Return a connection, shared by concurrent callers.

        None: the broker does not accept one.
        """
        where = (node_id, group)
        if (conn := self._conns.get(where)) is not None:
            if conn.connected():
                return conn
            del self._conns[where]
        opening = self._opening.get(where)
        if opening is None:
            if (broker := self.cluster.broker_metadata(node_id)) is None:
                self.force_metadata_update()
                return None
            opening = asyncio.create_task(self._open(where, broker.host, broker.port))
            self._opening[where] = opening
            opening.add_done_callback(lambda _: self._opening.pop(where, None))
        return await asyncio.shield(opening)

    async def _open(self, where: Any, host: str, port: int) -> Any:
        try:
            conn = await self._connect(host, port, on_close=self._on_connection_closed)
        # A RuntimeError is aiokafka's or uvloop's.
        except (OSError, RuntimeError, TimeoutError) as error:
            log.info("no connection to broker %s: %r", where[0], error)
            self.force_metadata_update()
            return None
        self._conns[where] = conn
        return conn

    async def _connect(self, host: str, port: int, **options: Any) -> Any:
        async with asyncio.timeout(CONNECT_S):
            return await create_conn(
                host,
                port,
                client_id=self._client_id,
                request_timeout_ms=self._request_timeout_ms,
                ssl_context=self._ssl_context,
                security_protocol=self._security_protocol,
                max_idle_ms=self._connections_max_idle_ms,
                sasl_mechanism=self._sasl_mechanism,
                sasl_plain_username=self._sasl_plain_username,
                sasl_plain_password=self._sasl_plain_password,
                sasl_kerberos_service_name=self._sasl_kerberos_service_name,
                sasl_kerberos_domain_name=self._sasl_kerberos_domain_name,
                sasl_oauth_token_provider=self._sasl_oauth_token_provider,
                **options,
            )

    async def _greet(self, host: str, port: int) -> Any:
        """Return the metadata from an address.

        The connection is kept if the metadata names no broker.
        """
        conn = None
        kept = False
        try:
            conn = await self._connect(host, port)
            async with asyncio.timeout(CONNECT_S):
                metadata = await conn.send(MetadataRequest([]))
            kept = not metadata.brokers and _BOOTSTRAP not in self._conns
            if kept:
                self._conns[_BOOTSTRAP] = conn
        except (OSError, TimeoutError) as error:
            raise KafkaConnectionError(f"{host}:{port}: {error!r}") from error
        finally:
            if conn is not None and not kept:
                conn.close()
        return metadata

    async def _first(self, asks: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> T:
        """Return the first answer.

        The next request starts when the one before fails or does not answer soon.

        The other requests run until their bounds. A broker that has not answered by then loses its
        connection.
        """
        last: BaseException = NodeNotReadyError("no broker is known yet")
        waiting: set[asyncio.Task[T]] = set()
        left = list(asks)
        while left or waiting:
            if left:
                task = asyncio.create_task(left.pop(0)())
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
                task.add_done_callback(retrieve)
                waiting.add(task)
            patience_s = _NEXT_AFTER_S if left else None
            done, waiting = await asyncio.wait(
                waiting,
                timeout=patience_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                if attempt.cancelled():
                    continue
                error = attempt.exception()
                if error is None:
                    return attempt.result()
                if not isinstance(error, KafkaError):
                    raise error
                last = error
        raise last

    async def _coordinated(self, node_id: int, conn: Any, request: Any) -> Any:
        """Return the answer of a coordinator.

        Raises TimeoutError when the broker no longer is the coordinator.
        """
        pending = asyncio.ensure_future(conn.send(request))
        try:
            while not (await asyncio.wait({pending}, timeout=_LOOK_EVERY_S))[0]:
                if not await self._coordinates(node_id, request._group) and not pending.done():
                    raise TimeoutError
            return pending.result()
        finally:
            pending.cancel()

    async def _coordinates(self, node_id: int, group: str) -> bool:
        try:
            answer = await self.send(node_id, FindCoordinatorRequest(group, CoordinationType.GROUP))
        except KafkaError:
            return False
        return bool(answer.coordinator_id == node_id)


def _look_at_code(request: Any, answer: Any) -> None:
    """Raise errors that aiokafka ignores: it would read an empty answer."""
    codes: Iterable[int] = ()
    if isinstance(request, OffsetFetchRequest):
        codes = (getattr(answer, "error_code", 0),)
    elif isinstance(request, DescribeGroupsRequest):
        codes = (group[0] for group in answer.groups)
    for code in codes:
        if code:
            raise for_code(code)(f"answer to {type(request).__name__}")
