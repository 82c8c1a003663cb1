"""The replay process: builds its parts from the settings and runs them.

The parts are closed in reverse order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from attrs import define, field
from prometheus_client import CollectorRegistry, Counter
from structlog.typing import FilteringBoundLogger

from stream_app import __version__
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.config.reload import FileWatch
from stream_app.domain.commands import (
    REPLAY_RELOAD,
    Command,
    CommandResult,
    answer_to,
    read_command,
    refusal,
)
from stream_app.domain.dead_letter.replay import Begin, Turns
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import MAX_CARRIED_BYTES, TopicNames
from stream_app.faust_app.app import App, build_app
from stream_app.faust_app.run import (
    assigned,
    membership,
    run_app,
    unreadable,
    unreadable_partitions,
)
from stream_app.kafka.clock import KafkaClock
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.producers import Publish, kafka_publisher
from stream_app.kafka.readers import Reader, consumed
from stream_app.kafka.topics import KnownTopics, TopicWatch
from stream_app.ops import logs as log
from stream_app.ops.http import process_registry
from stream_app.ops.lane_metrics import UnreadablePartitions
from stream_app.ops.metrics import ExpiredRecords, StallGauge
from stream_app.replay.forward import Replay, define_agents
from stream_app.replay.orders import OrderRunner
from stream_app.replay.state import ReplayState
from stream_app.services.process import Watchdog, check_kafka, longest_step_s, serve_ops

_BUFFERED: Final = 250
_BUFFERED_BYTES: Final = 2**18
"""Bounds on the records in memory for each topic and partition, and on their bytes. Records of a
delay tier only wait, so few are enough.
"""
_AGAIN_S: Final = 2.0
_json: Final = msgspec.json.Encoder()


async def run_replay(settings: Settings, read: Callable[[], Settings]) -> None:
    """Run `stream-app replay` until SIGTERM or SIGINT. Raises the error that ended it otherwise.

    `read` returns the settings that the files have now. The process adopts workspaces and
    destinations from them when a file changes, and at `stream-app lanes reload`.
    """
    logger = log.get("replay")
    names = settings.names
    connection = connection_of(settings)
    registry = process_registry()
    async with AsyncExitStack() as stack:
        await check_kafka(settings, "replay", logger)
        publish = await stack.enter_async_context(open_publisher(connection, logger))
        rates_per_s = rates_of(settings)
        turns = Turns(rates_per_s, settings.replay.rate_share)
        state = await stack.enter_async_context(
            ReplayState(connection, names, settings.kafka.partitions, publish, turns),
        )
        replay = forwarding(settings, rates_per_s, publish, state, turns, registry)
        app = forwarding_app(settings, replay)
        # One process carries out the replays that operators order: the one with this partition.
        runner = OrderRunner(settings, state, lambda: (names.dlq, 0) in assigned(app))
        changes = configuration_watch(settings, read, rates_per_s, runner)
        reloads = Reloads(
            logger,
            connection,
            names,
            changes.reload,
            lambda: [number for topic, number in assigned(app) if topic == names.dlq],
            publish,
        )
        not_ready, watchdog = observe_replay(settings, app, replay, registry)
        http = settings.http
        port = await stack.enter_async_context(
            serve_ops(http.host, http.replay_port, registry, not_ready),
        )
        logger.info(
            "replay_started",
            version=__version__,
            metrics_port=port,
            group=names.replay_app,
        )
        if state.pause:
            logger.warning(
                "paused",
                by=state.pause.who,
                why=state.pause.why,
                text="until `stream-app replay resume`",
            )
        # Run until a signal, or until one of these tasks fails.
        background = (
            watchdog.run(),
            replay_topic_watch(settings, app).run(),
            runner.run(),
            changes.run(),
            reloads.run(),
        )
        await run_app(app, broker_wait_s=settings.kafka.broker_wait_s, beside=background)
        # After the app, which has committed its last offsets by now.
        await state.record_last()
        logger.info("replay_stopped")


def open_publisher(
    connection: KafkaConnection,
    logger: FilteringBoundLogger,
) -> AbstractAsyncContextManager[Publish]:
    """Open the producer of all that this process forwards, and close it at the end of the block."""
    clock = KafkaClock(lambda text: logger.error("clock_is_off", text=text))
    return kafka_publisher(connection, 2 * MAX_CARRIED_BYTES, clock)


def rates_of(settings: Settings) -> dict[str, float]:
    """Return the configured rates of the lanes, in leads per second by workspace."""
    return {name: workspace.rate.rate_per_s for name, workspace in settings.workspaces.items()}


def forwarding(
    settings: Settings,
    rates_per_s: Mapping[str, float],
    publish: Publish,
    state: ReplayState,
    turns: Turns,
    registry: CollectorRegistry,
) -> Replay:
    """Return what forwards the records, with its metric and its log.

    `rates_per_s` changes when the configuration does.
    """
    names = settings.names
    logger = log.get("replay")
    moved = Counter(
        "stream_app_replay_moved",
        "Records moved towards `leads.retry`, by their source topic.",
        ("topic",),
        registry=registry,
    )

    def on_moved(topic: str, envelope: Envelope) -> None:
        moved.labels(topic.removeprefix(names.namespace)).inc()
        logger.debug(
            "moved",
            topic=topic,
            lead_id=envelope.lead_id,
            trace_id=envelope.trace_id,
            way=envelope.way,
        )

    def on_begin(partition: int, how: Begin) -> None:
        if how.rewound:
            logger.warning(
                "rewound",
                partition=partition,
                epoch=how.epoch,
                text="the group's offset was reset to an earlier one",
            )
        elif how.forgotten:
            logger.warning(
                "offset_forgotten",
                partition=partition,
                epoch=how.epoch,
                resumes_at=how.skip_to,
            )

    return Replay(
        names,
        settings.replay,
        rates_per_s,
        publish,
        state.begin,
        state.moving,
        Clock(),
        turns,
        on_moved,
        on_begin,
    )


def forwarding_app(settings: Settings, replay: Replay) -> App:
    """Return the Faust app, which joins the group and feeds `replay` with records."""
    names = settings.names
    app = build_app(
        names.replay_app,
        connection_of(settings),
        settings.kafka,
        buffer_records=_BUFFERED,
        buffer_bytes=_BUFFERED_BYTES,
    )
    define_agents(app, names, settings.replay.tiers_s, replay)
    return app


def configuration_watch(
    settings: Settings,
    read: Callable[[], Settings],
    rates_per_s: dict[str, float],
    runner: OrderRunner,
) -> FileWatch:
    """Return what adopts the configuration again: the rates of the lanes, and the next replay."""
    logger = log.get("replay")

    def adopt(now: Settings) -> None:
        rates_per_s.update(rates_of(now))
        runner.adopt(now)
        logger.info(
            "configuration",
            workspaces=len(now.workspaces),
            destinations=len(now.destinations),
        )

    return FileWatch(
        settings,
        read,
        adopt,
        lambda text: logger.warning("configuration", text=text),
    )


def observe_replay(
    settings: Settings,
    app: App,
    replay: Replay,
    registry: CollectorRegistry,
) -> tuple[Callable[[], Awaitable[str | None]], Watchdog]:
    """Register the metrics of the app.

    Returns:
        A function that says why the process is not ready (None: it is ready), and the watchdog,
        which has to run for that.
    """
    logger = log.get("replay")
    app.gaps.on_expired = ExpiredRecords(registry, logger)
    watchdog = Watchdog(
        longest_step_s(settings),
        lambda: membership(app) | replay.under_way(assigned(app)),
        StallGauge(registry, logger),
    )
    registry.register(UnreadablePartitions(lambda: unreadable_partitions(app)))

    async def not_ready() -> str | None:
        reasons = [*watchdog.stalled, *(str(batch) for batch in unreadable(app).values())]
        return "; ".join(reasons) or (None if app.started else "not joined to the group yet")

    return not_ready, watchdog


def replay_topic_watch(settings: Settings, app: App) -> TopicWatch:
    """Return the check of the topics of this process, whose loss ends it.

    `leads.lanes` is not among them: workers fill it again, and what follows it begins again with
    the new records.
    """
    names = settings.names
    partitions = settings.kafka.partitions
    return TopicWatch(
        connection_of(settings),
        KnownTopics(partitions),
        [*app.agents, names.state, names.replay_state],
        partitions,
        compacted=[names.state, names.replay_state],
    )


@define(eq=False, repr=False)
class Reloads:
    """Carries out `stream-app lanes reload` once for each command, and answers like a worker.

    A reload goes to every partition of `leads.commands`. Each replay process has a configuration of
    its own, so each of them follows the first of these partitions, outside of a group, and answers
    for the partitions of `leads.dlq` that it has. A process without any adopts the configuration,
    too.

    `reload` adopts the configuration, `served` returns the partitions to answer for, and `publish`
    writes an answer.
    """

    _log: FilteringBoundLogger
    _connection: KafkaConnection
    _topics: TopicNames
    _reload: Callable[[], CommandResult]
    _served: Callable[[], Collection[int]]
    _publish: Publish
    _clock: Clock = field(init=False, factory=Clock)
    _next: int | None = field(init=False, default=None)
    _last: str = field(init=False, default="")

    async def run(self) -> None:
        """Carry out the reloads that come from now on.

        While Kafka is away it tries again and ends nothing, because dead letters need no reload.
        """
        place = TopicPartition(self._topics.commands, 0)
        warn = log.Throttled(lambda why: self._log.warning("reloads_wait", because=why))
        while True:
            try:
                async with Reader(self._connection, fetch_max_wait_ms=500) as reader:
                    if self._next is None:
                        self._next = (await reader.ends([place]))[place]
                    async for records in reader.follow({place: self._next}, pass_unreadable=True):
                        warn.reset()
                        for record in records.get(place, ()):
                            await self._process(record)
                            self._next = record.offset + 1
            except (StreamAppError, KafkaError) as error:
                warn(str(error))
            await asyncio.sleep(_AGAIN_S)

    async def _process(self, record: Any) -> None:
        now_ms = self._clock.now_ms()
        order = consumed(record)
        command = read_command(order, now_ms)
        if not isinstance(command, Command) or command.kind != "reload":
            return
        if refusal(command, order, now_ms, is_answered=command.id == self._last):
            return
        result = self._reload()
        self._log.info(
            "command",
            id=command.id,
            kind=REPLAY_RELOAD,
            who=command.who,
            text=result.text,
        )
        served = {
            number: answer_to(command, result, number, now_ms, REPLAY_RELOAD)
            for number in self._served()
        }
        answers = [
            Record(self._topics.audit, b"", _json.encode(reply), (), number)
            for number, reply in served.items()
        ]
        for written in [await self._publish(answer) for answer in answers]:
            await written
        # After the answers: if Kafka does not take one, the command is read and carried out again.
        self._last = command.id
