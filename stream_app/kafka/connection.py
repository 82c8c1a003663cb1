"""The connection to Kafka: its address, its clients from start to safe end, and kept answers.

Every client of this program is made here, or is a `Consumer`: each runs on a `BoundedClient`.
"""

import asyncio
import time
from asyncio import sleep
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from aiokafka import AIOKafkaProducer, errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, StreamAppError
from stream_app.kafka.bounded_client import CREATE_S, BoundedClient, bind
from stream_app.kafka.diagnosis import diagnose
from stream_app.tasks import cancel, retrieve

T = TypeVar("T")
Say = Callable[[str], None]
"""Called with a line for a person."""

_NOT_ALLOWED: Final = (
    errors.ClusterAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.SaslAuthenticationFailed,
    errors.TopicAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
)
_AGAIN_S: Final = 0.2
_FIRST_PAUSE_S: Final = 0.5
_MAX_PAUSE_S: Final = 5.0
ANSWER_WITHIN_S: Final = 5.0
"""How long Kafka has to answer what is asked in the background."""
LOOK: Final = "Is it running, and is kafka.bootstrap right?"


def silent(*_: object) -> None:
    """Say nothing, for programs that no person watches."""


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """The address and the security settings of Kafka.

    Attributes:
        bootstrap: "host:port[,host:port]".
        security: arguments for aiokafka, never printed: security_protocol, ssl_context,
            sasl_mechanism, sasl_plain_username, sasl_plain_password, sasl_kerberos_service_name,
            sasl_kerberos_domain_name, sasl_oauth_token_provider.
        inputs: the topics to which producers write, whose records are read with more bounds
            (batches.py).
    """

    bootstrap: str
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    inputs: frozenset[str] = frozenset()

    def settings(self) -> dict[str, Any]:
        return {"bootstrap_servers": self.bootstrap, **self.security}

    def lost(self, error: Exception) -> StreamAppError:
        """Return the error to raise after an aiokafka error."""
        if isinstance(error, _NOT_ALLOWED):
            return KafkaRefused(
                f"Kafka at {self.bootstrap} does not allow it: {error}: docs/kafka-rights.md "
                "lists what is needed",
            )
        what = (
            " does not answer"
            if isinstance(error, errors.KafkaConnectionError | OSError)
            else f": {error}"
        )
        return BrokerUnavailable(f"Kafka at {self.bootstrap}{what}. {LOOK}")


def kafka_client(**options: Any) -> BoundedClient:
    """Return an `AIOKafkaClient`, for requests of our own."""
    return bind(AIOKafkaClient(**options))


def kafka_producer(**options: Any) -> AIOKafkaProducer:
    """Return an AIOKafkaProducer with these options of aiokafka's."""
    producer = AIOKafkaProducer(**options)
    bind(producer.client)
    return producer


def kafka_admin(**options: Any) -> AIOKafkaAdminClient:
    """Return an AIOKafkaAdminClient with these options of aiokafka's."""
    admin = _Admin(**options)
    bind(admin._client)
    return admin


@asynccontextmanager
async def open_admin(
    connection: KafkaConnection,
    patience_s: float = 0,
) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client for the time of the block.

    Errors of Kafka in the block are translated.

    `patience_s`: how long to try to connect.

    Raises:
        BrokerUnavailable: Kafka does not answer.
        KafkaRefused: Kafka does not allow it.
    """
    admin = kafka_admin(**connection.settings())
    try:
        await repeated(admin.start, patience_s)
        yield admin
    except errors.KafkaError as error:
        raise connection.lost(error) from error
    finally:
        await close_admin(admin)


async def repeated(ask: Callable[[], Awaitable[T]], within_s: float) -> T:
    """Ask Kafka again while it has no coordinator or leader for the answer.

    No try begins after `within_s`.

    Raises:
        KafkaError: Kafka refuses, or did not answer within the time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        try:
            return await ask()
        except errors.KafkaError as error:
            if not error.retriable or loop.time() > deadline:
                raise
        await sleep(_AGAIN_S)


