"""The board's static files. Their paths contain a hash of their content, so browsers keep them for good."""

from __future__ import annotations

import gzip
from hashlib import sha256
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_NAMES: Final = (
    "board.css",
    "board.js",
    "charts.js",
    "icon.svg",
    "vendor/htmx-4.0.1.min.js",
    "vendor/uplot-1.6.32.min.js",
    "vendor/uplot-1.6.32.min.css",
)


class Assets:
    """The files in memory, also compressed."""

    def __init__(self) -> None:
        folder = files("stream_app.board") / "static"
        self._bodies: dict[str, bytes] = {}
        self._urls: dict[str, str] = {}
        for name in _NAMES:
            body = folder.joinpath(*name.split("/")).read_bytes()
            path = f"{sha256(body).hexdigest()[:16]}/{name}"
            self._bodies[path] = body
            self._urls[name] = f"/board/static/{path}"
        self._zipped = {path: gzip.compress(body, 9, mtime=0) for path, body in self._bodies.items()}

    def url(self, name: str) -> str:
        """Return the URL path of a file."""
        return self._urls[name]

    async def serve(self, request: Request) -> Response:
        """Answer a request for a file."""
        path = str(request.path_params["path"])
        body = self._bodies.get(path)
        if body is None:
            return Response("There is no such file.\n", 404, {"x-content-type-options": "nosniff"}, "text/plain")
        headers = {
            "cache-control": "public, max-age=31536000, immutable",
            "x-content-type-options": "nosniff",
            "vary": "accept-encoding",
        }
        if "gzip" in request.headers.get("accept-encoding", ""):
            body, headers = self._zipped[path], headers | {"content-encoding": "gzip"}
        return Response(body, 200, headers, _TYPES[path.rpartition(".")[2]])
