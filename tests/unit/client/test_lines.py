"""Results: which row gets which, how they are stored and written, and how few bytes that takes."""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import pytest

from stream_app.client.publish.leads import PublishOptions
from stream_app.client.publish.rows import Draft, FileRow
from stream_app.client.results import export as results
from stream_app.client.results.export import OTHER_FIELDS, ExportFormat, Lines, Matcher, ResultStore
from stream_app.domain.lead.identity import people, person_key
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.messages import Result, Scalar
from stream_app.kafka.readers import Progress
from tests.support.settings import settings_of


def result(lead_id: str = "crm-1", **fields: Scalar) -> Result:
    return Result(lead_id, "acme", "people", "clay", 2, 1_790_000_000_123, 9, fields)


def written(
    form: ExportFormat,
    *lines: tuple[tuple[str, ...], Result | None],
    titles: list[str] | None = None,
) -> str:
    out = io.StringIO()
    to = Lines(out, form)
    for _, of_row in lines:
        if of_row is not None:
            to.learn(of_row)
    to.begin(titles or [])
    for cells, of_row in lines:
        to.write(cells, of_row)
    return out.getvalue()


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_a_table_has_every_field_once_in_the_order_of_its_coming() -> None:
    text = written(
        "csv",
        ((), result(Title="CEO", Age=None)),
        ((), result("crm-2", Phone='"hi",\nada', Title=True, Age=0)),
    )
    assert table(text) == [
        [
            "lead_id",
            "workspace",
            "destination",
            "source",
            "version",
            "at",
            "age_s",
            "Title",
            "Age",
            "Phone",
        ],
        [
            "crm-1",
            "acme",
            "people",
            "clay",
            "2",
            "2026-09-21T14:13:20.123+00:00",
            "9",
            "CEO",
            "",
            "",
        ],
        [
            "crm-2",
            "acme",
            "people",
            "clay",
            "2",
            "2026-09-21T14:13:20.123+00:00",
            "9",
            "true",
            "0",
            '"hi",\nada',
        ],
    ]


def test_a_name_that_is_taken_gets_something_in_front() -> None:
    header = table(
        written(
            "csv",
            (("a", "b", "c"), result(email="x", source="y")),
            titles=["email", "source", "at"],
        ),
    )[0]
    assert header == [
        *("email", "source", "at", "lead_id", "workspace", "destination"),
        *("result_source", "version", "result_at", "age_s", "result_email", "result_result_source"),
    ]


def test_rows_without_a_result_and_short_rows() -> None:
    rows = table(
        written("csv", (("1",), None), (("2", "x", ""), result(T="t")), titles=["id", "name"]),
    )
    assert rows[1] == ["1", "", *[""] * 8]
    assert rows[2][:3] == ["2", "x", "crm-1"]
    assert {len(row) for row in rows} == {10}


def test_json_lines() -> None:
    (line,) = written("jsonl", ((), result(Title="Ü\x9b31m\u202e", Age=None))).splitlines()
    assert json.loads(line)["fields"] == {"Title": "Ü\x9b31m\u202e", "Age": None}
    assert "\x9b" not in line
    text = written("jsonl", (("1", "x"), result(T=1)), (("2",), None), titles=["id", ""])
    first, second = map(json.loads, text.splitlines())
    assert first["row"] == {"id": "1", "": "x"}
    assert first["result"]["lead_id"] == "crm-1"
    assert second == {"row": {"id": "2", "": ""}, "result": None}


def test_fields_that_are_no_columns_are_in_the_last_one() -> None:
    """A column for each of millions of names would make every line longer by all of them."""
    many: dict[str, Any] = {f"f{n}": n for n in range(4_999)}
    more = [
        result("crm-2", last=1, späte='say "hi", ada', z=None, b=True),
        result("crm-3", f7="=1", y="\x9b"),
    ]
    text = written(
        "csv",
        *(((str(n),), of_row) for n, of_row in enumerate([result(**many), *more, None])),
        titles=["id"],
    )
    header, first, second, third, fourth = table(text)
    assert len(header) == 1 + 7 + 5_000 + 1
    assert header[-3:] == ["f4998", "last", OTHER_FIELDS]
    assert {len(row) for row in table(text)} == {len(header)}
    assert first[-3:] == ["4998", "", ""]
    assert second[-2] == "1"
    assert json.loads(second[-1]) == {"späte": 'say "hi", ada', "z": None, "b": True}
    assert third[header.index("f7")] == "'=1"
    assert json.loads(third[-1]) == {"y": "\x9b"}
    assert "\x9b" not in text
    assert fourth == ["3", *[""] * (len(header) - 1)]


def test_no_cell_or_title_from_outside_is_a_formula_unless_asked_for() -> None:
    harmful = Result(
        "=1",
        "acme",
        "people",
        "clay",
        1,
        0,
        0,
        {"=HYPERLINK(1)": "@SUM(A1)", "Phone": "+49 30 1", "n": -1.5},
    )
    own = ("-own", "=own")
    rows = table(written("csv", (own, harmful), titles=["a", "=b"]))
    assert rows[0][-3:] == ["'=HYPERLINK(1)", "Phone", "n"]
    assert rows[1][-3:] == ["'@SUM(A1)", "+49 30 1", "-1.5"]
    assert rows[1][2] == "'=1"
    assert rows[1][:2] == list(own), "the user's own columns stay as they were"
    out = io.StringIO()
    raw = Lines(out, "csv", raw=True)
    raw.learn(harmful)
    raw.begin([])
    raw.write((), harmful)
    assert table(out.getvalue())[1][-3:] == ["@SUM(A1)", "+49 30 1", "-1.5"]


