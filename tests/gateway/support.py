"""A gateway without Kafka: its ASGI app over an inbox in memory, and good callbacks."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import msgspec
from prometheus_client import CollectorRegistry
from starlette.types import Scope

from stream_app.config.model import Gateway as Limits
from stream_app.domain.model.messages import Callback, RunNotification
from stream_app.domain.model.records import Record
from stream_app.domain.model.tokens import Keys, sign
from stream_app.gateway.holding import Holding
from stream_app.gateway.receiver import GatewayMetrics, Receiver, build_asgi
from stream_app.gateway.tables import CallbackTable, Tables
from stream_app.ops import logs as log

OLD_KEY = "old key of callback tokens, 32 characters"
NEW_KEY = "new key of callback tokens, 32 characters"
GONE_KEY = "gone key of callback tokens, 32 characters"
KEYS = Keys([NEW_KEY, OLD_KEY])
SECRET = "a secret of a table that cannot template"
RUN_SECRET = "whsec_81c5c0ffee0123456789abcdef"
TABLES = [
    CallbackTable("acme", "people", 2),
    CallbackTable("acme", "other", 2),
    CallbackTable("beta", "static", 3, (SECRET.encode(), b"the one before")),
    CallbackTable("acme", "finder", 2, (RUN_SECRET.encode(),), signs=True),
    CallbackTable(
        "beta",
        "finder",
        3,
        (b"whsec_another one, as a routine beside it has",),
        signs=True,
    ),
]
URL = "/callbacks/acme/people"
RUN_URL = "/callbacks/acme/finder/run"
PARTITIONS = 8
AT_MS = 1_790_000_000_000


def scope_of(path: str, headers: Iterable[tuple[str, bytes]], method: str = "POST") -> Scope:
    """A request as uvicorn gives it to the app."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value) for name, value in headers],
        "client": ("192.0.2.1", 1),
        "server": ("gateway", 80),
    }


class RecordList:
    """The inbox in memory, until it `fails_with` something."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.fails_with: Exception | None = None

    async def put(self, record: Record) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        self.records.append(record)

    async def not_ready(self) -> str | None:
        return "Kafka does not answer" if self.fails_with else None

    def callbacks(self) -> list[Callback]:
        return [msgspec.json.decode(record.value or b"", type=Callback) for record in self.records]

    def runs(self) -> list[str]:
        """Return the runs that were announced."""
        return [
            msgspec.json.decode(record.value or b"", type=RunNotification).run
            for record in self.records
        ]


class Gateway:
    """The app, its inbox and its counters."""

    def __init__(self, *, keys: Keys | None = KEYS, limits: Limits | None = None) -> None:
        self.inbox = RecordList()
        self.registry = CollectorRegistry()
        metrics = GatewayMetrics(self.registry, log.get("test"))
        limits = limits or Limits(max_body_bytes=65_536, read_timeout_s=5)
        tables = Tables(TABLES, keys, PARTITIONS)
        self.holding = Holding(self.inbox.put, limits.hold_s, self.registry)
        self.receiver = Receiver(
            tables,
            "leads.callbacks",
            self.holding,
            lambda: AT_MS,
            limits,
            metrics,
        )
        self.app = build_asgi(self.receiver, metrics.responded)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://gateway")

    async def post(
        self,
        body: dict[str, Any] | str | bytes,
        url: str = URL,
        headers: Mapping[str, str | bytes] | None = None,
    ) -> httpx.Response:
        """One POST, with the content type that Clay sends."""
        content = json.dumps(body) if isinstance(body, dict) else body
        given = {"content-type": "application/json"} | dict(headers or {})
        sent = [
            (name.encode(), value.encode() if isinstance(value, str) else value)
            for name, value in given.items()
        ]
        async with self.client() as client:
            return await client.post(url, content=content, headers=sent)

    def runs(self) -> list[str]:
        """Return the runs whose announcement is stored, in order."""
        return self.inbox.runs()

    def counted(self) -> dict[str, int]:
        """Return how many callbacks ended with each outcome."""
        return self._sum("stream_app_callbacks_total", "answer")

    def responses(self) -> dict[str, int]:
        """Return how many HTTP answers had each status."""
        return self._sum("stream_app_gateway_responses_total", "status")

    def _sum(self, name: str, label: str) -> dict[str, int]:
        sums: dict[str, int] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name == name:
                    sums[sample.labels[label]] = sums.get(sample.labels[label], 0) + int(
                        sample.value,
                    )
        return sums


def good(
    lead_id: str = "crm-17",
    *,
    keys: Keys = KEYS,
    origin: str = "",
    **more: Any,
) -> dict[str, Any]:
    """A callback of a table that is set up correctly."""
    token = sign(keys, "acme", "people", lead_id, origin)
    return {"lead_id": lead_id, "callback_token": token, "title": "CEO", "credits": "7", **more}


def announcement(run: str = "run-1") -> dict[str, Any]:
    """What a completion webhook of Clay says of a run that has finished."""
    return {
        "webhookId": "wh_1",
        "createdAt": "2026-10-01T12:00:00.000Z",
        "data": {"routine_run_id": run},
    }
