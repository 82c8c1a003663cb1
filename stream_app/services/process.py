"""What the processes share: event loop, check of Kafka, operations server, watchdog."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, TypeVar

from attrs import define, field
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.kafka.connection import Say
from stream_app.kafka.topics import check_topics
from stream_app.ops import logs as log
from stream_app.ops.http import serve_http

T = TypeVar("T")

_OPS_GRACE_S: Final = 1
_CHECKS: Final = 10  # how often the watchdog checks within `limit_s`


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, on uvloop if it is installed."""
    factory = None
    with suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def check_kafka(settings: Settings, process: str, logger: log.Logger) -> None:
    """Wait until Kafka responds, and check that it is ready for a process.

    Kafka is ready if it grants the process its rights, and has the topics with the right settings.

    Raises:
        StreamAppError: It is not ready, or did not respond in time.
    """
    say = waiting_for_kafka(logger)
    await kafka_ready(settings, process, say)
    await check_topics(
        connection_of(settings),
        settings.topic_plan(),
        settings.kafka.broker_wait_s,
        say,
    )


def waiting_for_kafka(logger: log.Logger) -> Say:
    """Return a function that logs each attempt while Kafka does not respond."""
    return lambda text: logger.warning("waiting_for_kafka", text=text)


def serve_ops(
    host: str,
    port: int,
    registry: CollectorRegistry,
    not_ready: Callable[[], Awaitable[str | None]],
) -> AbstractAsyncContextManager[int]:
    """Serve /metrics, /healthz and /readyz until the block ends.

    Args:
        host: The address to listen on.
        port: The port; 0 for any free one.
        registry: The metrics.
        not_ready: Returns why the process cannot work now; None if it can.

    Yields:
        The port.

    Raises:
        StreamAppError: The port is taken.
    """
    return serve_http(ops_app(registry, not_ready), host, port, grace_s=_OPS_GRACE_S)


def longest_step_s(settings: Settings) -> float:
    """Return the longest time that a lead may stay in one step, in seconds.

    Such a step begins as late as it may, and has one POST and two commits.
    """
    return settings.delivery.longest_s + 2 * settings.delivery.commit_timeout_s


def ops_app(
    registry: CollectorRegistry,
    not_ready: Callable[[], Awaitable[str | None]],
) -> Starlette:
    """Build the ASGI app."""

    async def metrics(request: Request) -> Response:
        # Exemplars exist only in OpenMetrics, which Prometheus asks for.
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        reason = await not_ready()
        return PlainTextResponse(f"{reason or 'ok'}\n", 503 if reason else 200)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)],
    )


@define(eq=False, repr=False)
class Watchdog:
    """Detects stalls: partitions not taken over, records not consumed, leads that do not end.

    Everything that must make progress has a token that changes when it does. What waits for a good
    reason (an empty topic, a held lane, a full partition) has none. So the check needs to know
    nothing about Kafka or leads. A token that has not changed for `limit_s` seconds is a stall.

    `look` returns the tokens by description. `report` is called with the descriptions of all stalls
    whenever they change, and `stalled` has the current ones.
    """

    _limit_s: float
    _look: Callable[[], Mapping[str, Hashable]]
    _report: Callable[[list[str]], None]
    stalled: list[str] = field(init=False, factory=list)
    _since: dict[str, tuple[Hashable, float]] = field(init=False, factory=dict)

    async def run(self) -> None:
        while True:
            self.check(asyncio.get_running_loop().time())
            await asyncio.sleep(self._limit_s / _CHECKS)

    def check(self, now_s: float) -> None:
        """Compare once. `now_s` is a monotonic time in seconds."""
        before = self._since
        self._since = {}
        for what, token in self._look().items():
            seen = before.get(what)
            self._since[what] = seen if seen is not None and seen[0] == token else (token, now_s)
        stalled = [
            what for what, (_, since_s) in self._since.items() if now_s - since_s >= self._limit_s
        ]
        if stalled != self.stalled:
            self.stalled = stalled
            self._report(stalled)
