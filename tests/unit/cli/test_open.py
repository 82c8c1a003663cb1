"""`stream-app open`: it opens a browser where there is one, and else says how to reach the board."""

import threading
import webbrowser
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stream_app.cli.main import main
from stream_app.cli.processes import tunnel_to


class _Healthy(BaseHTTPRequestHandler):
    says = b"stream-app board\n"

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(self.says)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Healthy)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    port = server.server_address[1]
    (tmp_path / "stream_app.toml").write_text(f"[http]\nboard_port = {port}\n")
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "STREAM_APP_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    yield port
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_a_browser_it_prints_the_tunnel(board: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["open"]) == 0
    out = capsys.readouterr().out
    assert f"The board: http://127.0.0.1:{board}/board" in out
    assert f"ssh -N -L {board}:127.0.0.1:{board} " in out


def test_with_a_browser_it_opens_it(
    board: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "get", lambda: None)

    def open_in(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", open_in)
    assert main(["open"]) == 0
    assert opened == [f"http://127.0.0.1:{board}/board"]
    assert "ssh" not in capsys.readouterr().out
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 50000 203.0.113.5 22")
    assert main(["open"]) == 0
    assert len(opened) == 1, "the browser of the server is not that of the operator"
    assert "@203.0.113.5" in capsys.readouterr().out


def test_without_a_board_it_says_so(board: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stream_app.toml").write_text('[board]\nurl = "http://127.0.0.1:1"\n')
    assert main(["open"]) == 5
    assert "start it with: stream-app board" in capsys.readouterr().err


def test_another_server_is_not_the_board(
    board: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the gateway, whose /healthz answers, too."""
    monkeypatch.setattr(_Healthy, "says", b"ok\n")
    assert main(["open"]) == 5
    assert f"this is not the board: what answers at http://127.0.0.1:{board} is not" in capsys.readouterr().err


def test_the_tunnel_to_an_ipv6_address() -> None:
    assert tunnel_to("http://[::1]:9107/board", {"SSH_CONNECTION": "a 1 b 2"}).startswith("ssh -N -L 9107:[::1]:9107 ")
