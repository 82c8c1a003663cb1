"""The lists of the board: every record once, newest first, for the price of one page."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from stream_app.domain.books.columns import COLUMN, column
from stream_app.domain.messages import Status
from stream_app.gateway.read_model.board_query import BoardQueries, Place
from stream_app.gateway.read_model.store import ReadModel
from tests.gateway.model_records import NOW_MS, Made, event, sources, take

FINAL = frozenset({"quiet"})
"""Destinations without callbacks."""


def fill(path: Path, leads: int) -> list[tuple[int, int, str, str]]:
    """Write records of three workspaces in all statuses, many at the same time. Returns them, newest first."""
    chance, made = random.Random(3), list[Made]()
    known = []
    for offset in range(leads):
        status: Status = chance.choice(get_args(Status))
        workspace, destination = chance.choice(("acme", "globex", "hooli")), chance.choice(("people", "quiet"))
        at_ms = NOW_MS + chance.randrange(leads // 3)
        values = {"workspace": workspace, "destination": destination, "at_ms": at_ms}
        made.append(event(sources().names, f"crm-{offset}", status, 1, offset, **values))
        known.append((at_ms, offset, workspace, column(status, final=destination in FINAL)))
    model = ReadModel(path, sources())
    take(model, *made)
    model.close()
    return sorted(known, reverse=True)


def pages(queries: BoardQueries, workspace: str, statuses: tuple[str, ...], final: bool | None) -> Iterator[int]:
    after: Place | None = None
    while rows := queries.records(workspace, statuses, after, 7, final=final):
        yield from (int(row.origin.rpartition("/")[2]) for row in rows)
        after = rows[-1].place


@pytest.mark.parametrize("workspace", ["", "globex"])
@pytest.mark.parametrize("chosen", ["", "under_way", "accepted_final", "parked"])
def test_a_list_has_every_record_once_newest_first(tmp_path: Path, workspace: str, chosen: str) -> None:
    known = fill(tmp_path / "model", 600)
    queries = BoardQueries(tmp_path / "model", FINAL)
    statuses = tuple(status for status, name in COLUMN.items() if name == chosen)
    if chosen == "accepted_final":
        statuses = ("accepted",)
    final = None if not chosen else chosen == "accepted_final"
    wanted = [n for _, n, name, col in known if workspace in ("", name) and chosen in ("", col)]
    assert list(pages(queries, workspace, statuses, final)) == wanted
    sums = queries.status_sums(workspace)
    assert sum(each.records for each in sums if chosen in ("", each.column)) == len(wanted)


class Counting(BoardQueries):
    """Counts the steps of SQLite's virtual machine, in hundreds."""

    steps = 0

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        def count() -> None:
            self.steps += 1

        with super()._reading() as db:
            db.set_progress_handler(count, 100)
            yield db


@pytest.fixture(scope="module")
def by_size(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Read models, by the number of their leads."""
    folder = tmp_path_factory.mktemp("models")
    paths = {leads: folder / str(leads) for leads in (3_000, 12_000)}
    for leads, path in paths.items():
        fill(path, leads)
    return paths


@pytest.mark.parametrize(
    ("workspace", "statuses", "final"),
    [
        ("", (), None),
        ("", ("accepted", "sending", "refused"), False),
        ("", ("accepted",), True),
        ("globex", (), None),
        ("globex", ("accepted", "sending"), False),
    ],
)
def test_a_page_costs_the_same_with_many_leads(
    by_size: dict[int, Path], workspace: str, statuses: tuple[str, ...], final: bool | None
) -> None:
    steps = []
    for leads, path in by_size.items():
        queries = Counting(path, FINAL)
        for after in (None, Place(NOW_MS + leads // 6, 1 << 50)):
            queries.records(workspace, statuses, after, 20, final=final)
        queries.status_sums(workspace)
        steps.append(queries.steps)
    assert steps[1] <= steps[0] * 1.2 + 5


def test_queries_of_a_snapshot_see_the_same_state_over_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.sqlite"
    fill(path, 30)
    queries, model, opened = BoardQueries(path, FINAL), ReadModel(path, sources()), 0
    connect = sqlite3.connect

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal opened
        opened += 1
        return connect(*args, **options)

    monkeypatch.setattr(sqlite3, "connect", counted)

    def leads() -> int:
        return sum(each.records for each in queries.status_sums(""))

    with queries.snapshot():
        before = leads()
        take(model, event(sources().names, "crm-new", "received", 1, 1_000))
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(leads).result() == before + 1, "another thread has its own connection"
        assert (leads(), len(queries.status_counts()) > 0, queries.lane("acme")) == (before, True, None)
    assert opened == 2
    assert leads() == before + 1
    with queries.snapshot():
        assert leads() == before + 1
    model.close()


def test_a_snapshot_ends_with_an_error_and_opens_no_file_without_a_query(tmp_path: Path) -> None:
    queries = BoardQueries(tmp_path / "nothing.sqlite", FINAL)
    with queries.snapshot():
        pass
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError), queries.snapshot():
            queries.unreadable()
    fill(tmp_path / "nothing.sqlite", 3)
    with queries.snapshot():
        assert queries.unreadable() == {}
    assert queries.status_sums("") != []
