"""A partition from take-over to close on an in-memory Kafka: what it refuses, when it stops, what
it gives up.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Self, TypeVar

import msgspec
import pytest

from stream_app.domain.commands import CommandAnswer
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery, delivery_key, lane_key
from stream_app.domain.lane.lane import LANE_VERSION, Lane
from stream_app.domain.model.errors import Fenced, RowUnreadable
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.outcome import Accepted, Outcome, Refused
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.partition.in_flight import InFlight
from stream_app.partition.owner import PartitionOwner
from tests.partition.virtual import RecordingStream, at_end, consumed, now_ms, parts, virtual_time
from tests.simulation.client import Link, MemoryInlet, MemoryLedger
from tests.simulation.kafka import MemoryKafka, begin_system
from tests.simulation.schedule import Setup, plan_of
from tests.simulation.worker import sources

T = TypeVar("T")
_ANSWER = msgspec.json.Decoder(CommandAnswer)
_EVENT = msgspec.json.Decoder(StatusEvent)


class SlowClay:
    """Takes everything, after a while, once it has given the `first` answers."""

    def __init__(self, takes_s: float = 1.0) -> None:
        self.bodies: list[bytes] = []
        self.first: list[Outcome] = []
        self._takes_s = takes_s

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self.bodies.append(body)
        await asyncio.sleep(self._takes_s)
        return self.first.pop(0) if self.first else Accepted(200, round(self._takes_s * 1000))

    async def host_answers(self, destination: str) -> bool:
        return True

    @property
    def lead_ids(self) -> list[str]:
        """Of the leads that were sent."""
        return [json.loads(body)["lead_id"] for body in self.bodies]


class Bench:
    """Partition 0 of a plan, with all its topics."""

    def __init__(
        self,
        setup: Setup | None = None,
        clay_takes_s: float = 1.0,
        link: Link | None = None,
        clay: Callable[[float], SlowClay] = SlowClay,
    ) -> None:
        shared = plan_of(setup or Setup())
        own = {name: dict(getattr(shared, name)) for name in ("workspaces", "destinations", "pins")}
        self.plan = msgspec.structs.replace(shared, **own)
        self.kafka = MemoryKafka(now_ms)
        begin_system(self.kafka, self.plan)
        self.clay = clay(clay_takes_s)
        self.alarms: list[BaseException] = []
        at_end(self.no_alarms)
        self.ledger = MemoryLedger(self.kafka, "t-0", self.plan.topics.state, 0, link)
        self.start_over()

    def start_over(self) -> None:
        """Another worker, which has nothing but what is on Kafka."""
        self.partition = self.owner()
        self.join()

    def join(self) -> None:
        """Take all topics, from where the group is."""
        generation = self.kafka.generation("g")
        self.inlets = {
            source: MemoryInlet(self.kafka, "g", generation, topic, 0)
            for topic, source in sources(self.plan.topics).items()
        }
        self.inlet = self.inlets["hot"]

    def owner(self, **others: Any) -> PartitionOwner:
        """One more owner of the partition, in this process."""
        given = {"alarm": self.alarms.append, **others}
        return PartitionOwner(0, self.ledger, parts(self.plan, self.clay, **given))

    def produce(
        self,
        document: object,
        topic: str = "",
        key: bytes | None = b"acme",
    ) -> ConsumedRecord:
        """Put a record on `leads`, or another topic: a lead with these members, or what is none."""
        return self.kafka.produce(
            0,
            Record(topic or self.plan.topics.leads, key, json.dumps(document).encode()),
        )

    def publish(self, lead_id: str, person: str, **changes: Any) -> None:
        self.produce({"lead_id": lead_id, "fields": {"email": f"{person}@example.com"}, **changes})

    def publish_leads(self, *numbers: int) -> None:
        """Publish a lead for each number of this range, each of another person."""
        for number in range(*numbers):
            self.publish(f"id{number}", f"p{number}")

    def command(
        self,
        kind: str,
        name: str = "c1",
        workspace: str = "acme",
        age_ms: int = 0,
        **args: Any,
    ) -> ConsumedRecord:
        about = {
            "id": name,
            "kind": kind,
            "workspace": workspace,
            "who": "jane",
            "why": "because",
            "args": args,
        }
        return self.produce(about | {"at_ms": now_ms() - age_ms}, self.plan.topics.commands)

    async def order(self, kind: str, name: str = "c1", *, for_s: float = 1.0, **about: Any) -> None:
        """Give a command, and wait for so long."""
        self.command(kind, name, **about)
        await asyncio.sleep(for_s)

    def answers(self) -> list[CommandAnswer]:
        return [
            _ANSWER.decode(record.value or b"")
            for record in self.kafka.log("leads.audit", 0).committed()
        ]

    def events(self, origin: str = "") -> list[StatusEvent]:
        """Those of one record, or all."""
        events = [
            _EVENT.decode(record.value or b"")
            for record in self.kafka.log("leads.status", 0).committed()
        ]
        return [event for event in events if origin in ("", event.origin)]

    def states(self) -> list[str]:
        return [event.status for event in self.events()]

    def change_workspaces(self, **changes: Any) -> None:
        for name, workspace in self.plan.workspaces.items():
            self.plan.workspaces[name] = msgspec.structs.replace(workspace, **changes)

    def dead_letters(self, topic: str) -> list[ConsumedRecord]:
        return list(self.kafka.log(topic, 0).committed())

    async def come_back(self, dead_letter: ConsumedRecord, envelope: Envelope | None) -> None:
        """What the replay app, or an operator, publishes for a dead letter is taken."""
        assert envelope is not None
        self.kafka.produce(
            0,
            Record(
                self.plan.topics.retry,
                dead_letter.key,
                dead_letter.value,
                envelope.to_headers(),
            ),
        )
        await asyncio.sleep(10.0)

    @classmethod
    async def started(cls, *args: Any, **others: Any) -> Self:
        bench = cls(*args, **others)
        await bench.start()
        return bench

    async def start(self) -> None:
        await self.serve()

    async def serve(self) -> asyncio.Task[None]:
        """Take the partition over, and serve its topics; returns the task of `leads`."""
        await self.partition.take_over()
        serve = self.partition.runner.serve
        self.serving = {
            source: asyncio.create_task(serve(inlet, source))
            for source, inlet in self.inlets.items()
        }
        return self.serving["hot"]

    async def serve_for(self, seconds: float) -> None:
        await self.serve()
        await asyncio.sleep(seconds)

    def alarmed(self) -> list[BaseException]:
        """What has ended the process, as the test expects."""
        alarms = self.alarms.copy()
        self.alarms.clear()
        return alarms

    def no_alarms(self) -> None:
        assert self.alarms == []

    async def leave(self, serving: asyncio.Task[None]) -> None:
        """The stream of leads goes to another worker."""
        self.inlet.suspend()
        async with asyncio.timeout(1.0):
            await self.inlet.drained()
            await self.inlet.end()
            await serving


def _row(**changes: object) -> bytes:
    row = Delivery(ROW_VERSION, "accepted", "leads/0/0", 3, 1, 1, "t")
    return msgspec.json.encode(msgspec.structs.replace(row, **changes))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (lane_key("acme"), b"{", "cannot be read"),
        (
            lane_key("acme"),
            msgspec.json.encode(Lane("acme", 0, version=LANE_VERSION + 1)),
            "update it",
        ),
        (
            lane_key("beta"),
            msgspec.json.encode(Lane("beta", 0)),
            "set workspaces.beta.partition = 0",
        ),
        (b"o/no place", b"1", "the row o/no place of the state topic cannot be read"),
        (b"c/leads", b"many", "the row c/leads of the state topic cannot be read"),
    ],
)
@virtual_time
async def test_a_state_that_cannot_be_used_is_refused_at_take_over(
    key: bytes,
    value: bytes,
    says: str,
) -> None:
    bench = Bench()
    bench.kafka.produce(0, Record(bench.plan.topics.state, key, value))
    with pytest.raises(RowUnreadable, match=says):
        await bench.partition.take_over()


@pytest.mark.parametrize("value", [b"[", _row(version=ROW_VERSION + 1)])
@virtual_time
async def test_a_lead_row_that_cannot_be_used_ends_the_process_without_an_ack(value: bytes) -> None:
    bench = Bench()
    key = delivery_key("acme", "acme-main", "id0")
    bench.kafka.produce(0, Record(bench.plan.topics.state, key, value))
    bench.publish_leads(2)
    await bench.serve_for(10.0)
    assert [type(error) for error in bench.alarmed()] == [RowUnreadable]
    assert bench.inlet.committed() is None
    assert bench.clay.bodies == [], "nothing goes out any more that could only be uncertain"


@virtual_time
async def test_a_lead_bought_again_after_its_freshness_window_keeps_its_new_row() -> None:
    """Its old row ends with the very step that begins the new history: the deletion must not take
    the new one.
    """
    bench = Bench()
    key = delivery_key("acme", "acme-main", "id0")
    bench.kafka.produce(
        0,
        Record(bench.plan.topics.state, key, _row(origin="leads/9/9", final=True)),
    )
    bench.publish("id0", "p0")
    await bench.serve_for(0.5)
    assert bench.states() == ["received", "sending"]
    rows = {
        record.key: record.value
        for record in bench.kafka.log(bench.plan.topics.state, 0).committed()
    }
    assert rows[key] is not None


@virtual_time
async def test_between_two_attempts_a_lead_waits_twice_as_long_as_before() -> None:
    """The clock draws one half of each pause."""
    bench = Bench(Setup(callbacks=False, max_attempts=3), clay_takes_s=0.0)
    bench.clay.first = [Refused("http_503", 1)] * 2
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    assert bench.states() == [
        "received",
        "sending",
        "refused",
        "sending",
        "refused",
        "sending",
        "accepted",
    ]
    _, _, *events = bench.events()
    base_ms = int(bench.plan.delivery.retry_base_s * 1000)
    for refused, sending, pause_ms in zip(
        events[::2],
        events[1::2],
        (base_ms, 2 * base_ms),
        strict=False,
    ):
        assert refused.due_at_ms == refused.at_ms + pause_ms <= sending.at_ms, "not before"
        assert sending.at_ms <= refused.due_at_ms + 10, "and not after"


@virtual_time
@pytest.mark.parametrize("fenced", [False, True])
async def test_a_record_that_is_done_by_the_rows_is_acked_only_by_the_owner(fenced: bool) -> None:
    """Rows that say "done" may be those of a former owner.

    A commit proves that they are the newest.
    """
    bench = Bench(Setup(callbacks=False))
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    assert bench.states()[-1] == "accepted"
    if fenced:
        await MemoryLedger(bench.kafka, "t-0", bench.plan.topics.state, 0).take_over()
    again = RecordingStream(list(bench.kafka.log(bench.plan.topics.leads, 0).committed()))
    serving = asyncio.create_task(bench.partition.runner.serve(again, "hot"))
    await asyncio.sleep(10.0)
    assert again.acked == ([] if fenced else [0])
    assert [type(error) for error in bench.alarmed()] == [Fenced] * fenced
    again.over.set()
    await serving


@virtual_time
async def test_a_lead_under_way_is_finished_and_acked_before_the_stream_ends() -> None:
    bench = Bench()
    bench.publish("id0", "p0")
    serving = await bench.serve()
    await asyncio.sleep(0.5)
    assert len(bench.clay.bodies) == 1
    await bench.leave(serving)
    assert bench.states()[-1] == "accepted"
    assert bench.inlet.committed() == 1


@virtual_time
async def test_a_record_that_comes_between_owners_does_not_hold_up_a_suspension() -> None:
    bench = Bench()
    inlet = RecordingStream([consumed(0), consumed(1)])
    inlet.suspended.set()
    # not taken over (again) yet
    serving = asyncio.create_task(bench.partition.runner.serve(inlet, "hot"))
    await asyncio.sleep(1.0)
    assert inlet.given_up == [0, 1]
    assert len(bench.partition.runner._unfinished) == 0
    inlet.over.set()
    await serving


@virtual_time
async def test_four_records_for_each_lead_in_flight_are_under_way_and_the_next_waits() -> None:
    bench = Bench(Setup(max_in_flight=1))
    started = list[int]()
    may_end = asyncio.Semaphore(0)

    async def process(in_flight: InFlight) -> None:
        started.append(in_flight.consumed.offset)
        in_flight.release_next()
        await may_end.acquire()

    runner = bench.partition.runner
    runner._pipelines = {**runner._pipelines, "hot": process}
    for number in range(9):
        bench.publish(f"id{number}", f"p{number}")
    await bench.serve_for(10.0)
    assert started == [0, 1, 2, 3]
    for _ in range(3):
        may_end.release()
    await asyncio.sleep(1.0)
    assert started == [0, 1, 2, 3, 4, 5, 6]
