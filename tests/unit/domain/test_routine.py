"""Routines: the ids of items, when a run is polled, and what an item says of its lead."""

import re
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from stream_app.domain.callback.body import MAX_FIELDS
from stream_app.domain.callback.routine import callback_of_run
from stream_app.domain.callback.schedule import next_poll_ms, polls_until
from stream_app.domain.delivery.state_machine import (
    Reason,
    delivery_key,
    forced_origin_of,
    item_id,
)
from stream_app.domain.model.messages import Callback
from stream_app.domain.model.run import RunFinished, RunItem
from stream_app.domain.plan import Destination

KEY = delivery_key("acme", "people", "ada")


def test_the_item_of_a_lead_has_an_id_of_its_own_that_tells_nothing() -> None:
    keys = [
        delivery_key("acme", "people", "ada"),
        delivery_key("acme", "people", "ada", "leads/0/7"),
        delivery_key("acme", "firms", "ada"),
    ]
    ids = [item_id(key) for key in keys]
    assert ids == [item_id(key) for key in keys]
    assert len(set(ids)) == len(keys)
    assert all(re.fullmatch(r"[\w-]{22}", name) for name in ids)
    assert [forced_origin_of(key) for key in keys] == ["", "leads/0/7", ""]


def answered(*items: RunItem, key: bytes = KEY) -> Callback | Reason:
    """What the results of a run with these items say of a lead."""
    return callback_of_run(key, RunFinished(items), 7)


def settled(key: bytes = KEY, **item: Any) -> Callback:
    """The same, of one item of the lead."""
    callback = answered(RunItem(item_id(key), **{"status": "complete", **item}), key=key)
    assert isinstance(callback, Callback)
    return callback


def test_the_outputs_of_an_item_become_the_fields_of_its_lead() -> None:
    outputs = {
        "Work Email": "a@example.com",
        "Score": 7,
        "Rank": 0.5,
        "Is Customer": False,
        "Big": 2**70,
        "Tags": ["a", {"b": None}],
        "Data": {"x": 1},
        "Nothing": None,
        "Empty": "",
        "None": [],
    }
    callback = settled(outputs=outputs)
    assert callback.outcome == "enriched"
    assert callback.fields == {
        "Work Email": "a@example.com",
        "Score": 7,
        "Rank": 0.5,
        "Is Customer": False,
        "Big": str(2**70),
        "Tags": '["a",{"b":null}]',
        "Data": '{"x":1}',
    }
    assert callback.workspace == "acme"
    assert callback.destination == "people"
    assert callback.lead_id == "ada"
    assert callback.credits is None
    assert callback.forced_origin == ""
    assert callback.at_ms == 7
    assert settled(delivery_key("acme", "people", "ada", "leads/0/7")).forced_origin == "leads/0/7"


@pytest.mark.parametrize(
    ("item", "outcome", "text"),
    [
        ({}, "no_data", ""),
        ({"outputs": {"Title": ""}}, "no_data", ""),
        ({"outputs": {"Title": "CTO", "status": "Partial"}}, "partial", ""),
        ({"outputs": {"status": "not found"}}, "no_data", ""),
        ({"outputs": {"status": "failed", "error": "no such person"}}, "enrich_error", None),
        ({"outputs": {"error": "no such person"}}, "enrich_error", "no such person"),
        ({"outputs": {"Title": "CTO", "error": "no phone"}}, "partial", "no phone"),
        ({"status": "failed", "text": "Missing input"}, "enrich_error", "Missing input"),
        ({"status": "failed", "outputs": {"Title": "CTO"}}, "enrich_error", ""),
    ],
)
def test_what_an_item_says_is_the_outcome_of_its_lead(
    item: dict[str, Any],
    outcome: str,
    text: str | None,
) -> None:
    callback = settled(**item)
    assert callback.outcome == outcome
    assert text is None or callback.text == text


def test_an_output_with_a_meaning_of_its_own_is_no_result_unless_its_value_means_nothing() -> None:
    meant = {"status": "ok", "credits": 0.6, "actions": "2", "error": "", "Title": "CTO"}
    callback = settled(outputs=meant)
    assert callback.fields == {"Title": "CTO"}
    assert callback.credits == 1
    assert callback.actions == 2
    results = {"status": "Customer", "credits": "many", "actions": ["call"], "error": {"code": 1}}
    callback = settled(outputs=results)
    assert callback.fields == {
        "status": "Customer",
        "credits": "many",
        "actions": '["call"]',
        "error": '{"code":1}',
    }
    assert callback.credits is None
    assert callback.actions is None
    assert settled(outputs={"credits_used": 3}).credits == 3


def test_the_lead_is_found_among_several_items_by_its_id() -> None:
    other = RunItem("other", "complete", {"Title": "CEO"})
    own = RunItem(item_id(KEY), "complete", {"Title": "CTO"})
    callback = answered(other, own)
    assert isinstance(callback, Callback)
    assert callback.fields == {"Title": "CTO"}


