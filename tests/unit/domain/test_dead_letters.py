"""Which dead letters are selected, how they are counted, and what a replay of them costs."""

from typing import Any

import msgspec
import pytest

from stream_app.domain.dead_letter.causes import (
    DeadLetterTally,
    Filter,
    LetterKind,
    addressed_to,
    headers_of,
    kind_of,
)
from stream_app.domain.dead_letter.orders import Fate, can_be_given_up, fate, pace
from stream_app.domain.dead_letter.replay import SuppressionList
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.delivery.suppression import Suppression, erased_row, person_row
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.identity import people
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.model.messages import Status
from stream_app.domain.plan import Actor, Change, Workspace

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
FAILED = {
    "stream-app-disposition": b"failed",
    "stream-app-reason": b"http_503",
    "stream-app-http-status": b"503",
    "stream-app-destination": b"people",
    "stream-app-lead-id": b"lead-1",
    "stream-app-reason-text": b"Something went wrong.",
}
OF_TUESDAY = b'{"fields": {"email": "ada@example.com"}, "import_id": "tuesday"}'
POISON = {"stream-app-disposition": b"poison"}


def test_headers_without_a_value_are_counted() -> None:
    """Seen: `stream-app dlq` ended with a traceback at a dead letter of another program."""
    empty = [(f"stream-app-{name}", None) for name in ("reason", "reason-text", "disposition")]
    headers = headers_of([*empty, ("stream-app-way", b"x")])
    tally = DeadLetterTally(NOW_MS)
    tally.add(headers, None, NOW_MS)
    assert [(group.kind, group.reason) for group in tally.sorted()] == [("foreign", "")]
    assert not Filter(reasons=frozenset({"x"})).matches(headers, None, None, NOW_MS)


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ({"reasons": frozenset({"http_503", "x"})}, {"reasons": frozenset({"x"})}),
        ({"statuses": frozenset({503})}, {"statuses": frozenset({50})}),
        ({"destinations": frozenset({"people"})}, {"destinations": frozenset({"firms"})}),
        ({"workspaces": frozenset({"acme"})}, {"workspaces": frozenset({"acm"})}),
        ({"leads": frozenset({"lead-1"})}, {"leads": frozenset({"lead-2"})}),
        ({"imports": frozenset({"tuesday", "x"})}, {"imports": frozenset({"tues"})}),
        ({"kinds": frozenset({"failed"})}, {"kinds": frozenset({"foreign"})}),
        ({"since_ms": NOW_MS}, {"since_ms": NOW_MS + 1}),
        ({"until_ms": NOW_MS + 1}, {"until_ms": NOW_MS}),
    ],
)
def test_each_condition_narrows_the_filter(yes: dict[str, Any], no: dict[str, Any]) -> None:
    assert Filter().matches(FAILED, b"acme", OF_TUESDAY, NOW_MS)
    assert Filter(**yes).matches(FAILED, b"acme", OF_TUESDAY, NOW_MS)
    assert not Filter(**no).matches(FAILED, b"acme", OF_TUESDAY, NOW_MS)


def test_contradictory_conditions_are_refused_and_without_any_all_match() -> None:
    assert Filter().matches({}, None, None, NOW_MS)
    assert (
        Filter(since_ms=2, until_ms=2).problems() == Filter(since_ms=3, until_ms=2).problems() != []
    )
    assert Filter(since_ms=3).problems() == Filter(until_ms=2).problems() == []
    assert Filter(statuses=frozenset({503}), reasons=frozenset({"not_json"})).problems()
    assert Filter(imports=frozenset({"ada@example.com"})).problems(), "no event names it"
    assert Filter(imports=frozenset({""})).problems()
    assert not Filter(imports=frozenset({"tuesday"})).problems()
    assert Filter(statuses=frozenset({503}), reasons=frozenset({"http_504"})).problems()
    assert not Filter(
        statuses=frozenset({503}),
        reasons=frozenset({"http_503"}),
        since_ms=1,
        until_ms=2,
    ).problems()


def test_the_kind_follows_from_the_headers() -> None:
    assert kind_of(FAILED) == "failed"
    assert kind_of(POISON) == "poison"
    assert kind_of({"stream-app-way": b"deferred", "stream-app-origin": b"leads/0/1"}) == "deferred"
    assert kind_of({"stream-app-disposition": b"nonsense"}) == "foreign"
    assert kind_of({"stream-app-way": b"deferred"}) == "foreign", "it names no record"
    assert kind_of({"stream-app-origin": b"leads/0/1"}) == "foreign"
    assert kind_of({}) == "foreign"


def test_the_tally_has_causes_ages_and_a_trend() -> None:
    tally = DeadLetterTally(NOW_MS)
    for hours in (0.2, 30, 0.1, 1.5):
        tally.add(FAILED, b"acme", int(NOW_MS - hours * HOUR_MS))
    tally.add({}, None, NOW_MS)
    first, second = tally.sorted()
    assert first.kind == "failed"
    assert first.reason == "http_503"
    assert first.workspace == "acme"
    assert first.count == 4
    assert first.first_ms == NOW_MS - 30 * HOUR_MS
    assert first.last_ms == NOW_MS - HOUR_MS // 10
    assert first.last_hour == 2
    assert first.hour_before == 1
    assert first.trend == "rising"
    assert first.texts == {"Something went wrong.": 4}
    assert second.kind == "foreign"
    assert tally.ages == {"under an hour": 3, "under a day": 1, "under a week": 1}
    assert tally.count == 5


