"""The read model without Kafka: what it makes of records, what it forgets, and what it survives."""

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_app.board.read_model import store
from stream_app.board.read_model.query import MAX_CAUSES, MAX_HISTORIES, Queries
from stream_app.board.read_model.store import LogPosition, ReadModel
from stream_app.client.results.answers import RunPolls
from stream_app.domain.delivery.envelope import pseudonymous_key
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.messages import Status
from stream_app.domain.plan import Destination
from stream_app.domain.views.lane import RunsView
from tests.board.model_records import (
    DAY_MS,
    NOW_MS,
    Made,
    dead_letter,
    event,
    flat,
    history,
    lane,
    person,
    result,
    sources,
    take,
)
from tests.support.narrow import present

SOURCES = sources()
NAMES = SOURCES.names


def statuses(ask: Queries, lead_id: str) -> list[list[str]]:
    return [
        [step.status for step in of_record.events]
        for of_record in present(ask.lead(lead_id, NOW_MS)).histories
    ]


def test_a_history_with_its_steps_and_reasons(model: ReadModel, ask: Queries) -> None:
    take(
        model,
        event(NAMES, "crm-1", "received", 1, trace_id="ab" * 16),
        event(NAMES, "crm-1", "sending", 2),
        event(
            NAMES,
            "crm-1",
            "refused",
            3,
            reason="http_503",
            text="Not now",
            http_status=503,
            due_at_ms=NOW_MS + 9,
        ),
    )
    take(
        model,
        event(NAMES, "crm-1", "sending", 4, attempt=1),
        event(NAMES, "crm-1", "accepted", 5, credits=6),
    )
    lead = present(ask.lead("crm-1", NOW_MS))
    assert lead.history_count == 1
    (only,) = lead.histories
    assert only.origin == "leads/0/0"
    assert only.workspace == "acme"
    assert only.destination == "people"
    assert only.status == "accepted"
    assert only.column == "under_way"
    assert only.at_ms == NOW_MS + 5
    refused = only.events[2]
    assert refused.reason == "http_503"
    assert refused.text == "Not now"
    assert refused.http_status == 503
    assert refused.due_at_ms == NOW_MS + 9
    assert [step.attempt for step in only.events] == [0, 0, 0, 1, 0]
    assert only.events[4].credits == 6


def test_a_lead_in_two_records_has_two_histories_the_newer_one_first(
    model: ReadModel,
    ask: Queries,
) -> None:
    take(model, *history(NAMES, "crm-1", "received", "sending", "accepted"))
    take(model, *history(NAMES, "crm-1", "duplicate", offset=7, at_ms=NOW_MS + 60_000))
    assert statuses(ask, "crm-1") == [["duplicate"], ["received", "sending", "accepted"]]


def test_copies_and_reports_of_one_lead_are_records_in_and_reports_without_a_lead_are_not(
    model: ReadModel,
    ask: Queries,
) -> None:
    take(model, *history(NAMES, "crm-1", "received", "sending", "accepted"))
    take(model, *history(NAMES, "crm-1", "duplicate", offset=7))
    assert ask.records_in() == 2
    take(model, event(NAMES, "crm-1", "erased", 1, 8))
    assert ask.records_in() == 2


def test_the_first_event_of_a_rerouted_lead_may_be_read_last(
    model: ReadModel,
    ask: Queries,
) -> None:
    home = event(NAMES, "crm-1", "received", 2)
    stray = event(NAMES, "crm-1", "rerouted", 1, workspace="", destination="")
    take(model, home)
    take(model, stray, event(NAMES, "crm-1", "sending", 3))
    assert statuses(ask, "crm-1") == [["rerouted", "received", "sending"]]
    (stand,) = ask.status_counts()
    assert stand.workspace == "acme"
    assert stand.status == "sending"
    assert stand.leads == 1


