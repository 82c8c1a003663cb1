"""The bench of a partition: a worker that owns it, on a Kafka in memory, in virtual time."""

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, Self

import msgspec

from stream_app.domain.books.money import BooksReport
from stream_app.domain.commands import CommandAnswer, CommandResult
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.delivery.state_machine import (
    ROW_VERSION,
    Delivery,
    delivery_key,
    lane_key,
)
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, Period, Reservation
from stream_app.domain.model.messages import (
    Callback,
    Result,
    RunNotification,
    Status,
    StatusEvent,
)
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.partition.owner import PartitionOwner
from tests.simulation.client import Link, MemoryStream
from tests.simulation.kafka import MemoryKafka, begin_system
from tests.simulation.schedule import Setup, plan_of
from tests.simulation.tape import tape_of
from tests.simulation.worker import sources
from tests.support.legal import follows
from tests.support.partition.clay import SlowClay
from tests.support.partition.kafka import AwayStateStore
from tests.support.partition.runs import RoutineClay
from tests.support.partition.virtual import at_end, now_ms, parts

LEAD: Final = "leads/0/0"
"""The record of the first lead of a bench."""
HELD: Final = Reservation("2026-11-30", "2026-11", 20, 2)
"""What a predecessor has reserved for that lead."""
PAID: Final = Reservation("2026-11-30", "2026-11", 0, 0)
_answer: Final = msgspec.json.Decoder(CommandAnswer)
_event: Final = msgspec.json.Decoder(StatusEvent)
_result: Final = msgspec.json.Decoder(Result)
_row: Final = msgspec.json.Decoder(Delivery)
_lane: Final = msgspec.json.Decoder(Lane)


def lead_value(**changes: object) -> bytes:
    """The bytes of the first lead of a bench."""
    return json.dumps({"lead_id": "id0", "fields": {"email": "a@example.com"}, **changes}).encode()


