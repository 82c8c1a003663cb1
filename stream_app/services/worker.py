"""The worker process: builds its parts from the settings and runs them.

The parts are closed in reverse order.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter

from stream_app import __version__
from stream_app.cache.filler import CacheFiller, MemoryCache
from stream_app.cache.local_facts import local_facts
from stream_app.clay import Egress
from stream_app.clay.client import ClayClient, HostCheck, Webhooks
from stream_app.clay.runs import ClayApi, Doors, Routines
from stream_app.client.lanes.views import moved_lanes
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.config.reload import NOTHING_NEW, Configuration
from stream_app.domain.cached_results import DAY_MS
from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import MAX_CARRIED_BYTES
from stream_app.domain.plan import Plan
from stream_app.faust_app.app import App, build_app
from stream_app.faust_app.run import (
    alarm_of,
    assigned,
    committed,
    heartbeats,
    membership,
    run_app,
    unreadable,
    unreadable_partitions,
)
from stream_app.faust_app.worker import Worker, define_agents, sources_of
from stream_app.kafka.clock import KafkaClock, say_at_start
from stream_app.kafka.takeover.view import ClusterView
from stream_app.kafka.topics import KnownTopics, TopicWatch
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from stream_app.ops import logs as log
from stream_app.ops.http import process_registry
from stream_app.ops.lane_metrics import (
    ParkedLeads,
    RunsWithoutResults,
    UnreadablePartitions,
    WaitingRecords,
)
from stream_app.ops.metrics import StallGauge, WorkerMetrics
from stream_app.partition.owner import PartitionOwner
from stream_app.partition.ports import Cache
from stream_app.partition.state import WorkerParts
from stream_app.services.backlog import BacklogCount
from stream_app.services.process import Watchdog, check_kafka, longest_step_s, serve_ops

_PAUSE_S: Final = 30.0
_LANES_WITHIN_S: Final = 20.0
_SILENT_S: Final = 10.0  # Five heartbeats. While none of them is accepted, nothing is committed.


async def run_worker(settings: Settings, read: Callable[[], Settings]) -> None:
    """Run `stream-app worker` until SIGTERM or SIGINT. Raises the error that ended it otherwise.

    `read` returns the current settings, for a reload.
    """
    logger = log.get("worker")
    configuration = Configuration(settings, read)
    names = settings.names
    connection = connection_of(settings)
    registry = process_registry()
    metrics = WorkerMetrics(registry, logger)
    known_topics = KnownTopics(configuration.plan.partitions)
    kafka_clock = KafkaClock(lambda text: logger.error("clock_is_off", text=text))

    async def refresh() -> None:
        if (reloaded := await configuration.refresh()) is not NOTHING_NEW:
            logger.info("configuration", text=reloaded.text)

    async with AsyncExitStack() as stack:
        await check_kafka(settings, "worker", logger)
        # The Faust app joins the group and feeds the partitions. It comes first, because each
        # partition asks it about the group and ends it after a bug. It assigns none until it runs.
        app = build_app(names.worker_app, connection, settings.kafka)
        app.gaps.on_expired = metrics.expired
        view = ClusterView(connection)
        stack.push_async_callback(view.close)
        clay = await stack.enter_async_context(open_clay(settings, configuration, metrics))
        cache = await stack.enter_async_context(open_cache(settings, registry))
        parts_now = shared_parts(app, configuration, clay, cache, metrics)
        build = partition_builder(settings, parts_now, known_topics, kafka_clock, view)
        worker = Worker(build, refresh)
        # Pushed after Clay and the cache, so that it runs before they are closed: partitions may
        # have POSTs in flight.
        stack.push_async_callback(lambda: worker.revoked(set(worker.partitions)))
        configuration.moved = partial(
            why_lanes_move,
            settings,
            configuration.plan,
            worker.partitions,
        )
        app.add_state_table(names.state, worker)
        define_agents(app, names, worker)
        not_ready, observers = observe_worker(settings, app, worker, registry, metrics)
        http = settings.http
        port = await stack.enter_async_context(
            serve_ops(http.host, http.worker_port, registry, not_ready),
        )
        # Run until a signal, or until one of these tasks fails.
        background = (
            *(run() for run in observers),
            topic_watch(settings, worker, known_topics).run(),
            say_at_start(connection, f"{names.worker_app}-clock", names.audit, kafka_clock),
            _restarted(cache_filler(settings, worker, cache).run),
        )
        # What exists now lasts as long as the process, so no collection need visit it. One that
        # visits it takes 70 ms, in which no lead is sent.
        gc.freeze()
        logger.info(
            "worker_started",
            version=__version__,
            metrics_port=port,
            group=names.worker_app,
        )
        await run_app(app, broker_wait_s=settings.kafka.broker_wait_s, beside=background)
        logger.info("worker_stopped")


@asynccontextmanager
async def open_clay(
    settings: Settings,
    configuration: Configuration,
    metrics: WorkerMetrics,
) -> AsyncIterator[Doors]:
    """Open what sends leads to Clay, and close it at the end of the block.

    It follows a reload: it reads the destinations of `configuration` at each POST.
    """
    egress = settings.make_egress()
    host_check = HostCheck(egress)
    async with clay_client(settings, egress) as client:
        try:
            yield Doors(
                Webhooks(client, configuration.endpoints, metrics.posted, host_check),
                Routines(
                    ClayApi(client),
                    configuration.apis,
                    configuration.accounts,
                    metrics.posted,
                ),
            )
        finally:
            await host_check.close()


def shared_parts(
    app: App,
    configuration: Configuration,
    clay: Doors,
    cache: Cache,
    metrics: WorkerMetrics,
) -> Callable[[], WorkerParts]:
    """Return a function that returns what the partitions of this process share.

    It is called at each assignment, because `still_member` asks about the membership of the group
    that this process has at the time of the call.
    """
    clock = Clock()
    last_known_lanes = dict[str, Lane]()

    def parts_now() -> WorkerParts:
        return WorkerParts(
            plan=configuration.plan,
            clay=clay,
            runs=clay.routines,
            clock=clock,
            observer=metrics,
            alarm=alarm_of(app),
            still_member=app.consumer.membership(),
            reload=configuration.reload,
            cache=cache,
            local_facts=local_facts,
            last_known_lanes=last_known_lanes,
        )

    return parts_now


def topic_watch(settings: Settings, worker: Worker, known_topics: KnownTopics) -> TopicWatch:
    """Return the check of the worker's topics, whose loss ends the process.

    A lost topic of the lanes' views does not: the owners of the lanes write these again.
    """
    names = settings.names

    def write_lanes_again() -> None:
        for owner in list(worker.partitions.values()):
            owner.state.lanes.publish_all()

    return TopicWatch(
        connection_of(settings),
        known_topics,
        [*sources_of(names), names.state],
        settings.kafka.partitions,
        compacted=[names.state],
        on_lost={names.lanes: write_lanes_again},
    )


def cache_filler(settings: Settings, worker: Worker, cache: Cache) -> CacheFiller:
    """Return the filler of the cache, which reads the results of the owned partitions."""
    return CacheFiller(
        connection_of(settings),
        settings.names.enriched,
        settings.kafka.partitions,
        cache,
        settings.cache,
        lambda: list(worker.partitions),
        Clock().now_ms,
    )


def clay_client(settings: Settings, egress: Egress) -> ClayClient:
    """Return the worker's Clay client, with a connection for every lead that may be in flight."""
    delivery = settings.delivery
    return ClayClient(
        request_timeout_s=delivery.request_timeout_s,
        connect_timeout_s=delivery.connect_timeout_s,
        pool_timeout_s=min(5.0, (delivery.request_timeout_s - delivery.connect_timeout_s) / 2),
        max_connections=delivery.max_in_flight * settings.kafka.partitions,
        keepalive_s=settings.egress.keepalive_s,
        egress=egress,
    )


