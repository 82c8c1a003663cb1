"""Rows of a partition: what is counted, when they are deleted, to the millisecond, and how few a
step reads.
"""

from unittest.mock import Mock

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import (
    Delivery,
    delivery_key,
    forced_key,
    mark_key,
    passed_key,
)
from stream_app.domain.delivery.suppression import Suppression, erased_row, lead_row, person_row
from stream_app.domain.model.messages import Status
from stream_app.domain.model.records import RowChanges as Changes
from stream_app.partition.rows import Rows
from tests.support.partition.virtual import consumed

FRESH_MS = 1_000_000
NOW_MS = 1_796_083_140_000
ADA = b"p/acme/people/ada"
STRAY = b"p/acme/people/stray"


def key(lead_id: str, workspace: str = "acme") -> bytes:
    return delivery_key(workspace, "people", lead_id)


def row(state: Status, at_ms: int = NOW_MS, *, final: bool = True) -> bytes:
    return msgspec.json.encode(Delivery(1, state, "leads/0/1", 3, at_ms, 1, "t", final=final))


def rows(*changes: tuple[bytes, bytes | None]) -> Rows:
    made = Rows(0, FRESH_MS)
    made.apply(list(changes))
    return made


@pytest.mark.parametrize(("early_ms", "gone"), [(0, False), (-1, True)])
@pytest.mark.parametrize("name", ["lead", "person", "forced", "command"])
def test_a_row_expires_after_its_lead_has_been_final_for_long_enough(
    name: str,
    early_ms: int,
    gone: bool,
) -> None:
    since_ms = NOW_MS - FRESH_MS
    keys = {
        "lead": (key("a"), row("enriched", since_ms)),
        "person": (ADA, b" ".join([key("earlier"), key("a"), key("never"), b"other"])),
        "forced": (forced_key("acme", "people", "a"), key("a")),
        "command": (b"k/c-1", msgspec.json.encode({"at_ms": since_ms, "applied": True})),
    }
    held = Rows(0, FRESH_MS)
    held.load(
        dict(
            [
                (key("earlier"), row("enriched", since_ms - 9)),
                (key("a"), row("enriched", since_ms)),
                keys[name],
            ],
        ),
    )
    changes = [held.expire(NOW_MS - early_ms, steps=1) for _ in range(3)]
    assert ((keys[name][0], None) in [change for some in changes for change in some]) is gone
    assert (held.get(keys[name][0]) is None) is gone


def test_a_row_that_is_open_is_kept_and_lets_others_go() -> None:
    old_ms = NOW_MS - 2 * FRESH_MS
    held = rows(
        (key("open"), row("accepted", old_ms, final=False)),
        (key("old"), row("enriched", old_ms)),
    )
    held.apply([(ADA, key("open") + b" " + key("old")), (STRAY, key("never"))])
    gone: Changes = []
    for step in range(5):
        gone += held.expire(NOW_MS + step * 60_000, steps=1)
    assert gone == [(key("old"), None), (STRAY, None)]
    held.apply([(key("open"), row("enriched", NOW_MS))])
    for step in range(5):
        gone += held.expire(NOW_MS + FRESH_MS + 1 + step * 60_000, steps=1)
    assert {name for name, _ in gone} == {key("old"), key("open"), ADA, STRAY}


def test_a_transaction_reads_only_a_few_rows_for_each_step() -> None:
    held = Rows(0, FRESH_MS)
    held.load({key(f"{number}"): row("enriched", 0) for number in range(10_000)})
    assert [len(held.expire(NOW_MS + 50 * step, steps=1)) for step in range(2_500)] == [4] * 2_500
    held.load({key(f"{number}"): row("enriched", 0) for number in range(10)})
    assert [len(held.expire(NOW_MS, steps=2)) for _ in range(3)] == [8, 2, 0]
    held.load({STRAY: key("never")})
    assert held.expire(0, steps=1) == [(STRAY, None)]


def test_heads_are_not_looked_at_again_before_one_can_expire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = rows((key("a"), row("enriched", NOW_MS)))
    looks = Mock(side_effect=held.delivery)
    monkeypatch.setattr(held, "delivery", looks)
    for at_ms in (NOW_MS, NOW_MS + 1, NOW_MS + FRESH_MS - 1):
        assert held.expire(at_ms, steps=1) == []
    assert looks.call_count == 1
    assert held.expire(NOW_MS + FRESH_MS + 1, steps=1) == [(key("a"), None)]


