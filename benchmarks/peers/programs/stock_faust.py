"""Faust as its guide shows it: an agent that takes what has come and delivers it at once."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import Any

import faust
from async_delivery import IN_FLIGHT, Delivery, new_session

app = faust.App(
    os.environ["GROUP"],
    broker=f"kafka://{os.environ['BOOTSTRAP']}",
    web_enabled=False,
    topic_disable_leader=True,
    store="memory://",
    datadir=tempfile.mkdtemp(),
    broker_session_timeout=int(os.environ["SESSION_MS"]) / 1000,
    broker_heartbeat_interval=1.0,
)
source = app.topic(
    os.environ["LEADS"],
    os.environ["BULK"],
    value_type=bytes,
    value_serializer="raw",
    key_type=bytes,
    key_serializer="raw",
)
dead_letters = app.topic(os.environ["DLQ"], value_type=bytes, value_serializer="raw")


@app.agent(source)
async def deliver(leads: Any) -> None:
    async with new_session() as session:
        delivery = Delivery(session, lambda lead: dead_letters.send(value=lead))
        async for batch in leads.take(IN_FLIGHT, within=0.1):
            await asyncio.gather(*map(delivery, batch))


if __name__ == "__main__":
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()