class Bench:
    """Partition 0 of a plan with all its topics, and a worker that owns it.

    `of_worker` is what the worker gives to the partition beside that: an observer, a cache.
    `reloads` counts the reloads of its configuration.
    """

    key = delivery_key("acme", "acme-main", "id0")  # of the row of the first lead

    def __init__(
        self,
        setup: Setup | None = None,
        clay_takes_s: float = 1.0,
        link: Link | None = None,
        clay: Callable[[float], SlowClay] = SlowClay,
        **of_worker: Any,
    ) -> None:
        shared = plan_of(setup or Setup())
        own = {name: dict(getattr(shared, name)) for name in ("workspaces", "destinations", "pins")}
        self.plan = msgspec.structs.replace(shared, **own)
        self.kafka = MemoryKafka(now_ms)
        begin_system(self.kafka, self.plan)
        self.clay = clay(clay_takes_s)
        self.alarms: list[BaseException] = []
        at_end(self.no_alarms)
        self.reloads = 0
        self._link = link
        self._of_worker = of_worker
        self.start_over()

    # ------------------------------------------------------------------------------- the worker

    def start_over(self) -> None:
        """Another worker, which has nothing but what is on Kafka."""
        self.store = AwayStateStore(self.kafka, "t-0", self.plan.topics.state, 0, self._link)
        self.partition = self.owner()
        self.join()

    def owner(self, **others: Any) -> PartitionOwner:
        """One more owner of the partition, in this process."""
        given = {
            "alarm": self.alarms.append,
            "reload": self._reload,
            "runs": self.clay if isinstance(self.clay, RoutineClay) else None,
            **self._of_worker,
            **others,
        }
        return PartitionOwner(0, self.store, parts(self.plan, self.clay, **given))

    async def _reload(self, _: str) -> CommandResult:
        self.reloads += 1
        return CommandResult("read")

    def join(self) -> None:
        """Take all topics, from where the group is."""
        generation = self.kafka.generation("g")
        self.streams = {
            source: MemoryStream(self.kafka, "g", generation, topic, 0)
            for topic, source in sources(self.plan.topics).items()
        }
        self.stream = self.streams["hot"]

    @classmethod
    async def started(cls, *args: Any, **others: Any) -> Self:
        bench = cls(*args, **others)
        await bench.start()
        return bench

    async def start(self) -> None:
        """Start a new worker, after whatever was before, and have it serve the topics."""
        self.kafka.next_generation("g")
        self.start_over()
        await self.serve()

    async def serve(self) -> asyncio.Task[None]:
        """Take the partition over, and serve its topics; returns the task of `leads`."""
        await self.partition.take_over()
        serve = self.partition.runner.serve
        self.serving = {
            source: asyncio.create_task(serve(stream, source))
            for source, stream in self.streams.items()
        }
        return self.serving["hot"]

    async def serve_for(self, seconds: float) -> None:
        await self.serve()
        await asyncio.sleep(seconds)

    async def serve_callbacks(self) -> None:
        """Serve the topics until all callbacks are concluded."""
        await self.serve_for(10.0)
        topic = self.plan.topics.callbacks
        assert self.streams["callback"].committed() == self.kafka.log(topic, 0).end

    async def leave(self, serving: asyncio.Task[None]) -> None:
        """The stream of leads goes to another worker."""
        self.stream.suspend()
        async with asyncio.timeout(1.0):
            await self.stream.drained()
            await self.stream.end()
            await serving

    async def kill(self) -> None:
        for task in self.serving.values():
            task.cancel()
        await self.partition.close()

    def alarmed(self) -> list[BaseException]:
        """What has ended the process, as the test expects."""
        alarms = self.alarms.copy()
        self.alarms.clear()
        return alarms

    def no_alarms(self) -> None:
        assert self.alarms == []

    def change_workspaces(self, **changes: Any) -> None:
        for name, workspace in self.plan.workspaces.items():
            self.plan.workspaces[name] = msgspec.structs.replace(workspace, **changes)

    def change_destination(self, **changes: Any) -> None:
        """Change the destination of the first lead."""
        destination = self.plan.destinations["acme-main"]
        self.plan.put_destination(msgspec.structs.replace(destination, **changes))

    # ------------------------------------------------------------------------- what comes to it

    def put(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = b"acme",
        envelope: Envelope | None = None,
    ) -> ConsumedRecord:
        """Put a record of these bytes on a topic."""
        headers = envelope.to_headers() if envelope is not None else ()
        return self.kafka.produce(0, Record(topic, key, value, headers))

    def produce(
        self,
        document: object,
        topic: str = "",
        key: bytes | None = b"acme",
    ) -> ConsumedRecord:
        """Put a record on `leads`, or another topic: a lead with these members, or what is none."""
        return self.put(topic or self.plan.topics.leads, json.dumps(document).encode(), key)

    def add_destination(self, alias: str) -> None:
        """Give the workspace acme one more destination like its first, with its own webhook."""
        main = self.plan.destinations["acme-main"]
        webhooks = (f"{alias}-0",)
        self.plan.put_destination(msgspec.structs.replace(main, alias=alias, webhook_ids=webhooks))

    def publish(self, lead_id: str, person: str, **changes: Any) -> None:
        self.produce({"lead_id": lead_id, "fields": {"email": f"{person}@example.com"}, **changes})

    def publish_leads(self, *numbers: int) -> None:
        """Publish a lead for each number of this range, each of another person."""
        for number in range(*numbers):
            self.publish(f"id{number}", f"p{number}")

    def call_back(
        self,
        outcome: str = "enriched",
        lead_id: str = "id0",
        workspace: str = "acme",
        **changes: Any,
    ) -> None:
        """Have Clay call back about a lead."""
        fields = {"title": "CTO"} if outcome in ("enriched", "partial") else {}
        callback = Callback(
            lead_id,
            workspace,
            f"{workspace}-main",
            1_796_083_139_000,
            outcome,  # type: ignore[arg-type]  # one of the four
            fields,  # type: ignore[arg-type]  # it is not changed
            7,
            actions=1,
        )
        value = msgspec.json.encode(msgspec.structs.replace(callback, **changes))
        self.put(self.plan.topics.callbacks, value, workspace.encode())

    def announce(self, run: str, workspace: str = "acme", destination: str = "") -> None:
        """Have the gateway store the announcement of a run."""
        announced = RunNotification(workspace, destination or f"{workspace}-main", run, now_ms())
        value = msgspec.json.encode(announced)
        self.put(self.plan.topics.callbacks, value, workspace.encode())

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

    async def resolve(self, name: str = "c1", kind: str = "resolve", **args: Any) -> CommandAnswer:
        """Have an operator say what became of the first lead; the answer."""
        await self.order(kind, name, **{"lead_id": "id0", **args})
        return self.answers()[-1]

    async def come_back(self, dead_letter: ConsumedRecord, envelope: Envelope | None) -> None:
        """What the replay app, or an operator, publishes for a dead letter is taken."""
        assert envelope is not None
        self.put(self.plan.topics.retry, dead_letter.value, dead_letter.key, envelope)
        await asyncio.sleep(10.0)

    async def grace_ends(self) -> None:
        """What the replay process does when the grace of an uncertain send has ended."""
        copy = self.dead_letters(self.plan.topics.wait(60))[-1]
        await self.come_back(copy, read_envelope(copy))

    def leave_row(self, state: Status, **changes: object) -> None:
        """What a predecessor left of the first lead, with a lane that says the same."""
        row = Delivery(
            ROW_VERSION,
            state,
            LEAD,
            3,
            1,
            1,
            "t",
            webhook_id="w",
            reservation=HELD,
        )
        row = msgspec.structs.replace(row, **changes)
        held = row.reservation or PAID
        spent = row.booked or PAID
        day = Period(HELD.day, spent.credits, held.credits, spent.actions, held.actions)
        month = msgspec.structs.replace(day, id=HELD.month)
        lane = Lane("acme", 0, budget=Budget((day,), (month,)))
        self.put(self.plan.topics.state, msgspec.json.encode(row), self.key)
        self.put(self.plan.topics.state, msgspec.json.encode(lane), lane_key("acme"))

    # -------------------------------------------------------------------- what it has committed

    def committed(self, topic: str) -> list[ConsumedRecord]:
        """The records of a topic."""
        return list(self.kafka.log(topic, 0).committed())

    def dead_letters(self, topic: str) -> list[ConsumedRecord]:
        return self.committed(topic)

    def dlq(self) -> list[ConsumedRecord]:
        return self.committed(self.plan.topics.dlq)

    def parked(self) -> list[ConsumedRecord]:
        return self.committed(self.plan.topics.parked)

    def answers(self) -> list[CommandAnswer]:
        records = self.committed(self.plan.topics.audit)
        return [_answer.decode(record.value or b"") for record in records]

    def events(self, origin: str = "") -> list[StatusEvent]:
        """Those of one record, or all."""
        records = self.committed(self.plan.topics.status)
        events = [_event.decode(record.value or b"") for record in records]
        return [event for event in events if origin in ("", event.origin)]

    def states(self, origin: str = "") -> list[str]:
        """The statuses of one record, or all."""
        return [event.status for event in self.events(origin)]

    def history(self, lead_id: str) -> list[str]:
        """The statuses of one lead."""
        events = [event for event in self.events() if event.lead_id == lead_id]
        for before, after in pairwise(events):
            assert before.origin != after.origin or follows(before.status, after.status)
        return [event.status for event in events]

    def unmatched(self, offset: int = 0) -> list[tuple[str, str]]:
        """Status and reason of a callback that settled nothing."""
        events = self.events(f"{self.plan.topics.callbacks}/0/{offset}")
        return [(event.status, event.reason) for event in events]

    def results(self, lead_id: str = "") -> list[Result]:
        """Those of one lead, or all."""
        records = self.committed(self.plan.topics.enriched)
        results = [_result.decode(record.value or b"") for record in records]
        return [result for result in results if lead_id in ("", result.lead_id)]

    def last(self, key: bytes) -> bytes:
        """The row of a key as it was last committed."""
        records = reversed(self.committed(self.plan.topics.state))
        return next(record.value or b"" for record in records if record.key == key)

    def row(self) -> Delivery:
        """The row of the first lead."""
        return _row.decode(self.last(self.key))

    def lane(self) -> Lane:
        """The row of the lane of acme."""
        return _lane.decode(self.last(lane_key("acme")))

    def day(self) -> Period:
        """What that lane has spent on its last day."""
        return self.lane().budget.days[-1]

    def books(self) -> BooksReport:
        """The books, which must be balanced."""
        report = tape_of(self.plan, self.kafka, now_ms()).close()
        assert report.balanced, report.problems
        return report
