"""The checker of the campaigns finds each broken promise in invented evidence, and none in good
evidence.
"""

import itertools
import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, Period
from stream_app.domain.model.messages import Status, StatusEvent
from tests.chaos.checker import Checker, Evidence
from tests.chaos.evidence import people_of
from tests.e2e.fleet import Request
from tests.e2e.load import HOSTILE


def event(origin: str, seq: int, status: Status, reason: str = "") -> StatusEvent:
    return StatusEvent(f"{origin}#{seq}", "lead-1", status, seq, seq, origin, reason=reason)


def request(
    seq: int,
    status: int | str = 200,
    accepted: int = 1,
    lead_id: str = "lead-1",
) -> Request:
    return Request(seq, seq, status, accepted, "w0", lead_id)


def lane(spent: int, reserved: int = 0) -> Lane:
    return Lane("w0", 0, budget=Budget(days=(Period("2026-11-24", spent, reserved),)))


A = "leads/0/0"
B = "leads/0/1"
HISTORY = [event(A, 1, "received"), event(A, 2, "sending"), event(A, 3, "accepted")]
AGAIN = [event(B, 1, "duplicate")]
UNCERTAIN = [*HISTORY[:2], event(A, 3, "send_uncertain")]
RESENT = [
    *UNCERTAIN,
    event(A, 4, "replayed", "resend"),
    event(A, 5, "sending"),
    event(A, 6, "accepted"),
]
CLEAN = Evidence(
    inputs={A: "w0", B: "w0"},
    people={A: {"w0 lead-1", "w0 ada@example.com"}, B: {"w0 again-1", "w0 ada@example.com"}},
    published={"lead": 1, "same_person": 1},
    max_replays=3,
    events=[*HISTORY, *AGAIN],
    requests=[request(1, 429, 0), request(2)],
    coming=(),
    poison=Counter(),
    parked=Counter(),
    lanes=[lane(6)],
    caps={"w0": 30},
    credits_a_lead=6,
    ceiling=20,
    may_wait={},
)
RUN = msgspec.structs.replace(
    event("leads/0/5", 1, "without_value"),
    first_offset=3,
    last_offset=5,
    records=3,
)
RUN_2 = msgspec.structs.replace(
    event("leads/0/6", 1, "without_value"),
    first_offset=5,
    last_offset=6,
    records=1,
)
WITH_RUN = {**CLEAN.published, "without value": 3}


def promises(evidence: Evidence) -> set[str]:
    return {finding.promise for finding in Checker(evidence).verdict().findings}


