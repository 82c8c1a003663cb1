"""The replay process: builds its parts from the settings, runs them, and closes them in reverse order."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from prometheus_client import Counter

from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.config.reload import FileWatch
from stream_app.domain.dead_letter.replay import Begin, Turns
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.model.topics import MAX_CARRIED_BYTES
from stream_app.faust_app.app import build_app
from stream_app.faust_app.run import assigned, membership, run_app
from stream_app.kafka.clock import KafkaClock
from stream_app.kafka.producers import kafka_publisher
from stream_app.kafka.topics import KnownTopics, TopicWatch
from stream_app.ops import logs as log
from stream_app.ops.http import process_registry
from stream_app.ops.metrics import ExpiredRecords, StallGauge
from stream_app.replay.forward import Replay, define_agents
from stream_app.replay.orders import OrderRunner
from stream_app.replay.reload import Reloads
from stream_app.replay.state import ReplayState
from stream_app.services.process import Watchdog, check_kafka, longest_step_s, serve_ops
from stream_app import __version__

_BUFFERED: Final = 1_000
"""Records in memory per topic and partition. Those of a delay tier only wait."""


async def run_replay(settings: Settings, read: Callable[[], Settings]) -> None:
    """Run `stream-app replay` until SIGTERM or SIGINT. Raises the error that ended it otherwise.

    `read` returns the settings that the files have now. Workspaces and destinations are adopted from them, at a change
    or at `stream-app lanes reload`.
    """
    logger = log.get("replay")
    topics, policy, connection = settings.names, settings.replay, connection_of(settings)
    registry = process_registry()
    moved = Counter(
        "stream_app_replay_moved",
        "Records moved towards `leads.retry`, by their source topic.",
        ("topic",),
        registry=registry,
    )

    def on_moved(topic: str, envelope: Envelope) -> None:
        moved.labels(topic.removeprefix(topics.namespace)).inc()
        logger.debug("moved", topic=topic, lead_id=envelope.lead_id, trace_id=envelope.trace_id, way=envelope.way)

    def on_begin(partition: int, how: Begin) -> None:
        if how.rewound:
            logger.warning(
                "rewound", partition=partition, epoch=how.epoch, text="the group's offset was reset to an earlier one"
            )
        elif how.forgotten:
            logger.warning("offset_forgotten", partition=partition, epoch=how.epoch, resumes_at=how.skip_to)

    async with AsyncExitStack() as stack:
        await check_kafka(settings, "replay", logger)
        kafka_clock = KafkaClock(lambda text: logger.error("clock_is_off", text=text))
        publish = await stack.enter_async_context(kafka_publisher(connection, 2 * MAX_CARRIED_BYTES, kafka_clock))
        rates_per_s = {name: workspace.rate.rate_per_s for name, workspace in settings.workspaces.items()}
        turns = Turns(rates_per_s, policy.rate_share)
        state = ReplayState(connection, topics, settings.kafka.partitions, publish, turns)
        await stack.enter_async_context(state)
        replay = Replay(
            topics,
            policy,
            rates_per_s,
            publish,
            state.begin,
            state.moving,
            Clock(),
            turns,
            on_moved,
            on_begin,
        )
        app = build_app(topics.replay_app, connection, settings.kafka, buffer_records=_BUFFERED)
        define_agents(app, topics, policy.tiers_s, replay)
        runner = OrderRunner(settings, state, lambda: (topics.dlq, 0) in assigned(app))

        def adopt(now: Settings) -> None:
            rates_per_s.update((name, workspace.rate.rate_per_s) for name, workspace in now.workspaces.items())
            runner.adopt(now)
            logger.info("configuration", workspaces=len(now.workspaces), destinations=len(now.destinations))

        changes = FileWatch(settings, read, adopt, lambda text: logger.warning("configuration", text=text))

        def served() -> list[int]:
            return [number for topic, number in assigned(app) if topic == topics.dlq]

        reloads = Reloads(connection, topics, changes.reload, served, publish)
        app.gaps.on_expired = ExpiredRecords(registry, logger)
        watchdog = Watchdog(
            longest_step_s(settings),
            lambda: membership(app) | replay.under_way(assigned(app)),
            StallGauge(registry, logger),
        )

        async def not_ready() -> str | None:
            return "; ".join(watchdog.stalled) or (None if app.started else "not joined to the group yet")

        http = settings.http
        port = await stack.enter_async_context(serve_ops(http.host, http.replay_port, registry, not_ready))
        logger.info("replay_started", version=__version__, metrics_port=port, group=topics.replay_app)
        if state.pause:
            logger.warning("paused", by=state.pause.who, why=state.pause.why, text="until `stream-app replay resume`")
        partitions, watched = settings.kafka.partitions, [*app.agents, topics.replay_state, topics.lanes]
        watch = TopicWatch(connection, KnownTopics(partitions), watched, partitions)
        beside = watchdog.run(), watch.run(), runner.run(), changes.run(), reloads.run()
        await run_app(app, broker_wait_s=settings.kafka.broker_wait_s, beside=beside)
        await state.record_last()
        logger.info("replay_stopped")
