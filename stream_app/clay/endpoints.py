"""The line's port to Clay: an alias and a webhook id become a URL and a token here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from stream_app.clay.client import ClayClient
from stream_app.domain.delivery.outcome import Outcome


def webhook_id(url: str) -> str:
    """A short name for a webhook that may stand in rows, logs and metrics: its URL is a secret."""
    return blake2b(url.encode(), digest_size=6).hexdigest()


def setup_id(*secrets: str) -> str:
    """Changes when one of a destination's URLs or its token does; tells nothing of them."""
    return blake2b("\n".join(secrets).encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Endpoint:
    """How to reach one destination. `urls` by webhook id."""

    urls: Mapping[str, str] = field(repr=False)
    token: str | None = field(repr=False)
    unavailable_is_refused: bool


class Webhooks:
    """`ports.Clay` over HTTP. `posted` is told of each POST that ended."""

    def __init__(
        self, client: ClayClient, endpoints: Mapping[str, Endpoint], posted: Callable[[str, Outcome], None]
    ) -> None:
        self._client = client
        self._endpoints = endpoints
        self._posted = posted

    async def send(self, destination: str, webhook_id: str, body: bytes) -> Outcome:
        """One POST; see ClayClient.send."""
        endpoint = self._endpoints[destination]
        outcome = await self._client.send(
            endpoint.urls[webhook_id],
            endpoint.token,
            body,
            unavailable_is_refused=endpoint.unavailable_is_refused,
        )
        self._posted(destination, outcome)
        return outcome
