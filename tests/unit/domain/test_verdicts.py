"""What a record means for the row of its lead: each verdict, with the border at which it becomes
another.
"""

from typing import Any

import msgspec
import pytest

from stream_app.domain.delivery.envelope import Envelope, Way
from stream_app.domain.delivery.state_machine import (
    ROW_VERSION,
    Delivery,
    begin,
    classify_record,
    delivery_key,
    forced_key,
    lead_of,
    mark_key,
    marked_record,
    may_be_at_clay,
    moved,
    next_version,
    passed_key,
    passed_offset,
)
from stream_app.domain.model.messages import Status

ROW = Delivery(ROW_VERSION, "dead_lettered", "leads/0/1", 7, 1_000, 500, "t", replay=3, epoch=2)
FRESH_MS = 60_000


def verdict(way: Way, row: dict[str, Any], now_ms: int = 2_000, **envelope: Any) -> str:
    came = {"origin": "leads/0/1", "seq": 7, "replay": 3, "epoch": 2, **envelope}
    return classify_record(
        msgspec.structs.replace(ROW, **row),
        Envelope(way=way, **came),
        now_ms,
        FRESH_MS,
    )


@pytest.mark.parametrize(
    ("way", "row", "envelope", "expected"),
    [
        ("redriven", {}, {}, "return"),
        ("redriven", {}, {"seq": 6}, "done"),
        ("redriven", {}, {"seq": 8}, "done"),
        ("redriven", {"state": "parked", "sends": 1}, {}, "return"),
        ("replayed", {}, {}, "done"),
        ("replayed", {}, {"replay": 4}, "return"),
        ("replayed", {}, {"replay": 5}, "done"),
        ("replayed", {}, {"replay": 0, "epoch": 3}, "return"),
        ("replayed", {}, {"replay": 0, "epoch": 9}, "return"),
        ("replayed", {}, {"replay": 4, "epoch": 1}, "done"),
        ("replayed", {"state": "parked"}, {"replay": 4}, "return"),
        ("replayed", {"state": "parked", "sends": 1}, {"replay": 4}, "done"),
        ("", {}, {"replay": 4}, "done"),
        ("", {"state": "sending"}, {}, "uncertain"),
        ("", {"state": "sending"}, {"replay": 2}, "done"),
        ("", {"state": "sending"}, {"epoch": 3}, "done"),
        ("deferred", {"state": "deferred"}, {}, "return"),
        ("deferred", {"state": "deferred"}, {"seq": 6}, "done"),
        ("", {"state": "deferred"}, {}, "done"),
        ("uncertain", {"state": "send_uncertain"}, {}, "decide"),
        ("uncertain", {"state": "send_uncertain"}, {"seq": 6}, "done"),
        ("deferred", {"state": "send_uncertain"}, {}, "done"),
        ("deferred", {"state": "held_budget"}, {}, "resume"),
        ("", {"state": "received"}, {}, "resume"),
        ("", {"state": "accepted"}, {}, "done"),
    ],
)
def test_a_copy_continues_its_own_history_only_where_its_row_waits_for_it(
    way: Way,
    row: dict[str, Any],
    envelope: dict[str, Any],
    expected: str,
) -> None:
    assert verdict(way, row, **envelope) == expected


@pytest.mark.parametrize(
    ("row", "envelope", "after_ms", "expected"),
    [
        ({"state": "accepted", "final": True}, {}, FRESH_MS, "duplicate"),
        ({"state": "accepted", "final": True}, {}, FRESH_MS + 1, "fresh"),
        ({"state": "accepted"}, {}, FRESH_MS + 1, "duplicate"),
        ({"state": "expired"}, {}, 0, "fresh"),
        ({"state": "expired", "sends": 1}, {}, 0, "duplicate"),
        ({}, {}, 0, "replaces"),
        ({"sends": 1}, {}, 0, "duplicate"),
        ({}, {"dead_letter": "leads.dlq/0/1"}, 0, "duplicate"),
        ({"state": "parked"}, {}, 0, "replaces"),
        ({"state": "deferred", "returns": 1}, {}, 0, "replaces"),
        ({"state": "deferred"}, {}, 0, "duplicate"),
        ({"state": "sending"}, {}, 0, "duplicate"),
    ],
)
@pytest.mark.parametrize("way", ["", "rerouted"])
def test_another_record_of_a_lead_counts_only_where_clay_had_none(
    way: Way,
    row: dict[str, Any],
    envelope: dict[str, Any],
    after_ms: int,
    expected: str,
) -> None:
    assert verdict(way, row, 1_000 + after_ms, origin="leads/0/2", **envelope) == expected