def test_a_history_whose_beginning_retention_took_is_kept_from_its_first_event_on(
    model: ReadModel,
    ask: Queries,
    path: Path,
) -> None:
    take(model, event(NAMES, "crm-1", "accepted", 3))
    take(model, event(NAMES, "crm-1", "enriched", 4))
    take(model, event(NAMES, "crm-1", "accepted", 3))
    assert statuses(ask, "crm-1") == [["accepted", "enriched"]]
    (stand,) = ask.status_counts()
    assert stand.status == "enriched"
    assert stand.leads == 1
    take(model, event(NAMES, "crm-2", "received", 1, 9))
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT lead_id, headless FROM records ORDER BY lead_id").fetchall() == [
            ("crm-1", 1),
            ("crm-2", 0),
        ]


def test_an_unknown_status_of_a_newer_worker_is_kept(model: ReadModel, ask: Queries) -> None:
    raw = json.loads(event(NAMES, "crm-1", "received", 1).value or b"") | {
        "status": "teleported",
        "new": [1],
    }
    take(model, Made(NAMES.status, b"crm-1", json.dumps(raw).encode()))
    assert statuses(ask, "crm-1") == [["teleported"]]
    assert [count.column for count in ask.status_counts()] == ["unknown"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"lead_id": 1}',
        b'{"lead_id":"x","status":"received","seq":99999999999999999999,"at_ms":1,"origin":"leads/0/1"}',
        b'{"lead_id":"x","status":"received","seq":1,"at_ms":1,"origin":"nowhere"}',
        b'{"lead_id":"x","status":"received","seq":1,"at_ms":1,"origin":"leads/0/-1"}',
        b'{"lead_id":"x","status":"received","seq":1,"at_ms":1,"origin":"/7"}',
        b'{"lead_id":"x","status":"received","seq":1,"at_ms":1,"origin":"leads/0/999999999999999999"}',
        b'{"lead_id":"\\ud800","status":"received","seq":1,"at_ms":1,"origin":"leads/0/1"}',
        b'{"lead_id":"\xff","status":"received","seq":1,"at_ms":1,"origin":"leads/0/1"}',
        b'{"of a later version":' + b"[" * 100_000,
    ],
)
def test_an_unreadable_event_is_skipped(
    model: ReadModel,
    ask: Queries,
    path: Path,
    value: bytes | None,
) -> None:
    take(model, Made(NAMES.status, b"x", value), *history(NAMES, "crm-1", "received"))
    assert statuses(ask, "crm-1") == [["received"]]
    assert ask.lead("x", NOW_MS) is None
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT * FROM unreadable").fetchall() == [
            (NAMES.status, 1, f"{NAMES.status}/0/0", NOW_MS),
        ]


def test_of_a_lead_with_very_many_histories_the_newest_are_shown(
    model: ReadModel,
    ask: Queries,
) -> None:
    many = MAX_HISTORIES + 5
    take(
        model,
        *flat(history(NAMES, "test", "duplicate", offset=n, at_ms=NOW_MS + n) for n in range(many)),
    )
    lead = present(ask.lead("test", NOW_MS))
    assert len(lead.histories) == MAX_HISTORIES
    assert lead.history_count == many
    assert lead.histories[0].origin == f"leads/0/{many - 1}"


def test_a_person_is_found_with_the_lead_that_counts(model: ReadModel, ask: Queries) -> None:
    take(model, person(NAMES, "hash", "crm/with/slashes"))
    assert ask.leads_of("hash") == ["crm/with/slashes", "p-hash"]
    take(model, person(NAMES, "hash", "crm-9"))
    assert ask.leads_of("hash") == ["crm-9", "p-hash"]


