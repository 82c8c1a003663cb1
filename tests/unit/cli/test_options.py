"""What is typed after `dlq`, `replay`, `erase` and `lanes` is what is meant, and what is asked
before it is done.
"""

import asyncio
import io
import json
from collections.abc import Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final
from unittest.mock import AsyncMock

import msgspec
import pydantic  # noqa: F401 - where a process has imported it, cyclopts checks values against it, too
import pytest

from stream_app.cli.base import confirm
from stream_app.cli.books import books_table, show_report
from stream_app.cli.main import main, parse
from stream_app.client.lanes.commands import SentCommand, new_command
from stream_app.client.people import StoredLead
from stream_app.client.results.answers import (
    Cause,
    DeadLetters,
    DeadLettersAnswer,
    FoundImport,
    ImportsAnswer,
)
from stream_app.client.results.export import Export, ResultFilter
from stream_app.config import Settings
from stream_app.domain.books.money import BooksReport, OpenCost
from stream_app.domain.books.records import COLUMNS, BookTotals, StatusTotals
from stream_app.domain.commands import Command, Resolve, read_arguments
from stream_app.domain.dead_letter.causes import DeadLetterTally
from stream_app.domain.lane import overrides as controls
from stream_app.domain.lane.overrides import Order
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.errors import BoardUnavailable, SettingsError, StreamAppError
from tests.support.config import NO_BOARD, one_way
from tests.support.settings import settings_of

HOUR_MS = 3_600_000
NOW_MS = 1_790_000_000_000


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "stream_app.toml"
    path.write_text(NO_BOARD + one_way(people="acme"))
    return str(path)


def counted(monkeypatch: pytest.MonkeyPatch, now_ms: int) -> DeadLetterTally:
    """What `dlq` will count on Kafka."""
    tally = DeadLetterTally(now_ms)
    monkeypatch.setattr("stream_app.replay.inspect.count", AsyncMock(return_value=tally))
    monkeypatch.setattr("stream_app.config.kafka_access.kafka_ready", AsyncMock())
    return tally


