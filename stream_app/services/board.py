"""The board process: builds its parts from the settings and runs them.

The parts are closed in reverse order. The process follows Kafka into the read model, and shows that
as pages and as the look-up API. It writes the commands of operators, and the leads that they
publish. Only one board runs.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, time, timedelta
from functools import partial
from typing import Final

import httpx
from attrs import define
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stream_app import __version__
from stream_app.board.access import Access, BoardAccess, Proxy
from stream_app.board.actions import actions_of
from stream_app.board.app import BoardRoutes
from stream_app.board.lookup import Lookup
from stream_app.board.notify import Findings, Messages, board_findings, gateway_answers
from stream_app.board.publish import Publishing, join_on_kafka
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import Projection
from stream_app.board.read_model.history import YIELD_WINDOWS
from stream_app.board.read_model.on_kafka import ResultFetcher, WaitingLeads
from stream_app.board.read_model.store import Sources
from stream_app.board.replays import Planner
from stream_app.board.site import Site
from stream_app.board.uploads import Uploads
from stream_app.client.lanes.commands import command_sender
from stream_app.client.messages import MessageReceiver
from stream_app.client.results.answers import Yield
from stream_app.client.results.lookup import NAME
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.board_files import messages_path, model_path, token_of_board
from stream_app.config.kafka_access import connection_of
from stream_app.domain.books.bill import day_of_reading
from stream_app.domain.books.records import STATES
from stream_app.domain.model.records import Record
from stream_app.domain.views.explain import Finding
from stream_app.kafka.backlog import places_of
from stream_app.kafka.connection import ANSWER_WITHIN_S, KafkaConnection
from stream_app.kafka.groups import consumption_of
from stream_app.kafka.producers import open_inbox
from stream_app.kafka.topics import existing_topics, watch_partitions
from stream_app.ops import logs as log
from stream_app.ops.http import process_registry, serve_http
from stream_app.services.process import check_kafka, serve_ops
from stream_app.tasks import cancel, run_until, stop_signal

_GRACE_S: Final = 10

PutCommand = Callable[[Record], Awaitable[None]]


async def run_board(settings: Settings) -> None:
    """Run `stream-app board` until SIGTERM or SIGINT. Raises the error that ended it otherwise."""
    logger = log.get("board")
    connection = connection_of(settings)
    http = settings.http
    token = token_of_board(settings, os.environ)
    registry = process_registry()
    # Before the signal handlers are set, so that a signal ends this wait at once.
    await check_kafka(settings, settings.board_rights, logger)
    projection = _projection(settings, connection, registry, logger)

    async def not_ready() -> str | None:
        return projection.lag.trouble or None

    with stop_signal() as stop:
        async with AsyncExitStack() as stack:
            put = (
                (await stack.enter_async_context(open_inbox(connection))).put
                if settings.operator_token
                else None
            )
            routes = await stack.enter_async_context(
                serving(settings, token, connection, projection, put, registry),
            )
            board = serve_http(
                board_app(routes),
                settings.board.host,
                http.board_port,
                grace_s=_GRACE_S,
            )
            port = await stack.enter_async_context(board)
            ops = await stack.enter_async_context(
                serve_ops(http.host, http.board_ops_port, registry, not_ready),
            )
            logger.info(
                "board_started",
                version=__version__,
                port=port,
                metrics_port=ops,
                url=settings.board_url,
            )
            topics = [topic.name for topic in settings.topic_plan()]
            await run_until(stop, watch_partitions(connection, topics, settings.kafka.partitions))
        logger.info("board_stopped")


def board_app(routes: list[Route]) -> Starlette:
    """Return the ASGI app: the routes of board and look-up API, and /healthz."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse(f"{NAME}\n")

    async def crashed(_: Request, __: Exception) -> Response:
        return PlainTextResponse("The board has failed: its log says where.\n", 500)

    app = Starlette(
        routes=[Route("/healthz", healthz), *routes],
        exception_handlers={Exception: crashed},
    )
    app.router.redirect_slashes = False
    return app