def test_good_evidence_has_no_finding() -> None:
    assert not promises(CLEAN)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        ({"events": HISTORY}, "lost"),  # a record without an event
        ({"events": [*HISTORY[:1], *AGAIN]}, "lost"),  # one that stands still
        # one that should have gone on
        ({"events": [*HISTORY[:1], *AGAIN], "coming": {A}}, "stuck"),
        ({"requests": []}, "lost"),  # accepted, it says, and Clay never saw it
        ({"requests": [request(1), request(2)]}, "double"),
        # one person, two ids
        ({"requests": [request(1), request(2, lead_id="again-1")]}, "double"),
        ({"requests": [request(1), request(2, lead_id="who")]}, "illegal"),  # no event reports it
        # it was uncertain, not refused
        ({"requests": [request(1, "hang", 1), request(2)]}, "double"),
        # the same, though Clay did not take it
        ({"requests": [request(1, 500, 0), request(2)]}, "double"),
        ({"events": [*HISTORY, HISTORY[2], *AGAIN]}, "illegal"),  # reported twice
        ({"events": [*HISTORY[1:], HISTORY[0], *AGAIN]}, "illegal"),  # out of sequence
        ({"events": [HISTORY[0], event(A, 2, "accepted"), *AGAIN]}, "illegal"),  # never sent
        # parked, and not there
        ({"events": [*UNCERTAIN, event(A, 4, "parked"), *AGAIN]}, "illegal"),
        ({"events": [event(A, 1, "rejected_invalid"), *AGAIN]}, "lost"),  # a good lead
        ({"people": {A: {"w0 lead-1"}}}, "lost"),  # no lead, and yet a duplicate
        ({"events": [*HISTORY[:1], event(A, 2, "expired"), *AGAIN]}, "lost"),
        ({"events": [*HISTORY[:1], event(A, 2, "suppressed"), *AGAIN]}, "lost"),
        # each of the other, and Clay has none
        ({"events": [event(A, 1, "duplicate"), *AGAIN]}, "lost"),
        ({"people": {A: {"w0 lead-1"}, B: {"w0 lead-2"}}}, "lost"),  # a duplicate of another person
        (
            {"events": [*HISTORY[:1], event(A, 2, "parked"), *AGAIN], "parked": Counter([A])},
            "lost",
        ),  # nothing was tried
        # one that never reached Kafka
        ({"published": {"lead": 1, "same_person": 1, "bulk": 1}}, "lost"),
        # its routine has run, and nobody has its result
        ({"routines": frozenset({"w0"})}, "stuck"),
        # no event counts them
        ({"without_value": {"leads/0/5": 3}, "published": WITH_RUN}, "lost"),
        (
            {"without_value": {"leads/0/5": 3}, "published": WITH_RUN, "coming": {"leads/0/5"}},
            "stuck",
        ),
        (
            {
                "without_value": {"leads/0/5": 3},
                "published": WITH_RUN,
                "events": [*CLEAN.events, RUN, RUN_2],
            },
            "illegal",
        ),
        (
            {
                "without_value": {"leads/0/5": 2},
                "published": WITH_RUN,
                "events": [*CLEAN.events, RUN],
            },
            "lost",
        ),
        ({"published": WITH_RUN}, "lost"),  # they never reached Kafka
        ({"inputs": {A: "w0"}}, "illegal"),  # a history from nowhere
        ({"lanes": [lane(12, 20)]}, "overspend"),
        ({"caps": {"w0": 5}, "lanes": []}, "overspend"),  # by Clay's own count
    ],
)
def test_a_broken_promise_is_found(broken: dict[str, Any], promise: str) -> None:
    assert promise in promises(msgspec.structs.replace(CLEAN, **broken))


def test_a_notification_that_changed_nothing_is_a_record_of_its_own() -> None:
    again = event("leads.callbacks/0/0", 1, "callback_duplicate")
    assert not promises(msgspec.structs.replace(CLEAN, events=[*CLEAN.events, again]))


def test_a_routine_is_at_rest_with_its_answer() -> None:
    answered = [*HISTORY, event(A, 4, "no_data"), *AGAIN]
    assert not promises(
        msgspec.structs.replace(CLEAN, events=answered, routines=frozenset({"w0"})),
    )


def test_records_without_a_value_are_counted_by_events_and_are_no_inputs() -> None:
    evidence = msgspec.structs.replace(
        CLEAN,
        events=[*CLEAN.events, RUN],
        without_value={"leads/0/5": 3},
        published=WITH_RUN,
    )
    assert not promises(evidence)
    waits = {"without_value": {"leads/0/5": 3}, "published": WITH_RUN, "coming": {"leads/0/5"}}
    shut = {"may_wait": {"leads/0/5": "w0"}, "lanes": [lane(28)]}
    assert not promises(msgspec.structs.replace(CLEAN, **waits, **shut)), (
        "it waits behind a lane without a budget"
    )


def test_leads_that_share_any_identifier_are_one_person() -> None:
    email = "w0 ada@example.com"
    linkedin = "w0 https://www.linkedin.com/in/ada"
    leads = ({"w0 again-1", email}, {"w0 again-2", linkedin}, {"w0 lead-1", email, linkedin})
    for order in itertools.permutations(leads):
        people = dict(zip(("leads/0/0", "leads/0/1", "leads/0/2"), order, strict=True))
        requests = [request(1, lead_id="again-1"), request(2, lead_id="again-2")]
        assert "double" in promises(
            msgspec.structs.replace(CLEAN, people=people, requests=requests),
        )


