"""`publish --wait`: the last status of each published record, and when all of them are at rest."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.client.publish.send import PublishedLeads, wait_for_rest
from stream_app.domain.books.records import NOT_LEADS
from stream_app.domain.model.messages import Status, StatusEvent


def event(place: str, status: Status, destination: str = "people") -> StatusEvent:
    return StatusEvent(f"{place}#1", "lead", status, 1, 0, place, "acme", destination)


def published(leads: int = 2) -> PublishedLeads:
    leads_of = PublishedLeads("leads", {"one-way"})
    leads_of.add(0, 100, leads)
    return leads_of


async def fed(left: list[list[StatusEvent]]) -> AsyncIterator[list[StatusEvent]]:
    """Yields these batches, then nothing for ever."""
    while True:
        yield left.pop(0) if left else []
        await asyncio.sleep(0)


AT_REST = (
    *(
        "enriched",
        "partial",
        "no_data",
        "enrich_error",
        "served_from_cache",
        "rejected_invalid",
        "suppressed",
    ),
    *("duplicate", "expired", "parked"),
)
UNDER_WAY = (
    "accepted",
    "held_budget",
    "deferred",
    "send_uncertain",
    "dead_lettered",
    "callback_overdue",
)


@pytest.mark.parametrize(
    ("status", "destination", "rests"),
    [
        ("accepted", "one-way", True),
        *((status, "people", True) for status in AT_REST),
        *((status, "people", False) for status in UNDER_WAY),
    ],
)
def test_where_a_lead_is_at_rest(status: Status, destination: str, rests: bool) -> None:
    leads = published(1)
    leads.apply(event("leads/0/100", status, destination))
    assert leads.at_rest == int(rests)
    assert leads.no_event == 0
    assert leads.total == 1
    assert leads.by_status(at_rest=rests) == {status: 1}
    assert leads.by_status(at_rest=not rests) == {}


@pytest.mark.parametrize(
    "place",
    ["leads/0/99", "leads/0/102", "leads/1/100", "leads.bulk/0/100", "leads.callbacks/0/100"],
)
def test_events_of_other_records_change_nothing(place: str) -> None:
    leads = published(2)
    leads.apply(event(place, "enriched"))
    assert leads.at_rest == 0
    assert leads.no_event == 2


def test_leads_whose_offset_is_unknown_count_and_are_never_at_rest() -> None:
    leads = published(1)
    leads.add(0, -1, 3)
    leads.apply(event("leads/0/100", "enriched"))
    assert leads.at_rest == 1
    assert leads.no_event == 3
    assert leads.total == 4


async def test_it_waits_until_all_are_at_rest() -> None:
    leads = published(2)
    shown = list[tuple[int, int]]()
    batches = [
        [event("leads/0/100", "received"), event("leads/0/101", "duplicate")],
        [],
        [event("leads/0/100", "enriched")],
        [event("leads/0/100", "parked")],
    ]
    await wait_for_rest(leads, fed(batches), 60, lambda done, total: shown.append((done, total)))
    assert shown == [(1, 2), (1, 2), (2, 2)]
    assert leads.by_status(at_rest=True) == {"enriched": 1, "duplicate": 1}
    assert len(batches) == 1, "the last one is not read"


async def test_it_ends_when_its_time_is_over() -> None:
    leads = published(2)
    await wait_for_rest(leads, fed([[event("leads/0/100", "enriched")]]), 0.05, lambda *_: None)
    assert leads.at_rest == 1
    assert leads.no_event == 1


STATUSES = sorted(set(get_args(Status)) - NOT_LEADS)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.lists(st.tuples(st.integers(95, 135), st.sampled_from(STATUSES)), max_size=60),
)
def test_it_counts_as_a_dictionary_would(
    sizes: list[int],
    random: Random,
    events: list[tuple[int, Status]],
) -> None:
    """Batches of ours with gaps between them, acknowledged in any order, and any events."""
    batches = []
    offset = 100
    for size in sizes:
        batches.append((offset, size))
        offset += size + 2
    random.shuffle(batches)
    leads = PublishedLeads("leads", ())
    last = dict[int, Status | None]()
    for first, size in batches:
        leads.add(0, first, size)
        last.update(dict.fromkeys(range(first, first + size)))
    for at, status in events:
        leads.apply(event(f"leads/0/{at}", status))
        if at in last:
            last[at] = status
    counted = Counter(status for status in last.values() if status is not None)
    assert (
        Counter(leads.by_status(at_rest=True)) + Counter(leads.by_status(at_rest=False)) == counted
    )
    assert leads.total == len(last) == leads.no_event + counted.total()
    assert leads.at_rest == sum(leads.by_status(at_rest=True).values())


def test_a_status_that_no_lead_has_any_more_is_not_told() -> None:
    leads = published(2)
    steps: tuple[Status, ...] = ("received", "sending")
    for status in steps:
        leads.apply(event("leads/0/101", status))
    assert leads.by_status(at_rest=False) == {"sending": 1}
    leads.apply(event("leads/0/101", "enriched"))
    assert leads.by_status(at_rest=False) == {}
    assert leads.by_status(at_rest=True) == {"enriched": 1}
