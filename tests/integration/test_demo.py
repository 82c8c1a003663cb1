"""Parts of the demo: its leads, and its comparison with the ledger."""

import asyncio
import csv
import re
from pathlib import Path
from typing import Any

import pytest

from stream_app.cli.main import main
from stream_app.dev.demo import Comparison, DemoOutcome, Display, processes
from stream_app.dev.demo.comparison import compare
from stream_app.dev.demo.doors import Door
from stream_app.dev.demo.processes import WORKSPACES
from stream_app.dev.demo.scenario import LEADS
from stream_app.domain.books.money import BooksReport
from stream_app.domain.books.records import COLUMNS, StatusTotals


def test_the_shipped_leads_are_of_invented_people() -> None:
    with LEADS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert {row["workspace"] for row in rows} == set(WORKSPACES)
    assert all(row["domain"].endswith(".example") for row in rows), "reserved by RFC 2606"
    assert all(row["email"].lower().endswith("@" + row["domain"]) for row in rows)
    assert sum(bool(row["not_after_ms"]) for row in rows) == 8
    assert len({row["email"].lower() for row in rows}) == 292


def post(lead: str, status: int | str = 200, kind: str = "request") -> dict[str, Any]:
    return {
        "kind": kind,
        "lead_id": lead,
        "status": status,
        "accepted": int(status in (200, 202, "reset")),
    }


def paid(lead: str, credits_: int, kind: str = "charge") -> dict[str, Any]:
    return {"kind": kind, "lead_id": lead, "credits": credits_}


def test_the_ledger_agrees() -> None:
    ledger = [
        post("a"),
        post("b", 503),
        post("b"),
        post("c", 422),
        post("d", "reset"),
        {"kind": "start", "seed": 1},
    ]
    ledger += [paid("a", 4), paid("a", 2), paid("a", 2, "refund"), paid("b", 6), paid("d", 6)]
    comparison = compare(ledger, answered={"a": 4, "b": 6}, parked={"d", "e"})
    assert comparison == Comparison(
        posts=5,
        accepted=3,
        doubles=[],
        missing=[],
        unknown=[],
        uncertain=1,
        charged=10,
        booked=10,
    )
    assert comparison.agrees


def test_the_ledger_names_a_lead_by_its_item_where_a_routine_ran_it() -> None:
    ledger = [post("item-a", 429, "run"), post("item-a", 202, "run"), paid("item-a", 6)]
    assert compare(ledger, {"a": 6}, set(), {"item-a": "a"}).agrees
    assert compare(ledger, {"a": 6}, set()).missing == ["a"]


@pytest.mark.parametrize(
    ("ledger", "answered", "parked", "problems"),
    [
        ([post("a"), post("a")], {"a": 0}, set(), {"doubles": ["a"]}),
        ([post("a", 500), post("a")], {"a": 0}, set(), {"doubles": ["a"]}),
        ([post("a", "reset"), post("a", 503)], {}, {"a"}, {"doubles": ["a"]}),
        # no document says that a 503 of the API took nothing
        ([post("a", 503, "run"), post("a", 202, "run")], {"a": 0}, set(), {"doubles": ["a"]}),
        ([post("a", 503)], {"a": 0}, set(), {"missing": ["a"]}),
        ([post("a"), post("b")], {"a": 0}, set(), {"unknown": ["b"]}),
        ([post("a"), paid("a", 6)], {"a": 5}, set(), {"charged": 6, "booked": 5}),
    ],
)
def test_the_ledger_disagrees(
    ledger: list[dict[str, Any]],
    answered: dict[str, int],
    parked: set[str],
    problems: dict[str, Any],
) -> None:
    comparison = compare(ledger, answered, parked)
    for name, leads in problems.items():
        assert getattr(comparison, name) == leads
    assert not comparison.agrees


def test_books_that_do_not_balance_exit_with_1(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    books = BooksReport(False, 2, 2, 1, {name: StatusTotals() for name in COLUMNS}, problem_count=1)
    comparison = Comparison(
        posts=2,
        accepted=1,
        doubles=["lead-7"],
        missing=[],
        unknown=[],
        uncertain=0,
        charged=0,
        booked=0,
    )
    codes = {"worker": 0, "replay": 1, "gateway": 0}

    async def run_scenario(
        bootstrap: str | None,
        display: Display,
        *,
        keep: bool,
        door: Door,
    ) -> DemoOutcome:
        return DemoOutcome(False, False, 1.0, 2, 0, 0, books, books, comparison, codes)

    monkeypatch.setattr("stream_app.cli.demo.run_scenario", run_scenario)
    assert main(["demo"]) == 1
    errors = capsys.readouterr().err
    for words in (
        "do NOT balance",
        "sent twice: lead-7",
        "in time",
        "replay ended with exit code 1",
    ):
        assert words in errors


async def test_something_slow_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a busy machine shows no line for most of a minute, and nobody knows whether it
    stopped.
    """
    monkeypatch.setattr(processes, "_PATIENCE_S", 0.02)
    lines: list[str] = []
    async with processes.patience(lines.append, "Kafka still starts"):
        while len(lines) < 2:  # noqa: ASYNC110 - each line is waited for
            await asyncio.sleep(0.01)
    assert all(re.fullmatch(r"Kafka still starts, after \d+ s: .+\.", line) for line in lines)
    count = len(lines)
    await asyncio.sleep(0.1)
    assert len(lines) == count, "it ends with what it tells of"


def test_the_documents_end_what_they_start_and_name_a_workspace() -> None:
    root = Path(__file__).parents[2]
    (block,) = re.findall(
        r"```sh\n(cat > stream_app\.toml.*?)```",
        (root / "docs/operations.md").read_text(),
        re.S,
    )
    jobs = len(re.findall(r"[^>&]&(?!&)", re.sub(r"for process in .*? done", "", block)))
    (names,) = re.findall(r"for process in ([\w ]+); do", block)
    (ended,) = re.findall(r"^kill (.+)$", block, re.M)
    assert ended.split() == [f"%{number}" for number in range(1, jobs + len(names.split()) + 1)]
    for page in ("README.md", "docs/publishing.md"):
        for command in re.findall(
            r"^stream-app results .*--join .*$",
            (root / page).read_text(),
            re.M,
        ):
            assert "--workspace" in command or "--import" in command, command