def _projection(
    settings: Settings,
    connection: KafkaConnection,
    registry: CollectorRegistry,
    logger: log.Logger,
) -> Projection:
    """Return what follows Kafka into the read model, with its metrics."""
    workspaces = frozenset(settings.workspaces)
    final = frozenset(settings.without_callbacks)
    sources = Sources(settings.names, settings.kafka.partitions, settings.topics, workspaces, final)
    projection = Projection(connection, sources, model_path(settings, os.environ), logger)
    Gauge(
        "stream_app_read_model_lag",
        "Maximum number of offsets that the read model is behind.",
        registry=registry,
    ).set_function(lambda: projection.lag.lag)
    Gauge(
        "stream_app_read_model_as_of_seconds",
        "The read model holds everything that was on Kafka at this time.",
        registry=registry,
    ).set_function(lambda: (projection.lag.as_of_ms or 0) / 1000)
    return projection


@define(eq=False, repr=False)
class DeadLetterMetrics(Collector):
    """Reports what has become of the dead letters that Kafka keeps."""

    _queries: BoardQueries
    _topics: Mapping[str, str]
    _is_complete: Callable[[], bool]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "stream_app_dead_letters_kept",
            "Dead letters that Kafka keeps, by what has become of them.",
            labels=("topic", "state"),
        )
        # Until then a number would be too small, as if open dead letters had been solved.
        if not self._is_complete():
            yield family
            return
        with suppress(sqlite3.Error):
            for label, topic in self._topics.items():
                letters = self._queries.dead_letters(topic)
                for state in STATES:
                    family.add_metric([label, state], getattr(letters, state))
        yield family


@define(eq=False, repr=False)
class YieldMetrics(Collector):
    """Reports what Clay finds, as `GET /yield` does."""

    _queries: BoardQueries
    _now_ms: Callable[[], int]
    _is_complete: Callable[[], bool]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        answered = GaugeMetricFamily(
            "stream_app_yield_answered",
            "Answers of Clay in the last hour, the last day, and the seven days before it.",
            labels=("workspace", "destination", "column", "window"),
        )
        filled = GaugeMetricFamily(
            "stream_app_yield_filled",
            "Of these answers, those with a value in the column.",
            labels=("workspace", "destination", "column", "window"),
        )
        booked = GaugeMetricFamily(
            "stream_app_yield_credits",
            "The credits that were booked for the leads of these answers.",
            labels=("workspace", "destination", "column", "window"),
        )
        if self._is_complete():  # Before that, a part of the answers would look like all of them.
            with suppress(sqlite3.Error):
                for row in self._queries.yields(self._now_ms()):
                    for window in YIELD_WINDOWS:
                        labels = [row.workspace, row.destination, row.column, window]
                        counted: Yield = getattr(row, window)
                        answered.add_metric(labels, counted.answered)
                        filled.add_metric(labels, counted.filled)
                        booked.add_metric(labels, counted.credits)
        yield answered
        yield filled
        yield booked


@define(eq=False, repr=False)
class BillMetrics(Collector):
    """Reports what Clay's balances fell by and what was booked, as `GET /bill` does.

    It reads two days and the day before them, because a scrape must not read all that is kept.
    """

    _queries: BoardQueries
    _now_ms: Callable[[], int]
    _is_complete: Callable[[], bool]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        balance = GaugeMetricFamily(
            "stream_app_bill_balance_credits",
            "The credits that Clay said were left at the last reading, of the last two days (UTC).",
            labels=("workspace",),
        )
        taken = GaugeMetricFamily(
            "stream_app_bill_taken_credits",
            "By how many credits Clay's balance fell today and yesterday (UTC).",
            labels=("workspace", "day"),
        )
        booked = GaugeMetricFamily(
            "stream_app_bill_booked_credits",
            "How many credits were booked in the same time.",
            labels=("workspace", "day"),
        )
        unexplained = GaugeMetricFamily(
            "stream_app_bill_unexplained_credits",
            "What estimates, roundings and leads in flight do not explain of the difference.",
            labels=("workspace", "day"),
        )
        families = (balance, taken, booked, unexplained)
        if self._is_complete():  # Before that, an old reading would look like the last one.
            today = datetime.fromtimestamp(self._now_ms() / 1000, UTC).date()
            days = {
                today.isoformat(): "today",
                (today - timedelta(days=1)).isoformat(): "yesterday",
            }
            # What Clay may take late for leads of the day before is known from its readings.
            since = datetime.combine(today - timedelta(days=2), time.min, UTC)
            with suppress(sqlite3.Error):
                for bill in self._queries.bills(since_s=int(since.timestamp())):
                    if day_of_reading(bill.at_ms) in days:
                        balance.add_metric([bill.workspace], bill.credits)
                    for day in bill.days:
                        if day.day in days and day.verdict != "unknown":
                            labels = [bill.workspace, days[day.day]]
                            taken.add_metric(labels, day.taken)
                            booked.add_metric(labels, day.booked)
                            unexplained.add_metric(labels, day.unexplained)
        yield from families


