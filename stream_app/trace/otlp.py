"""Sends spans to an OTLP receiver by HTTP, as JSON (opentelemetry.io/docs/specs/otlp)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import httpx
import msgspec

from stream_app.domain.errors import StreamAppError
from stream_app.domain.trace import Kind, Span, Value

_KINDS: Final[dict[Kind, int]] = {"internal": 1, "client": 3, "consumer": 5}
_ERROR: Final = 2
_WITHIN_S: Final = 10.0
_LATER: Final = frozenset({429, 502, 503, 504})
"""The statuses after which the specification allows a retry."""


class ReceiverUnavailable(StreamAppError):
    """The receiver did not take the spans now. Send them again later."""


class SpansRefused(StreamAppError):
    """The receiver will never take these spans."""


class OtlpClient:
    """Posts spans to one endpoint. An async context manager."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], version: str, instance: str) -> None:
        self._endpoint = endpoint
        self._headers = {"content-type": "application/json", **headers}
        self._resource = _attributes(
            {"service.name": "stream-app", "service.version": version, "service.instance.id": instance}
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
            answer = await self._http.post(self._endpoint, content=self.encoded(spans), headers=self._headers)
        except httpx.HTTPError as error:
            raise ReceiverUnavailable(
                f"{self._endpoint} does not take traces ({type(error).__name__}: {error}): check trace.endpoint"
            ) from error
        if answer.status_code in _LATER:
            raise ReceiverUnavailable(f"{self._endpoint} asks to send traces later (HTTP {answer.status_code})")
        if not answer.is_success:
            raise SpansRefused(
                f"{self._endpoint} refuses traces (HTTP {answer.status_code}): check trace.endpoint, whose path is "
                "usually /v1/traces, and trace.headers_env"
            )

    def encoded(self, spans: Iterable[Span]) -> bytes:
        """Return the body of a request."""
        scope = {"name": "stream_app", "version": self._version}
        return msgspec.json.encode(
            {
                "resourceSpans": [
                    {
                        "resource": {"attributes": self._resource},
                        "scopeSpans": [{"scope": scope, "spans": [_encoded(span) for span in spans]}],
                    }
                ]
            }
        )


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
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in values.items()
    ]
