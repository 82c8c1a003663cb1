"""The account in the read model: what a later record of a lead means for its dead letters, and what
is left of it.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from stream_app.board.read_model import account, store
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.domain.books.records import STATES
from stream_app.domain.model.messages import Status
from tests.board.model_records import DAY_MS, NOW_MS, dead_letter, event, sources, take

NAMES = sources().names
OLD_MS = NOW_MS - 31 * DAY_MS


@pytest.fixture
def model(path: Path) -> Iterator[ReadModel]:
    model = ReadModel(path, msgspec.structs.replace(sources(), final=frozenset({"firms"})))
    yield model
    model.close()


def states(ask: Queries) -> dict[str, int]:
    letters = ask.dead_letters(NAMES.dlq)
    return {name: getattr(letters, name) for name in STATES if getattr(letters, name)}


@pytest.mark.parametrize(
    ("destination", "later", "state"),
    [
        ("people", ["received", "sending"], "coming_back"),
        ("people", ["received", "sending", "accepted"], "coming_back"),
        ("people", ["received", "sending", "accepted", "enriched"], "solved"),
        ("firms", ["received", "sending"], "coming_back"),
        ("firms", ["received", "sending", "accepted"], "solved"),
        ("people", ["suppressed"], "given_up"),
    ],
)
def test_a_dead_letter_is_what_a_later_record_of_its_lead_has_become(
    model: ReadModel,
    ask: Queries,
    destination: str,
    later: list[Status],
    state: str,
) -> None:
    letter = dead_letter(
        NAMES.dlq,
        destination=destination,
        origin="leads/0/0",
        seq="1",
        disposition="poison",
    )
    take(model, event(NAMES, "crm-1", "rejected_invalid", 1, destination=destination), letter)
    assert states(ask) == {"open": 1}
    for seq, status in enumerate(later, 1):
        take(model, event(NAMES, "crm-1", status, seq, 1, destination=destination), at=seq)
    assert states(ask) == {state: 1}
    assert ask.ended(NOW_MS).get("acme", {}) == ({} if state == "coming_back" else {later[-1]: 1})


def test_of_a_lead_in_an_import_a_copy_is_left_when_its_record_is_forgotten(
    model: ReadModel,
    ask: Queries,
) -> None:
    take(model, event(NAMES, "crm-1", "suppressed", 1, 0, import_id="march", at_ms=OLD_MS))
    take(
        model,
        event(NAMES, "crm-1", "duplicate", 1, 1, import_id="march"),
        event(NAMES, "crm-1", "received", 1, 2),
    )

    def counted() -> tuple[list[str], list[dict[str, int]]]:
        return [row.status for row in ask.status_counts()], [
            row.columns for row in ask.imports("", "", None, 9)[0]
        ]

    assert counted() == (["received"], [{"rejected": 1, "duplicate": 1}])
    model.sweep(NOW_MS)
    assert counted() == (["received"], [{"duplicate": 1}])


def test_what_is_old_of_a_lead_goes_at_once_and_what_is_left_follows_it(
    model: ReadModel,
    ask: Queries,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or each copy in turn would be elected, only to go next."""
    monkeypatch.setattr(store, "_LOOKED_AT", 1)
    monkeypatch.setattr(account, "_DELETED_AT_ONCE", 1)
    old: tuple[Status, ...] = ("received", "duplicate", "duplicate")
    take(
        model,
        *(
            event(NAMES, "crm-1", status, 1, offset, at_ms=OLD_MS)
            for offset, status in enumerate(old)
        ),
    )
    lost = event(NAMES, "crm-1", "rejected_invalid", 1, 3)
    take(model, lost, dead_letter(NAMES.dlq, origin="leads/0/3", seq="1", disposition="poison"))
    take(model, event(NAMES, "crm-1", "parked", 1, 4))
    model.sweep(NOW_MS)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT status, counts FROM records").fetchall() == [
            ("rejected_invalid", 0),
            ("parked", 1),
        ]
    assert states(ask) == {"solved": 1}
    take(model, event(NAMES, "crm-1", "replayed", 2, 4))
    assert states(ask) == {"coming_back": 1}, "it is judged by the record that counts now"
