"""Restate: a handler for each record, with a step before the POST, so that a POST that was
interrupted is known.
"""

from __future__ import annotations

import asyncio
import uuid

from restate import Context, RunOptions, Service, TerminalError
from restate.serde import BytesSerde
from restate_serving import Outside

leads = Service("leads")
outside = Outside()
PROCESS = str(uuid.uuid4())
begun: set[str] = set()
ONCE = RunOptions[None](max_attempts=1)


@leads.handler(input_serde=BytesSerde())
async def take(context: Context, lead: bytes) -> None:
    owner = await context.run_typed("begin", lambda: PROCESS)
    try:
        await context.run_typed("post", post, ONCE, lead, f"{owner} {context.request().id}")
    except TerminalError:
        await context.run_typed("dead letter", outside.dead_letter, lead=lead)


async def post(lead: bytes, attempt: str) -> None:
    if attempt in begun or not attempt.startswith(PROCESS):
        raise TerminalError("it was interrupted, so the lead may have been sent")
    begun.add(attempt)
    await outside.delivery(lead)


if __name__ == "__main__":
    asyncio.run(outside.run(leads, "take"))
