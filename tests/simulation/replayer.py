"""The second process, as the line sees it: what comes back is published to `leads.retry` when due,
at least once.
"""

from collections.abc import Callable
from random import Random

from stream_app.domain.dead_letter.replay import returning
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.plan import Plan
from tests.simulation.kafka import MemoryKafka
from tests.simulation.loop import SimLoop


class Replayer:
    """`again`: how often (0 to 1) an entry is published a second time, as after a crash of the
    replay process.
    """

    def __init__(
        self,
        loop: SimLoop,
        kafka: MemoryKafka,
        plan: Plan,
        rng: Random,
        again: float,
        say: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._kafka = kafka
        self._plan = plan
        self._rng = rng
        self._again = again
        self._say = say
        self._t0_ms = 0

    def start(self, now_ms: int) -> None:
        self._t0_ms = now_ms - int(self._loop.time() * 1000)
        names = self._plan.topics
        delays_s = {names.wait(tier_s): tier_s for tier_s in self._plan.replay.tiers_s}
        for topic in (names.dlq, names.deferred, *delays_s):
            for partition in range(self._plan.partitions):
                self._follow(topic, partition, 0, delays_s.get(topic))

    def _follow(self, topic: str, partition: int, position: int, delay_s: int | None) -> None:
        log = self._kafka.log(topic, partition)
        while (consumed := log.read(position)) is not None:
            position = consumed.offset + 1
            back = returning(read_envelope(consumed), consumed.record_id)
            if back is not None:
                # Never before its tier lets it go; what is left then takes as long in other tiers.
                let_go_ms = consumed.timestamp_ms + delay_s * 1000 if delay_s else 0
                self._publish_at(max(let_go_ms, back.not_before_ms), consumed, back)
        log.readers.append(lambda: self._follow(topic, partition, position, delay_s))

    def _publish_at(self, due_ms: int, consumed: ConsumedRecord, back: Envelope) -> None:
        at_s = max(self._loop.time(), (due_ms - self._t0_ms) / 1000) + 0.001
        self._loop.outside(at_s - self._loop.time(), self._publish, consumed, back)
        if self._rng.random() < self._again:
            later_s = self._rng.choice((0.01, 1.0, 30.0, 300.0))
            self._loop.outside(at_s - self._loop.time() + later_s, self._publish, consumed, back)

    def _publish(self, consumed: ConsumedRecord, back: Envelope) -> None:
        self._say(f"replay: {back.origin}#{back.seq} comes back ({back.way})")
        self._kafka.produce(
            consumed.partition,
            Record(self._plan.topics.retry, consumed.key, consumed.value, back.to_headers()),
        )