class _Admin(AIOKafkaAdminClient):  # type: ignore[misc]  # aiokafka is not followed
    """An admin client that no single lost broker can hold up.

    Where aiokafka asks one broker at random, it asks any, and it waits no longer for a lost
    controller than for others.
    """

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        return await (
            self._client.ask_any(request)
            if node_id is None
            else self._client.send(node_id, request)
        )

    async def _send_to_controller(self, request: Any) -> Any:
        async def ask() -> Any:
            await self._client.force_metadata_update()
            controller = self._client.cluster.controller
            if controller is None:
                raise errors.NodeNotReadyError("no controller is known yet")
            return await self._client.send(controller.nodeId, request)

        return await repeated(ask, CREATE_S)


async def wait_for_kafka(connection: KafkaConnection, wait_s: float, say: Say) -> None:
    """Return once a broker answers. `say` is called with a line for each failed attempt.

    Raises:
        KafkaRefused: A broker refuses us. Raised at once, because waiting does not help.
        BrokerUnavailable: No broker answered within `wait_s`.
    """
    pause_s = _FIRST_PAUSE_S
    cause = "no answer"
    try:
        async with asyncio.timeout(wait_s):
            while (silence := await refusal_or_silence(connection)) is not None:
                cause = silence
                say(
                    (
                        f"Kafka at {connection.bootstrap} does not answer ({cause}); trying "
                        f"again in {pause_s:g} s"
                    ),
                )
                await sleep(pause_s)
                pause_s = min(pause_s * 2, _MAX_PAUSE_S)
    except TimeoutError as late:
        raise BrokerUnavailable(
            f"Kafka at {connection.bootstrap} did not answer within {wait_s:g} s ({cause}). {LOOK}",
        ) from late


async def refusal_or_silence(connection: KafkaConnection) -> str | None:
    """Return why no broker answers now, or None if one does. Raises KafkaRefused."""
    pairs = [address.strip().rpartition(":") for address in connection.bootstrap.split(",")]
    return await diagnose(
        connection.security,
        [(host.strip("[]"), int(port)) for host, _, port in pairs],
    )


@asynccontextmanager
async def admin_of(
    connection: KafkaConnection,
    wait_s: float,
    say: Say = silent,
    *,
    work: str = "what it was asked for",
) -> AsyncIterator[Any]:
    """A started admin client, once a broker answers.

    The block has as long again as the wait for the first answer, so that a broker which starts
    slowly leaves it the whole of its time.

    Args:
        connection: The connection.
        wait_s: How long to wait for the first answer, and how long the block may take.
        say: As in `wait_for_kafka`.
        work: What the block does, in words, for the error.

    Raises:
        KafkaRefused: A broker refuses us.
        BrokerUnavailable: No broker answered within `wait_s`, or the block took longer than that.
    """
    await wait_for_kafka(connection, wait_s, say)
    try:
        async with asyncio.timeout(wait_s), open_admin(connection, wait_s) as admin:
            yield admin
    except TimeoutError as late:
        raise BrokerUnavailable(
            f"Kafka at {connection.bootstrap} answers, but {work} took more than {wait_s:g} s: "
            "try again; if it lasts, look at the load and the logs of its brokers",
        ) from late


async def stop_consumer(consumer: Any) -> None:
    """Stop a consumer and close its connections."""
    await _closed(consumer.stop(), consumer._client)


async def stop_producer(producer: Any) -> None:
    """Send the records that a producer still holds, stop it and close its connections."""
    await _closed(producer.stop(), producer.client)


async def close_admin(admin: Any) -> None:
    """Close an AIOKafkaAdminClient and its connections."""
    await _closed(admin.close(), admin._client)


def forget_dead(client: Any) -> None:
    """Drop the client's metadata task if it failed.

    Otherwise `close` raises the error of that task.
    """
    task = client._sync_task
    if task is not None and task.done():
        retrieve(task)
        client._sync_task = None


