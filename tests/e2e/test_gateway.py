"""The gateway as a process on a real Kafka: acknowledged callbacks are there, and it stops cleanly."""

import asyncio
import time

import httpx

from stream_app.dev.kafka import Broker
from tests.e2e.pipeline import CALLBACK, Pipeline
from tests.support.pace import BUSY


async def until_ready(client: httpx.AsyncClient, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s * BUSY
    while time.monotonic() < deadline:
        try:
            if (await client.get("/healthz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError(f"the process was not ready within {within_s} s")


async def test_one_lead_goes_to_the_simulator_and_its_result_comes_back(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, callbacks=True, script=CALLBACK) as line:
        processes = [line.start("worker"), line.start("gateway"), line.start("replay")]
        async with httpx.AsyncClient(base_url=line.settings.gateway.public_url or "", timeout=10 * BUSY) as client:
            await until_ready(client)
            await line.ready(processes[0], processes[2])  # before, doctor rightly says that none runs
            said = await line.done("doctor", "--round-trip", "w0-crm", "--yes", "--within", "60")
            assert "round trip of doctor-" in said
            assert "it came back as " in said
            metrics = await line.get(processes[1], "/metrics")
        received = [row for row in metrics.splitlines() if row.startswith("stream_app_callbacks_total")]
        assert len([row for row in received if '"wrong_token"' in row]) == 2, "the doctor's own, of both tables"
        assert len([row for row in received if '"w0-crm"' in row and "token" not in row]) == 1, received
        assert line.summary()["leads"], "Clay had it"
        for process in processes:
            assert await line.stop(process) == 0
