"""A dead-lettered lead that is published again: the publication is sent, and no copy of the dead
letter ever is.
"""

import asyncio
import json
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.domain.dead_letter.replay import redriven, returning
from stream_app.domain.delivery.envelope import Envelope, Way, read_envelope
from stream_app.domain.delivery.state_machine import (
    NEXT,
    ROW_VERSION,
    Delivery,
    classify_record,
    may_be_at_clay,
)
from stream_app.domain.model.messages import Status
from stream_app.domain.model.outcome import Outcome, classify
from stream_app.domain.model.records import ConsumedRecord, Record
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import virtual_time

BUSY = classify(503, None, "", 1, True)
PERHAPS = classify(500, None, "", 1, True)
EARLIER = "leads/0/0"
LATER = "leads/0/1"

States = dict[str, list[str]]


def histories(bench: Bench) -> States:
    """The statuses of each history, by its origin."""
    statuses: States = {}
    for event in bench.events():
        statuses.setdefault(event.origin, []).append(event.status)
    return statuses


async def dead_lettered(*outcomes: Outcome, max_replays: int = 2) -> Bench:
    """A served bench whose first lead, id0 of ada, came to these outcomes."""
    bench = Bench(Setup(callbacks=False, max_attempts=1, max_replays=max_replays), clay_takes_s=0.1)
    bench.clay.first = list(outcomes)
    bench.publish("id0", "ada")
    await bench.serve()
    await asyncio.sleep(5)
    return bench


def came_back(dead_letter: ConsumedRecord, by: Literal["itself", "an operator"]) -> Envelope:
    envelope = read_envelope(dead_letter)
    back = (
        returning(envelope, dead_letter.record_id)
        if by == "itself"
        else redriven(envelope, dead_letter.record_id)
    )
    assert back is not None
    return back


async def replay(bench: Bench, dead_letter: ConsumedRecord, back: Envelope) -> None:
    bench.kafka.produce(
        0,
        Record("leads.retry", dead_letter.key, dead_letter.value, back.to_headers()),
    )
    await asyncio.sleep(5)


@pytest.mark.parametrize("by", ["itself", "an operator"])
@virtual_time
async def test_a_replay_that_comes_after_the_publication_is_not_sent(
    by: Literal["itself", "an operator"],
) -> None:
    bench = await dead_lettered(BUSY)
    [dead_letter] = bench.dead_letters("leads.dlq")
    bench.publish("id0", "corrected")
    await asyncio.sleep(5)
    for _ in range(2):  # the replay process may publish it twice
        await replay(bench, dead_letter, came_back(dead_letter, by))
    assert histories(bench) == {
        EARLIER: ["received", "sending", "dead_lettered", "replaced"],
        LATER: ["received", "sending", "accepted"],
    }
    assert [json.loads(body)["email"] for body in bench.clay.bodies] == [
        "ada@example.com",
        "corrected@example.com",
    ]
    end = bench.events(EARLIER)[-1]
    assert end.reason == "published_again"
    assert end.text == f"its lead was published again: {LATER}"


@virtual_time
async def test_a_dead_letter_that_may_be_at_clay_is_not_replaced_and_says_what_to_do() -> None:
    bench = await dead_lettered(PERHAPS)
    assert histories(bench)[EARLIER][-1] == "parked"
    bench.publish("id0", "corrected")
    await asyncio.sleep(5)
    assert histories(bench)[LATER] == ["duplicate"]
    assert len(bench.clay.bodies) == 1
    event = bench.events(LATER)[-1]
    assert event.reason == "may_be_at_clay"
    assert "stream-app replay redrive --uncertain" in event.text


@virtual_time
async def test_another_lead_of_the_person_does_not_replace_the_dead_letter() -> None:
    bench = await dead_lettered(BUSY)
    [dead_letter] = bench.dead_letters("leads.dlq")
    bench.publish("id1", "ada")
    await asyncio.sleep(5)
    assert histories(bench)[LATER] == ["duplicate"]
    assert "as lead id0: publish it again under that id" in bench.events(LATER)[-1].text
    await replay(bench, dead_letter, came_back(dead_letter, "itself"))
    assert histories(bench)[EARLIER][-1] == "accepted"
    assert len(bench.clay.bodies) == 2


states = st.sampled_from(
    sorted({state for state in NEXT if state is not None} | {"enriched", "duplicate"}),
)
ways: st.SearchStrategy[Way] = st.sampled_from(
    ("", "rerouted", "replayed", "redriven", "deferred", "uncertain"),
)


@settings(max_examples=8 * settings().max_examples)
@given(states, st.integers(0, 2), st.integers(0, 2), st.booleans(), ways, st.booleans())
def test_only_a_publication_replaces_and_only_what_clay_cannot_have(
    state: Status,
    sends: int,
    returns: int,
    final: bool,
    way: Way,
    own: bool,
) -> None:
    row = Delivery(
        ROW_VERSION,
        state,
        EARLIER,
        3,
        1_000,
        1,
        "t",
        sends=sends,
        returns=returns,
        final=final,
    )
    envelope = Envelope(origin=EARLIER if own else LATER, way=way)
    verdict = classify_record(row, envelope, 2_000, 1_000_000)
    if verdict == "replaces":
        assert own is False
        assert sends == 0
        assert way in ("", "rerouted")
        assert "replaced" in NEXT[state], "the history of the row can end so"
        assert "sending" not in NEXT[state], "no POST of it is under way"
        assert not may_be_at_clay(row)
        copied = msgspec.structs.replace(envelope, dead_letter="dlq/0/1")
        assert classify_record(row, copied, 2_000, 9) == ("fresh" if final else "duplicate"), (
            "a final row expires"
        )
    if not own and way not in ("", "rerouted"):
        assert verdict == "done", "what comes back of a history that has no row is never sent"
