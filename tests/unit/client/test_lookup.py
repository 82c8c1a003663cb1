"""What the look-up client makes of answers: only the board's own "unknown lead" counts as one."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.cli.main import main
from stream_app.cli.options import iso
from stream_app.client.results.answers import (
    ByState,
    Day,
    Event,
    FoundImport,
    FoundLead,
    FoundResult,
    RecordHistory,
    RunPolls,
    steps,
)
from stream_app.client.results.lookup import find
from stream_app.config import Settings, load_settings
from stream_app.domain.books.records import COLUMN_MEANING, MOVING, BookColumn
from stream_app.domain.model.errors import BoardUnavailable, StreamAppError
from stream_app.domain.views.waits import waits
from tests.unit.client.asked import answer, serving


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    path = tmp_path / "stream_app.toml"
    monkeypatch.setenv("STREAM_APP_CONFIG", str(path))
    with serving() as port:
        path.write_text(f'[board]\nurl = "http://127.0.0.1:{port}"\n')
        yield load_settings(path, {}, ())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<!doctype html><title>Log in</title>"),
        (200, b"ok\n"),
        (200, b"{}"),
        (302, b""),
        (404, b"Not Found"),
        (404, b'{"detail": "Not Found"}'),
        (404, {"error": "not_found", "text": "no such path"}),
        (502, b"<h1>502 Bad Gateway</h1>"),
    ],
)
def test_an_answer_of_another_server_is_never_an_unknown_lead(
    settings: Settings,
    status: int,
    body: bytes | dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer(monkeypatch, status, body)
    with pytest.raises(BoardUnavailable, match="this is not the board: what answers at http://127"):
        find(settings, "crm-17")
    for argv in (["status", "crm-17"], ["imports"]):
        assert main(argv) == 5
        assert capsys.readouterr().err.startswith("this is not the board")


def test_before_the_board_has_read_kafka_no_lead_is_unknown(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer(
        monkeypatch,
        503,
        {"error": "not_read_yet", "text": "The board has not read Kafka yet: ask again soon"},
    )
    with pytest.raises(
        BoardUnavailable,
        match="not read yet: The board has not read Kafka yet: ask again soon",
    ):
        find(settings, "crm-17")
    assert main(["status", "crm-17"]) == 5
    assert capsys.readouterr().err.startswith("not read yet: ")


def test_status_says_where_the_time_went_and_what_holds_the_lead(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    timeline = waits(
        _events("received", "sending", "refused", "sending", "refused", "held_outage"),
        moves=True,
    )
    now = msgspec.structs.replace(
        timeline[-1],
        limit="breaker_open",
        text="5 failures",
        until_ms=9_000,
        until_probe=True,
    )
    history = RecordHistory(
        "leads/0/1",
        "acme",
        "people",
        "held_outage",
        "held",
        5,
        "",
        [],
        [*timeline[:-1], now],
    )
    answer(
        monkeypatch,
        200,
        {"lead": msgspec.to_builtins(FoundLead("crm-17", [history], 1, []))},
    )
    assert main(["status", "crm-17"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "waited        2.0 s  POST to Clay, 2 times" in lines
    since = iso(5_000)
    probe = iso(9_000)
    assert (
        f"WAITS for outage of Clay (breaker_open) since {since}, next probe at {probe}: 5 failures"
        in lines
    )


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (
            RunPolls("r1", 1, 9_000),
            f"run r1: 1 poll so far, the next at {iso(9_000)} (by the schedule)",
        ),
        (
            RunPolls("r1", 2, 9_000, waits_for_rate=True),
            f"run r1: 2 polls so far, the next at {iso(9_000)} (by the schedule); polls wait for "
            "the rate of its lane",
        ),
        (
            RunPolls("", 0, None),
            "its run has no known id, because Clay's answer to the POST was lost: only an "
            "announcement of it settles the lead",
        ),
    ],
)
def test_status_shows_the_run_that_a_lead_waits_for(
    run: RunPolls,
    expected: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    events = [
        Event(1, 1_000, "accepted", "", "", 202, 0, 0, 0, None, None, run=run.id),
        Event(2, 2_000, "enriched", "", "", None, 0, 0, 0, None, 5, estimated=("credits",)),
    ]
    history = RecordHistory(
        "leads/0/1",
        "acme",
        "people",
        "accepted",
        "accepted",
        5,
        "",
        events,
        [],
        run,
    )
    answer(
        monkeypatch,
        200,
        {"lead": msgspec.to_builtins(FoundLead("crm-17", [history], 1, []))},
    )
    assert main(["status", "crm-17"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert expected in lines
    assert lines[2].endswith("accepted, run r1" if run.id else "accepted")
    assert lines[3].endswith("enriched, 5 credits, an estimate")


def test_status_adds_up_what_several_records_have_booked_for_a_lead(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def record(origin: str, *credits: int | None) -> RecordHistory:
        events = [
            Event(n, 1_000 * n, "sending", "", "", None, 0, 0, 0, None, booked)
            for n, booked in enumerate(credits)
        ]
        return RecordHistory(origin, "acme", "people", "enriched", "enriched", 5, "", events, [])

    def shown(*histories: RecordHistory, of: int) -> bool:
        lead = FoundLead("crm-17", list(histories), of, [])
        answer(monkeypatch, 200, {"lead": msgspec.to_builtins(lead)})
        assert main(["status", "crm-17"]) == 0
        return "  all records together: 1 credit" in capsys.readouterr().out.splitlines()

    corrected = record("leads.commands/0/3", -12)
    assert shown(record("leads/0/1", None, 12, 1), corrected, of=2), (
        "it was sent again, and returned before"
    )
    assert not shown(record("leads/0/1", 1), record("leads/0/2", None), of=2), (
        "the one record says so already"
    )
    assert not shown(record("leads/0/1", None, 12, 1), corrected, of=3), (
        "an older record is not among them"
    )


@pytest.mark.parametrize("column", COLUMN_MEANING)
def test_status_says_what_the_status_of_a_record_means(
    settings: Settings,
    column: BookColumn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    history = RecordHistory("leads/0/1", "acme", "people", "accepted", column, 5, "", [], [])
    answer(
        monkeypatch,
        200,
        {"lead": msgspec.to_builtins(FoundLead("crm-17", [history], 1, []))},
    )
    assert main(["status", "crm-17"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1] == f"    status accepted: {COLUMN_MEANING[column]}"
    )
    assert COLUMN_MEANING["accepted_final"] == "at Clay, and nobody waits for a callback"


def _events(*statuses: str) -> list[Event]:
    return [
        Event(n, 1_000 * n, name, "", "", None, 0, 0, 0, None, None)
        for n, name in enumerate(statuses)
    ]


def test_what_repeats_in_turn_is_shown_once_with_its_number() -> None:
    wall = steps(
        _events("received", *["held_outage", "deferred", "replayed"] * 6, "sending", "accepted"),
    )
    assert [(step.event.status, step.times) for step in wall] == [
        ("received", 1),
        ("held_outage", 6),
        ("deferred", 6),
        ("replayed", 6),
        ("sending", 1),
        ("accepted", 1),
    ]
    held = wall[1]
    assert held.since_ms == 1_000, "the last one, since the first"
    assert held.event.at_ms == 16_000, "the last one, since the first"
    assert held.gap_ms == 1_000, "the last one, since the first"


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_every_event_is_counted_in_one_step(statuses: list[str]) -> None:
    events = _events(*statuses)
    shown = steps(events)
    assert sum(step.times for step in shown) == len(events)
    assert [step.event.at_ms for step in shown] == sorted(step.event.at_ms for step in shown)
    assert not events or shown[-1].event is events[-1], "the status of now is the last one shown"


def test_a_refusal_of_the_board_is_no_unknown_lead_either(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(
        monkeypatch,
        401,
        {"error": "no_token", "text": "Send the header Authorization"},
    )
    with pytest.raises(StreamAppError, match="rejected the request: Send the header") as refused:
        find(settings, "crm-17")
    assert not isinstance(refused.value, BoardUnavailable)


OF_ACME = RecordHistory("leads/0/1", "acme", "people", "accepted", "accepted", 5, "", [], [])
OF_BETA = msgspec.structs.replace(
    OF_ACME,
    origin="leads/1/1",
    workspace="beta",
    destination="firms",
)
OF_NOBODY = msgspec.structs.replace(OF_ACME, origin="leads/0/2", workspace="", destination="")
ACMES = FoundResult("acme", "people", "clay", 1, 5, 0, {"title": "CTO"}, "")
BETAS = msgspec.structs.replace(ACMES, workspace="beta", destination="firms")


@pytest.mark.parametrize(
    ("histories", "results", "left"),
    [
        ([OF_ACME], [], ([OF_ACME], [])),
        ([OF_BETA], [ACMES], ([], [ACMES])),
        ([OF_BETA, OF_ACME, OF_NOBODY], [BETAS, ACMES], ([OF_ACME, OF_NOBODY], [ACMES])),
        ([OF_NOBODY], [BETAS], ([OF_NOBODY], [])),
        ([OF_BETA], [BETAS], None),
    ],
    ids=["only a history", "only a result", "both", "a record of no workspace", "neither"],
)
def test_a_lead_is_found_by_what_the_workspace_has_of_it(
    histories: list[RecordHistory],
    results: list[FoundResult],
    left: tuple[list[RecordHistory], list[FoundResult]] | None,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lead = msgspec.to_builtins(FoundLead("crm-17", histories, 9, results))
    nobody_waits = {"leads": [], "searched": 0, "left": 0, "problem": ""}
    answer(monkeypatch, 200, {"lead": lead} | nobody_waits)
    expected = [] if left is None else [FoundLead("crm-17", left[0], len(left[0]), left[1])]
    assert find(settings, "crm-17", "acme").leads == expected
    assert find(settings, "crm-17").leads == [FoundLead("crm-17", histories, 9, results)], (
        "in all workspaces"
    )


def test_a_proxy_of_the_environment_is_not_asked_for_a_board_on_this_machine(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    answer(
        monkeypatch,
        200,
        {"lead": msgspec.to_builtins(FoundLead("crm-17", [OF_ACME], 1, []))},
    )
    assert [lead.lead_id for lead in find(settings, "crm-17").leads] == ["crm-17"]


# --------------------------------------------------------------------- what the answers add up to


@pytest.mark.parametrize(
    ("statuses", "shown"),
    [
        ("", ""),
        ("a", "a"),
        ("abc", "abc"),
        ("aa", "a2"),
        ("aab", "a2b"),
        ("abbbb", "ab4"),
        ("abab", "a2b2"),
        ("ababa", "a2b2a"),
        ("aabaab", "a2a2b2"),
        ("abcabc", "a2b2c2"),
        ("abcdabcd", "abcdabcd"),
        ("aaaaaa", "a6"),
        ("aabb", "a2b2"),
    ],
)
def test_a_cycle_of_up_to_three_steps_is_shown_once(statuses: str, shown: str) -> None:
    events = _events(*statuses)
    told = steps(events)
    assert (
        "".join(f"{step.event.status}{step.times if step.times > 1 else ''}" for step in told)
        == shown
    )
    gaps = [None if step.event is events[0] else 1_000 for step in told]
    assert [step.gap_ms for step in told] == gaps
    # Each step is since its first event, and its event is the last of them.
    left = {event.at_ms: event for event in events}
    for step in told:
        assert step.since_ms in left
        assert step.since_ms <= step.event.at_ms
        assert (step.since_ms == step.event.at_ms) == (step.times == 1)


def test_steps_with_other_reasons_are_not_the_same() -> None:
    held = Event(1, 0, "held", "budget", "", None, 0, 0, 0, None, None)
    others = [msgspec.structs.replace(held, reason=reason) for reason in ("a", "b", "b")]
    assert [step.times for step in steps([held, *others])] == [1, 1, 2]


@pytest.mark.parametrize(
    ("rows", "refused", "published", "has_neighbours"),
    [
        (None, None, None, False),
        (None, 2, 3, False),
        (10, 2, 8, False),
        (10, 2, 7, True),
        (10, None, 10, False),
        (10, None, 9, True),
        (10, 10, None, False),
        (10, 9, None, True),
        (0, None, None, False),
    ],
)
def test_a_file_has_leads_of_others_if_its_rows_are_more_than_those_of_one(
    rows: int | None,
    refused: int | None,
    published: int | None,
    *,
    has_neighbours: bool,
) -> None:
    columns: dict[str, int] = {name: 10**n for n, name in enumerate(COLUMN_MEANING)}
    may = FoundImport("may", "acme", 1, 2, "", "", rows, refused, published, columns, 0)
    assert may.has_neighbours is has_neighbours
    assert may.records == int("1" * len(columns))
    assert may.leads == may.records - columns["duplicate"]
    assert may.moving == sum(columns[name] for name in MOVING)


@pytest.mark.parametrize(
    ("is_open", "coming_back", "can_be_sent"),
    [(0, 0, False), (1, 0, True), (0, 1, True), (2, 3, True)],
)
def test_dead_letters_that_have_not_ended_can_be_sent(
    is_open: int,
    coming_back: int,
    *,
    can_be_sent: bool,
) -> None:
    letters = ByState(open=is_open, coming_back=coming_back, solved=50, given_up=700)
    assert letters.can_be_sent is can_be_sent
    assert letters.written == is_open + coming_back + 750


def test_a_day_without_an_enriched_lead_has_no_price_of_one() -> None:
    day = Day("acme", "people", 0, 12, 3, 2, 1, 5)
    assert day.per_lead == 2.4
    assert msgspec.structs.replace(day, enriched=0).per_lead is None
    assert msgspec.structs.replace(day, credits=0).per_lead == 0


@pytest.mark.parametrize(
    ("credits_of", "count", "in_all"),
    [
        ([[None, 3], [-1]], 2, 2),
        ([[4, -4], [5]], 2, 5),
        ([[3], [None, 0]], 2, None),
        ([[3], [4]], 3, None),
        ([[3], [4]], 1, 7),
        ([[3]], 1, None),
        ([], 0, None),
    ],
)
def test_credits_are_added_up_where_several_records_have_some(
    credits_of: list[list[int | None]],
    count: int,
    in_all: int | None,
) -> None:
    histories = [
        msgspec.structs.replace(
            OF_ACME,
            events=[
                Event(n, n, "sending", "", "", None, 0, 0, 0, None, booked)
                for n, booked in enumerate(of_record)
            ],
        )
        for of_record in credits_of
    ]
    assert FoundLead("crm-17", histories, count, []).booked_in_all == in_all