@pytest.mark.parametrize(
    ("items", "reason", "words"),
    [
        ([], "result_of_others", "0 items and none of this lead"),
        ([RunItem("other", "complete")], "result_of_others", "1 item and none of this lead"),
        (
            [RunItem(item_id(KEY), "unknown", text="paused")],
            "result_unknown_state",
            "does not know: paused",
        ),
        (
            [RunItem(item_id(KEY), "complete", {f"c{n}": n for n in range(MAX_FIELDS + 1)})],
            "result_too_large",
            f"{MAX_FIELDS + 1} values",
        ),
    ],
)
def test_results_that_settle_nothing_say_what_a_person_must_look_at(
    items: list[RunItem],
    reason: str,
    words: str,
) -> None:
    why = answered(*items)
    assert isinstance(why, Reason)
    assert why.reason == reason
    assert words in why.text


def test_a_test_lead_shows_the_names_and_kinds_of_its_outputs() -> None:
    callback = settled(delivery_key("acme", "people", "doctor-1"), outputs={"Title": "CTO"})
    assert callback.seen is not None
    assert callback.seen.body == {"Title": "text"}
    assert settled(outputs={"Title": "CTO"}).seen is None


# ----------------------------------------------------------------------------- when it is polled

ACCEPTED_MS = 1_000_000
ROUTINE = Destination("people", "acme", kind="routine", callback_grace_s=72_000.0)
HASTY = msgspec.structs.replace(ROUTINE, callback_deadline_s=600.0, callback_grace_s=50.0)


def polls(until_s: float, overdue_s: float | None = None, run: str = "r1") -> list[float]:
    """All polls of a run up to this time, in seconds after its POST."""
    overdue_ms = None if overdue_s is None else ACCEPTED_MS + round(overdue_s * 1000)
    after_ms = ACCEPTED_MS if overdue_ms is None else overdue_ms
    times_s: list[float] = []
    while True:
        after_ms = next_poll_ms(run, ACCEPTED_MS, overdue_ms, ROUTINE, after_ms)
        if (at_s := (after_ms - ACCEPTED_MS) / 1000) > until_s:
            return times_s
        times_s.append(at_s)


def test_a_run_is_polled_soon_and_then_ever_more_rarely() -> None:
    expected_s = (20, 60, 180, 600, 1_500, 2_400, 3_300)
    for run in map(str, range(200)):
        *times_s, last_s = polls(3_600.0, run=run)
        assert last_s == 3_600.0 - 60.0, "shortly before the deadline"
        assert len(times_s) == len(expected_s)
        before_s = 0.0
        for at_s, wanted_s in zip(times_s, expected_s, strict=True):
            assert wanted_s <= at_s <= wanted_s + 0.05 * (wanted_s - before_s)
            before_s = wanted_s
    assert polls(3_600.0, run="r1") == polls(3_600.0, run="r1"), "the same after a restart"
    assert len({polls(30.0, run=run)[0] for run in map(str, range(200))}) > 100


def test_an_overdue_run_is_polled_each_hour_and_shortly_before_its_grace_ends() -> None:
    times_s = polls(3_600.0 + 72_000.0, overdue_s=3_600.0)
    assert 20 <= len(times_s) <= 22
    gaps_s = [after - before for before, after in pairwise([3_600.0, *times_s])]
    assert all(round(gap_s, 3) <= 3_600.0 for gap_s in gaps_s)
    assert times_s[-1] == 3_600.0 + 72_000.0 - 60.0


def test_a_short_deadline_and_a_short_grace_have_a_poll_before_they_end() -> None:
    at_ms = next_poll_ms("r1", ACCEPTED_MS, None, HASTY, ACCEPTED_MS + 200_000)
    assert at_ms == ACCEPTED_MS + 540_000
    overdue_ms = ACCEPTED_MS + 600_000
    assert next_poll_ms("0", ACCEPTED_MS, overdue_ms, HASTY, overdue_ms + 44_000) == (
        overdue_ms + 45_000
    )


def test_polls_that_were_missed_are_left_out() -> None:
    after_ms = ACCEPTED_MS + 100_000_000
    at_ms = next_poll_ms("r1", ACCEPTED_MS, None, ROUTINE, after_ms)
    assert after_ms < at_ms <= after_ms + 900_000


@pytest.mark.parametrize("overdue_s", [None, 3_600.0])
@pytest.mark.parametrize("until_s", [0.0, 19.0, 21.5, 700.0, 3_600.0, 9_000.0, 60_000.0])
def test_the_polls_so_far_are_those_of_the_schedule(
    until_s: float,
    overdue_s: float | None,
) -> None:
    overdue_ms = None if overdue_s is None else ACCEPTED_MS + round(overdue_s * 1000)
    expected = len(polls(until_s if overdue_s is None else min(until_s, overdue_s)))
    if overdue_s is not None:
        expected += len(polls(until_s, overdue_s=overdue_s))
    now_ms = ACCEPTED_MS + round(until_s * 1000)
    assert polls_until("r1", ACCEPTED_MS, overdue_ms, ROUTINE, now_ms) == expected
