"""The notify process: reads the metrics of all processes, and sends a message when a condition begins or ends.

It needs no Kafka, so that it can say that Kafka is away. Only this process sends: the others do not know of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import httpx
from prometheus_client import Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from stream_app import __version__
from stream_app.config import Settings
from stream_app.config.egress import egress_of
from stream_app.domain.errors import SettingsError
from stream_app.notify.conditions import COUNTERS, LONGEST_WINDOW_S, METRICS, is_read
from stream_app.notify.messages import body_of
from stream_app.notify.outbox import KnownAlerts, Outbox, owned_alerts
from stream_app.notify.receiver import NO_URL, NotDelivered, Receiver
from stream_app.notify.samples import Sample, Samples
from stream_app.notify.watch import Watch
from stream_app.ops import logs as log
from stream_app.ops.clock import SystemClock
from stream_app.ops.process_metrics import process_registry
from stream_app.services.process import serve_ops, state_folder, stop_signal
from stream_app.tasks import run_until

_EVERY_S: Final = 15.0
_WITHIN_S: Final = 10.0
_MOST_BYTES: Final = 64 << 20
_NAMES: Final = tuple(METRICS)


async def run_notify(settings: Settings) -> None:
    """Run `stream-app notify` until SIGTERM or SIGINT.

    Raises:
        SettingsError: The configuration names no URL.
        StreamAppError: Another process sends from the same state file.
    """
    notify, logger = settings.notify, log.get("notify")
    if notify.url_env is None:
        raise SettingsError([NO_URL])
    registry = process_registry()
    messages = Counter("stream_app_notify_messages", "Messages, by result.", ("result",), registry=registry)
    firing = Gauge("stream_app_notify_alerts", "Alerts that fire.", registry=registry)
    waiting = Gauge("stream_app_notify_changes_waiting", "Changes that no message has reported yet.", registry=registry)
    for result in ("sent", "failed"):
        messages.labels(result)
    clock, targets = SystemClock(), targets_of(settings)
    egress = egress_of(settings)
    samples = Samples(COUNTERS, LONGEST_WINDOW_S)

    async def ready() -> str | None:
        return None

    async def follow(state: KnownAlerts, receiver: Receiver, http: httpx.AsyncClient) -> None:
        known = state.read()
        watch = Watch(known, clock.now_ms(), targets)
        outbox = Outbox(known, round(notify.interval_s * 1000))
        while True:
            await asyncio.gather(*(_read(http, job, places, samples, clock) for job, places in targets.items()))
            now_ms = clock.now_ms()
            watch.look(samples, now_ms)
            firing.set(len(watch.firing))
            change = outbox.waiting(watch.firing)
            waiting.set(len(change.fired) + len(change.resolved))
            if change and outbox.may_send(now_ms):
                try:
                    await receiver.post(body_of(change, notify.format, now_ms))
                except NotDelivered as error:
                    pause_ms = outbox.failed(clock.now_ms(), error.wait_ms)
                    messages.labels("failed").inc()
                    logger.warning("message_not_sent", because=str(error), again_in_s=pause_ms // 1000)
                else:
                    outbox.sent(change, clock.now_ms())
                    state.write(outbox.known.values())
                    messages.labels("sent").inc()
                    waiting.set(0)
                    logger.info("message_sent", firing=len(change.fired), resolved=len(change.resolved))
            await asyncio.sleep(_EVERY_S)

    with stop_signal() as stop, owned_alerts(state_path(settings)) as state:
        async with (
            Receiver(settings.secrets[notify.url_env], egress) as receiver,
            httpx.AsyncClient(timeout=_WITHIN_S, trust_env=False) as http,
            serve_ops(settings.http.host, settings.http.notify_port, registry, ready) as port,
        ):
            logger.info("notify_started", version=__version__, metrics_port=port, host=receiver.host, watched=targets)
            await run_until(stop, follow(state, receiver, http))
    logger.info("notify_stopped")


def targets_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return job -> host:port of its metrics: as configured, else on this machine."""
    notify, http = settings.notify, settings.http
    calls_back = any(there.callbacks for there in settings.destinations.values())
    found = {
        "worker": notify.workers or (http.address_of(http.worker_port),),
        "replay": notify.replays or (http.address_of(http.replay_port),),
        "gateway": notify.gateways or ((http.address_of(http.gateway_ops_port),) if calls_back else ()),
    }
    return {job: places for job, places in found.items() if places}


def state_path(settings: Settings) -> Path:
    """Return the path of the state file: as configured, else in the state folder of the service or user."""
    if settings.notify.state_path is not None:
        return Path(settings.notify.state_path)
    return state_folder(os.environ) / f"{settings.kafka.namespace}notify.json"


async def _read(http: httpx.AsyncClient, job: str, places: Iterable[str], samples: Samples, clock: SystemClock) -> None:
    """Read the metrics of all processes of a job. A process that does not answer is down."""
    found = [place for places in await asyncio.gather(*map(_addresses, places)) for place in places]
    answers = await asyncio.gather(*(_metrics(http, place) for place in found))
    now_s = clock.now_ms() / 1000
    samples.expect(job, {place for place, text in zip(found, answers, strict=True) if text is not None}, now_s)
    for place, text in zip(found, answers, strict=True):
        if text is not None:
            samples.answered(job, place, _samples_in(text), now_s)


async def _addresses(place: str) -> list[str]:
    """Return address:port of each address that the name has."""
    host, _, port = place.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = dict.fromkeys(str(address[0]) for *_, address in found)
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]


async def _metrics(http: httpx.AsyncClient, place: str) -> str | None:
    text = bytearray()
    try:
        async with asyncio.timeout(_WITHIN_S), http.stream("GET", f"http://{place}/metrics") as answer:
            if answer.status_code != 200:
                return None
            async for part in answer.aiter_bytes():
                text += part
                if len(text) > _MOST_BYTES:
                    return None
    except (httpx.HTTPError, TimeoutError):
        return None
    return text.decode("utf-8", "replace")


def _samples_in(text: str) -> Iterator[Sample]:
    """Yield the samples that conditions read."""
    lines = [line for line in text.splitlines() if line.startswith(_NAMES)]
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for each in family.samples:
                sample = Sample(each.name, each.labels, each.value)
                if is_read(sample):
                    yield sample
    except ValueError:  # another program answers there
        return
