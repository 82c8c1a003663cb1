"""Faust's consumer, recovery and transport with the faults mended that lose leads (shared/faust-hazards.md).

Everything that overrides Faust is here and in faust_thread.py; tests/unit/kafka/test_faust_pins.py pins the source of
all that the two override or rely on. What is mended, by the hazards' numbers:

1. The committed offset never passes an offset that was taken and is not acked, gap or no gap.
2. Streams resume only when the fetcher stands still, so that no record is fetched before the seek and dropped after;
   and the seek moves partitions without a commit, too.
5. Revoking waits for the leads in flight and commits them all before Faust forgets what was acked.

And by design: consumers read committed records only, and state is taken over while the group's heartbeats run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import faust
from aiokafka.errors import IllegalStateError
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.conductor import Conductor
from faust.transport.drivers.aiokafka import DEFAULT_GENERATION_ID, Consumer, Producer, Transport
from mode import Service
from mode.utils.futures import notify

from stream_app.domain.errors import BrokerUnavailable
from stream_app.faust_app.fixes.thread import SafeConsumerThread
from stream_app.kafka.connection import KafkaConnection
from stream_app.partition.eager import rest_of
from stream_app.tasks import cancel, died_of

log = logging.getLogger(__name__)
_COMMIT_S = 5.0
_HEARTBEAT_PAUSE_S = 0.5
_POLL_S = 0.25  # how long the fetcher may sit in one poll, and so how long a rebalance waits for it


class SafeConsumer(Consumer):  # type: ignore[misc]  # faust ships no types
    """Faust's consumer with exact bookkeeping of what is in flight.

    `in_flight`: per topic-partition the offsets that a stream took and that were not acked, in the order of taking.
    One that was given up stays in it, so that nothing behind it is committed before it has come again.
    `resume_at`: the committed offsets at which the streams resumed. `was_evicted`: whether the group had thrown us
    out before the last rebalance, so that others may have owned since what we get again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.in_flight: dict[Any, dict[int, None]] = defaultdict(dict)
        self.resume_at: dict[Any, int] = {}
        self.was_evicted = False
        self.on_suspend: set[Callable[[], None]] = set()
        self._parked = asyncio.Event()
        self._parked.set()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> SafeConsumerThread:
        return SafeConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- what may be committed (hazard 1)

    def _new_offset(self, tp: Any) -> int | None:
        acked = self._acked[tp]
        in_flight = self.in_flight[tp]
        floor = next(iter(in_flight)) if in_flight else None
        done = acked if floor is None else [offset for offset in acked if offset < floor]
        if not done:
            return None
        position: int = max(done) + 1
        self._acked_index[tp].difference_update(done)
        self._acked[tp] = [] if floor is None else [offset for offset in acked if offset >= floor]
        return position

    async def _commit_offsets(self, offsets: Mapping[Any, int], start_new_transaction: bool = True) -> bool:
        """Upstream takes offsets that the group refused for committed, but a successor does not begin there."""
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed = bool(await super()._commit_offsets(offsets, start_new_transaction))
        refused = before.keys() - (self.assignment() if committed else set())
        self._committed_offset.update({tp: before[tp] for tp in refused})
        return committed

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Nothing: `in_flight` needs no gaps, and upstream's count the record behind the gap as acked."""

    # -- suspending the flow of events: `on_suspend` holds who is told

    def stop_flow(self) -> None:
        super().stop_flow()
        for callback in tuple(self.on_suspend):
            callback()

    def give_up(self, message: Any) -> None:
        """Stop waiting for this message; it is not committed, and comes again after the next rebalance or start."""
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)

    async def still_member(self) -> float:
        """Return when the group has answered anew that we are in it: the seconds until it may think otherwise.

        Never when the consumer stops: whoever asks is cancelled then.
        """
        while not self.should_stop:
            asked = self.loop.time()
            if await self._thread.call_thread(self._thread.heartbeat):
                left_s: float = self.app.conf.broker_session_timeout - (self.loop.time() - asked)
                return left_s
            await asyncio.sleep(_HEARTBEAT_PAUSE_S)
        forever: asyncio.Future[float] = self.loop.create_future()
        return await forever

    # -- the fetcher, standing still (hazard 2)

    async def _drain_messages(self, fetcher: Any) -> None:
        self._parked.clear()
        try:
            await super()._drain_messages(fetcher)
        finally:
            self._parked.set()

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:  # noqa: ASYNC109  # upstream's signature
        """Upstream makes four tasks for each record that it hands over here; one that need not wait needs none."""
        if timeout is not None or len(coros) != 2:
            return await super().wait_first(*coros, timeout=timeout)
        handing_over, suspended = coros
        try:
            waits_for = handing_over.send(None)
        except StopIteration:
            suspended.close()
            return None
        return await super().wait_first(rest_of(handing_over, waits_for), suspended)

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109  # upstream's signature
        if not self.flow_active:
            self._parked.set()
            try:
                await self.wait(self.can_resume_flow)
            finally:
                self._parked.clear()
        return await super()._wait_next_records(min(timeout, _POLL_S))

    async def park(self) -> None:
        """Suspend the flow and return when the fetcher stands still and holds no record."""
        self.stop_flow()
        self.app.flow_control.suspend()
        await self._parked.wait()

    async def verify_all_partitions_active(self) -> None:
        """Nothing: ops/watchdog.py does. Upstream logs an error a second for each partition that is not fetched, as
        those of the rows never are, and a held lane's for as long as it is held.
        """

    async def perform_seek(self) -> None:
        await super().perform_seek()
        self.resume_at = {tp: at for tp, at in self._committed_offset.items() if at is not None}

    # -- ending a generation (hazard 5)

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Finish, commit, and only then let Faust forget what was acked."""
        self.was_evicted = self._thread._consumer._coordinator.generation == DEFAULT_GENERATION_ID
        if not self.app.should_stop:
            try:
                await self.app.tables.recovery.interrupt()
                self.stop_flow()
                self.app.flow_control.suspend()
                self.app.flow_control.clear()
                await self.wait_empty()
            except Exception as error:  # noqa: BLE001  # whatever it is, leads may be in flight: stop
                await self.app.crash(error)
        await super().on_partitions_revoked(revoked)
        self.in_flight.clear()
        self.resume_at.clear()

    async def wait_empty(self) -> None:
        """Wait until each event that was taken is acked or given up, then commit, after a commit that runs.

        Neither after a crash: the consumer's thread has ended with it.
        """
        while self._unacked_messages and not self.should_stop:
            await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        if self.crashed:
            return
        try:
            async with asyncio.timeout(_COMMIT_S):
                while await self.maybe_wait_for_commit_to_finish():
                    pass
                await self.commit()
        except TimeoutError:
            log.warning("Kafka took no offsets within %.0f s: some finished events will come again", _COMMIT_S)


class SafeProducer(Producer):  # type: ignore[misc]  # faust ships no types
    """Faust's own producer, which nothing here writes with: it never connects, so no broker can fail it."""

    async def on_start(self) -> None:
        """Nothing: upstream connects, and ends the app when it cannot at once."""


