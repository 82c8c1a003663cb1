"""An OAuth 2.0 server for tests: a token endpoint for client credentials, and the keys that a
broker verifies with.
"""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from stream_app.dev.process import LOOPBACK

CLIENT = "stream-app"
SECRET = "correct-horse-battery"
AUDIENCE = "kafka"
_LASTS_S = 300


class TokenEndpoint:
    """Signs tokens of `CLIENT`, if the request has `SECRET`.

    Attributes:
        granted: How many tokens it gave.
        audience: What its tokens are for.
    """

    def __init__(self, port: int) -> None:
        self._key = rsa.generate_private_key(65_537, 2_048)
        self.granted = 0
        self.audience = AUDIENCE
        self.url = f"http://{LOOPBACK}:{port}"

    @property
    def keys(self) -> dict[str, Any]:
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig"}
        return {"keys": [key | {"n": _number(numbers.n), "e": _number(numbers.e)}]}

    def token(self) -> str:
        now = int(time.time())
        claims = {
            "sub": CLIENT,
            "aud": self.audience,
            "iss": self.url,
            "iat": now,
            "exp": now + _LASTS_S,
        }
        signed = ".".join(
            _encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "1"}, claims)
        )
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
        return f"{signed}.{_encoded(signature)}"

    def answer(self, authorization: str) -> tuple[int, dict[str, Any]]:
        """The status and body of a request for a token."""
        expected = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if authorization != f"Basic {expected}":
            return 401, {"error": "invalid_client"}
        self.granted += 1
        return 200, {"access_token": self.token(), "token_type": "Bearer", "expires_in": _LASTS_S}


@contextmanager
def token_endpoint(port: int) -> Iterator[TokenEndpoint]:
    """Serve it on this port."""
    endpoint = TokenEndpoint(port)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, endpoint.keys)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._send(*endpoint.answer(self.headers.get("authorization", "")))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()  # HTTP/1.0: the answer ends with the connection
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))
