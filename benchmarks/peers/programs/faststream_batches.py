"""FastStream: a subscriber of batches that delivers a batch at once."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated, Any

from async_delivery import IN_FLIGHT, Delivery, new_session
from faststream import AckPolicy, Context, ContextRepo, FastStream
from faststream.kafka import KafkaBroker

broker = KafkaBroker(os.environ["BOOTSTRAP"])
app = FastStream(broker)


@app.on_startup
async def open_session(context: ContextRepo) -> None:
    delivery = Delivery(new_session(), lambda lead: broker.publish(lead, os.environ["DLQ"]))
    context.set_global("delivery", delivery)


@broker.subscriber(
    os.environ["LEADS"],
    os.environ["BULK"],
    group_id=os.environ["GROUP"],
    batch=True,
    max_records=IN_FLIGHT,
    auto_offset_reset="earliest",
    ack_policy=AckPolicy.NACK_ON_ERROR,
    session_timeout_ms=int(os.environ["SESSION_MS"]),
    heartbeat_interval_ms=1000,
)
async def handle(leads: list[dict[str, Any]], delivery: Annotated[Any, Context()]) -> None:
    await asyncio.gather(*(delivery(json.dumps(lead).encode()) for lead in leads))


if __name__ == "__main__":
    asyncio.run(app.run())
