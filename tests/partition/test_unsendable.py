"""Leads that cannot be sent: parked or rejected, reported once, found by ids and imports."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stream_app.domain.dead_letter.replay import redriven, returning
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.suppression import Suppression, erased_row, person_row
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.model.messages import ImportSummary, StatusEvent
from stream_app.domain.model.outcome import Refused, Uncertain
from stream_app.domain.model.pseudonyms import digest
from stream_app.domain.model.records import ConsumedRecord, Record
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench, lead_value
from tests.support.partition.virtual import now_ms, virtual_time

OVERSIZE = lead_value(fields={"email": "a@example.com", "note": "x" * 9_000})


async def _failed(setup: Setup | None = None) -> tuple[Bench, ConsumedRecord]:
    """A lead that Clay has just refused for the last time, and its dead letter."""
    bench = Bench(setup or Setup(callbacks=False))
    bench.clay.first = [Refused("http_503", 1)] * bench.plan.delivery.max_attempts
    bench.publish("id0", "a")
    await bench.serve_for(10.0)
    [dead_letter] = bench.dead_letters(bench.plan.topics.dlq)
    return bench, dead_letter


def _waits(bench: Bench, reason: str) -> ConsumedRecord:
    """The lead's one parked record, fit to be sent back."""
    [dead_letter] = bench.dead_letters(bench.plan.topics.parked)
    envelope = read_envelope(dead_letter)
    assert envelope.reason == reason
    assert envelope.disposition == "failed"
    assert envelope.lead_id == "id0"
    assert envelope.origin == "leads/0/0"
    assert envelope.seq == len(bench.states())
    assert bench.states()[-2:] == ["replayed", "parked"]
    return dead_letter


@pytest.mark.parametrize("operator", [False, True])
@virtual_time
async def test_a_lead_that_comes_back_and_cannot_be_sent_any_more_is_parked_once(
    operator: bool,
) -> None:
    bench, dead_letter = await _failed()
    back = (redriven if operator else returning)(read_envelope(dead_letter), dead_letter.record_id)
    sent = len(bench.clay.bodies)
    for _ in range(2):
        await bench.come_back(replace(dead_letter, value=OVERSIZE), back)
    parked = _waits(bench, "cell_oversize")
    assert bench.dead_letters(bench.plan.topics.dlq) == [dead_letter], (
        "no dead letter of a dead letter"
    )
    assert len(bench.clay.bodies) == sent
    repaired = replace(parked, value=dead_letter.value)
    await bench.come_back(repaired, redriven(read_envelope(parked), parked.record_id))
    assert bench.states()[-2:] == ["sending", "accepted"]


@pytest.mark.parametrize("gone", ["destination", "workspace"])
@virtual_time
async def test_a_lead_whose_destination_is_not_configured_any_more_waits_for_it(gone: str) -> None:
    bench, dead_letter = await _failed()
    destination = bench.plan.destinations.pop("acme-main")
    workspace = bench.plan.workspaces["acme"]
    if gone == "workspace":
        del bench.plan.workspaces["acme"], bench.plan.pins["acme"]
    for _ in range(2):
        await bench.come_back(
            dead_letter,
            returning(read_envelope(dead_letter), dead_letter.record_id),
        )
    parked = _waits(bench, f"unknown_{gone}")
    plan = bench.plan
    plan.destinations["acme-main"] = destination
    plan.workspaces["acme"] = workspace
    plan.pins["acme"] = 0
    await bench.come_back(parked, redriven(read_envelope(parked), parked.record_id))
    assert bench.states()[-2:] == ["sending", "accepted"]


@pytest.mark.parametrize(
    ("row", "is_erased"),
    [
        (erased_row("acme", "id0"), True),
        (person_row(digest("email", "a@example.com")), True),
        (person_row(digest("email", "another@example.com")), False),
    ],
)
@virtual_time
async def test_the_parked_copy_of_an_erased_lead_has_no_fields(row: bytes, is_erased: bool) -> None:
    bench, dead_letter = await _failed()
    reason: Any = "erased" if row.startswith(b"e/") else "suppressed"
    suppression = Suppression(reason, now_ms(), "c1", "jane")
    await bench.partition.state.commits.submit(
        CommitStep([(row, msgspec.json.encode(suppression))], [], []),
    )
    del bench.plan.destinations["acme-main"]
    await bench.come_back(dead_letter, returning(read_envelope(dead_letter), dead_letter.record_id))
    assert (_waits(bench, "unknown_destination").value is None) == is_erased


@virtual_time
async def test_a_lead_goes_back_to_where_it_failed_though_the_default_is_another_one_now() -> None:
    bench, dead_letter = await _failed()
    main = bench.plan.destinations["acme-main"]
    bench.plan.put_destination(replace(main, alias="other"))
    acme = bench.plan.workspaces["acme"]
    bench.plan.workspaces["acme"] = replace(acme, default_destination="other")
    await bench.come_back(dead_letter, returning(read_envelope(dead_letter), dead_letter.record_id))
    assert bench.states()[-3:] == ["replayed", "sending", "accepted"]
    assert bench.events()[-1].destination == "acme-main"