@asynccontextmanager
async def serving(
    settings: Settings,
    token: str,
    connection: KafkaConnection,
    projection: Projection,
    put: PutCommand | None,
    registry: CollectorRegistry,
) -> AsyncIterator[list[Route]]:
    """Yield the routes of look-up API and board.

    Meanwhile the read model follows Kafka, and messages go to people. The `token` reads the board
    and its API. `put` writes the commands of operators to Kafka; if it is None, the board only
    reads.
    """
    names = settings.names
    partitions = settings.kafka.partitions
    results = ResultFetcher(connection, names.enriched, partitions)
    topics = existing_topics(connection, settings.topic_plan())
    waiting = WaitingLeads(connection, names.worker_app, names.lead_topics, partitions)
    queries = BoardQueries(
        model_path(settings, os.environ),
        settings.without_callbacks,
        settings.routines,
    )
    backlog = consumption_of(
        connection,
        names.worker_app,
        names.replay_app,
        places_of(names.lead_topics, partitions),
        partial(asyncio.to_thread, queries.positions),
    )

    def is_complete() -> bool:
        return projection.lag.as_of_ms is not None

    registry.register(YieldMetrics(queries, Clock().now_ms, is_complete))
    registry.register(BillMetrics(queries, Clock().now_ms, is_complete))
    registry.register(
        DeadLetterMetrics(
            queries,
            {"dlq": names.dlq, "parked": names.parked},
            is_complete,
        ),
    )
    lookup = Lookup(
        queries=queries,
        lag=lambda: projection.lag,
        fetch_result=results.fill,
        kafka=partial(backlog.look, 2 * ANSWER_WITHIN_S),
        names=names,
        access=Access(token, made_here=settings.board_token is None),
        find_waiting=waiting.find,
    )
    clock = Clock()
    site = Site(settings, queries)
    send = command_sender(settings, put) if put else None
    uploads = Uploads(settings, site.views, clock.now_ms)
    planner = Planner(settings, put, clock.now_ms) if put else None
    board = BoardRoutes(
        site,
        access_of(settings, token, lambda: clock.now_ms() // 1000),
        lambda: projection.lag,
        backlog,
        topics,
        results.fill,
        waiting.find,
        clock.now_ms,
        actions=actions_of(site, send, planner) if send and planner else (),
        publishing=Publishing(uploads, send, partial(join_on_kafka, settings)) if send else None,
    )

    async def findings() -> tuple[list[Finding], bool]:
        return await board_findings(site, projection.lag, backlog, clock.now_ms())

    following = asyncio.create_task(projection.run())
    try:
        async with messages(settings, findings, registry):
            yield [*lookup.routes(), *board.routes()]
    finally:
        await cancel([following])
        if planner:
            await planner.close()
        await asyncio.to_thread(board.close)
        for reader in (backlog, topics, results):
            await reader.close()


@asynccontextmanager
async def messages(
    settings: Settings,
    findings: Findings,
    registry: CollectorRegistry,
) -> AsyncIterator[None]:
    """Send messages to people until the block ends, if the configuration names a webhook."""
    notify = settings.notify
    if notify.url_env is None:
        yield
        return
    egress = settings.make_egress()
    async with (
        MessageReceiver(settings.secrets[notify.url_env], egress) as receiver,
        httpx.AsyncClient(
            verify=egress.tls_context,
            proxy=egress.proxy_url,
            trust_env=False,
        ) as http,
    ):
        sender = Messages(
            findings=findings,
            gateway=partial(gateway_answers, http, settings.gateway.public_url or "")
            if notify.watch_gateway
            else None,
            post=receiver.post,
            form=notify.format,
            interval_s=notify.interval_s,
            path=messages_path(model_path(settings, os.environ)),
            registry=registry,
        )
        sending = asyncio.create_task(sender.run())
        try:
            yield
        finally:
            await cancel([sending])


def access_of(settings: Settings, token: str, now_s: Callable[[], int]) -> BoardAccess:
    """Return who may use the board. `token` is that of viewers."""
    header = settings.board.user_header
    secret = settings.secrets.get(settings.board.user_header_secret_env)
    return BoardAccess(
        token,
        now_s,
        made_here=settings.board_token is None,
        operator_token=settings.operator_token,
        proxy=Proxy(header, secret) if header and secret else None,
        url=settings.board_url,
    )
