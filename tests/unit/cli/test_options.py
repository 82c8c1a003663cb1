"""Options of `stream-app dlq` and `replay`, confirmation, progress, and foreign text in tables."""

import io
from contextlib import nullcontext
from pathlib import Path

import pytest

from stream_app.cli import progress as shown
from stream_app.cli.base import confirm
from stream_app.cli.main import main, parse
from stream_app.cli.progress import reading
from stream_app.domain.dead_letter.causes import Tally
from stream_app.domain.errors import SettingsError, StreamAppError

HOUR_MS = 3_600_000
NOW_MS = 1_790_000_000_000


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "stream_app.toml"
    path.write_text(
        '[workspaces.acme]\n[destinations.people]\nworkspace = "acme"\nwebhooks_env = ["X"]\ncallbacks = false\n'
    )
    return str(path)


def test_the_table_shows_foreign_text_without_markup(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: `[/x]` in a reason ended the command with a traceback, and `[email]` of our own was not shown."""
    monkeypatch.setenv("COLUMNS", "200")
    tally = Tally(2_000)
    said = b"scrubbed: [email] [/x] :smile: \x1b]0;gone\x07"
    tally.add(
        {"stream-app-reason": b"[/x]", "stream-app-disposition": b"failed", "stream-app-reason-text": said},
        b"[red]acme",
        1_000,
    )

    async def count(*_: object) -> Tally:
        return tally

    async def ready(*_: object) -> None: ...

    monkeypatch.setattr("stream_app.replay.inspect.count", count)
    monkeypatch.setattr("stream_app.config.kafka_access.kafka_ready", ready)
    assert main(["dlq", "--config", config]) == 0
    out = capsys.readouterr().out
    for text in ("scrubbed: [email] [/x] :smile:", "  [/x]  ", "  [red]acme  "):
        assert text in out
    assert "\x1b" not in out
    assert "\x07" not in out


class Terminal(io.StringIO):
    """A terminal with typed input."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "yes"), [("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False), ("", False), ("yeah\n", False)]
)
def test_only_a_yes_is_a_yes(
    typed: str, yes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    with nullcontext() if yes else pytest.raises(StreamAppError, match="cancelled: nothing was changed"):
        confirm("send 7 dead letters back", yes=False)
    assert capsys.readouterr().err == "send 7 dead letters back? [y/N]\n"


def test_without_a_terminal_a_missing_yes_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(
        SettingsError, match=r"cannot ask for confirmation without a terminal: pass --yes to send 7 dead letters back$"
    ):
        confirm("send 7 dead letters back", yes=False)


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with reading("reading dead letters") as progress:
        progress(5, 10)
    assert capsys.readouterr() == ("", ""), "it has not taken long"
    monkeypatch.setattr(shown, "_PLAIN_EVERY_S", 0.0)
    with reading("reading dead letters") as progress:
        progress(5, 10)
    assert capsys.readouterr() == ("", "reading dead letters: 5 of 10 offsets\n")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with reading("reading dead letters") as progress:
        progress(5, 10)
    out, err = capsys.readouterr()
    assert (out, "reading dead letters" in err, "50%" in err) == ("", True, True)


@pytest.mark.parametrize(
    ("argv", "until_ms"),
    [
        (["dlq", "--older-than", "2h"], NOW_MS - 2 * HOUR_MS),
        (["dlq", "export", "x", "--older-than", "30m"], NOW_MS - HOUR_MS // 2),
        (["dlq", "--older-than", "7d", "export", "x"], NOW_MS - 7 * 24 * HOUR_MS),
        (["replay", "select", "--older-than", "90s", "--until", "2999-01-01"], NOW_MS - 90_000),
        (["replay", "plan", "--older-than", "1s", "--until", "2026-01-01"], 1_767_225_600_000),
    ],
)
def test_older_than_limits_like_until(argv: list[str], until_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW_MS / 1000)
    wanted = parse(argv)[1].arguments["which"].filter
    assert wanted.until_ms == until_ms
    assert wanted.matches({}, None, until_ms - 1)
    assert not wanted.matches({}, None, until_ms)


@pytest.mark.parametrize("age", ["2x", "h", "-2h", "2 h", "9999999d"])
def test_an_unreadable_age_is_wrong_usage(age: str) -> None:
    assert main(["dlq", f"--older-than={age}"]) == 2
