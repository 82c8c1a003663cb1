"""The simulator of Clay within the process of a test, on virtual time.

Our own client asks it, and only the network between them is left out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx
import msgspec
from aiohttp import web

from stream_app.clay.client import ClayClient, Endpoint, HostCheck, Webhooks
from stream_app.clay.runs import ApiEndpoint, ClayApi, Doors, Routines
from stream_app.dev.simulator.clay import SimulatedClay
from stream_app.dev.simulator.ledger import Ledger, LedgerLine
from stream_app.dev.simulator.routines import API
from stream_app.dev.simulator.script import Script
from stream_app.domain.model.outcome import Outcome
from tests.support.partition.virtual import now_ms

KEY: Final = "key"
HOST: Final = "https://api.clay.com"
ANSWER_S: Final = 0.137
"""How long an answer is under way."""
REQUEST_TIMEOUT_S: Final = 15.0
_HOOK: Final = "/v3/sources/webhook/"


class VirtualLedger(Ledger):
    """Has the virtual time in its lines."""

    def write(self, line: LedgerLine) -> None:
        line.at_ms = now_ms()
        super().write(line)


@dataclass
class Asked:
    """What the simulator reads of a request."""

    method: str
    headers: httpx.Headers
    body: bytes
    query: Mapping[str, str]
    match_info: dict[str, str]
    transport: None = None

    @property
    def content_type(self) -> str:
        value: str = self.headers.get("content-type", "")
        return value

    async def read(self) -> bytes:
        return self.body


class Carried(httpx.AsyncBaseTransport):
    """Carries requests to a simulator, and its answers back.

    Attributes:
        told: What it said of the item of each run, by the id of the run.
    """

    def __init__(self, clay: SimulatedClay) -> None:
        self.told: dict[str, dict[str, Any]] = {}
        self._clay = clay

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        handle, names = self._handler(request.url.path)
        assert isinstance(request.stream, httpx.ByteStream)
        asked = Asked(
            request.method,
            request.headers,
            b"".join(request.stream),
            dict(request.url.params),
            names,
        )
        answer = cast(web.Response, await handle(cast(web.Request, asked)))
        body = answer.body or b""
        assert isinstance(body, bytes)
        if "run" in names and answer.status == 200:
            [self.told[names["run"]]] = msgspec.json.decode(body)["data"]
        await asyncio.sleep(ANSWER_S)
        return httpx.Response(answer.status, headers=list(answer.headers.items()), content=body)

    def _handler(
        self,
        path: str,
    ) -> tuple[Callable[[web.Request], Awaitable[web.StreamResponse]], dict[str, str]]:
        """Return what handles a path, and the names in it."""
        if path.startswith(_HOOK):
            return self._clay.inbound.handle, {"slug": path.removeprefix(_HOOK)}
        match path.removeprefix(API).split("/")[1:]:
            case ["credits", "balance"]:
                return self._clay.routines.balance, {}
            case ["routines", "run", run, "results"]:
                return self._clay.routines.results, {"run": run}
            case ["routines", routine, "run"]:
                return self._clay.routines.run, {"routine": routine}
        raise AssertionError(f"the simulator has no {path}")


def hook(slug: str) -> str:
    """Return the URL of a webhook."""
    return f"{HOST}{_HOOK}{slug}"


class Simulated:
    """A simulator and our client for it. Use it as an async context manager, on virtual time.

    Args:
        script: Of the simulator.
        webhooks: The slug of the table of each destination that has one.
        routines: The destinations that have a routine.
        workspace: The one that all of them belong to.
    """

    def __init__(
        self,
        script: Script,
        *,
        webhooks: Mapping[str, str],
        routines: tuple[str, ...],
        workspace: str,
    ) -> None:
        self.ledger = VirtualLedger(None)
        self.clay = SimulatedClay(script, self.ledger)
        self.carried = Carried(self.clay)
        self._client = ClayClient(
            request_timeout_s=REQUEST_TIMEOUT_S,
            connect_timeout_s=5.0,
            pool_timeout_s=5.0,
            max_connections=100,
            keepalive_s=5.0,
            transport=self.carried,
        )
        account = ApiEndpoint(f"{HOST}{API}", KEY)
        self.runs = Routines(
            ClayApi(self._client),
            dict.fromkeys(routines, account),
            {workspace: account},
            _unnoticed,
        )
        endpoints = {
            alias: Endpoint({f"{alias}-0": hook(slug)}, None, True)
            for alias, slug in webhooks.items()
        }
        self.doors = Doors(
            Webhooks(self._client, endpoints, _unnoticed, cast(HostCheck, _answers)),
            self.runs,
        )

    async def __aenter__(self) -> "Simulated":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.clay.close()
        self.ledger.close()


def _unnoticed(destination: str, outcome: Outcome, trace_id: str) -> None:
    """Take note of no POST."""


async def _answers(url: str) -> bool:
    return True
