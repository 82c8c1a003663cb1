"""The gateway process: builds its parts from the settings, runs them, and closes them in reverse order."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from starlette.routing import Route

from stream_app import __version__
from stream_app.board.access import BoardAccess, Proxy
from stream_app.board.actions import actions_of
from stream_app.board.actions.publish import Publishing
from stream_app.board.api_access import Access
from stream_app.board.app import Board
from stream_app.board.erased_leads import ErasedLeads
from stream_app.board.lookup import Lookup
from stream_app.board.page_process import PageProcess
from stream_app.board.planner import Planner
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import Projection
from stream_app.board.read_model.results import ResultFetcher
from stream_app.board.read_model.store import Sources
from stream_app.board.site import Site
from stream_app.board.waiting_leads import WaitingLeads
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.record import Record
from stream_app.gateway.asgi import build_asgi
from stream_app.gateway.receiver import Limits, Receiver, Table
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.groups import Backlog
from stream_app.kafka.producers import callback_inbox
from stream_app.kafka.topics import TopicsThere
from stream_app.operator.submit import CommandSender
from stream_app.ops import logs as log
from stream_app.ops.clock import SystemClock
from stream_app.ops.gateway_metrics import GatewayMetrics
from stream_app.ops.http import serve_http
from stream_app.ops.process_metrics import process_registry
from stream_app.publishing.uploads import Uploads
from stream_app.services.process import check_kafka, serve_ops, state_folder, stop_signal
from stream_app.tasks import cancel

_GRACE_S: Final = 10
SWITCH_S: Final = 0.0001
"""How long the event loop, and with it a callback, waits for the interpreter while another thread works in Python.

Those threads write the read model and make forms of the board. Python's default is 5 ms, several times a callback.
"""


def tables_of(settings: Settings) -> list[Table]:
    """The Clay tables that call back."""
    return [
        Table(
            workspace=there.workspace,
            destination=alias,
            partition=settings.home(there.workspace),
            secrets=tuple(settings.secrets[name].encode() for name in there.callback_secrets_env),
        )
        for alias, there in settings.destinations.items()
        if there.callbacks
    ]


async def run_gateway(settings: Settings) -> None:
    """Run `stream-app gateway` until SIGTERM or SIGINT. Raises the error that ended it otherwise."""
    logger = log.get("gateway")
    connection, gateway = connection_of(settings), settings.gateway
    registry = process_registry()
    metrics = GatewayMetrics(registry, logger)
    tables = tables_of(settings)
    # Before the signal handlers: a signal ends this wait at once.
    await check_kafka(settings, settings.gateway_rights, logger)
    sys.setswitchinterval(SWITCH_S)
    with stop_signal() as stop:
        async with AsyncExitStack() as stack:
            inbox = await stack.enter_async_context(callback_inbox(connection))
            put = inbox.put if settings.operator_token else None
            routes, erasures = await stack.enter_async_context(lookups(settings, connection, registry, logger, put))
            receiver = Receiver(
                tables,
                settings.callback_keys if gateway.token_keys_env else None,
                settings.names.callbacks,
                inbox,
                SystemClock().now_ms,
                Limits(gateway.max_body_bytes, gateway.read_timeout_s),
                metrics,
                erasures,
            )
            app = build_asgi(receiver, inbox.not_ready, metrics.responded, routes)
            http = settings.http
            port = await stack.enter_async_context(serve_http(app, http.host, http.gateway_port, grace_s=_GRACE_S))
            ops = await stack.enter_async_context(
                serve_ops(http.host, http.gateway_ops_port, registry, inbox.not_ready)
            )
            logger.info("gateway_started", version=__version__, port=port, metrics_port=ops, tables=len(tables))
            await stop.wait()
        logger.info("gateway_stopped")


@asynccontextmanager
async def lookups(
    settings: Settings,
    connection: KafkaConnection,
    registry: CollectorRegistry,
    logger: log.Logger,
    put: Callable[[Record], Awaitable[None]] | None = None,
) -> AsyncIterator[tuple[list[Route], ErasedLeads]]:
    """Yield the routes of look-up API and board, and the erased leads. The read model follows Kafka meanwhile.

    `put`: writes the commands of operators to Kafka; None: the board only reads.
    """
    names, partitions = settings.names, settings.kafka.partitions
    path = model_path(settings, os.environ)
    projection = Projection(
        connection, Sources(names, partitions, settings.topics, frozenset(settings.workspaces)), path, logger
    )
    lag = Gauge(
        "stream_app_read_model_lag", "Maximum number of offsets that the read model is behind.", registry=registry
    )
    lag.set_function(lambda: projection.lag.lag)
    as_of = Gauge(
        "stream_app_read_model_as_of_seconds",
        "The read model holds everything that was on Kafka at this time.",
        registry=registry,
    )
    as_of.set_function(lambda: (projection.lag.as_of_ms or 0) / 1000)
    results = ResultFetcher(connection, names.enriched, partitions)
    backlog = Backlog(connection, names.worker_app, names.replay_app, names.lead_topics, partitions)
    topics = TopicsThere(connection, settings.topic_plan())
    waiting = WaitingLeads(connection, names.worker_app, names.lead_topics, partitions)
    queries = BoardQueries(path, settings.without_callbacks)
    lookup = Lookup(
        queries,
        lambda: projection.lag,
        results,
        backlog.read,
        Access(settings.api_token, settings.http.host),
        names.dlq,
        names.parked,
        waiting,
    )
    clock = SystemClock()
    header, secret = settings.gateway.user_header, settings.user_header_secret
    site = Site(settings, queries)
    pages = PageProcess(site)
    sender = CommandSender(settings, put) if put else None
    planner = Planner(settings, put, clock.now_ms) if put else None
    board = Board(
        site,
        BoardAccess(
            settings.api_token,
            settings.http.host,
            lambda: clock.now_ms() // 1000,
            settings.operator_token,
            Proxy(header, secret) if header and secret else None,
        ),
        lambda: projection.lag,
        backlog,
        topics,
        results,
        waiting,
        clock.now_ms,
        actions=actions_of(site, sender, planner) if sender and planner else (),
        publishing=Publishing(Uploads(settings, site.views, clock.now_ms), sender) if sender else None,
        html_of=pages.html_of,
    )
    following = asyncio.create_task(projection.run())
    try:
        yield (
            [*lookup.routes(), *board.routes()],
            ErasedLeads(queries, lambda: projection.lag, settings.topics.status_days),
        )
    finally:
        await cancel([following])
        if planner:
            await planner.close()
        await asyncio.to_thread(board.close)
        pages.close()
        await backlog.close()
        await topics.close()
        await results.close()


def model_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the read model's path: as configured, else in the state folder of the service or user, or temporary."""
    if settings.gateway.read_model_path is not None:
        return Path(settings.gateway.read_model_path)
    return state_folder(environ) / f"{settings.kafka.namespace}gateway-{settings.http.gateway_port}.sqlite"