def test_a_person_is_found_by_each_identifier_until_it_is_erased(
    model: ReadModel,
    ask: Queries,
) -> None:
    take(
        model,
        person(NAMES, "linkedin", "crm-1", "email"),
        person(NAMES, "email", "crm-1", "linkedin"),
    )
    assert ask.leads_of("linkedin") == ["crm-1", "p-linkedin"]
    assert ask.leads_of("email") == ["crm-1", "p-email"]
    take(model, person(NAMES, "email", "crm-1", "d/acme/people/crm-2", "linkedin"))
    assert ask.leads_of("email") == ["crm-1", "crm-2", "p-email"], (
        "two leads turned out to be of one person"
    )
    take(model, person(NAMES, "linkedin", None), person(NAMES, "email", None))
    assert ask.leads_of("linkedin") == ["p-linkedin"]
    assert ask.leads_of("email") == ["p-email"]


def test_a_lead_leads_to_its_person_until_it_is_erased(
    model: ReadModel,
    ask: Queries,
    path: Path,
) -> None:
    take(
        model,
        person(NAMES, "linkedin", "crm-1", "email"),
        person(NAMES, "email", "crm-1", "linkedin"),
    )
    take(model, person(NAMES, "other", "crm-10", "d/acme/people/crm-2"))
    assert ask.people_of("crm-1") == ["email", "linkedin"]
    assert ask.people_of("crm-10") == ask.people_of("crm-2") == ["other"]
    assert ask.people_of("crm") == ask.people_of("crm-10 crm-") == []
    take(model, person(NAMES, "linkedin", None), person(NAMES, "email", None))
    assert ask.people_of("crm-1") == []


def test_people_come_to_their_places_once_all_of_kafka_was_read(
    model: ReadModel,
    ask: Queries,
    path: Path,
) -> None:
    batches = (
        [
            person(NAMES, "moved", "crm-1"),
            person(NAMES, "gone", "crm-1"),
            person(NAMES, "back", None),
        ],
        [
            person(NAMES, "moved", "crm-2"),
            person(NAMES, "gone", None),
            person(NAMES, "back", "crm-3"),
        ],
    )
    for batch in batches:
        model.apply({NAMES.state: batch}, {}, None)
    assert ask.leads_of("moved") == ["p-moved"], "the board says that it has not read Kafka yet"
    model.apply({NAMES.state: [person(NAMES, "last", "crm-4", "d/acme/people/crm-5")]}, {}, NOW_MS)
    for name, leads in (
        ("moved", ["crm-2"]),
        ("gone", []),
        ("back", ["crm-3"]),
        ("last", ["crm-4", "crm-5"]),
    ):
        assert ask.leads_of(name) == [*leads, f"p-{name}"]
    assert [ask.people_of(lead_id) for lead_id in ("crm-2", "crm-5", "crm-1")] == [
        ["moved"],
        ["last"],
        [],
    ]
    take(model, person(NAMES, "moved", "crm-6"), person(NAMES, "last", None))
    assert ask.leads_of("moved") == ["crm-6", "p-moved"]
    assert ask.leads_of("last") == ["p-last"]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM people_unsorted").fetchone() == (0,)


def test_other_rows_of_the_state_are_ignored(model: ReadModel, path: Path) -> None:
    take(
        model,
        Made(NAMES.state, b"d/acme/people/crm-1", b"[]"),
        Made(NAMES.state, b"l/acme", b"{}"),
    )
    take(
        model,
        Made(NAMES.state, None, b"x"),
        Made(NAMES.state, b"p/short", b"x"),
        Made(NAMES.state, b"p/a/b/c", b"x"),
    )
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM people").fetchone() == (0,)
        assert db.execute("SELECT * FROM unreadable").fetchall() == [
            (NAMES.state, 2, f"{NAMES.state}/0/0", NOW_MS),
        ]


def test_the_record_id_of_the_last_result_is_kept_and_no_personal_data(
    model: ReadModel,
    ask: Queries,
    path: Path,
) -> None:
    secret = "very-personal@example.com"
    first = result(NAMES, "crm-1", fields={"m": secret})
    second = result(NAMES, "crm-1", 2, fields={"m": secret})
    take(model, first, Made(NAMES.enriched, second.key, second.value, 1, 7))
    (stored,) = ask.results("crm-1")
    assert stored.partition == 1
    assert stored.offset == 7
    assert stored.result.version == 2
    assert present(ask.lead("crm-1", NOW_MS)).histories == []
    model.close()
    assert not any(secret.encode() in file.read_bytes() for file in path.parent.iterdir())