@asynccontextmanager
async def open_cache(settings: Settings, registry: CollectorRegistry) -> AsyncIterator[Cache]:
    """Open the cache of the worker. Redis may be unavailable at any time."""
    if settings.redis.url_env is None:
        yield MemoryCache()
        return
    # Imported only if needed, because it is 8 % of what a worker without Redis would import.
    from stream_app.cache.redis import RedisCache, redis_link

    calls = Counter(
        "stream_app_redis_calls",
        "Calls to Redis: ok, failed, or skipped for a while because several failed.",
        ("outcome",),
        registry=registry,
    )
    prefix = f"{settings.kafka.namespace}stream-app:"
    url = settings.secrets[settings.redis.url_env]
    async with redis_link(
        url,
        settings.redis.timeout_s,
        settings.redis.ca_file,
        lambda outcome: calls.labels(outcome).inc(),
    ) as link:
        yield RedisCache(link, prefix, int(settings.cache.stale_days * DAY_MS / 1000))


def partition_builder(
    settings: Settings,
    parts_now: Callable[[], WorkerParts],
    known_topics: KnownTopics,
    kafka_clock: KafkaClock,
    view: ClusterView,
) -> Callable[[int], PartitionOwner]:
    """Return a function that creates the owner of the partition with a number.

    Args:
        settings: The configuration.
        parts_now: Returns what the partitions share, as the member of the group that this process
            is at that moment.
        known_topics: The topics that this process has seen.
        kafka_clock: Compares Kafka's clock with the local one.
        view: The requests to Kafka that the partitions share.
    """
    names = settings.names
    # The topics to which the owner of a partition copies the raw bytes of its leads.
    carrying = [
        names.dlq,
        names.deferred,
        names.parked,
        *(names.wait(tier) for tier in settings.replay.tiers_s),
    ]
    # The topics, besides the state, of which an owner writes only to its own partition.
    own = {names.status, names.enriched, names.lanes, names.audit, *carrying}
    limits = StateStoreLimits(
        transact_s=settings.delivery.commit_timeout_s,
        topic_max_record_bytes=dict.fromkeys((names.retry, *carrying), MAX_CARRIED_BYTES - 1024),
    )

    def build(number: int) -> PartitionOwner:
        store = TransactionalState(
            connection_of(settings),
            f"{names.worker_app}-{number}",
            names.state,
            number,
            limits,
            known=known_topics,
            writes_to={(topic, number) for topic in own},
            # A lead that arrives elsewhere goes to the home of its workspace.
            writes_to_all_of={names.retry},
            clock=kafka_clock,
            view=view,
        )
        # `parts_now` is called at the assignment, so that `still_member` confirms the member to
        # which this partition was assigned, and none that this process has been or becomes.
        return PartitionOwner(number, store, parts_now())

    return build


