"""Restate: a handler for each record, with the POST in a step that Restate retries."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from restate import Context, RunOptions, Service, TerminalError
from restate.serde import BytesSerde
from restate_serving import Outside

leads = Service("leads")
outside = Outside()
ATTEMPTS = RunOptions[None](
    max_attempts=6,
    initial_retry_interval=timedelta(seconds=0.5),
    max_retry_interval=timedelta(seconds=10),
)


@leads.handler(input_serde=BytesSerde())
async def take(context: Context, lead: bytes) -> None:
    try:
        await context.run_typed("post", post, ATTEMPTS, lead)
    except TerminalError:
        await context.run_typed("dead letter", outside.dead_letter, lead=lead)


async def post(lead: bytes) -> None:
    await outside.delivery.post(lead)


if __name__ == "__main__":
    asyncio.run(outside.run(leads, "take"))
