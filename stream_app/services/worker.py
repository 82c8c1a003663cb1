"""The composition root: builds each process from the settings, and closes it in reverse order."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec
from prometheus_client import CollectorRegistry

from stream_app import __version__
from stream_app.cache.local_facts import local_facts
from stream_app.clay.callback_url import CallbackUrl
from stream_app.clay.client import ClayClient
from stream_app.clay.egress import Egress
from stream_app.clay.endpoints import Endpoint, Webhooks, setup_id, webhook_id
from stream_app.config import Settings, client_options
from stream_app.config.client import egress_of
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.config.reload import NOTHING_NEW, Configuration
from stream_app.domain.dead_letter.replay import ReplayPolicy
from stream_app.domain.lane.budget import Cost
from stream_app.domain.lane.lane import Lane
from stream_app.domain.policy import Destination, LinePolicy, Plan, Workspace
from stream_app.domain.topics import MAX_CARRIED_BYTES
from stream_app.faust_app.agents import Worker
from stream_app.faust_app.app import FaustOptions, build_app
from stream_app.faust_app.assigned import assigned, membership, waiting
from stream_app.faust_app.run import alarm_of, run_app
from stream_app.kafka.archive import KafkaArchive
from stream_app.kafka.clock import KafkaClock, say_at_start
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.lag import ParkedLeads, WaitingRecords
from stream_app.kafka.topic_identity import KnownTopics
from stream_app.kafka.topic_watch import TopicWatch
from stream_app.kafka.topics import check_topics
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from stream_app.ops import logs as log
from stream_app.ops.clock import SystemClock
from stream_app.ops.http import serve_ops
from stream_app.ops.metrics import StallGauge, WorkerMetrics
from stream_app.ops.watchdog import Watchdog
from stream_app.partition.in_flight import Source
from stream_app.partition.owner import PartitionOwner
from stream_app.partition.timeouts import TimeoutSources
from stream_app.pipeline.fallback import Known
from stream_app.services.cache import remember


def build_plan(settings: Settings) -> Plan:
    """What the line needs to know, from what the operator wrote."""
    line = settings.line
    return Plan(
        topics=settings.names,
        partitions=settings.kafka.partitions,
        workspaces={
            name: Workspace(
                name=name,
                default_destination=settings.destination_of(name, None) or "",
                hold=here.hold,
                fallback=here.fallback,
                breaker=here.breaker,
                window=here.window,
                health=here.health,
                rate=here.rate,
                budget=here.budget,
                quota=here.quota,
                stop=here.stop,
                concurrency=msgspec.structs.replace(
                    here.concurrency,
                    least=min(here.concurrency.least, line.max_in_flight),
                    most=line.max_in_flight,
                ),
                flood=here.flood,
                silence=here.silence,
            )
            for name, here in settings.workspaces.items()
        },
        destinations={
            alias: Destination(
                alias=alias,
                workspace=there.workspace,
                webhook_ids=tuple(webhook_id(settings.secrets[name]) for name in there.webhooks_env),
                columns=there.columns,
                callbacks=there.callbacks,
                estimate=Cost(there.estimate_credits, there.estimate_actions),
                ceiling=Cost(there.ceiling_credits, there.ceiling_actions),
                uncertain=there.uncertain,
                uncertain_grace_s=there.uncertain_grace_s or line.uncertain_grace_s,
                cache_first=there.cache_first,
                token_name=there.token_env or "",
                setup_id=setup_id(*(settings.secrets[name] for name in (*there.webhooks_env, there.token_env) if name)),
                callback_url=settings.callback_url(alias) if there.callbacks else "",
                callback_deadline_s=there.callback_deadline_s,
                callback_grace_s=there.callback_grace_s,
            )
            for alias, there in settings.destinations.items()
        },
        pins=settings.pins,
        line=LinePolicy(
            max_in_flight=line.max_in_flight,
            max_attempts=line.max_attempts,
            retry_base_s=line.retry_base_s,
            retry_cap_s=line.retry_cap_s,
            patience_s=line.patience_s,
            start_within_s=line.max_request_start_age_s,
            freshness_days=line.freshness_days,
            retry_share=settings.shares.retry,
            bulk_share=settings.shares.bulk,
        ),
        replay=replay_policy(settings),
        app=__version__,
        callback_keys=settings.callback_keys if settings.gateway.token_keys_env else None,
        cache=settings.cache,
    )


def _derived(settings: Settings) -> tuple[Plan, dict[str, Endpoint]]:
    return build_plan(settings), _endpoints(settings)


def replay_policy(settings: Settings) -> ReplayPolicy:
    replay = settings.replay
    return ReplayPolicy(
        max_replays=replay.max_replays,
        max_returns=replay.max_returns,
        rate_share=replay.rate_share,
        base_s=replay.backoff_base_s,
        unreachable_base_s=replay.backoff_unreachable_base_s,
        cap_s=replay.backoff_cap_s,
        tiers_s=replay.tiers_s,
    )


async def run_worker(settings: Settings, read: Callable[[], Settings]) -> None:
    """`stream-app worker`: until SIGTERM or SIGINT. Raises what ended it otherwise.

    read  the settings as they are now, when an operator has them read anew.
    """
    logger = log.get("worker")
    configuration = Configuration(settings, _derived(settings), read, _derived)
    plan, connection, egress = configuration.plan, connection_of(settings), egress_of(settings)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, logger)
    async with AsyncExitStack() as stack:
        await check_kafka(settings, "worker", logger)
        client = await stack.enter_async_context(clay_client(settings, egress))
        clay = Webhooks(client, configuration.endpoints, metrics.posted)
        memory = await stack.enter_async_context(remember(settings, registry, metrics))
        clock, known = SystemClock(), Known(memory.cache, local_facts)
        timeout_sources = TimeoutSources(KafkaArchive(connection), CallbackUrl(settings.gateway.public_url, egress))
        previous: dict[str, Lane] = {}
        topics = KnownTopics()
        kafka_clock = KafkaClock(lambda text: logger.error("clock_is_off", text=text))

        def build_partition(number: int) -> PartitionOwner:
            # Its last owner may have been told of something new while this process had no partition to be told by.
            if (told := configuration.reload()) is not NOTHING_NEW:
                logger.info("configuration", text=told.text)
            ledger = TransactionalState(
                *(connection, f"{plan.topics.worker_app}-{number}", plan.topics.state, number, _limits(settings)),
                known=topics,
                writes_to=_written(settings, number),
                clock=kafka_clock,
            )
            member = app.consumer.still_member
            return PartitionOwner(
                *(number, plan, ledger, clay, clock, metrics, alarm, member),
                reload=configuration.reload,
                known=known,
                previous=previous,
                sources=timeout_sources,
            )

        worker = Worker(build_partition)
        stack.push_async_callback(lambda: worker.revoked(set(worker.partitions)))
        names = plan.topics
        sources: dict[str, Source] = {
            names.leads: "hot",
            names.retry: "retry",
            names.bulk: "bulk",
            names.commands: "command",
            names.callbacks: "callback",
        }
        app = build_app(
            faust_options(settings, connection, names.worker_app, names.state),
            {topic: worker.handler(source) for topic, source in sources.items()},
            worker,
        )
        alarm = alarm_of(app)
        owned = worker.partitions
        metrics.observe(
            lambda: sum(one.posts_under_way for one in list(owned.values())),
            lambda: sum(one.rows for one in list(owned.values())),
        )
        registry.register(WaitingRecords(lambda: waiting(app, sources)))
        registry.register(ParkedLeads(lambda: [one.parked for one in list(owned.values())]))
        watchdog = Watchdog(
            longest_step_s(settings),
            lambda: membership(app) | worker.under_way(assigned(app)),
            StallGauge(registry, logger),
        )

        async def not_ready() -> str | None:
            return "; ".join(watchdog.still) or (None if worker.partitions else "no partition is assigned yet")

        http = settings.http
        port = await stack.enter_async_context(serve_ops(http.host, http.worker_port, registry, not_ready))
        app.gaps.on_expired = metrics.expired
        watch = TopicWatch(connection, topics, [*sources, names.state], plan.partitions)
        remembering = memory.tasks(connection, lambda: list(owned), clock.now_ms)
        logger.info("worker_started", version=__version__, metrics_port=port, group=plan.topics.worker_app)
        tame_garbage_collector()
        first_look = say_at_start(connection, f"{names.worker_app}-clock", names.audit, kafka_clock)
        beside = (watchdog.run(), watch.run(), first_look, *remembering)
        await run_app(app, broker_wait_s=settings.kafka.broker_wait_s, beside=beside)
        logger.info("worker_stopped")


def longest_step_s(settings: Settings) -> float:
    """Nothing takes longer to move when all is well: a POST started late, and two commits."""
    line = settings.line
    return line.max_request_start_age_s + line.request_timeout_s + 2 * line.commit_timeout_s


def tame_garbage_collector() -> None:
    """Collections at Python's defaults cost a fifth of a lead's CPU and find next to nothing (benchmarks/line.py)."""
    gc.collect()
    gc.freeze()  # what is here now lives as long as the process
    gc.set_threshold(50_000, 20, 50)


async def check_kafka(settings: Settings, process: str, logger: log.Logger) -> None:
    """Kafka is there, allows the process its work, and has its topics as they should be, or it does not start."""

    def say(text: str) -> None:
        logger.warning("waiting_for_kafka", text=text)

    await kafka_ready(settings, process, say)
    await check_topics(client_options(settings), settings.topic_plan(), settings.kafka.broker_wait_s, say)


def clay_client(settings: Settings, egress: Egress) -> ClayClient:
    """The one client of a worker, with room for all that may be in flight."""
    line = settings.line
    return ClayClient(
        request_timeout_s=line.request_timeout_s,
        connect_timeout_s=line.connect_timeout_s,
        pool_timeout_s=min(5.0, (line.request_timeout_s - line.connect_timeout_s) / 2),
        max_connections=line.max_in_flight * settings.kafka.partitions,
        keepalive_s=settings.egress.keepalive_s,
        egress=egress,
    )


def _endpoints(settings: Settings) -> dict[str, Endpoint]:
    return {
        alias: Endpoint(
            urls={webhook_id(settings.secrets[name]): settings.secrets[name] for name in there.webhooks_env},
            token=settings.secrets[there.token_env] if there.token_env else None,
            unavailable_is_refused=there.unavailable_is_refused,
        )
        for alias, there in settings.destinations.items()
    }


def _limits(settings: Settings) -> StateStoreLimits:
    return StateStoreLimits(
        transact_s=settings.line.commit_timeout_s,
        topic_max_record_bytes=dict.fromkeys((settings.names.retry, *_carrying(settings)), MAX_CARRIED_BYTES - 1024),
    )


def _written(settings: Settings, number: int) -> set[tuple[str, int]]:
    """All that the owner of a partition writes to, besides its rows."""
    names = settings.names
    own = {names.status, names.enriched, names.lanes, names.audit, *_carrying(settings)}
    strays = {(names.retry, home) for home in range(settings.kafka.partitions)}  # each goes home
    return {(topic, number) for topic in own} | strays


def _carrying(settings: Settings) -> list[str]:
    """Those topics that a partition's owner writes its own leads to, as it got them."""
    names = settings.names
    return [names.dlq, names.deferred, names.parked, *(names.wait(tier) for tier in settings.replay.tiers_s)]


def faust_options(
    settings: Settings, connection: KafkaConnection, app_id: str, state_topic: str | None
) -> FaustOptions:
    """How a process joins its group. `state_topic`: for the one that owns state."""
    kafka = settings.kafka
    return FaustOptions(
        app_id=app_id,
        connection=connection,
        partitions=kafka.partitions,
        state_topic=state_topic,
        session_timeout_s=kafka.session_timeout_s,
        heartbeat_s=min(3.0, kafka.session_timeout_s / 3),
        rebalance_timeout_s=kafka.rebalance_timeout_s,
    )
