"""The gateway as a process, on a real Kafka: what it acknowledged is there, and it stops in order."""

from __future__ import annotations

import asyncio
import time

import httpx
import msgspec

from stream_app.core.callback_token import sign
from stream_app.core.messages import Callback
from stream_app.dev.kafka import Broker
from tests.e2e.pipeline import Pipeline


async def test_callbacks_are_on_kafka_before_they_are_answered(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, callbacks=True) as line:
        gateway = line.start("gateway")
        keys = line.settings.callback_keys
        async with httpx.AsyncClient(base_url=line.settings.gateway.public_url or "", timeout=10) as client:
            await until_ready(client)
            for number in range(20):
                name, lead_id = line.names[number % 2], f"lead-{number}"
                token = sign(keys, name, f"{name}-crm", lead_id)
                body = {"lead_id": lead_id, "callback_token": token, "title": "CEO"}
                answer = await client.post(f"/callbacks/{name}/{name}-crm", json=body)
                assert answer.text == f"Received: lead {lead_id}, enriched. Nothing to do.\n"
            assert (await client.post(f"/callbacks/{name}/{name}-crm", json=body | {"lead_id": "x"})).status_code == 403
            metrics = (await client.get("/metrics")).text
            assert 'stream_app_callbacks_total{answer="enriched",destination="w0-crm"} 10.0' in metrics
            assert 'stream_app_callbacks_total{answer="wrong_token",destination="w1-crm"} 1.0' in metrics
        records = await line.read(line.settings.names.callbacks)
        assert sorted(record.offset for record in records if record.partition == line.settings.home("w1")) == list(
            range(10)
        )
        for record in records:
            callback = msgspec.json.decode(record.value, type=Callback)
            assert record.key == callback.workspace.encode()
            assert record.partition == line.settings.home(callback.workspace)
        assert await line.stop(gateway) == 0


async def until_ready(client: httpx.AsyncClient, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if (await client.get("/readyz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError(f"the gateway was not ready within {within_s} s")
