"""The simulator's responses and failures: everything that a sender can see of a request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from aiohttp import web

from stream_app.dev.simulator.script import RetryAfter

_CHUNK = b" " * 65_536

# Clay's response has no reliable shape, so it varies from request to request.
_ACCEPTED = (
    ("", "text/plain"),
    ("OK", "text/plain"),
    ('{"success":true}', "application/json"),
    ('{"message":"Webhook received"', "application/json"),
    ("[]", "application/json"),
    ("<html><body>Thanks!</body></html>", "text/html"),
)
_REFUSED = {
    400: "The body is not valid JSON.",
    401: "Missing or wrong x-clay-webhook-auth.",
    402: "Payment required.",
    403: "This source cannot take more records.",
    404: "No such webhook.",
    413: "The payload is too large.",
    422: "Expected a JSON object, or a list of them.",
    429: "Too many records.",
}


def accepted(about: int) -> web.Response:
    """Return a 200; `about` selects the body."""
    text, content_type = _ACCEPTED[about % len(_ACCEPTED)]
    return web.Response(text=text, content_type=content_type)


def refused(status: int, headers: dict[str, str]) -> web.Response:
    """Return a response with an error status."""
    return web.Response(status=status, text=_REFUSED.get(status, "Something went wrong."), headers=headers)


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


def reset(request: web.Request) -> web.Response:
    """End the connection with a TCP RST. The returned response is never sent."""
    transport = request.transport
    if transport is not None:
        # On a duplicate socket, because an event loop may return one that cannot be changed.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


async def hang(request: web.Request, stopping: asyncio.Event) -> web.Response:
    """Never respond. Ends when the sender gives up (aiohttp cancels this then) or the simulator stops."""
    await stopping.wait()
    return reset(request)


async def slow(answer: web.Response, delay_s: float, stopping: asyncio.Event) -> web.Response:
    """Return the response after a delay, or at once when the simulator stops."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), delay_s)
    return answer


def garbage(request: web.Request) -> web.Response:
    """Respond with bytes that are not HTTP, and close."""
    if request.transport is not None:
        request.transport.write(b"\x00\xff\x00 this is not HTTP\r\n\r\n")
        request.transport.close()
    return web.Response()


async def huge(request: web.Request, size_bytes: int) -> web.StreamResponse:
    """Respond with 200 and a body of that size."""
    answer = web.StreamResponse(headers={"Content-Length": str(size_bytes)})
    with contextlib.suppress(ConnectionError):  # the sender may stop reading
        await answer.prepare(request)
        left = size_bytes
        while left > 0:
            await answer.write(_CHUNK[:left])
            left -= len(_CHUNK)
    return answer
