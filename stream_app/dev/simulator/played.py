"""How a fault of the script answers where Clay would give another answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from aiohttp import web

from stream_app.dev.simulator.script import Fault, RetryAfter

# The ledger's status of a fault that answers without one.
_NO_STATUS = {
    "reset_before_accept": "reset",
    "reset_after_read": "reset",
    "hang_after_read": "hang",
    "garbage": "garbage",
}
_CHUNK = b" " * 65_536

# Clay documents these statuses, but not what their bodies say.
_REFUSED = {
    400: "The request needs Content-Type: application/json, valid JSON, and at most 100 KB.",
    401: "Missing or wrong x-clay-webhook-auth.",
    402: "Payment required.",
    403: "Forbidden.",
    404: "No such webhook.",
}


Refuse = Callable[[int, str | None, Mapping[str, str] | None], web.Response]
"""Makes a response of a status, a message (None: the usual one) and headers."""


def status_of(fault: Fault, status: int) -> int | str:
    """Return what the ledger says of an answer that has `status` without the fault."""
    return _NO_STATUS.get(fault.kind, fault.status or status)


def error_answer(
    status: int,
    message: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return a response with an error status."""
    text = message or _REFUSED.get(status, "Something went wrong.")
    return web.Response(status=status, text=text, headers=headers)


def retry_after(form: RetryAfter, seconds: int) -> dict[str, str]:
    """Return the header in one of its forms, or no header."""
    match form:
        case "absent":
            return {}
        case "seconds":
            return {"Retry-After": str(seconds)}
        case "date":
            due = datetime.now(UTC) + timedelta(seconds=seconds)
            return {"Retry-After": format_datetime(due, usegmt=True)}
        case "zero":
            return {"Retry-After": "0"}


async def play(
    fault: Fault,
    request: web.Request,
    answer: web.Response,
    stopping: asyncio.Event,
    refuse: Refuse = error_answer,
) -> web.StreamResponse:
    """Answer as the fault requires, where Clay would give `answer`.

    `refuse` makes the answer of a fault that has a status of its own.

    It waits no longer once `stopping` is set.
    """
    match fault.kind:
        case "hang_after_read":
            await stopping.wait()  # or until the sender gives up: aiohttp cancels this then
            return _reset(request)
        case "reset_after_read" | "reset_before_accept":
            return _reset(request)
        case "slow":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), fault.delay_s or 0)
            return answer
        case "garbage":
            if request.transport is not None:
                request.transport.write(b"\x00\xff\x00 this is not HTTP\r\n\r\n")
                request.transport.close()
            return web.Response()
        case "table_full":
            return answer
        case "huge_answer":
            return await _huge(request, fault.size_bytes or 0)
    headers = {}
    if fault.retry_after is not None:
        headers = retry_after(fault.retry_after, fault.retry_after_s or 0)
    if fault.location is not None:
        headers = {"Location": fault.location}
    return refuse(fault.status or 500, None, headers)


def _reset(request: web.Request) -> web.Response:
    """End the connection with a TCP RST. The returned response is never sent."""
    transport = request.transport
    if transport is not None:
        # On a duplicate socket, because an event loop may return one that cannot be changed.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


async def _huge(request: web.Request, size_bytes: int) -> web.StreamResponse:
    """Respond with 200 and a body of that size."""
    answer = web.StreamResponse(headers={"Content-Length": str(size_bytes)})
    with contextlib.suppress(ConnectionError):  # the sender may stop reading
        await answer.prepare(request)
        left = size_bytes
        while left > 0:
            await answer.write(_CHUNK[:left])
            left -= len(_CHUNK)
    return answer