@pytest.mark.parametrize(
    ("age_ms", "age", "trend"),
    [
        (HOUR_MS - 1, "under an hour", "rising"),
        (HOUR_MS, "under a day", "falling"),
        (2 * HOUR_MS - 1, "under a day", "falling"),
        (2 * HOUR_MS, "under a day", "steady"),
        (24 * HOUR_MS, "under a week", "steady"),
        (7 * 24 * HOUR_MS, "over a week", "steady"),
    ],
)
def test_a_dead_letter_has_an_age_to_the_millisecond(age_ms: int, age: str, trend: str) -> None:
    tally = DeadLetterTally(NOW_MS)
    tally.add(FAILED, b"acme", NOW_MS - age_ms)
    assert tally.ages == {age: 1}
    assert [group.trend for group in tally.sorted()] == [trend]


def test_the_tally_is_bounded() -> None:
    tally = DeadLetterTally(NOW_MS)
    for number in range(20_000):
        tally.add(
            {
                "stream-app-reason": b"%0101d" % number,
                "stream-app-reason-text": str(number).encode(),
            },
            b"k",
            NOW_MS,
        )
    assert len(tally.groups) == 10_001
    assert sum(group.count for group in tally.groups.values()) == 20_000
    assert max(len(group.reason) for group in tally.groups.values()) == 100
    assert max(len(group.texts) for group in tally.groups.values()) == 51


def row(state: Status, **changes: Any) -> Delivery:
    return Delivery(1, state, "leads/0/1", 7, 0, 0, "", **changes)


@pytest.mark.parametrize(
    ("seq", "row_now", "by_select"),
    [
        (7, row("dead_lettered"), "goes"),
        (6, row("dead_lettered"), "later_dead_letter"),
        (7, row("parked"), "goes"),
        (7, row("parked", sends=1), "may_be_at_clay"),
        (7, row("accepted"), "delivered"),
        (7, row("enriched"), "delivered"),
        (7, row("deferred"), "under_way"),
        (7, row("suppressed", final=True), "ended"),
        (7, None, "no_row"),
    ],
)
def test_the_fate_of_a_dead_letter_follows_from_its_row(
    seq: int,
    row_now: Delivery | None,
    by_select: Fate,
) -> None:
    assert fate("failed", seq, row_now, uncertain=False) == by_select
    named = "goes" if by_select == "may_be_at_clay" else by_select
    assert fate("failed", seq, row_now, uncertain=True) == named, (
        "only who names them resends uncertain leads"
    )
    assert fate("poison", seq, row_now, uncertain=False) == "as_input"


@pytest.mark.parametrize(
    ("kind", "origin", "seq", "row_now", "end"),
    [
        ("failed", "leads/0/1", 7, row("dead_lettered"), "goes"),
        ("failed", "leads/0/1", 7, row("parked", sends=1), "goes"),
        ("poison", "leads/0/1", 7, row("rejected_invalid", final=True), "goes"),
        ("failed", "leads/0/1", 6, row("dead_lettered"), "later_dead_letter"),
        ("failed", "leads/0/0", 7, row("dead_lettered"), "replaced"),
        ("failed", "leads/0/1", 7, row("enriched"), "delivered"),
        ("failed", "leads/0/1", 7, row("suppressed", final=True), "ended"),
        ("failed", "leads/0/1", 7, row("replayed"), "under_way"),
        ("failed", "leads/0/1", 7, None, "no_row"),
        ("foreign", "leads/0/1", 7, None, "goes"),
    ],
)
def test_a_dead_letter_is_given_up_while_its_lead_has_come_to_nothing_else(
    kind: LetterKind,
    origin: str,
    seq: int,
    row_now: Delivery | None,
    end: Fate,
) -> None:
    assert can_be_given_up(kind, origin, seq, row_now) == end


def test_a_deferred_lead_comes_sooner_only_while_it_is_deferred() -> None:
    for row_now, end in (
        (row("deferred"), "goes"),
        (row("deferred", replay=1), "goes"),
        (row("sending"), "under_way"),
        (row("accepted"), "delivered"),
        (row("expired", final=True), "ended"),
        (None, "no_row"),
    ):
        assert fate("deferred", 7, row_now, uncertain=False) == end
    assert fate("deferred", 6, row("deferred"), uncertain=False) == "under_way", (
        "deferred again since"
    )


def test_the_rate_of_replays_is_a_share_of_the_lanes_rate_now() -> None:
    policy = Workspace("acme", "people", rate=RatePolicy(rate_per_s=8))
    lane = Lane("acme", 0, changes=(Change("rate.rate_per_s", 8, 2, Actor("jane", "c1", NOW_MS)),))
    assert [pace(known.in_force(policy), 0.5, None) for known in (Lane("acme", 0), lane)] == [
        4.0,
        1.0,
    ]
    assert pace(lane.in_force(policy), 0.5, 7.0) == 7.0


