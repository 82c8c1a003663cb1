"""Dead letters that an operator gives up: their leads or records end, once, and nothing waits for a
person any more.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest

from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.store import ReadModel
from stream_app.domain.books.records import STATES
from stream_app.domain.dead_letter.replay import giving_up, redriven, returning
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.outcome import Outcome, Poison, Refused, Uncertain
from stream_app.domain.model.records import ConsumedRecord, Record
from tests.simulation.account_counts import final_of, read_into, sources_of
from tests.simulation.account_ledger import Ledger
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import now_ms, virtual_time

WHY = "given up by jane: an old export"


class Counted(Bench):
    """Its dead letters can be given up, and a board counts what has become of them."""

    async def give_up(self, letter: ConsumedRecord) -> None:
        """What the replay process publishes for a dead letter that an operator gives up."""
        key, value, envelope = giving_up(letter, self.plan.workspaces, WHY)
        self.kafka.produce(0, Record(self.plan.topics.retry, key, value, envelope.to_headers()))
        await asyncio.sleep(10.0)

    def dlq(self) -> list[ConsumedRecord]:
        return self.dead_letters(self.plan.topics.dlq)

    def last_event(self) -> StatusEvent:
        return self.events()[-1]

    def kept(self, folder: Path) -> dict[str, int]:
        """How many dead letters of each state a board counts."""
        model = ReadModel(folder / "model.sqlite", sources_of(self.plan))
        try:
            model.wipe()
            read_into(model, Ledger(self.plan, self.kafka), Random(0), {})
        finally:
            model.close()
        names = self.plan.topics
        account = BoardQueries(folder / "model.sqlite", final_of(self.plan)).account(
            now_ms(),
            names.dlq,
            names.parked,
        )
        both = account.dlq, account.parked
        return {state: sum(getattr(letters, state) for letters in both) for state in STATES}


async def with_lead(*first: Outcome, value: bytes | None = None, **changes: object) -> Counted:
    """One lead, or what is none, and what Clay says to it at first."""
    bench = Counted()
    bench.clay.first = list(first)
    if value is None:
        bench.publish("id0", "p0", **changes)
    else:
        bench.kafka.produce(0, Record(bench.plan.topics.leads, b"acme", value))
    await bench.serve_for(10.0)
    return bench


@pytest.mark.parametrize(
    "value",
    [b"\xff\xfe", b"{", b'{"lead_id": "id0", "fields": {}, "workspace": "nowhere"}'],
)
@virtual_time
async def test_a_record_that_is_no_lead_is_given_up(value: bytes, tmp_path: Path) -> None:
    bench = await with_lead(value=value)
    [letter] = bench.dlq()
    rejected = bench.last_event()
    assert rejected.status == "rejected_invalid"
    assert bench.kept(tmp_path)["open"] == 1
    await bench.give_up(letter)
    ended = bench.last_event()
    assert ended.id == "leads/0/0#2"
    assert ended.status == "suppressed"
    assert ended.reason == "given_up"
    assert ended.text == WHY
    about = "lead_id", "workspace", "destination", "origin"
    assert [getattr(ended, name) for name in about] == [getattr(rejected, name) for name in about]
    assert bench.kept(tmp_path) == {"open": 0, "coming_back": 0, "solved": 0, "given_up": 1}
    assert bench.books().columns["rejected"].leads == 1


@virtual_time
async def test_a_lead_that_clay_refused_for_good_is_given_up_and_may_be_published_again(
    tmp_path: Path,
) -> None:
    bench = await with_lead(Poison(422, 1))
    await bench.give_up(bench.dlq()[0])
    assert bench.last_event().status == "suppressed"
    assert bench.row().state == "suppressed"
    assert bench.row().final is True
    assert bench.kept(tmp_path)["given_up"] == 1
    bench.publish("id0", "p0")
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == 2
    assert bench.books().columns["under_way"].leads == 1


@virtual_time
async def test_a_dead_letter_that_would_come_back_is_given_up_and_not_sent(tmp_path: Path) -> None:
    bench = await with_lead(*[Refused("http_503", 1)] * 3)
    letter = bench.dlq()[0]
    await bench.give_up(letter)
    assert bench.last_event().status == "suppressed"
    await bench.come_back(letter, returning(read_envelope(letter), letter.record_id))
    await bench.come_back(letter, redriven(read_envelope(letter), letter.record_id))
    assert len(bench.clay.bodies) == 3
    assert bench.last_event().status == "suppressed"
    assert bench.kept(tmp_path)["given_up"] == 1
    bench.books()


@virtual_time
async def test_a_parked_lead_is_given_up_and_what_was_booked_stays_not_known(
    tmp_path: Path,
) -> None:
    bench = await with_lead(Uncertain("timeout", 1))
    await bench.grace_ends()
    await bench.give_up(bench.parked()[0])
    assert bench.last_event().status == "suppressed"
    assert bench.partition.state.rows.parked["acme"] == 0
    assert [cost.booked.credits for cost in bench.books().open_costs] == [20]
    assert bench.kept(tmp_path)["given_up"] == 1
    assert (await bench.resolve(credits=4)).applied, "it was found at Clay after all"
    assert bench.books().open_costs == []
    bench.call_back(credits=6)
    await asyncio.sleep(1.0)
    assert bench.row().state == "enriched", "a late callback counts"


@virtual_time
async def test_a_dead_letter_that_is_not_the_latest_of_its_lead_ends_nothing(
    tmp_path: Path,
) -> None:
    bench = await with_lead(*[Refused("http_503", 1)] * 3)
    letter = bench.dlq()[0]
    await bench.come_back(letter, returning(read_envelope(letter), letter.record_id))
    assert bench.row().state == "accepted"
    before = len(bench.kafka.log("leads.status", 0).committed())
    await bench.give_up(letter)
    assert bench.row().state == "accepted"
    assert len(bench.kafka.log("leads.status", 0).committed()) == before
    assert bench.kept(tmp_path)["coming_back"] == 1


@virtual_time
async def test_an_old_dead_letter_of_a_lead_does_not_give_its_latest_one_up() -> None:
    bench = await with_lead(*[Refused("http_503", 1)] * 3, Uncertain("reset", 1))
    old = bench.dlq()[0]
    await bench.come_back(old, returning(read_envelope(old), old.record_id))
    await bench.grace_ends()
    latest = bench.row()
    assert latest.state == "parked"
    await bench.give_up(old)
    assert bench.row() == latest
    await bench.give_up(bench.dead_letters(bench.plan.topics.parked)[-1])
    assert bench.row().state == "suppressed"


@virtual_time
async def test_a_lead_that_was_published_again_is_not_given_up_with_its_old_dead_letter() -> None:
    bench = await with_lead(*[Refused("http_503", 1)] * 3)
    bench.publish("id0", "p0")
    await asyncio.sleep(10.0)
    await bench.give_up(bench.dlq()[0])
    assert bench.row().state == "accepted"
    bench.books()


NAMELESS = b'{"lead_id": "id0", "fields": {}, "destination": "acme-main"}'
"""It has the id of a lead and nothing that tells its person, so it is rejected."""


@virtual_time
async def test_a_rejected_record_is_given_up_alone_although_its_lead_was_delivered_meanwhile(
    tmp_path: Path,
) -> None:
    bench = await with_lead(value=NAMELESS)
    [letter] = bench.dlq()
    bench.publish("id0", "p0")
    await asyncio.sleep(10.0)
    bench.call_back(credits=6)
    await asyncio.sleep(1.0)
    assert bench.kept(tmp_path) == {"open": 0, "coming_back": 0, "solved": 1, "given_up": 0}
    await bench.give_up(letter)
    assert bench.last_event().origin == letter.record_id.replace("leads.dlq", "leads")
    assert bench.last_event().status == "suppressed"
    assert bench.kept(tmp_path) == {"open": 0, "coming_back": 0, "solved": 0, "given_up": 1}
    assert bench.row().state == "enriched"
    columns = bench.books().columns
    assert columns["enriched"].leads == 1
    assert columns["rejected"].leads == 0, "the lead counts once, and it was delivered"


@virtual_time
async def test_of_two_rejected_records_of_a_lead_the_other_one_stays_open(tmp_path: Path) -> None:
    bench = await with_lead(value=NAMELESS)
    bench.kafka.produce(0, Record(bench.plan.topics.leads, b"acme", NAMELESS))
    await asyncio.sleep(10.0)
    assert bench.kept(tmp_path) == {"open": 1, "coming_back": 0, "solved": 1, "given_up": 0}
    first, _ = bench.dlq()
    await bench.give_up(first)
    assert bench.last_event().origin == "leads/0/0"
    assert bench.last_event().status == "suppressed"
    assert bench.kept(tmp_path) == {"open": 1, "coming_back": 0, "solved": 0, "given_up": 1}


@virtual_time
async def test_what_another_program_parked_is_given_up_as_a_record_of_its_own(
    tmp_path: Path,
) -> None:
    bench = Counted()
    bench.kafka.produce(
        0,
        Record(bench.plan.topics.parked, b"acme", b"not of ours", (("who", b"else"),)),
    )
    await bench.serve_for(1.0)
    assert bench.kept(tmp_path)["open"] == 1
    await bench.give_up(bench.parked()[0])
    event = bench.last_event()
    assert event.status == "suppressed"
    assert event.seq == 1
    assert event.origin == "leads.retry/0/0"
    assert event.dead_letter == "leads.parked/0/0"
    assert bench.kept(tmp_path) == {"open": 0, "coming_back": 0, "solved": 0, "given_up": 1}
    assert bench.books().records == 1
    assert bench.books().columns["rejected"].leads == 1


@virtual_time
async def test_a_producer_cannot_give_a_lead_up() -> None:
    bench = await with_lead(*[Refused("http_503", 1)] * 3)
    letter = bench.dlq()[0]
    key, value, envelope = giving_up(letter, bench.plan.workspaces, WHY)
    bench.kafka.produce(0, Record(bench.plan.topics.leads, key, value, envelope.to_headers()))
    await asyncio.sleep(10.0)
    assert bench.row().state == "dead_lettered"


@virtual_time
async def test_the_row_of_a_forced_lead_is_found() -> None:
    bench = await with_lead(Poison(422, 1), force=True)
    await bench.give_up(bench.dlq()[0])
    row = bench.partition.state.rows.delivery(delivery_key("acme", "acme-main", "id0", "leads/0/0"))
    assert row is not None
    assert row.state == "suppressed"
