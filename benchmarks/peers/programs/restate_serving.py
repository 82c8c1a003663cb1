"""Serves handlers to the Restate server, which runs them for the records of the topics."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import restate
from aiokafka import AIOKafkaProducer
from async_delivery import Delivery, new_session
from hypercorn.asyncio import serve
from hypercorn.config import Config
from restate.server import install_shutdown_hook
from tenacity import retry, retry_if_exception_type, wait_fixed


class Outside:
    """What the handlers reach: the API and the DLQ, both open while `run` does."""

    delivery: Delivery
    producer: AIOKafkaProducer

    async def dead_letter(self, lead: bytes) -> None:
        await self.producer.send_and_wait(os.environ["DLQ"], lead)

    async def run(self, service: restate.Service, handler: str) -> None:
        """Serve until SIGTERM. `handler` gets the records."""
        stopped = asyncio.Event()
        # the SDK takes SIGTERM from hypercorn
        install_shutdown_hook(asyncio.get_running_loop(), stopped.set)
        address = f"127.0.0.1:{os.environ['PORT']}"
        self.producer = AIOKafkaProducer(
            bootstrap_servers=os.environ["BOOTSTRAP"],
            enable_idempotence=True,
        )
        async with self.producer, new_session() as session:
            self.delivery = Delivery(session, self.dead_letter)
            await asyncio.gather(
                serve(
                    restate.app([service]),
                    Config.from_mapping(bind=address),
                    shutdown_trigger=stopped.wait,
                ),
                _register(f"http://{address}", f"service://{service.name}/{handler}"),
            )


@retry(wait=wait_fixed(0.1), retry=retry_if_exception_type(aiohttp.ClientError))
async def _register(deployment: str, sink: str) -> None:
    options = {
        "group.id": os.environ["GROUP"],
        "auto.offset.reset": "earliest",
        "session.timeout.ms": os.environ["SESSION_MS"],
    }
    async with aiohttp.ClientSession(os.environ["SERVER"], raise_for_status=True) as admin:
        async with admin.get("/subscriptions") as answer:
            subscribed = {
                subscription["source"] for subscription in (await answer.json())["subscriptions"]
            }
        for source in {
            f"kafka://kafka/{os.environ[topic]}" for topic in ("LEADS", "BULK")
        } - subscribed:
            await admin.post("/deployments", json={"uri": deployment})
            await admin.post(
                "/subscriptions",
                json={"source": source, "sink": sink, "options": options},
            )