@pytest.mark.parametrize(
    ("headers", "key", "value", "address"),
    [
        (FAILED, b"acme", b'{"workspace": "beta", "destination": "firms"}', ("acme", "people")),
        ({}, None, b'{"workspace": "beta", "destination": "firms"}', ("beta", "firms")),
        ({}, b"acme", b'{"fields": {}}', ("acme", "")),
        (
            {**POISON, "stream-app-destination": b"people"},
            b"acme",
            b'{"workspace": 5}',
            ("acme", ""),
        ),
        ({"stream-app-disposition": b"policy"}, b"acme", b"[" * 100_000, ("acme", "")),
        ({}, b"\xff", b"\xff", ("\ufffd", "")),
        ({}, None, None, ("", "")),
    ],
)
def test_a_dead_letter_goes_to_its_workspace_and_destination(
    headers: dict[str, bytes],
    key: bytes | None,
    value: bytes | None,
    address: tuple[str, str],
) -> None:
    assert addressed_to(headers, key, value) == address


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"fields": {"email": "Ada@Example.com", "linkedin_url": "linkedin.com/in/ada"}}', True),
        (
            (
                b'{"fields": {"linkedin_url": "linkedin.com/in/other", "email": '
                b'"mailto:ada@example.com"}, "lead_id": 5}'
            ),
            True,
        ),
        (b'{"fields": {"email": 5}}', False),
        (b'{"fields": {"email": "bob@example.com"}}', False),
        (b'{"fields": [1]}', False),
        (b"[" * 100_000, False),
        (b"\xff", False),
        (b"", False),
        (None, False),
    ],
)
def test_a_suppressed_person_is_known_in_a_dead_letter_that_is_no_lead(
    value: bytes | None,
    expected: bool,
) -> None:
    (ada,) = people({"email": "ada@example.com"})
    listed = SuppressionList()
    assert not listed
    assert not listed.names({}, None, value, 0)
    for partition in (1, 2, 1, 2):  # a row may be written, and read, again
        listed.apply(person_row(ada), b"{}", partition)
    listed.apply(b"d/acme/people/1", b"{}", 0)
    assert listed.names({}, None, value, 0) == expected
    listed.apply(person_row(ada), None, 1)
    assert listed.names({}, None, value, 0) == expected, "another partition still knows"
    for begins in (listed, SuppressionList()):
        begins.apply(person_row(ada), b"{}", 2)
        begins.apply(person_row(ada), None, 2)
        assert not begins, "no other one does"


@pytest.mark.parametrize("partition", [0, 1, 2, 3, 255])
def test_a_partition_deletes_only_its_own_row_of_a_suppressed_person(partition: int) -> None:
    (ada,) = people({"email": "ada@example.com"})
    listed = SuppressionList()
    partitions = {0, 1, 2, 3, 255}
    for written in partitions:
        listed.apply(person_row(ada), b"{}", written)
    for deleted in partitions - {partition}:
        listed.apply(person_row(ada), None, deleted)
    assert listed, "this one still knows the person"
    listed.apply(person_row(ada), None, partition)
    assert not listed


@pytest.mark.parametrize(
    ("headers", "key", "value", "expected"),
    [
        ({**FAILED, "stream-app-origin-timestamp-ms": b"5000"}, b"acme", b"\xff", True),
        # published again since
        ({**FAILED, "stream-app-origin-timestamp-ms": b"5001"}, b"acme", b"{}", False),
        ({**FAILED, "stream-app-lead-id": b"lead-2"}, b"acme", b"{}", False),
        (FAILED, b"beta", b"{}", False),
        (
            {**POISON, "stream-app-origin-timestamp-ms": b"9" * 5_000},
            b"acme",
            b'{"lead_id": " lead-1"}',
            True,
        ),
        ({}, None, b'{"lead_id": "lead-1", "workspace": "acme"}', True),
        ({}, None, b'{"lead_id": 1, "workspace": ["acme"]}', False),
        ({}, b"acme", b"[" * 100_000, False),
    ],
)
def test_an_erased_lead_is_recognised_in_its_dead_letters_by_its_id(
    headers: dict[str, bytes],
    key: bytes | None,
    value: bytes,
    expected: bool,
) -> None:
    """Seen: `dlq show --value` showed it, `export` wrote it, and `plan` said that it would go."""
    listed = SuppressionList()
    row = erased_row("acme", "lead-1")
    listed.apply(row, msgspec.json.encode(Suppression("erased", 5_000, "c1", "jane")), 0)
    assert listed
    assert listed.names(headers, key, value, 4_000) == expected
    listed.apply(row, None, 0)
    assert not listed


def test_an_id_that_could_contain_an_address_is_recognised_by_its_hash() -> None:
    listed = SuppressionList()
    erased = msgspec.json.encode(Suppression("erased", 5_000, "c1", "jane"))
    listed.apply(erased_row("acme", "ada@example.com"), erased, 0)
    assert listed.names({}, b"acme", b'{"lead_id": "ada@example.com"}', 1)
