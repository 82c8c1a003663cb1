"""A board that answers look-ups."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

_LAG = {"as_of_ms": 1, "lag": 0, "trouble": ""}


class Server(BaseHTTPRequestHandler):
    """Gives the same answer to every request."""

    status = 200
    body = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[int]:
    """Serve these answers; gives the port."""
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def answer(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes | dict[str, object]) -> None:
    monkeypatch.setattr(Server, "status", status)
    monkeypatch.setattr(
        Server,
        "body",
        body if isinstance(body, bytes) else json.dumps(_LAG | body).encode(),
    )
