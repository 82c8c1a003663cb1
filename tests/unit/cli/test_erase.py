"""`stream-app erase` asks apart for each lead that is linked to the person and does not name it."""

import asyncio
import io
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import pytest

from stream_app.cli.main import main
from stream_app.client.commands import SentCommand
from stream_app.client.people import StoredLead
from stream_app.domain.lane_messages import Command
from tests.integration.test_look import settings_of

MINE: Final = "A" * 22
OTHERS: Final = "B" * 22
STORED: Final = [
    StoredLead("busy", "crm-1", ("busy",), (MINE, OTHERS), own=(MINE, OTHERS)),
    StoredLead("busy", "crm-2", ("busy",), (MINE, OTHERS), own=(OTHERS,), is_named=False),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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

    monkeypatch.setattr("stream_app.cli.erase.find_stored_leads", find)
    monkeypatch.setattr("stream_app.cli.erase.on_kafka", on_kafka)
    monkeypatch.setattr("stream_app.cli.erase.sent", take)
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
