"""`stream-app dlq` and `replay` for people: what others wrote is shown as it is, and nothing goes without a yes."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_app.cli import main
from stream_app.core.letters import Tally


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "stream_app.toml"
    path.write_text('[destinations.people]\nworkspace = "acme"\nwebhooks_env = ["X"]\ncallbacks = false\n')
    return str(path)


def test_the_table_shows_what_others_wrote_as_text(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: `[/x]` in a reason ended the command with a traceback, and `[email]` of our own was not shown."""
    monkeypatch.setenv("COLUMNS", "200")
    tally = Tally(2_000)
    said = b"scrubbed: [email] [/x] :smile: \x1b]0;gone\x07"
    tally.add({"reason": b"[/x]", "disposition": b"failed", "reason-text": said}, b"[red]acme", 1_000)

    async def count(*_: object) -> Tally:
        return tally

    monkeypatch.setattr("stream_app.replays.inspect.count", count)
    assert main(["dlq", "--config", config]) == 0
    out = capsys.readouterr().out
    for text in ("scrubbed: [email] [/x] :smile:", "│ [/x] ", "│ [red]acme "):
        assert text in out
    assert "\x1b" not in out
    assert "\x07" not in out
