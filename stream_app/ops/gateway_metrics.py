"""Prometheus metrics and the log of the gateway. Labels are few and bounded: destinations and our own codes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.typing import FilteringBoundLogger

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)
_RECEIVED: Final = frozenset({"enriched", "partial", "no_data", "enrich_error"})
_SAY_AGAIN_AFTER_S: Final = 60.0


class GatewayMetrics:
    """Counts the receiver's answers. It gets nothing about a lead. `destination`: a configured alias or "other"."""

    def __init__(
        self, registry: CollectorRegistry, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        self._warned: dict[tuple[str, str], tuple[float, int]] = {}
        counter = partial(Counter, registry=registry)
        self._callbacks = counter(
            "stream_app_callbacks",
            "Callbacks answered, by outcome or by the code of the refusal.",
            ("destination", "answer"),
        )
        self._repaired = counter(
            "stream_app_callbacks_repaired", "Callbacks whose JSON was invalid and was repaired.", ("destination",)
        )
        self._seconds = Histogram(
            "stream_app_callback_seconds", "Time until a callback is answered.", buckets=_SECONDS, registry=registry
        )
        self._responses = counter("stream_app_gateway_responses", "All HTTP answers of the gateway.", ("status",))
        self._tables = Gauge(
            "stream_app_gateway_tables_info",
            "1, with a fingerprint of tables, secrets and keys: equal where two gateways accept the same callbacks.",
            ("digest",),
            registry=registry,
        )

    def adopted(self, digest: str) -> None:
        """Report which tables, secrets and keys the gateway has from now on."""
        self._tables.clear()
        self._tables.labels(digest).set(1)

    def answered(self, destination: str, code: str, seconds: float) -> None:
        """Report an answered callback. Refusals are logged at most once a minute for each destination and code."""
        self._callbacks.labels(destination, code).inc()
        self._seconds.observe(seconds)
        if code not in _RECEIVED:
            self._say("callback_not_received", destination, code)

    def repaired(self, destination: str) -> None:
        """Report a callback whose invalid JSON was repaired."""
        self._repaired.labels(destination).inc()

    def not_kept(self, because: str) -> None:
        """Report a callback that could not be written to Kafka."""
        self._say("callback_not_kept", "", because)

    def _say(self, event: str, destination: str, because: str) -> None:
        now = self._clock()
        due, more = self._warned.get((destination, because), (now, 0))
        if now < due:
            self._warned[destination, because] = due, more + 1
            return
        self._warned[destination, because] = now + _SAY_AGAIN_AFTER_S, 0
        self._log.warning(event, destination=destination, because=because, more_before=more)

    def responded(self, status: int) -> None:
        self._responses.labels(status).inc()