@pytest.mark.parametrize("force", [False, True])
@virtual_time
async def test_an_uncertain_lead_of_a_removed_destination_stays_reserved_until_a_human_decides(
    force: bool,
) -> None:
    """Neither its lane nor its row forgets the cost, and both say the same."""
    bench = Bench()
    bench.clay.first = [Uncertain("read_timeout", 1)]
    bench.kafka.produce(0, Record(bench.plan.topics.leads, b"acme", lead_value(force=force)))
    await bench.serve_for(5.0)
    [copy] = bench.dead_letters(bench.plan.topics.wait(60))
    destination = bench.plan.destinations.pop("acme-main")
    workspace = bench.plan.workspaces.pop("acme")
    for _ in range(2):
        await bench.come_back(copy, read_envelope(copy))
    assert bench.states()[-2:] == ["send_uncertain", "parked"]
    [parked] = bench.dead_letters(bench.plan.topics.parked)
    assert bench.day().credits_reserved == destination.ceiling.credits
    bench.plan.destinations["acme-main"] = destination
    bench.plan.workspaces["acme"] = workspace
    await bench.come_back(parked, returning(read_envelope(parked), parked.record_id, 9))
    assert len(bench.clay.bodies) == 1, "no rewind sends it"
    await bench.come_back(parked, redriven(read_envelope(parked), parked.record_id))
    assert len(bench.clay.bodies) == 2
    day = bench.day()
    assert day.credits_spent == destination.ceiling.credits
    assert day.credits_reserved == destination.ceiling.credits


@virtual_time
async def test_an_input_that_was_being_sent_and_cannot_be_read_any_more_is_uncertain() -> None:
    bench = Bench(clay_takes_s=100.0)
    bench.publish("id0", "a")
    await bench.serve_for(1.0)
    await bench.partition.close()
    bench.plan.destinations["acme-main"] = replace(
        bench.plan.destinations["acme-main"],
        columns={"phone": "Phone"},
    )
    bench.start_over()
    await bench.serve_for(10.0)
    assert bench.states() == ["received", "sending", "send_uncertain"]
    [copy] = bench.dead_letters(bench.plan.topics.wait(60))
    await bench.come_back(copy, read_envelope(copy))
    assert bench.states()[3:] == ["parked"]
    assert len(bench.clay.bodies) == 1


ADA = {"email": "ada@example.com"}


@pytest.mark.parametrize(
    ("document", "lead_id"),
    [
        ({"lead_id": "r-1", "workspace": "unknown", "fields": ADA}, "r-1"),
        ({"lead_id": "r-2", "workspace": "acme", "destination": "peple", "fields": ADA}, "r-2"),
        ({"workspace": "acme", "fields": {"title": "CEO"}}, "record:leads/0/0"),
        ([], "record:leads/0/0"),
        (
            {"lead_id": "ada@example.com", "workspace": "unknown", "fields": ADA},
            plain_id("ada@example.com"),
        ),
    ],
)
@virtual_time
async def test_a_rejected_lead_is_found_by_its_id(document: object, lead_id: str) -> None:
    bench = Bench(Setup(callbacks=False))
    bench.produce(document)
    await bench.serve_for(10.0)
    (event,) = bench.events()
    assert event.status == "rejected_invalid"
    assert event.lead_id == lead_id


SUMMARY = {"rows": 12, "refused": 2, "leads": 10, "file": "for ada@example.com.csv", "who": "jane"}


async def events_of(*imports: dict[str, Any]) -> list[StatusEvent]:
    """The events of a lead that comes with each of these imports."""
    bench = Bench(Setup(callbacks=False))
    for named in imports:
        bench.publish("a", "ada", **named)
    await bench.serve_for(10.0)
    return bench.events()


@virtual_time
async def test_only_the_first_event_names_the_import_and_its_summary_without_personal_data() -> (
    None
):
    first, *others = await events_of({"import_id": "march", "import_summary": SUMMARY})
    assert first.import_id == "march"
    assert first.import_summary == ImportSummary(12, 2, 10, "for [email]", "jane")
    assert {(event.import_id, event.import_summary) for event in others} == {("", None)}


@virtual_time
async def test_a_lead_that_came_astray_names_its_import_in_its_first_event_here_as_well() -> None:
    """A reader may see the events of its home before the one that says where it was first."""
    bench = Bench(Setup(callbacks=False))
    lead = b'{"lead_id": "id0", "fields": {"email": "ada@example.com"}, "import_id": "march"}'
    came = Envelope(origin="leads/1/7", way="rerouted", seq=1, hops=1)
    bench.kafka.produce(0, Record("leads.retry", b"acme", lead, came.to_headers()))
    await bench.serve_for(10.0)
    first, *others = bench.events()
    assert first.origin == "leads/1/7"
    assert first.seq == 2
    assert first.import_id == "march"
    assert {event.import_id for event in others} == {""}


@virtual_time
async def test_a_duplicate_belongs_to_the_import_that_sent_it() -> None:
    events = await events_of({"import_id": "march"}, {"import_id": "april"})
    assert [(event.status, event.import_id) for event in events if event.import_id] == [
        ("received", "march"),
        ("duplicate", "april"),
    ]


@virtual_time
async def test_a_name_that_may_be_personal_is_in_no_event() -> None:
    events = await events_of({"import_id": "ada@example.com"})
    assert {event.import_id for event in events} == {""}