def test_an_erased_result_is_gone(model: ReadModel, ask: Queries) -> None:
    take(model, result(NAMES, "crm-1"))
    take(model, Made(NAMES.enriched, b"acme/people/crm-1", None))
    assert ask.results("crm-1") == []
    assert ask.lead("crm-1", NOW_MS) is None


def test_lanes_are_shown_as_last_published(model: ReadModel, ask: Queries) -> None:
    take(
        model,
        lane(NAMES, holds="breaker_open"),
        lane(NAMES),
        lane(NAMES, "zeta"),
        lane(NAMES, "gone"),
    )
    take(model, Made(NAMES.lanes, b"gone", None))
    for key, value in (
        (b"broken", b"{"),
        (b"bytes", b'{"workspace":"\xff"}'),
        (b"deep", b'{"x":' + b"[" * 100_000),
    ):
        take(model, Made(NAMES.lanes, key, value))
    lanes, unreadable = ask.lanes(NOW_MS)
    assert [(view.workspace, view.holds) for view in lanes] == [("acme", ""), ("zeta", "")]
    assert unreadable == ["broken", "bytes", "deep"]
    assert ask.lane("bytes", NOW_MS) is None
    assert ask.lane("deep", NOW_MS) is None


def test_dead_letters_are_counted_by_cause_and_topic(model: ReadModel, ask: Queries) -> None:
    take(
        model,
        *(dead_letter(NAMES.dlq, offset=offset) for offset in (0, 1, 2)),
        dead_letter(NAMES.dlq, "not_json", disposition="poison", offset=3),
        dead_letter(NAMES.parked),
    )
    foreign = Made(NAMES.dlq, None, None, offset=5, headers=(("stream-app-reason", None),))
    take(model, dead_letter(NAMES.dlq, offset=4), foreign, dead_letter(NAMES.dlq, offset=4))
    dlq = ask.dead_letters(NAMES.dlq)
    assert dlq.open == 2
    assert dlq.coming_back == 4
    assert dlq.written == 6
    assert [(cause.reason, cause.kind, cause.open, cause.coming_back) for cause in dlq.causes] == [
        ("", "foreign", 1, 0),
        ("not_json", "poison", 1, 0),
        ("http_503", "failed", 0, 4),
    ]
    assert ask.dead_letters(NAMES.parked).written == 1


@pytest.mark.parametrize("in_one_batch", [True, False])
@pytest.mark.parametrize("order", [(5, 3, 9), (9, 3, 5), (3, 5, 9)])
def test_a_cause_has_the_time_of_its_first_and_last_dead_letter(
    model: ReadModel,
    ask: Queries,
    order: tuple[int, ...],
    in_one_batch: bool,
) -> None:
    letters = [dead_letter(NAMES.dlq, timestamp=NOW_MS + number, offset=number) for number in order]
    if in_one_batch:
        take(model, *letters)
    else:
        for number, record in enumerate(letters):
            take(model, record, at=number)
    (cause,) = ask.dead_letters(NAMES.dlq).causes
    assert cause.written == 3
    assert cause.first_ms == NOW_MS + 3
    assert cause.last_ms == NOW_MS + 9


def test_a_dead_letter_key_that_names_no_workspace_is_hashed(
    model: ReadModel,
    ask: Queries,
    path: Path,
) -> None:
    take(model, Made(NAMES.dlq, b"ada@example.com", b"{}"), dead_letter(NAMES.dlq, offset=1))
    workspaces = {cause.workspace for cause in ask.dead_letters(NAMES.dlq).causes}
    assert workspaces == {"acme", (pseudonymous_key(b"ada@example.com", ()) or b"").decode()}
    assert b"ada@example.com" not in b"".join(
        file.read_bytes() for file in path.parent.glob(f"{path.name}*")
    )