def test_a_double_is_allowed_where_the_policy_sent_it_again_and_reported_it() -> None:
    evidence = msgspec.structs.replace(
        CLEAN,
        events=[*RESENT, *AGAIN],
        requests=[request(1), request(2)],
    )
    assert "double" in promises(evidence)
    assert not promises(msgspec.structs.replace(evidence, resend=True))
    thrice = msgspec.structs.replace(
        evidence,
        resend=True,
        requests=[request(1), request(2), request(3)],
    )
    assert "double" in promises(thrice)


def test_a_lead_held_by_its_budget_is_not_lost() -> None:
    held = [*HISTORY[:1], event(A, 2, "held_budget"), *AGAIN]
    evidence = msgspec.structs.replace(
        CLEAN,
        events=held,
        coming={A},
        may_wait={A: "w0"},
        lanes=[lane(6), lane(12)],
    )
    assert not promises(evidence)
    assert "lost" in promises(msgspec.structs.replace(evidence, coming=()))
    for lanes in ([], [lane(12), lane(6)], [lane(6, 4)]):
        assert "stuck" in promises(msgspec.structs.replace(evidence, lanes=lanes)), (
            "there is room for one more"
        )
    assert "stuck" in promises(msgspec.structs.replace(evidence, may_wait={A: "another"}))


def test_a_lead_may_be_parked_when_it_is_uncertain_or_has_no_replay_left() -> None:
    uncertain = [*UNCERTAIN, event(A, 4, "parked")]
    again: list[Status] = ["dead_lettered", "replayed", "sending"]
    replayed = [
        *HISTORY[:2],
        *(event(A, seq, again[seq % 3]) for seq in range(3, 12)),
        event(A, 12, "parked"),
    ]
    for history in (uncertain, replayed):
        assert not promises(
            msgspec.structs.replace(CLEAN, events=[*history, *AGAIN], parked=Counter([A])),
        )
    fewer = msgspec.structs.replace(
        CLEAN,
        events=[*replayed, *AGAIN],
        parked=Counter([A]),
        max_replays=4,
    )
    assert promises(fewer) == {"lost"}


def test_only_a_suppressed_person_ends_as_suppressed() -> None:
    ada = frozenset({"w0 ada@example.com"})
    ended = [*HISTORY[:1], event(A, 2, "suppressed"), event(B, 1, "suppressed")]
    unsent = msgspec.structs.replace(CLEAN, events=ended, requests=[])
    assert promises(unsent) == {"lost"}
    assert not promises(msgspec.structs.replace(unsent, suppressed=ada))
    assert promises(msgspec.structs.replace(CLEAN, suppressed=ada)) == {"lost"}, "it was sent"


def test_an_answered_lead_rests_and_clay_must_have_got_it() -> None:
    answered = msgspec.structs.replace(CLEAN, events=[*HISTORY, event(A, 4, "enriched"), *AGAIN])
    assert not promises(answered)
    assert promises(msgspec.structs.replace(answered, requests=[])) == {"lost"}


def test_the_report_of_a_lead_has_events_and_requests_in_order() -> None:
    reported = Checker(CLEAN).describe("lead-1").splitlines()
    assert [line.split()[0] for line in reported] == sorted(line.split()[0] for line in reported)
    assert any("accepted" in line for line in reported)
    assert any("429" in line for line in reported)


def test_two_records_that_forge_one_id_are_of_one_lead_which_is_not_its_owners() -> None:
    """A campaign reported the second one as a duplicate of nothing, when its load drew two."""

    def lead(email: str, source: str = "") -> bytes:
        about = {"lead_id": "p-ada", "workspace": "w0", "source": source}
        return json.dumps({"fields": {"email": email}, **about}).encode()

    first = people_of(lead("eve@example.com", f"{HOSTILE}: forged id"))
    second = people_of(lead("mallory@example.com", f"{HOSTILE}: forged id"))
    owner = people_of(lead("ada@example.com"))
    assert first & second
    assert not first & owner