class SafeConductor(Conductor):  # type: ignore[misc]  # faust ships no types
    """Subscribes once: the topics never change.

    Upstream subscribes again 45 s after a partition went, which rebalances the group once more, and when that wait
    ends by a stop, it calls a thread that is gone and hangs.
    """

    async def _run(self) -> None:
        await self.app.agents.wait_until_agents_started()
        await self.app.tables.wait_until_tables_registered()
        if not self.should_stop:
            await self.app.consumer.subscribe(await self._update_indices())
            notify(self._subscription_done)

    _subscriber = Service.task(_run)


class SafeTransport(Transport):  # type: ignore[misc]  # faust ships no types
    Consumer = SafeConsumer
    Producer = SafeProducer
    Conductor = SafeConductor


class SafeRecovery(Recovery):  # type: ignore[misc]  # faust ships no types
    """After a rebalance: park the fetcher, let the tables' stores take over what is new, then resume.

    Upstream's recovery reads changelogs and resumes the flow before it seeks; nothing here reads a changelog. The
    stores work here and not in Faust's on_rebalance, because aiokafka sends no heartbeats while that runs.
    """

    _taking_up: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        while not await self.wait_for_stopped(self.signal_recovery_start):
            self.signal_recovery_start.clear()
            self._taking_up = asyncio.create_task(self._take_up(self._generation_id))
            await self.wait(asyncio.wait({self._taking_up}))
            if not self._taking_up.done():
                await self.interrupt()
            error = died_of(self._taking_up)  # of nothing, too, when the next rebalance had begun, or the worker stops
            if isinstance(error, IllegalStateError):
                continue  # a partition was lost between the assignment and the seek: the next rebalance comes
            if error is not None and not self.app.should_stop:  # else it is what the end did to it
                await self.app.crash(error)  # raised here, Faust would log it with a traceback; `run_app` raises it
                return

    _restart_recovery = Service.task(_run)

    async def on_stop(self) -> None:
        await self.interrupt()
        await super().on_stop()

    async def interrupt(self) -> None:
        """Stop taking up, and return when it has stopped."""
        await cancel([self._taking_up])

    @property
    def taking_up(self) -> bool:
        """A rebalance is over for the group, and the streams have not resumed."""
        return self._taking_up is not None and not self._taking_up.done()

    async def _take_up(self, generation: int) -> None:
        consumer = self.app.consumer
        await consumer.park()
        if self.active_tps:
            await consumer._thread.pause_fetching(self.active_tps)
        for table in self.tables.values():
            await table.on_recovery_completed(self.actives_for_table[table], self.standbys_for_table[table])
        await self._resume_streams(generation)

    async def _wait(self, coro: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109  # upstream's signature
        """Upstream takes a time-out for a stop, and then never resumes.

        While no coordinator of the group answers there is nothing to do but wait, as a process does that starts then.
        """
        waited_for = asyncio.ensure_future(coro)
        try:
            while not (await asyncio.wait({waited_for}, timeout=timeout))[0]:
                if self.app.consumer._thread.knows_coordinator:
                    raise BrokerUnavailable(f"Kafka did not give the committed offsets within {timeout:.0f} s")
                log.warning("Kafka has no coordinator for the group since %.0f s: waiting for it", timeout)
            waited_for.result()
        finally:
            await cancel([waited_for])


class SafeTableManager(TableManager):  # type: ignore[misc]  # faust ships no types
    """With `SafeRecovery`, and without upstream's second of sleep at the start."""

    _recovery: SafeRecovery | None

    @property
    def recovery(self) -> SafeRecovery:
        if self._recovery is None:
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class SafeApp(faust.App):  # type: ignore[misc]  # faust ships no types
    """A faust.App with all of the above; `connection` says how its clients reach Kafka."""

    def __init__(self, *args: Any, connection: KafkaConnection, **options: Any) -> None:
        self.connection = connection
        super().__init__(*args, TableManager=SafeTableManager, **options)

    def on_init_dependencies(self) -> Any:
        """Without Faust's own statistics, which nobody reads here: they cost a lead's path 10 us."""
        services = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return services

    def on_rebalance_start(self) -> None:
        """Without upstream's warnings, at each rebalance, that there are no statistics."""
        super().on_rebalance_start()
        self._rebalancing_sensor_state = {"nobody": None}

    def _new_transport(self) -> SafeTransport:
        return SafeTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> SafeTransport:
        return SafeTransport(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """None: nothing of ours is kept in files."""

    def _on_rebalance_when_stopped(self) -> None:
        """Nothing: upstream closes the consumer in another thread's loop, and the stop that is under way hangs."""
