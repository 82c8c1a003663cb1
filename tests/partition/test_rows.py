"""Rows of a partition: what is counted, and when they are deleted, to the millisecond."""

from unittest.mock import Mock

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import Delivery, delivery_key, forced_key, mark_key, passed_key
from stream_app.domain.delivery.suppression import Suppression, erased_row, lead_row, person_row
from stream_app.domain.model.messages import Status
from stream_app.domain.model.records import Rows as Changes
from stream_app.partition.rows import Rows
from tests.partition.virtual import consumed

FRESH_MS = 1_000_000
NOW_MS = 1_796_083_140_000


def key(lead_id: str, workspace: str = "acme") -> bytes:
    return delivery_key(workspace, "people", lead_id)


def row(state: Status, at_ms: int = NOW_MS, *, final: bool = True) -> bytes:
    return msgspec.json.encode(Delivery(1, state, "leads/0/1", 3, at_ms, 1, "t", final=final))


def rows(*changes: tuple[bytes, bytes | None]) -> Rows:
    found = Rows(0, FRESH_MS)
    found.apply(list(changes))
    return found


@pytest.mark.parametrize(("early_ms", "gone"), [(0, False), (-1, True)])
@pytest.mark.parametrize("name", ["lead", "person", "forced", "command"])
def test_a_row_expires_after_its_lead_has_been_final_for_long_enough(name: str, early_ms: int, gone: bool) -> None:
    since_ms = NOW_MS - FRESH_MS
    keys = {
        "lead": (key("a"), row("enriched", since_ms)),
        "person": (b"p/acme/people/ada", b" ".join([key("a"), key("never")])),
        "forced": (forced_key("acme", "people", "a"), key("a")),
        "command": (b"k/c-1", msgspec.json.encode({"at_ms": since_ms, "applied": True})),
    }
    found = Rows(0, FRESH_MS)
    found.load(dict([(key("a"), row("enriched", since_ms)), keys[name]]))
    changes = [found.expire(NOW_MS - early_ms) for _ in range(3)]
    assert ((keys[name][0], None) in [each for some in changes for each in some]) is gone
    assert (found.get(keys[name][0]) is None) is gone


def test_a_row_that_is_open_is_kept_and_lets_others_go() -> None:
    old_ms = NOW_MS - 2 * FRESH_MS
    found = rows((key("open"), row("accepted", old_ms, final=False)), (key("old"), row("enriched", old_ms)))
    found.apply([(b"p/acme/people/ada", key("open") + b" " + key("old"))])
    gone: Changes = []
    for step in range(5):
        gone += found.expire(NOW_MS + step * 60_000)
    assert gone == [(key("old"), None)]
    found.apply([(key("open"), row("enriched", NOW_MS))])
    for step in range(5):
        gone += found.expire(NOW_MS + FRESH_MS + 1 + step * 60_000)
    assert {name for name, _ in gone} == {key("old"), key("open"), b"p/acme/people/ada"}


def test_heads_are_not_looked_at_again_before_one_can_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows((key("a"), row("enriched", NOW_MS)))
    looks = Mock(side_effect=found.delivery)
    monkeypatch.setattr(found, "delivery", looks)
    for at_ms in (NOW_MS, NOW_MS + 1, NOW_MS + FRESH_MS - 1):
        assert found.expire(at_ms) == []
    assert looks.call_count == 1
    assert found.expire(NOW_MS + FRESH_MS + 1) == [(key("a"), None)]


def test_parked_leads_are_counted_by_workspace() -> None:
    found = rows((key("a"), row("parked")), (key("b"), row("parked")), (key("c", "beta"), row("parked")))
    found.apply([(key("a"), row("parked")), (key("d"), row("dead_lettered")), (b"p/acme/people/x", b'"parked"')])
    assert found.parked == {"acme": 2, "beta": 1}
    found.apply([(key("a"), row("replayed")), (key("b"), None), (key("never"), None)])
    assert {name: many for name, many in found.parked.items() if many} == {"beta": 1}


def test_suppressions_are_counted_and_erasures_listed() -> None:
    value = msgspec.json.encode(Suppression("suppressed", 7, "c-1", "jane"))
    person, lead, erased = person_row("x" * 22), lead_row("acme", "a"), erased_row("acme", "crm/1")
    found = rows((person, value), (lead, value), (erased, value))
    before = found.suppressing
    found.apply([(person, value)])
    assert (found.suppressing, list(found.erasures())) == (before, [("acme", 7)])
    assert found.suppression(person) == Suppression("suppressed", 7, "c-1", "jane")
    found.apply([(person, None), (erased, None)])
    assert list(found.erasures()) == []
    assert found.suppressing < before
    assert found.suppression(person) is None


def test_markers_are_found_by_any_of_their_records_and_only_those_of_the_partition_go() -> None:
    found = rows(*((mark_key(f"leads/{number}/{offset}"), b"1") for number in (0, 1) for offset in (3, 4)))
    assert found.marker("leads/0/9", "leads/1/4") == mark_key("leads/1/4")
    assert found.marker("leads/0/9") is None
    assert found.drop_passed({"leads": 3}.get) == []
    assert found.drop_passed({"leads": 4}.get) == [(mark_key("leads/0/3"), None), (passed_key("leads"), b"4")]
    assert [found.is_passed(consumed(offset)) for offset in (3, 4)] == [True, False]
    assert found.drop_passed({"leads": 9}.get) == [(mark_key("leads/0/4"), None), (passed_key("leads"), b"9")]
    assert found.drop_passed({"leads": 99}.get) == []
