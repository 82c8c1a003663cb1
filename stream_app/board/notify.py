"""Messages to people: what a person must act on, when it begins and when it ends.

They are about what `explain` finds, a gateway that does not answer, and a read model that does not
follow Kafka. A message is made of the code of a finding, its workspace and what lifts it, and for a
yield that fell of the names of its columns and of numbers. It holds no secret and no personal data,
because no text of Clay, a producer or an operator is in it.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec
from prometheus_client import CollectorRegistry, Counter

from stream_app.board.access import STRANGER
from stream_app.board.persons import for_a_person
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.site import KAFKA_WITHIN_S, Moment, Site, overview
from stream_app.client.messages import Alert, Key, MessageFormat, NotDelivered, body_of
from stream_app.client.results.answers import ColumnYield
from stream_app.domain.model.text import count
from stream_app.domain.views.explain import Finding
from stream_app.kafka.connection import Background
from stream_app.kafka.groups import Consumption
from stream_app.ops import logs as log

# All other kinds are known only while the read model follows Kafka.
_OURS: Final = frozenset({"gateway", "read_model"})
BEGUN_S: Final = 60.0
ENDED_S: Final = 120.0
"""A finding counts after the first of these times, and is over after the second.

A restart of workers is shorter, and sends no message.
"""
MAX_ALERTS: Final = 1_000
LOOK_EVERY_S: Final = 15.0
_GATEWAY_EVERY_S: Final = 60.0
_WITHIN_S: Final = 10.0
_FIRST_RETRY_S: Final = 15.0
_LAST_RETRY_S: Final = 600.0


def alert_of(finding: Finding, now_ms: int) -> Alert | None:
    """Return what to say of a finding; None if it needs no person."""
    words = for_a_person(finding.code)
    if words is None:
        return None
    workspace = finding.workspace
    labels = {"workspace": workspace} if workspace else {}
    if finding.columns:
        words = f"{finding.what}. Does a provider fail?"
        if not finding.holds:  # A hold is one alert, whichever of its columns fell.
            (fallen,) = finding.columns
            destination, column = fallen
            labels |= {"destination": destination, "column": column}
    lifted = f" What lifts it: {finding.lifts}" if finding.lifts else ""
    summary = f"{workspace}: {words}{lifted}" if workspace else f"{words}{lifted}"
    return Alert(
        finding.code,
        "critical" if finding.holds else "warning",
        labels,
        summary,
        finding.since_ms or now_ms,
    )


Findings = Callable[[], Awaitable[tuple[list[Finding], bool]]]
"""What `board_findings` returns."""


class Watch:
    """Decides what has begun and what has ended.

    `known`: what was reported before, which lasts until it is over.
    """

    def __init__(self, known: Iterable[Alert], now_s: float) -> None:
        self.alerts = {alert.key: alert for alert in known}
        self._first_s: dict[Key, float] = {}
        self._last_s = dict.fromkeys(self.alerts, now_s)

    def look(
        self,
        findings: Iterable[Finding],
        now_s: float,
        now_ms: int,
        *,
        is_whole: bool = True,
    ) -> None:
        """Take note of what is found now.

        `is_whole`: what `explain` finds is among it; False: that is not known.
        """
        seen = {
            alert.key: alert
            for finding in findings
            if (alert := alert_of(finding, now_ms)) is not None
        }
        self._first_s = {key: self._first_s.get(key, now_s) for key in seen}
        for key, alert in seen.items():
            lasts = now_s - self._first_s[key] >= BEGUN_S
            if key in self.alerts or (lasts and len(self.alerts) < MAX_ALERTS):
                self.alerts.setdefault(key, alert)
                self._last_s[key] = now_s
        for key in self.alerts.keys() - seen.keys():
            if not is_whole and key[0] not in _OURS:
                self._last_s[key] = now_s
            elif now_s - self._last_s[key] >= ENDED_S:
                del self.alerts[key], self._last_s[key]


class Outbox:
    """The difference between the findings and what was reported of them. It needs no queue."""

    def __init__(self, known: Iterable[Alert], interval_s: float) -> None:
        self.known = {alert.key: alert for alert in known}
        self._interval_s = interval_s
        self._next_s = 0.0
        self._failures = 0

    def due(
        self,
        alerts: Mapping[Key, Alert],
        now_s: float,
    ) -> tuple[list[Alert], list[Alert]] | None:
        """Return the alerts that began and those that ended since the last message.

        None if there is nothing to send, or if it is too early for another attempt.
        """
        begun = [alert for key, alert in alerts.items() if key not in self.known]
        ended = [alert for key, alert in self.known.items() if key not in alerts]
        return (begun, ended) if (begun or ended) and now_s >= self._next_s else None

    def sent(self, alerts: Mapping[Key, Alert], now_s: float) -> None:
        """Record that the receiver took the message that reports these."""
        self.known = dict(alerts)
        self._next_s = now_s + self._interval_s
        self._failures = 0

    def failed(self, now_s: float, wait_s: float = 0.0) -> float:
        """Record that it did not, and return the seconds until the next attempt.

        `wait_s`: what the receiver wants.
        """
        pause_s = min(max(_FIRST_RETRY_S * (1 << min(self._failures, 10)), wait_s), _LAST_RETRY_S)
        self._next_s = now_s + pause_s
        self._failures = self._failures + 1
        return pause_s


async def board_findings(
    site: Site,
    lag: ProjectionLag,
    consumers: Background[Consumption],
    now_ms: int,
) -> tuple[list[Finding], bool]:
    """Return what the board shows of all lanes and of its read model.

    Returns:
        The findings, and whether the state of the lanes is known now.
    """
    moment = Moment(now_ms, lag, await consumers.look(KAFKA_WITHIN_S), STRANGER)
    trouble = [Finding("read_model", "", holds=False)]
    if lag.trouble:
        return trouble, False
    if moment.kafka is None or not lag.is_read(now_ms):
        return [], False
    try:
        return await asyncio.to_thread(_findings, site, moment), True
    except sqlite3.Error:
        return trouble, False


def _findings(site: Site, moment: Moment) -> list[Finding]:
    seen = overview(site, moment)
    findings = list(seen.everywhere)
    for lane in seen.lanes:
        if any(finding.columns for finding in lane.findings):
            rows = site.queries.yields(moment.now_ms, lane.workspace)
            findings += [_with_prices(finding, rows) for finding in lane.findings]
        else:
            findings += lane.findings
    return findings


def _with_prices(finding: Finding, rows: Sequence[ColumnYield]) -> Finding:
    """Return a finding with what a value of its columns costs now, if it is about columns.

    `rows`: the yield of each column of its workspace.
    """
    prices = [_price_text(row) for row in rows if (row.destination, row.column) in finding.columns]
    return msgspec.structs.replace(finding, what=". ".join(filter(None, [finding.what, *prices])))


def _price_text(row: ColumnYield) -> str:
    """Return the credits for each value of a column of late; '' without an answer in that time."""
    if not row.hour.answered:
        return ""
    now = f"each {row.column} has cost {row.hour.price_in_credits}"
    if not row.hour.filled:
        now = f"no {row.column} came for {count(row.hour.credits, 'credit')}"
    before = f", and {row.before.price} in the seven days before" if row.before.price else ""
    return f"In the last hour {now}{before}"


async def gateway_answers(http: httpx.AsyncClient, public_url: str) -> bool:
    """Return True if the gateway is behind the URL. An answer of another program is none."""
    try:
        async with (
            asyncio.timeout(_WITHIN_S),
            http.stream("GET", f"{public_url.rstrip('/')}/healthz") as answer,
        ):
            start = b""
            async for part in answer.aiter_raw(16):
                start += part
                if len(start) > 16:
                    break
            return answer.status_code == 200 and start.strip() == b"ok"
    except (httpx.HTTPError, TimeoutError):
        return False


class Messages:
    """Sends a message when something begins or ends.

    What was sent is in a file, so that a restart repeats nothing.
    """

    def __init__(
        self,
        findings: Findings,
        gateway: Callable[[], Awaitable[bool]] | None,
        post: Callable[[bytes], Awaitable[None]],
        form: MessageFormat,
        interval_s: float,
        path: Path,
        registry: CollectorRegistry,
        now_s: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._findings = findings
        self._gateway = gateway
        self._post = post
        self._form = form
        self._path = path
        self._now_s = now_s
        self._now_ms = now_ms
        known = self._read()
        self._watch = Watch(known, now_s())
        self._outbox = Outbox(known, interval_s)
        self._gateway_answers = True
        self._ask_gateway_s = now_s()
        self._counter = Counter(
            "stream_app_notify_messages",
            "Messages, by result.",
            ("result",),
            registry=registry,
        )
        for result in ("sent", "failed"):
            self._counter.labels(result)
        self._log = log.get("messages")

    async def run(self) -> None:
        """Look and send until cancelled."""
        say = log.Throttled(lambda text: self._log.error("messages_failed", because=text))
        while True:
            try:
                await self.step()
            except Exception as error:  # noqa: BLE001 - a bug here must not end the board; the line reports it
                say(type(error).__name__)
            await asyncio.sleep(LOOK_EVERY_S)

    async def step(self) -> None:
        """Look once, and send what is due."""
        if self._gateway is not None and self._now_s() >= self._ask_gateway_s:
            self._gateway_answers = await self._gateway()
            self._ask_gateway_s = self._now_s() + _GATEWAY_EVERY_S
        findings, is_whole = await self._findings()
        if not self._gateway_answers:
            findings = [*findings, Finding("gateway", "")]
        self._watch.look(findings, self._now_s(), self._now_ms(), is_whole=is_whole)
        alerts = dict(self._watch.alerts)
        if (change := self._outbox.due(alerts, self._now_s())) is None:
            return
        begun, ended = change
        try:
            await self._post(body_of(begun, ended, self._form, self._now_ms()))
        except NotDelivered as error:
            pause_s = self._outbox.failed(self._now_s(), error.wait_ms / 1000)
            self._counter.labels("failed").inc()
            self._log.warning("message_not_sent", because=str(error), again_in_s=round(pause_s))
            return
        self._outbox.sent(alerts, self._now_s())
        self._counter.labels("sent").inc()
        self._log.info("message_sent", begun=len(begun), ended=len(ended))
        self._write(alerts.values())

    def _read(self) -> list[Alert]:
        """Return what was sent. Without a sound file, all present findings are sent once more."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Alert])
        except (OSError, msgspec.DecodeError):
            return []

    def _write(self, alerts: Iterable[Alert]) -> None:
        """Replace the file in one step."""
        new = self._path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(list(alerts)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            because = (
                f"{self._path}: {error.strerror}: a restart sends messages again; "
                "let the board write there"
            )
            self._log.warning("messages_not_kept", because=because)
