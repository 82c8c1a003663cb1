"""`stream-app open`: it opens a browser if there is one, and else says how to reach the board."""

import webbrowser
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from stream_app.cli.main import main
from tests.unit.client.asked import answer, serving

ENTER = "/board/enter?ticket=x"
"""The path to which a ticket belongs. tests/unit/client/test_way_in.py asks a real board for one.
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    answer(monkeypatch, 200, b"stream-app board\n")
    monkeypatch.setattr(
        "stream_app.cli.processes.way_in",
        lambda settings: f"{settings.board_url}{ENTER}",
    )
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "STREAM_APP_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with serving() as port:
        (tmp_path / "stream_app.toml").write_text(f"[http]\nboard_port = {port}\n")
        yield port


def test_without_a_browser_it_prints_the_tunnel(
    board: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["open"]) == 0
    out = capsys.readouterr().out
    assert f"The board: http://127.0.0.1:{board}/board" in out
    assert f"ssh -N -L {board}:127.0.0.1:{board} " in out


def test_a_browser_opens_it(
    board: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "get", lambda: None)
    monkeypatch.setattr(webbrowser, "open", opened := Mock(return_value=True))
    assert main(["open"]) == 0
    opened.assert_called_once_with(f"http://127.0.0.1:{board}{ENTER}")
    assert "ssh" not in capsys.readouterr().out
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 50000 203.0.113.5 22")
    assert main(["open"]) == 0
    opened.assert_called_once()  # the browser of the server is not that of the operator
    assert "@203.0.113.5" in capsys.readouterr().out


def test_without_a_board_it_says_so(
    board: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "stream_app.toml").write_text('[board]\nurl = "http://127.0.0.1:1"\n')
    assert main(["open"]) == 5
    assert "start it with: stream-app board" in capsys.readouterr().err


def test_another_server_is_not_the_board(
    board: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as the gateway, whose /healthz answers, too."""
    answer(monkeypatch, 200, b"ok\n")
    assert main(["open"]) == 5
    assert (
        f"this is not the board: what answers at http://127.0.0.1:{board} is not"
        in capsys.readouterr().err
    )