def test_a_copy_whose_history_was_replaced_is_done_and_without_a_row_it_begins() -> None:
    ways: tuple[Way, ...] = ("replayed", "redriven", "deferred", "uncertain")
    assert {verdict(way, {}, origin="leads/0/2") for way in ways} == {"done"}
    assert [classify_record(None, Envelope(way=way), 0, 0) for way in ways] == [
        "fresh",
        "fresh",
        "fresh",
        "decide",
    ]


@pytest.mark.parametrize(
    ("state", "sends", "returns", "may"),
    [
        ("dead_lettered", 1, 0, True),
        ("dead_lettered", 0, 0, False),
        ("parked", 2, 0, True),
        ("deferred", 1, 1, True),
        ("deferred", 1, 0, False),
        ("accepted", 1, 0, False),
    ],
)
def test_a_dead_letter_that_was_sent_may_be_at_clay(
    state: Status,
    sends: int,
    returns: int,
    may: bool,
) -> None:
    assert (
        may_be_at_clay(msgspec.structs.replace(ROW, state=state, sends=sends, returns=returns))
        is may
    )
    assert not may_be_at_clay(None)


@pytest.mark.parametrize(
    ("way", "state", "seq", "sends"),
    [
        ("", "received", 5, 0),
        ("rerouted", "received", 5, 0),
        ("replayed", "replayed", 5, 0),
        ("redriven", "replayed", 5, 0),
        ("deferred", "replayed", 5, 0),
        ("uncertain", "send_uncertain", 4, 1),
    ],
)
def test_a_history_begins_or_goes_on_where_its_copy_was(
    way: Way,
    state: Status,
    seq: int,
    sends: int,
) -> None:
    envelope = Envelope("leads/0/1", 9, 4, way, trace_id="t", replay=3, epoch=2, sampled=True)
    assert begin(envelope, 1_000, "ada", "firm", ("ada", "email")) == Delivery(
        ROW_VERSION,
        state,
        "leads/0/1",
        seq,
        1_000,
        1_000,
        "t",
        replay=3,
        epoch=2,
        sends=sends,
        person="ada",
        company="firm",
        people=("ada", "email"),
        sampled=True,
    )
    assert begin(envelope, 1_000, "ada", "firm", ("ada", "")).people == (), (
        "they say no more than the person"
    )


def test_a_step_counts_one_and_its_time_never_goes_back() -> None:
    rows = [moved(ROW, "replayed", at_ms) for at_ms in (999, 1_001)]
    assert [(row.seq, row.at_ms) for row in rows] == [(8, 1_000), (8, 1_001)]
    with pytest.raises(ValueError, match="illegal step dead_lettered -> enriched of leads/0/1"):
        moved(ROW, "enriched", 2_000)


def test_keys_of_rows_are_read_as_they_were_made() -> None:
    lead = ("acme", "people", "crm/17/b")
    assert lead_of(delivery_key(*lead)) == lead_of(delivery_key(*lead, "leads/0/1")) == lead
    assert marked_record(mark_key("leads/bulk/3/70")) == ("leads/bulk", 3, 70)
    assert marked_record(delivery_key(*lead)) is None
    assert passed_offset(passed_key("leads.bulk"), b"70") == ("leads.bulk", 70)


def test_the_next_result_is_newer_than_those_of_all_deliveries_of_the_lead() -> None:
    lead = ("acme", "people", "crm-17")
    forced = delivery_key(*lead, "leads/0/9")
    rows = {forced_key(*lead): forced}
    rows |= {
        key: msgspec.json.encode(msgspec.structs.replace(ROW, results=results))
        for key, results in ((delivery_key(*lead), 4), (forced, 6))
    }
    assert next_version(lead, msgspec.structs.replace(ROW, results=2), rows.get) == 7
    assert next_version(lead, msgspec.structs.replace(ROW, results=8), rows.get) == 9
    del rows[forced]
    assert next_version(lead, ROW, rows.get) == 5
    rows.clear()
    assert next_version(lead, ROW, rows.get) == 1
