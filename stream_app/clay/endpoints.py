"""The pipeline's `Clay` port over HTTP. Only this module turns an alias and a webhook id into a URL and a token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stream_app.clay.client import ClayClient
from stream_app.clay.host_check import HostCheck
from stream_app.domain.delivery.outcome import Outcome


@dataclass(frozen=True)
class Endpoint:
    """The URLs (by webhook id) and the token of one destination."""

    urls: Mapping[str, str] = field(repr=False)
    token: str | None = field(repr=False)
    unavailable_is_refused: bool


@dataclass(eq=False)
class Webhooks:
    """`ports.Clay` over HTTP. Calls `posted` with destination, outcome and trace id after each POST."""

    client: ClayClient
    endpoints: Mapping[str, Endpoint]
    posted: Callable[[str, Outcome, str], None]
    check: HostCheck

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        """Send one POST; see `ClayClient.send`."""
        endpoint = self.endpoints[destination]
        outcome = await self.client.send(
            endpoint.urls[webhook_id],
            endpoint.token,
            body,
            unavailable_is_refused=endpoint.unavailable_is_refused,
        )
        self.posted(destination, outcome, trace_id)
        return outcome

    async def host_answers(self, destination: str) -> bool:
        """Ask whether the host of the destination's webhooks answers; see `HostCheck`."""
        endpoint = self.endpoints.get(destination)
        if endpoint is None:  # a reload has removed it
            return True
        return await self.check(next(iter(endpoint.urls.values())))