def test_the_last_one_counts_in_the_order_of_the_first() -> None:
    store = ResultStore()
    store.put([(b"a", b"1"), (b"b", b"1"), (b"a", b"2")])
    store.put([(b"c", b"1"), (b"b", b"3"), (b"d", b"1")])
    store.put([(b"c", None), (b"x", None), (b"d", None), (b"d", b"2")])
    assert [store.value(number) for number in store] == [b"2", b"3", b"2"]
    assert len(store) == 3
    assert store.of_lead(b"c") == 0
    assert store.value(store.of_lead(b"d")) == b"2"


def test_a_person_leads_to_a_result_that_may_come_later() -> None:
    store = ResultStore()
    store.put_people([(b"p/ada", [b"lead"]), (b"p/bob", [b"lead"]), (b"p/bob", [])])
    assert store.of_person(b"p/ada") == 0
    store.put([(b"lead", b"1")])
    assert store.value(store.of_person(b"p/ada")) == b"1"
    assert store.of_person(b"p/bob") == store.of_person(b"p/eve") == 0
    store.put_people([(b"p/ada", [b"lead", b"later"])])
    store.put([(b"later", b"2")])
    assert store.value(store.of_person(b"p/ada")) == b"2", "of several leads the last result"


@pytest.mark.parametrize("results", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_memory_is_bounded_and_files_have_no_name(
    results: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    memory = psutil.Process().memory_info
    store = ResultStore()
    before = memory().rss
    for first in range(0, results, 5_000):
        store.put(
            (f"acme/people/{n}".encode(), os.urandom(500)) for n in range(first, first + 5_000)
        )
    store.put((f"acme/people/{n}".encode(), b"new") for n in range(0, results, 2))
    assert memory().rss - before < 90 * 2**20, "of 100 MB and their index, where there are 200,000"
    assert list(tmp_path.iterdir()) == []
    assert len(store) == results
    store.close()


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore()
    store._db.execute("PRAGMA max_page_count = 50")
    with pytest.raises(StreamAppError, match="set TMPDIR"):
        store.put((f"{n}".encode(), b"x" * 500) for n in range(1_000))


EMAIL: Final[dict[str, Scalar]] = {"email": "ada@acme.example"}
LINKEDIN: Final[dict[str, Scalar]] = {"linkedin_url": "https://www.linkedin.com/in/ada"}


@pytest.mark.parametrize("fields", [EMAIL, LINKEDIN, {**EMAIL, **LINKEDIN}])
def test_a_row_finds_the_result_of_its_person(tmp_path: Path, fields: dict[str, Scalar]) -> None:
    store = ResultStore()
    matcher = Matcher(
        settings_of(tmp_path, "nowhere:1", ""),
        PublishOptions(workspace="busy"),
        store,
    )
    row = FileRow(2, Draft(fields=fields, lead_id="other"))
    assert matcher.match(row) == 0
    store.put([(b"busy/busy/1", b"{}")])
    (by_email,) = people(EMAIL)
    store.put_people([(person_key("busy", "busy", by_email), [b"busy/busy/1"])])
    assert (matcher.match(row) > 0) == ("email" in fields), (
        "the lead that was sent had the e-mail only"
    )
    for person in people(fields):
        store.put_people([(person_key("busy", "busy", person), [b"busy/busy/1"])])
    assert matcher.match(row) > 0


def test_progress_is_told_now_and_then_and_an_unreadable_result_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "_PROGRESS_EVERY", 2)
    told: list[tuple[str, str, int, int]] = []

    @contextmanager
    def stage(what: str, unit: str) -> Iterator[Progress]:
        yield lambda done, total: told.append((what, unit, done, total))

    store = ResultStore()
    store.put(
        (f"{number}".encode(), msgspec.json.encode(result(f"crm-{number}", T=number)))
        for number in range(4)
    )
    store.put([(b"odd", b"{}")])
    out = io.StringIO()
    work = results._Export(0, store, Lines(out, "csv"), stage)
    work.alone()
    assert told == [
        ("looking at the results", "results", 2, 5),
        ("looking at the results", "results", 4, 5),
        ("writing", "lines", 2, 4),
        ("writing", "lines", 4, 4),
    ]
    assert work.done.lines == 4
    assert work.done.results == 4
    assert work.done.unreadable == 1
    assert [row[0] for row in table(out.getvalue())[1:]] == ["crm-0", "crm-1", "crm-2", "crm-3"]


def test_a_row_of_nobody_has_no_result(tmp_path: Path) -> None:
    store = ResultStore()
    store.put([(b"busy/busy/7", b"{}")])
    options = PublishOptions(workspace="busy")
    matcher = Matcher(settings_of(tmp_path, "nowhere:1", ""), options, store)
    assert matcher.match(FileRow(2, Draft(fields={"notes": "no identity"}))) == 0
    assert matcher.match(FileRow(3, Draft(fields=EMAIL, destination="unknown"))) == 0
    assert matcher.match(FileRow(4, Draft(fields={"notes": "x"}, lead_id="7"))) > 0
