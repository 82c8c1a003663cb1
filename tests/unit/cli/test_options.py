"""Options of `stream-app dlq`, `replay` and `erase`, what they ask before they act, and foreign text in tables."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import pytest

from stream_app.cli import tables as shown
from stream_app.cli.base import confirm
from stream_app.cli.main import main, parse
from stream_app.cli.tables import reading
from stream_app.client.commands import SentCommand
from stream_app.client.people import StoredLead
from stream_app.domain.dead_letter.causes import Tally
from stream_app.domain.dead_letter.pricing import PricedPlan
from stream_app.domain.errors import SettingsError, StreamAppError
from stream_app.domain.lane_messages import Command
from stream_app.replay.rewind import Move
from tests.integration.test_look import settings_of

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


class Group:
    """The replay group as the command would move it."""

    def __init__(self) -> None:
        self.rewound = 0

    async def moves(self, *_: object) -> list[Move]:
        return [Move(0, 20, 2)]

    async def survey(self, *_: object, **__: object) -> tuple[PricedPlan, dict[int, set[int]]]:
        return PricedPlan(18, Counter({"goes": 8, "sent_back": 5, "same_lead": 5}), Counter(), []), {}

    async def stopped(self, *_: object) -> None: ...

    async def rewind(self, *_: object) -> None:
        self.rewound += 1


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    group = Group()
    for place, name in (
        ("stream_app.replay.rewind.moves", "moves"),
        ("stream_app.replay.rewind.check_stopped", "stopped"),
        ("stream_app.replay.rewind.rewind", "rewind"),
        ("stream_app.cli.replay.survey", "survey"),
        ("stream_app.config.kafka_access.kafka_ready", "stopped"),
    ):
        monkeypatch.setattr(place, getattr(group, name))
    return group


@pytest.fixture
def argv(config: str) -> list[str]:
    return ["replay", "rewind", "--to-earliest", "--config", config]


def test_a_rewind_asks_and_a_no_changes_nothing(
    group: Group, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(argv) == 1
    assert "set the replay group back by 18 offsets? [y/N]" in capsys.readouterr().err
    assert group.rewound == 0
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(argv) == 0
    assert group.rewound == 1


def test_without_a_terminal_it_needs_a_yes(
    group: Group, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(argv) == 2
    assert "--yes" in capsys.readouterr().err
    assert main([*argv, "--dry-run"]) == 0
    assert group.rewound == 0
    assert main([*argv, "--yes"]) == 0
    assert group.rewound == 1


def test_the_counts_of_a_dry_run_add_up(group: Group, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "18 dead letters match" in lines
    assert "  5 are more dead letters of the same leads: a lead goes once" in lines
    assert sum(int(line.split()[0]) for line in lines if line.startswith("  ")) == 18


MINE: Final = "A" * 22
OTHERS: Final = "B" * 22
STORED: Final = [
    StoredLead("busy", "crm-1", ("busy",), (MINE, OTHERS), own=(MINE, OTHERS)),
    StoredLead("busy", "crm-2", ("busy",), (MINE, OTHERS), own=(OTHERS,), is_named=False),
]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object, object]]:
    """The commands that would be sent: kind, lead id and people."""
    commands: list[tuple[str, object, object]] = []

    async def take(_: object, __: object, kind: Any, workspace: str, args: dict[str, Any], *___: object) -> SentCommand:
        commands.append((kind, args.get("lead_id"), list(args["people"])))
        return SentCommand(Command("c-1", kind, workspace, 1, "ada"), {})

    async def find(*_: object) -> list[StoredLead]:
        return STORED

    def on_kafka(_: object, __: str, work: Coroutine[Any, Any, object]) -> object:
        return asyncio.run(work)

    monkeypatch.setattr("stream_app.cli.people.find_stored_leads", find)
    monkeypatch.setattr("stream_app.cli.people.on_kafka", on_kafka)
    monkeypatch.setattr("stream_app.cli.people.sent", take)
    return commands


def run(path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, *options: str) -> int:
    settings_of(path, "nowhere:1", "")
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    return main(["erase", "crm-1", "--why", "x", "--config", str(path / "stream_app.toml"), *options])


@pytest.mark.parametrize(
    ("typed", "taken"), [("y\ny\n", True), ("y\nn\n", False), ("y\n\n", False)], ids=["yes", "no", "nothing"]
)
def test_a_linked_lead_is_shown_and_erased_only_if_the_answer_is_yes(
    typed: str,
    taken: bool,
    sent: list[tuple[str, object, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path, monkeypatch, typed)
    shown, asked = capfd.readouterr()
    assert "erase 1 lead, and never send this person again? [y/N]" in asked
    assert "lead crm-2 in workspace busy is linked to this person, but does not name it: erase it as well?" in asked
    people = [MINE, OTHERS] if taken else [MINE]
    erased = ["crm-1", "crm-2"] if taken else ["crm-1"]
    assert sent == [("suppress", None, people), *(("erase", lead_id, people) for lead_id in erased)]
    assert ("if it is the same person: stream-app erase crm-2 --workspace busy" in shown) == (not taken)


def test_a_linked_lead_stays_with_yes_and_is_named(
    sent: list[tuple[str, object, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path, monkeypatch, "", "--yes", "--json")
    shown, asked = capfd.readouterr()
    assert "[y/N]" not in asked
    assert sent == [("suppress", None, [MINE]), ("erase", "crm-1", [MINE])]
    report = json.loads(shown)
    assert report["linked"] == [{"workspace": "busy", "lead_id": "crm-2"}]
    assert [each["lead_id"] for each in report["by_hand"]] == ["crm-1"]
