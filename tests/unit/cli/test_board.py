"""`stream-app board`: it opens a browser where there is one, and else says how to reach the board."""

from __future__ import annotations

import json
import threading
import webbrowser
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stream_app.cli.board import tunnel_to
from stream_app.cli.main import main


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Healthy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = server.server_address[1]
    (tmp_path / "stream_app.toml").write_text(f"[http]\ngateway_port = {port}\n")
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "STREAM_APP_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    yield port
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_a_browser_it_prints_the_tunnel(gateway: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board"]) == 0
    out = capsys.readouterr().out
    assert f"The board: http://127.0.0.1:{gateway}/board" in out
    assert f"ssh -N -L {gateway}:127.0.0.1:{gateway} " in out


def test_with_a_browser_it_opens_it(
    gateway: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "get", lambda: None)

    def open_in(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", open_in)
    assert main(["board"]) == 0
    assert opened == [f"http://127.0.0.1:{gateway}/board"]
    assert "ssh" not in capsys.readouterr().out
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 50000 203.0.113.5 22")
    assert main(["board"]) == 0
    assert len(opened) == 1, "the browser of the server is not that of the operator"
    assert "@203.0.113.5" in capsys.readouterr().out


def test_for_programs(gateway: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == f"http://127.0.0.1:{gateway}/board"


def test_without_a_gateway_it_says_so(gateway: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stream_app.toml").write_text('[gateway]\napi_url = "http://127.0.0.1:1"\n')
    assert main(["board"]) == 5
    assert "start it with: stream-app gateway" in capsys.readouterr().err


def test_the_tunnel_to_an_ipv6_address() -> None:
    assert tunnel_to("http://[::1]:9103/board", {"SSH_CONNECTION": "a 1 b 2"}).startswith("ssh -N -L 9103:[::1]:9103 ")