def observe_worker(
    settings: Settings,
    app: App,
    worker: Worker,
    registry: CollectorRegistry,
    metrics: WorkerMetrics,
) -> tuple[Callable[[], Awaitable[str | None]], list[Callable[[], Coroutine[Any, Any, None]]]]:
    """Register the metrics of the partitions.

    Returns:
        A function that says why the worker is not ready (None: it is ready), and what has to run
        for that and for the metrics.
    """
    owned = worker.partitions
    sources = sources_of(settings.names)
    metrics.observe(
        lambda: sum(owner.state.admission.posts_in_flight for owner in list(owned.values())),
        lambda: sum(len(owner.state.rows) for owner in list(owned.values())),
    )
    backlog = BacklogCount(
        connection_of(settings),
        lambda: committed(app),
        lambda: {
            (topic, number): position
            for number, owner in list(owned.items())
            for topic, position in owner.state.intake.positions(sources).items()
        },
    )
    registry.register(WaitingRecords(backlog.counts, sources))
    registry.register(UnreadablePartitions(lambda: unreadable_partitions(app)))
    registry.register(
        ParkedLeads(lambda: [owner.state.rows.parked for owner in list(owned.values())]),
    )
    registry.register(
        RunsWithoutResults(
            lambda: [owner.state.open_runs.open() for owner in list(owned.values())],
            Clock().now_ms,
        ),
    )
    watchdog = Watchdog(
        longest_step_s(settings),
        lambda: membership(app) | worker.under_way(assigned(app)),
        StallGauge(registry, log.get("worker")),
    )
    kafka_answers = Watchdog(_SILENT_S, lambda: heartbeats(app), lambda _: None)

    async def not_ready() -> str | None:
        damaged = [str(batch) for batch in unreadable(app).values()]
        reasons = dict.fromkeys(
            [*kafka_answers.stalled, *watchdog.stalled, *damaged, *worker.failing],
        )
        return "; ".join(reasons) or (None if owned else "no partition is assigned yet")

    return not_ready, [watchdog.run, kafka_answers.run, backlog.run]


async def why_lanes_move(
    settings: Settings,
    plan: Plan,
    owned: Mapping[int, PartitionOwner],
    new: Plan,
) -> list[str]:
    """Return why a worker must not adopt the plan `new` in place of `plan`.

    All workers refuse a plan that moves a lane. The owner of the lane knows the lane from its row,
    and the other workers know it from its view.
    """
    problems = [
        problem for owner in list(owned.values()) for problem in owner.state.lanes.moved(new)
    ]
    added = new.workspaces.keys() - plan.workspaces.keys()
    if problems or not added:
        return problems
    # A partition that is assigned during this await is not in `problems`. Its `Lanes` checks the
    # plan when it loads its rows, and when the reload is applied.
    try:
        async with asyncio.timeout(_LANES_WITHIN_S):
            return await moved_lanes(settings, new, added)
    except (BrokerUnavailable, KafkaRefused, TimeoutError):
        return [
            (
                "Kafka did not say where the lanes of "
                f"{count(len(added), 'new workspace')} are: reload again"
            ),
        ]


async def _restarted(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a task of the cache until cancelled.

    Its errors affect no lead, so an error is logged, and the task is started again after a pause.
    """
    while True:
        try:
            await run()
        except Exception as bug:  # noqa: BLE001 - a cache that fails must not end the worker
            log.get("cache").error("cache_trouble", error=type(bug).__name__, exc_info=True)
        await asyncio.sleep(_PAUSE_S)