async def _closed(closing: Awaitable[None], client: Any) -> None:
    """Await `closing`, and raise CancelledError only if this task was cancelled (aiokafka 0.14).

    `AIOKafkaClient.close` swallows a cancellation while it waits for its own task, so the canceller
    waits forever. If the broker is away, `Fetcher.close` raises the CancelledError of its own
    fetch, and the connections stay open. The report is
    docs/reference/upstream/close-swallows-a-cancellation.md.
    """
    task = asyncio.current_task()
    assert task is not None
    cancels = task.cancelling()
    forget_dead(client)
    try:
        await closing
    except asyncio.CancelledError:
        await client.close()
    if task.cancelling() > cancels:
        raise asyncio.CancelledError


async def end(
    producer: AIOKafkaProducer,
    attempt: asyncio.Task[None] | None,
    patience_s: float,
) -> None:
    """Close the producer without sending the batches that it still holds.

    `stop()` would wait for them forever.
    """
    if attempt is not None:
        attempt.cancel()
        await asyncio.wait({attempt})
    sender = producer._sender.sender_task
    futures: list[Any] = []
    if sender is not None:
        futures = _futures(producer)  # the producer forgets a batch that fails
        accumulator = producer._message_accumulator
        accumulator._pending_batches = _Pending(accumulator._pending_batches)
        accumulator.fail_all(errors.KafkaError("this producer was dropped"))
        while not sender.done():  # each cancel ends one of the requests that it still waits for
            sender.cancel()
            await asyncio.wait({sender}, timeout=patience_s / 10)
        retrieve(sender)
    forget_dead(producer.client)
    try:
        async with asyncio.timeout(patience_s):
            await producer.stop()
    except (errors.KafkaError, OSError, TimeoutError):
        await producer.client.close()
    for future in (*futures, *_futures(producer)):
        if future is not None and future.done():
            retrieve(future)


class _Pending(set[Any]):
    """Batches in flight, where removing a batch twice is no error.

    aiokafka removes a failed batch again if it waited for a retry, or if its request ends after the
    sender (a broker hangs). On a plain set each is a KeyError.
    """

    def remove(self, batch: Any) -> None:
        self.discard(batch)


def _futures(producer: AIOKafkaProducer) -> list[Any]:
    """Return the futures that aiokafka holds and may never retrieve."""
    accumulator = producer._message_accumulator
    batches = chain(accumulator._pending_batches, *accumulator._batches.values())
    ours = [future for batch in batches for future in (batch.future, batch._drain_waiter)]
    return [*ours, producer._txn_manager._transaction_waiter]


class Background(Generic[T]):
    """Keeps the last answer of Kafka, and asks again only if it is old and somebody wants it.

    Args:
        ask: Asks Kafka. May raise BrokerUnavailable and KafkaRefused.
        fresh_s: How long an answer is kept, in seconds. That Kafka did not answer is kept as long.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], fresh_s: float) -> None:
        self._ask = ask
        self._fresh_s = fresh_s
        self._asking: asyncio.Task[None] | None = None
        self._known: T | None = None
        self._known_s = -fresh_s
        self.is_first = True
        """Kafka was not asked yet, or the first question is still open."""

    async def look(self, within_s: float) -> T | None:
        """Return what is known; None if Kafka does not answer.

        After `within_s` that is its last answer.
        """
        if self._asking is None and time.monotonic() - self._known_s >= self._fresh_s:
            self._asking = asyncio.create_task(self._refresh())
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=within_s)
        return self._known

    async def close(self) -> None:
        """End an open question to Kafka."""
        await cancel([self._asking])

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                self._known = await self._ask()
        except (BrokerUnavailable, KafkaRefused, TimeoutError):
            self._known = None
        finally:
            self._known_s = time.monotonic()
            self._asking = None
            self.is_first = False
