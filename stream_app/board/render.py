"""Renders pages: Jinja2 with autoescape, headers that allow only our own files, and threads beside the event loop."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from stream_app.board import formats
from stream_app.board.api_access import Refused
from stream_app.board.assets import Assets
from stream_app.board.paths import FOR_TEMPLATES
from stream_app.version import __version__

T = TypeVar("T")

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_MOST_WAITING: Final = 64


class Renderer:
    """Renders templates."""

    def __init__(self, assets: Assets) -> None:
        self._templates = Environment(
            loader=PackageLoader("stream_app.board"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "amount": formats.amount,
            "duration": formats.duration,
            "iso": formats.iso,
            "day": formats.day_of,
            "words": formats.words,
            "tone": formats.tone,
            "shell": shlex.quote,
        }
        self._templates.globals |= {"asset": assets.url, "version": __version__, **FOR_TEMPLATES}
        self._templates.globals |= {"count": formats.count, "total": formats.total}

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        """Render a template."""
        return self._templates.get_template(template).render(context)


class Threads:
    """Runs blocking work in one thread, so that many boards take no more of the machine than one does."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "board")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work`. Raises Refused if too much waits already."""
        if self._waiting >= _MOST_WAITING:
            raise Refused(503, "busy", "Too many pages are being made: try again in a few seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread, after the work that it is at."""
        self._thread.shutdown(cancel_futures=True)


def html(body: bytes, status: int = 200) -> HTMLResponse:
    """Return the response with the security headers."""
    return HTMLResponse(body, status, HEADERS)
