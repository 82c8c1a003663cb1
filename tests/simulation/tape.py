"""What stands on Kafka after (or in the middle of) a simulated run: data that a test may damage and
books may read.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec

from stream_app.client.books.compare import Books
from stream_app.domain.books.money import BooksReport
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Plan
from tests.simulation.kafka import MemoryKafka

_event: Final = msgspec.json.Decoder(StatusEvent)


@dataclass
class Tape:
    """Everything on Kafka at one moment: committed records by topic and partition, and the groups'
    offsets.

    begins  where topics begin that retention has cut; `kept`: it has cut no events.
    """

    plan: Plan
    now_ms: int
    logs: dict[tuple[str, int], list[ConsumedRecord]]
    passed: dict[tuple[str, int], int]
    kept: bool = True
    begins: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def lead_topics(self) -> tuple[str, ...]:
        names = self.plan.topics
        return names.leads, names.retry, names.bulk

    @property
    def away_topics(self) -> tuple[str, ...]:
        names = self.plan.topics
        tiers_s = self.plan.replay.tiers_s
        return names.dlq, names.deferred, *(names.wait(tier_s) for tier_s in tiers_s)

    def log(self, topic: str, partition: int) -> list[ConsumedRecord]:
        return self.logs.setdefault((topic, partition), [])

    def close(self, *, exact: bool = True, limit: int = 20) -> BooksReport:
        plan = self.plan
        names = self.plan.topics
        books = Books(plan, limit=limit)
        for number in range(plan.partitions):
            books.partition(number, exact=exact, kept=self.kept)
            for row in self.log(names.state, number):
                books.row(number, row.key or b"", row.value)
            for event in self.log(names.status, number):
                books.event(number, event.value or b"", event.record_id)
            for topic in (*self.lead_topics, *self.away_topics):
                for consumed in self.log(topic, number):
                    passed = consumed.offset < self.passed.get((topic, number), 0)
                    books.record(consumed, passed=passed)
            for topic in self.lead_topics:
                books.begins(topic, number, self.begins.get((topic, number), 0))
        return books.close(self.now_ms)

    def events(self) -> list[tuple[list[ConsumedRecord], int, StatusEvent]]:
        """(log, index in it, event) of all events."""
        logs = [self.log(self.plan.topics.status, number) for number in range(self.plan.partitions)]
        return [
            (log, i, _event.decode(consumed.value or b""))
            for log in logs
            for i, consumed in enumerate(log)
        ]


def tape_of(plan: Plan, kafka: MemoryKafka, now_ms: int) -> Tape:
    """What is committed there just now."""
    tape = Tape(plan, now_ms, {}, {})
    names = plan.topics
    for topic in (*tape.lead_topics, *tape.away_topics, names.status, names.state):
        for number in range(plan.partitions):
            tape.logs[topic, number] = kafka.log(topic, number).committed()
            tape.passed[topic, number] = kafka.offset(names.worker_app, topic, number) or 0
    return tape
