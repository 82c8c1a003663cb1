"""Exports traces of leads: `stream-app trace` follows `leads.status` and sends spans by OTLP.

An event's offset counts as done when the spans of its lead are sent or sampled out. After a crash
the exporter starts at the oldest event that is not done. It then makes the same spans with the same
ids again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import takewhile
from typing import Any, Final

import httpx
import msgspec
from attrs import define, field
from structlog.typing import FilteringBoundLogger

from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.spans import (
    Sampling,
    Span,
    SpanKind,
    Value,
    is_at_rest,
    is_sampled,
    spans_of,
)

_KINDS: Final[dict[SpanKind, int]] = {"internal": 1, "client": 3, "consumer": 5}
_ERROR: Final = 2
_WITHIN_S: Final = 10.0
_LATER: Final = frozenset({429, 502, 503, 504})
"""The statuses after which the specification allows a retry."""
_AT_ONCE: Final = 500
_FIRST_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 60.0

Placed = tuple[int, int, StatusEvent]
"""Partition, offset and event."""


class ReceiverUnavailable(StreamAppError):
    """The receiver did not take the spans now. Send them again later."""


class SpansRefused(StreamAppError):
    """The receiver will never take these spans."""


class OtlpClient:
    """Posts spans to one endpoint. An async context manager."""

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        version: str,
        instance: str,
    ) -> None:
        self._endpoint = endpoint
        self._headers = {"content-type": "application/json", **headers}
        self._resource = _attributes(
            {
                "service.name": "stream-app",
                "service.version": version,
                "service.instance.id": instance,
            },
        )
        self._version = version

    async def __aenter__(self) -> OtlpClient:
        self._http = httpx.AsyncClient(timeout=_WITHIN_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, spans: Iterable[Span]) -> None:
        """Send spans in one request.

        Raises:
            ReceiverUnavailable: No answer, or one that asks to try again.
            SpansRefused: Any other answer.
        """
        try:
            answer = await self._http.post(
                self._endpoint,
                content=self.encoded(spans),
                headers=self._headers,
            )
        except httpx.HTTPError as error:
            raise ReceiverUnavailable(
                f"{self._endpoint} does not take traces ({type(error).__name__}: {error}): "
                "check trace.endpoint",
            ) from error
        if answer.status_code in _LATER:
            raise ReceiverUnavailable(
                f"{self._endpoint} asks to send traces later (HTTP {answer.status_code})",
            )
        if not answer.is_success:
            raise SpansRefused(
                f"{self._endpoint} refuses traces (HTTP {answer.status_code}): "
                "check trace.endpoint, whose path is usually /v1/traces, and trace.headers_env",
            )

    def encoded(self, spans: Iterable[Span]) -> bytes:
        scope = {"name": "stream_app", "version": self._version}
        of_scope = {"scope": scope, "spans": [_encoded(span) for span in spans]}
        of_resource = {"resource": {"attributes": self._resource}, "scopeSpans": [of_scope]}
        return msgspec.json.encode({"resourceSpans": [of_resource]})


def _encoded(span: Span) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": str(span.start_ms * 1_000_000),
        "endTimeUnixNano": str(span.end_ms * 1_000_000),
        "attributes": _attributes(span.attributes),
    }
    if span.parent_id:
        encoded["parentSpanId"] = span.parent_id
    if span.link_id:
        encoded["links"] = [{"traceId": span.trace_id, "spanId": span.link_id}]
    if span.error:
        encoded["status"] = {"code": _ERROR, "message": span.error}
    return encoded


def _attributes(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
        }
        for key, value in values.items()
    ]


@define(eq=False, repr=False)
class TracedLead:
    """The events of one input record that are not exported yet."""

    partition: int  # the partition of its events
    offset: int  # the offset of the first of them
    events: list[StatusEvent]
    last_ms: int  # when the last of them was read


@define(eq=False, repr=False)
class Exporter:
    """Turns events into spans.

    A lead without an event for `settle_ms` is exported as far as it has come. Its later spans
    follow with the same parent. `clay` has attributes of POSTs by destination. `send` may raise
    ReceiverUnavailable or SpansRefused. `commit` saves how far each partition is done. `count` is
    called with `sent` or `refused`, and a number of spans.
    """

    _sampling: Sampling
    _clay: Mapping[str, Mapping[str, Value]]
    _settle_ms: int
    _send_spans: Callable[[Sequence[Span]], Awaitable[None]] = field(alias="send")
    _commit: Callable[[dict[int, int]], Awaitable[None]]
    _count: Callable[[str, int], None]
    _now_ms: Callable[[], int]
    _log: FilteringBoundLogger
    # The lead without an event for longest comes first.
    _leads: OrderedDict[str, TracedLead] = field(init=False, factory=OrderedDict)
    # The lowest offset comes first.
    _open: dict[int, OrderedDict[str, TracedLead]] = field(
        init=False,
        factory=lambda: defaultdict(OrderedDict),
    )
    _ends: dict[int, int] = field(init=False, factory=dict)

    async def run(self, batches: AsyncIterator[Sequence[Placed]]) -> None:
        """Export until the batches end.

        An empty batch gives the chance to export leads that rest.
        """
        async for batch in batches:
            for placed in batch:
                self._note(*placed)
            resting = list(self._resting(batch))
            spans = [span for lead in resting for span in self._spans_of(lead)]
            for first in range(0, len(spans), _AT_ONCE):
                await self._send(spans[first : first + _AT_ONCE])
            for lead in resting:
                origin = lead.events[0].origin
                del self._leads[origin], self._open[lead.partition][origin]
            if batch or resting:
                await self._commit(self.done())

    def done(self) -> dict[int, int]:
        """Return the offset by partition from which an exporter would have to start now."""
        oldest = {
            number: next(iter(leads.values())).offset
            for number, leads in self._open.items()
            if leads
        }
        return self._ends | oldest

    def _note(self, partition: int, offset: int, event: StatusEvent) -> None:
        self._ends[partition] = offset + 1
        lead = self._leads.get(event.origin)
        if lead is None:
            lead = TracedLead(partition, offset, [event], self._now_ms())
            self._leads[event.origin] = lead
            self._open[partition][event.origin] = lead
        elif event.seq > lead.events[-1].seq:
            lead.events.append(event)
            lead.last_ms = self._now_ms()
            self._leads.move_to_end(event.origin)

    def _resting(self, batch: Sequence[Placed]) -> Iterator[TracedLead]:
        """Yield the leads to export.

        Only a lead of the batch can have come to rest since the one before.
        """
        quiet_since_ms = self._now_ms() - self._settle_ms
        yield from takewhile(lambda lead: lead.last_ms <= quiet_since_ms, self._leads.values())
        for origin in dict.fromkeys(event.origin for _, _, event in batch):
            lead = self._leads[origin]
            if lead.last_ms > quiet_since_ms and is_at_rest(lead.events[-1]):
                yield lead

    def _spans_of(self, lead: TracedLead) -> list[Span]:
        rested_ms = 0 if is_at_rest(lead.events[-1]) else self._settle_ms
        sampled = is_sampled(self._sampling, lead.events, rested_ms)
        return spans_of(lead.events, self._clay) if sampled else []

    async def _send(self, spans: list[Span]) -> None:
        """Send spans; wait while the receiver is away. Kafka keeps the events meanwhile."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._send_spans(spans)
            except ReceiverUnavailable as error:
                self._log.warning("traces_wait", because=str(error), pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(_MAX_PAUSE_S, pause_s * 2)
            except SpansRefused as error:
                self._log.error("traces_refused", because=str(error), spans=len(spans))
                self._count("refused", len(spans))
                return
            else:
                self._count("sent", len(spans))
                return