def test_causes_of_other_programs_are_bounded(model: ReadModel, ask: Queries, path: Path) -> None:
    for first in range(0, 12_000, 4_000):
        take(
            model,
            *(dead_letter(NAMES.dlq, f"r{first + n}", offset=first + n) for n in range(4_000)),
        )
    letters = ask.dead_letters(NAMES.dlq)
    assert letters.written == 12_000
    assert len(letters.causes) == MAX_CAUSES
    assert letters.causes[0].reason == "(others)"
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM causes").fetchone()[0] <= 10_001


def test_old_histories_are_deleted_in_small_steps(
    model: ReadModel,
    ask: Queries,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each looks at the next records, also behind records that stay."""
    monkeypatch.setattr(store, "_LOOKED_AT", 2)
    names = ("young-1", "young-2", "old-1", "old-2", "old-3")
    old_ms = NOW_MS - 31 * DAY_MS
    for offset, name in enumerate(names):
        at_ms = old_ms if name.startswith("old") else NOW_MS
        take(model, *history(NAMES, name, "received", offset=offset, at_ms=at_ms))
    for left in (names, ("young-1", "young-2", "old-3"), ("young-1", "young-2")):
        model.sweep(NOW_MS)
        assert tuple(name for name in names if ask.lead(name, NOW_MS) is not None) == left
        assert [count.leads for count in ask.status_counts()] == [len(left)]


def test_it_continues_where_it_stopped(path: Path) -> None:
    first = ReadModel(path, SOURCES)
    take(first, *history(NAMES, "crm-1", "received"))
    first.apply({}, {}, NOW_MS)
    at = first.positions()
    first.close()
    second = ReadModel(path, SOURCES)
    assert second.positions() == at != {}
    assert second.as_of_ms() == NOW_MS
    take(second, event(NAMES, "crm-1", "sending", 2))
    assert statuses(Queries(path, set()), "crm-1") == [["received", "sending"]]
    second.close()


def test_a_failed_batch_leaves_nothing(model: ReadModel, ask: Queries) -> None:
    def breaking() -> Iterator[Made]:
        yield dead_letter(NAMES.dlq)
        raise RuntimeError("broken")

    raw = json.loads(event(NAMES, "crm-1", "received", 1).value or b"") | {"origin": "other/0/5"}
    good = Made(NAMES.status, b"crm-1", json.dumps(raw).encode())
    with pytest.raises(RuntimeError, match="broken"):
        model.apply(
            {NAMES.status: [good], NAMES.dlq: breaking()},
            {(NAMES.status, 0): LogPosition(1)},
            NOW_MS,
        )
    with pytest.raises(OverflowError):  # at the very end: SQLite has no such number
        model.apply(
            {NAMES.status: [good], NAMES.dlq: [dead_letter(NAMES.dlq)]},
            {(NAMES.status, 0): LogPosition(2**63)},
            NOW_MS,
        )
    assert ask.lead("crm-1", NOW_MS) is None
    assert ask.dead_letters(NAMES.dlq).written == 0
    assert model.positions() == {}
    take(model, good)
    assert present(ask.lead("crm-1", NOW_MS)).histories[0].origin == "other/0/5"


@pytest.mark.parametrize("other", [sources("other."), sources()])
def test_a_file_of_other_topics_is_rebuilt(path: Path, other: Any) -> None:
    model = ReadModel(path, SOURCES)
    take(model, *history(NAMES, "crm-1", "received"))
    model.close()
    model = ReadModel(path, other)
    assert (model.positions() == {}) == (other != SOURCES)
    assert (Queries(path, set()).lead("crm-1", NOW_MS) is None) == (other != SOURCES)
    model.close()


@pytest.mark.parametrize("what", ["no database", "wal only"])
def test_a_broken_file_is_rebuilt(path: Path, what: str) -> None:
    model = ReadModel(path, SOURCES)
    take(model, *history(NAMES, "crm-1", "received"))
    if what == "wal only":  # as after a crash, and an administrator removed only the file
        wal = path.with_name(path.name + "-wal")
        kept = wal.read_bytes()
        model.close()
        path.unlink()
        wal.write_bytes(kept)
    else:
        model.close()
        path.write_bytes(os.urandom(10_000))
    model = ReadModel(path, SOURCES)
    assert model.positions() == {}
    take(model, *history(NAMES, "crm-2", "received"))
    assert statuses(Queries(path, set()), "crm-2") == [["received"]]
    model.close()


def test_a_second_writer_is_refused(model: ReadModel, path: Path) -> None:
    with pytest.raises(StreamAppError, match=r"another process writes .*board\.read_model_path"):
        ReadModel(path, SOURCES)


def test_an_unusable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StreamAppError,
        match=r"cannot write the read model .*board\.read_model_path",
    ):
        ReadModel(tmp_path / "file" / "model.sqlite", SOURCES)


def test_the_file_is_private(model: ReadModel, path: Path) -> None:
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0


def test_a_lead_that_waits_for_a_run_shows_the_polls_by_the_schedule(
    path: Path,
    model: ReadModel,
) -> None:
    routine = Destination("people", "acme", kind="routine", poll_after_s=(20.0, 60.0))
    ask = Queries(path, set(), {"people": routine})
    accepted_ms = NOW_MS - 30_000
    begun: list[tuple[Status, int]] = [("received", 1), ("sending", 2)]
    for offset, lead_id in enumerate(("crm-1", "crm-2", "crm-3", "crm-4")):
        take(model, *(event(NAMES, lead_id, status, seq, offset) for status, seq in begun))
    take(model, event(NAMES, "crm-1", "accepted", 3, 0, run="r1", at_ms=accepted_ms))
    take(model, event(NAMES, "crm-2", "accepted", 3, 1, at_ms=accepted_ms))
    take(
        model,
        event(NAMES, "crm-3", "accepted", 3, 2, run="r3", at_ms=accepted_ms),
        event(NAMES, "crm-3", "enriched", 4, 2),
    )
    take(
        model,
        event(NAMES, "crm-4", "accepted", 3, 3, run="r4", at_ms=NOW_MS - 7_200_000),
        event(NAMES, "crm-4", "callback_overdue", 4, 3, at_ms=NOW_MS - 3_700_000),
    )

    def run_of(lead_id: str) -> RunPolls | None:
        (of_record,) = present(ask.lead(lead_id, NOW_MS)).histories
        return of_record.run

    first = present(run_of("crm-1"))
    assert first.id == "r1"
    assert first.polls == 1
    assert first.waits_for_rate is False
    take(model, lane(NAMES, at_ms=NOW_MS, runs=RunsView(3, NOW_MS, waits_for_rate=True)))
    assert present(run_of("crm-1")).waits_for_rate
    assert accepted_ms + 60_000 <= present(first.next_ms) <= accepted_ms + 62_000
    assert run_of("crm-2") == RunPolls("", 0, None), "its id was lost with Clay's answer"
    assert run_of("crm-3") is None, "it waits for none"
    overdue = present(run_of("crm-4"))
    assert overdue.id == "r4"
    assert overdue.polls > 5
    assert 0 < present(overdue.next_ms) - NOW_MS <= 3_600_000
    of_webhook = present(Queries(path, set()).lead("crm-2", NOW_MS)).histories[0]
    assert of_webhook.run is None, "a table has no runs"
    assert of_webhook.waits[-1].text == "Clay has it, and has not called back yet"
    assert present(ask.lead("crm-1", NOW_MS)).histories[0].waits[-1].text == (
        "Clay has it, and its run has not finished yet"
    )