def test_parked_leads_are_counted_by_workspace_from_the_take_over_on() -> None:
    held = Rows(0, FRESH_MS)
    parked = row("parked", final=False)
    held.load(
        {
            key("a"): parked,
            key("b"): parked,
            key("c", "beta"): parked,
            key("d"): row("dead_lettered"),
        },
    )
    held.apply(
        [(key("a"), parked), (key("d"), row("dead_lettered")), (b"p/acme/people/x", b'"parked"')],
    )
    assert held.parked == {"acme": 2, "beta": 1}
    held.apply(
        [
            (key("a"), row("replayed")),
            (key("b"), None),
            (key("never"), None),
            (key("d", "parked"), row("sending")),
        ],
    )
    assert {name: many for name, many in held.parked.items() if many} == {"beta": 1}
    held.load({})
    assert held.parked == {}


def test_suppressions_are_counted_and_erasures_listed() -> None:
    value = msgspec.json.encode(Suppression("suppressed", 7, "c-1", "jane"))
    person = person_row("x" * 22)
    lead = lead_row("acme", "a")
    erased = erased_row("acme", "crm/1")
    held = Rows(0, FRESH_MS)
    held.load({person: value, lead: value, erased: value})
    held.apply(
        [
            (person, value),
            (person_row("y" * 22), None),
            (other := erased_row("acme", "crm/2"), value),
        ],
    )
    assert held.suppressing == 4
    assert list(held.erasures()) == [("acme", 7)] * 2
    assert held.suppression(person) == Suppression("suppressed", 7, "c-1", "jane")
    assert held.expire(NOW_MS, steps=1) == [], (
        "a deferred lead may come back later than the freshness window"
    )
    held.apply([(person, None), (lead, None), (erased, None), (other, None)])
    assert held.suppressing == 0
    assert list(held.erasures()) == []
    assert rows((person, value)).suppressing == 1
    assert held.suppression(person) is None


def test_markers_are_found_by_any_of_their_records_and_only_those_of_the_partition_go() -> None:
    held = rows(
        *((mark_key(f"leads/{number}/{offset}"), b"1") for number in (0, 1) for offset in (3, 4)),
    )
    assert held.marker("leads/0/9", "leads/1/4") == mark_key("leads/1/4")
    assert held.marker("leads/0/9") is None
    assert held.drop_passed({"leads": 3}.get) == []
    assert held.drop_passed({"leads": 4}.get) == [
        (mark_key("leads/0/3"), None),
        (passed_key("leads"), b"4"),
    ]
    assert [held.is_passed(consumed(offset)) for offset in (3, 4)] == [True, False]
    assert held.drop_passed({"leads": 9}.get) == [
        (mark_key("leads/0/4"), None),
        (passed_key("leads"), b"9"),
    ]
    assert held.drop_passed({"leads": 99}.get) == []


def test_markers_go_in_the_order_they_were_set_and_a_topic_without_a_stream_delays_none() -> None:
    held = rows(
        *(
            (mark_key(f"{place}"), b"1")
            for place in ("leads.bulk/0/1", "leads/0/3", "leads/0/1", "leads/0/7")
        ),
    )
    assert held.drop_passed(dict[str, int]().get) == []
    assert held.drop_passed({"leads": 3}.get) == [], "the first is not passed: no search behind it"
    assert held.drop_passed({"leads": 5}.get) == [
        (b"o/leads/0/3", None),
        (b"o/leads/0/1", None),
        (b"c/leads", b"5"),
    ]


def test_a_take_over_reads_markers_and_offsets() -> None:
    held = Rows(0, FRESH_MS)
    loaded = {b"o/leads/0/8": b"1", b"c/leads": b"6", b"d/acme/main/a": b"..."}
    held.load(loaded)
    assert loaded.keys() == {b"o/leads/0/8", b"d/acme/main/a"}
    assert [held.is_passed(consumed(offset)) for offset in (5, 6)] == [True, False]
    assert held.drop_passed(lambda topic: 9) == [(b"o/leads/0/8", None), (b"c/leads", b"9")]