def test_the_table_shows_foreign_text_without_markup(
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seen: `[/x]` in a reason ended the command with a traceback, and `[email]` of our own was not
    shown.
    """
    monkeypatch.setenv("COLUMNS", "200")
    tally = counted(monkeypatch, 2_000)
    value = b"scrubbed: [email] [/x] :smile: \x1b]0;gone\x07"
    tally.add(
        {
            "stream-app-reason": b"[/x]",
            "stream-app-disposition": b"failed",
            "stream-app-reason-text": value,
        },
        b"[red]acme",
        1_000,
    )

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
    ("typed", "yes"),
    [
        ("y\n", True),
        (" YES \n", True),
        ("n\n", False),
        ("\n", False),
        ("", False),
        ("yeah\n", False),
    ],
)
def test_only_a_yes_is_a_yes(
    typed: str,
    yes: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    with (
        nullcontext()
        if yes
        else pytest.raises(StreamAppError, match="cancelled: nothing was changed")
    ):
        confirm("send 7 dead letters back", yes=False)
    assert capsys.readouterr().err == "send 7 dead letters back? [y/N]\n"


def test_without_a_terminal_a_missing_yes_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(
        SettingsError,
        match=r"cannot ask for confirmation without a terminal: pass --yes to send 7 dead letters "
        r"back$",
    ):
        confirm("send 7 dead letters back", yes=False)


@pytest.mark.parametrize(
    ("argv", "until_ms"),
    [
        (["dlq", "--older-than", "2h"], NOW_MS - 2 * HOUR_MS),
        (["dlq", "export", "x", "--older-than", "30m"], NOW_MS - HOUR_MS // 2),
        (["dlq", "--older-than", "7d", "export", "x"], NOW_MS - 7 * 24 * HOUR_MS),
        (["replay", "plan", "--older-than", "1s", "--until", "2026-01-01"], 1_767_225_600_000),
    ],
)
def test_older_than_limits_like_until(
    argv: list[str],
    until_ms: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.time", lambda: NOW_MS / 1000)
    wanted = parse(argv)[1].arguments["which"].filter
    assert wanted.until_ms == until_ms
    assert wanted.matches({}, None, None, until_ms - 1)
    assert not wanted.matches({}, None, None, until_ms)


@pytest.mark.parametrize("age", ["2x", "h", "-2h", "2 h", "9999999d"])
def test_an_unreadable_age_is_wrong_usage(age: str) -> None:
    assert main(["dlq", f"--older-than={age}"]) == 2


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

    async def take(
        _: object,
        __: object,
        kind: Any,
        workspace: str,
        args: dict[str, Any],
        *___: object,
    ) -> SentCommand:
        commands.append((kind, args.get("lead_id"), list(args["people"])))
        return SentCommand(Command("c-1", kind, workspace, 1, "ada"), {})

    def on_kafka(_: object, __: str, work: Coroutine[Any, Any, object]) -> object:
        return asyncio.run(work)

    monkeypatch.setattr("stream_app.cli.people.find_stored_leads", AsyncMock(return_value=STORED))
    monkeypatch.setattr("stream_app.cli.people.on_kafka", on_kafka)
    monkeypatch.setattr("stream_app.cli.people.sent", take)
    return commands


def run(path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, *options: str) -> int:
    settings_of(path, "nowhere:1", "")
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    return main(
        ["erase", "crm-1", "--why", "x", "--config", str(path / "stream_app.toml"), *options],
    )


@pytest.mark.parametrize(
    ("typed", "taken"),
    [("y\ny\n", True), ("y\nn\n", False), ("y\n\n", False)],
    ids=["yes", "no", "nothing"],
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
    assert (
        "lead crm-2 in workspace busy is linked to this person, but does not name it: erase "
        "it as well?"
    ) in asked
    people = [MINE, OTHERS] if taken else [MINE]
    erased = ["crm-1", "crm-2"] if taken else ["crm-1"]
    assert sent == [("suppress", None, people), *(("erase", lead_id, people) for lead_id in erased)]
    assert ("if it is the same person: stream-app erase crm-2 --workspace busy" in shown) == (
        not taken
    )


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
    assert [lead["lead_id"] for lead in report["by_hand"]] == ["crm-1"]


@pytest.fixture
def commands(config: str, monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """The commands that would be written to Kafka."""
    written: list[Command] = []

    async def submit(settings: Settings, *given: Any, **_: object) -> SentCommand:
        written.append(new_command(settings, "c-1", *given))
        return SentCommand(written[-1], {})

    monkeypatch.setattr("stream_app.cli.lanes.submit", submit)
    monkeypatch.setenv("STREAM_APP_CONFIG", config)
    return written


@pytest.mark.parametrize(
    ("typed", "order"),
    [
        ("pause acme", controls.Pause()),
        ("rate acme --per-second 4.5", controls.ChangeRate(per_second=4.5)),
        (
            "rate acme --per-second configured --burst 3",
            controls.ChangeRate(per_second="configured", burst=3),
        ),
        ("correct acme --credits 120", controls.Correct(credits=120)),
        (
            "correct acme --credits -30 --actions -2 --period month",
            controls.Correct(-30, -2, "month"),
        ),
        ("budget acme --credits-per-day 8000", controls.ChangeBudget({"credits_per_day": 8_000})),
        (
            "budget acme --credits-per-month none --actions-per-day configured --shadow on",
            controls.ChangeBudget(
                {"credits_per_month": None, "actions_per_day": "configured"},
                shadow=True,
            ),
        ),
        ("quota acme --webhook 3f9a --retire", controls.ChangeQuota("3f9a", use=False)),
        (
            "quota acme --webhook 3f9a --use --count 12000",
            controls.ChangeQuota("3f9a", use=True, count=12_000),
        ),
    ],
)
def test_a_command_has_the_typed_values(typed: str, order: Order, commands: list[Command]) -> None:
    assert main(["lanes", *typed.split(), "--why", "because"]) == 0
    (command,) = commands
    assert command.workspace == "acme"
    assert command.why == "because"
    assert read_arguments(command.kind, command.args) == order


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("rate", "name something to change"),
        (
            "rate --per-second nan",
            "--per-second: 'nan' is not a number or configured, from 0.01 to 1,000",
        ),
        (
            "rate --burst 1.5",
            "--burst: '1.5' is not a whole number or configured, from 1 to 10,000",
        ),
        (
            "budget --credits-per-day -1",
            "--credits-per-day: '-1' is not a whole number, none or configured, from 0 to 1,000",
        ),
        ("budget --shadow maybe", "--shadow"),
        ("correct --period month", "name credits or actions that are not 0"),
        (
            "correct --credits 9999999999999",
            "--credits: '9999999999999' is not a whole number, from -1,000",
        ),
        ("quota --use", "--webhook"),
        (
            "quota --webhook 3f9a --count 1000000000001",
            "--count: '1000000000001' is not a whole number, from 0 to 1,000",
        ),
    ],
)
def test_what_is_typed_wrong_is_named_before_anything_is_sent(
    typed: str,
    says: str,
    commands: list[Command],
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind, *options = typed.split()
    assert main(["lanes", kind, "acme", *options, "--why", "because"]) == 2
    assert says in capsys.readouterr().err
    assert commands == []


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("--at-clay --credits 4", Resolve("crm-17", credits=4)),
        ("--give-up", Resolve("crm-17", give_up=True)),
        (
            "--at-clay --credits 0 --actions 1 --destination people",
            Resolve("crm-17", 0, 1, destination="people"),
        ),
    ],
)
def test_a_lead_is_settled_as_it_is_typed(
    typed: str,
    arguments: Resolve,
    commands: list[Command],
) -> None:
    assert (
        main(
            ["dlq", "resolve", "crm-17", "--workspace", "acme", *typed.split(), "--why", "because"],
        )
        == 0
    )
    (command,) = commands
    assert command.kind == "resolve"
    assert command.workspace == "acme"
    assert read_arguments(command.kind, command.args) == arguments


@pytest.mark.parametrize(
    "typed",
    ["", "--at-clay", "--at-clay --credits -4", "--at-clay --credits 4 --give-up"],
)
def test_a_resolution_that_says_too_little_is_wrong_usage(
    typed: str,
    commands: list[Command],
) -> None:
    assert (
        main(
            ["dlq", "resolve", "crm-17", "--workspace", "acme", *typed.split(), "--why", "because"],
        )
        == 2
    )
    assert commands == []


@pytest.mark.parametrize("typed", ["", "--lead crm-17 --import march.csv"])
def test_a_cancellation_names_either_a_lead_or_an_import(
    typed: str,
    commands: list[Command],
) -> None:
    assert main(["lanes", "cancel", "acme", *typed.split(), "--why", "because"]) == 2
    assert main(["lanes", "cancel", "acme", "--import", "march.csv", "--why", "because"]) == 0
    assert [(command.kind, command.args) for command in commands] == [
        ("cancel_import", {"import_id": "march.csv"}),
    ]


def test_the_url_of_a_webhook_is_not_its_id(
    commands: list[Command],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = "https://api.clay.com/v3/sources/webhook/secret"
    assert main(["lanes", "quota", "acme", "--webhook", url, "--retire", "--why", "because"]) == 2
    assert "secret" not in capsys.readouterr().err
    assert commands == []


def test_the_books_name_the_leads_whose_cost_is_not_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    open_costs = [OpenCost("acme", "people", "crm-17", Reservation("2026-11-24", "2026-11", 20, 5))]
    report = BooksReport(balanced=True, columns={name: StatusTotals() for name in COLUMNS})
    show_report(msgspec.structs.replace(report, open_costs=open_costs, open_cost_count=2))
    output = capsys.readouterr().out
    assert (
        "2 POSTs are booked at their ceiling, not known: Clay did not say what the lead cost."
        in output
    )
    assert "stream-app dlq resolve ID --workspace NAME --at-clay --credits N --why TEXT" in output
    assert "  acme/people crm-17: 20 credits and 5 actions on 2026-11-24" in output
    assert "  and 1 more; --limit names more of them" in output


def test_the_books_show_leads_with_a_status_of_a_newer_version_so_that_they_add_up() -> None:
    totals = BookTotals()
    totals.add("set_aside", 2, 3, 1, final=False)
    totals.add("enriched", 5, 5, 5, final=False)
    report = BooksReport(columns=totals.columns, records=8, leads=7)
    first, *rows = books_table(report).rows
    assert first[1:3] == ["7", "8"]
    assert rows[-1] == ["unknown", "2", "3", "1", "a status of a newer version"]
    for place in (1, 2):
        assert sum(int(row[place]) for row in rows) == int(first[place])


@pytest.mark.parametrize("answers", [True, False])
def test_dlq_says_what_has_become_of_dead_letters(
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: bool,
) -> None:
    """34 were written and all were sent back: none is open, and nobody is sent to look for them."""
    tally = counted(monkeypatch, NOW_MS)
    for _ in range(34):
        tally.add(
            {"stream-app-reason": b"http_422", "stream-app-disposition": b"poison"},
            b"acme",
            NOW_MS - 1,
        )

    def ask(_: object) -> DeadLettersAnswer:
        if not answers:
            raise BoardUnavailable("the board does not answer")
        solved = DeadLetters([Cause("poison", "acme", "", "http_422", "", solved=34)], solved=34)
        return DeadLettersAnswer(as_of_ms=1, lag=0, trouble="", dlq=solved, parked=DeadLetters([]))

    monkeypatch.setattr("stream_app.cli.dlq.find_dead_letters", ask)
    assert main(["dlq", "--config", config]) == 0
    output = capsys.readouterr()
    assert "34 dead letters in dlq" in output.out
    assert "suppression list" not in output.out
    assert ("of these 0 open, 0 coming back, 34 solved, 0 given up" in output.out) is answers
    assert (
        "how many of them are open is not known: the board does not answer" in output.err
    ) is not answers


def test_results_of_an_import_are_joined_in_its_workspace(
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The import knows it: without it, 0 of 199 rows had a result, and no word said why."""
    publication = FoundImport(
        "march",
        "acme",
        1,
        2,
        "jane",
        "leads.csv",
        3,
        0,
        3,
        {"enriched": 3},
        9,
    )
    wanted: list[ResultFilter] = []

    def ask(_: object, import_id: str) -> ImportsAnswer:
        return ImportsAnswer(
            as_of_ms=1,
            lag=0,
            trouble="",
            imports=[publication] * (import_id == "march"),
            more=False,
        )

    async def write(_: object, chosen: ResultFilter, *__: object, **___: object) -> Export:
        wanted.append(chosen)
        return Export(lines=3, results=3)

    monkeypatch.setattr("stream_app.cli.results.find_imports", ask)
    monkeypatch.setattr("stream_app.cli.results.export", write)
    file = tmp_path / "leads.csv"
    file.write_text("email\nada@example.com\n")
    typed = ["results", "--config", config, "-o", str(tmp_path / "out.csv"), "--import"]
    assert main([*typed, "march", "--join", str(file)]) == 0
    assert [only.workspace for only in wanted] == ["acme"]
    assert main([*typed, "march"]) == 2
    assert main([*typed, "april", "--join", str(file)]) == 1
    assert "no lead of import april is known" in capsys.readouterr().err
