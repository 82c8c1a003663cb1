"""A steady load of good and bad leads, so that a fault hits leads at every step."""

import asyncio
import random
from collections import Counter
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from stream_app.domain.messages import Lead, Scalar
from stream_app.domain.record import Record
from stream_app.kafka.connection import kafka_producer
from tests.e2e.pipeline import Pipeline
from tests.simulation.schedule import foreign_headers

_TICK_S = 0.05
_DELIVERY_MS = 120_000
MIXED = {"duplicate": 0.04, "same_person": 0.06, "stray": 0.03, "poison": 0.02, "bulk": 0.1}
"""Shares of what is not simply a new lead on `leads`."""

_LINKED_EVERY: Final = 3
"""One new lead in so many of a mixed load has a LinkedIn URL beside its e-mail address."""
_FOREIGN: Final = 0.1
_CODECS: Final = (None, None, None, None, "gzip", "snappy", "lz4", "zstd")


class Load:
    """`async with Load(...)` publishes until the block ends. Then all records are on Kafka.

    per_s: records a second over all workspaces. mixed: add the shares of `MIXED`, headers of other programs on some
    records, and every codec of Kafka.
    """

    def __init__(self, line: Pipeline, per_s: float, *, mixed: bool = False, seed: int = 1) -> None:
        self.count = 0
        self.kinds: Counter[str] = Counter()
        self._line = line
        self._per_s = per_s
        self._shares = MIXED if mixed else {}
        self._rng = random.Random(seed)
        self._outer = random.Random(f"headers and codecs {seed}")
        self._codecs = _CODECS if mixed else (None,)
        self._foreign = _FOREIGN if mixed else 0.0
        self._numbers: list[int] = []
        self._task: asyncio.Task[None] | None = None
        self._producers: dict[str | None, Any] = {}
        self._sent: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> Self:
        for codec in dict.fromkeys(self._codecs):
            self._producers[codec] = kafka_producer(
                bootstrap_servers=self._line.bootstrap,
                enable_idempotence=True,
                request_timeout_ms=_DELIVERY_MS,
                compression_type=codec,
            )
            await self._producers[codec].start()
        self._task = asyncio.create_task(self._publish())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        try:
            await asyncio.gather(self._task, return_exceptions=True)
            if error is None:
                await asyncio.gather(*self._sent)
        finally:
            for producer in self._producers.values():
                await producer.stop()
        if error is None and not self._task.cancelled() and (failure := self._task.exception()) is not None:
            raise failure

    async def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            while self.count < (loop.time() - began) * self._per_s:
                kind = self._kind()
                record = self._draw(kind)
                self.count += 1
                foreign = self._outer.random() < self._foreign
                headers = list(foreign_headers(self._outer)) if foreign else None
                producer = self._producers[self._outer.choice(self._codecs)]
                sent = await producer.send(
                    record.topic, record.value, record.key, partition=record.partition, headers=headers
                )
                self.kinds[kind] += 1  # the load may end while the producer has no room for it yet
                self._sent.add(sent)
                sent.add_done_callback(self._sent.discard)
            await asyncio.sleep(_TICK_S)

    def _draw(self, kind: str) -> Record:
        names = self._line.names
        number = self.count
        if kind in ("duplicate", "same_person") and self._numbers:
            number = self._rng.choice(self._numbers[-2_000:])
        workspace = names[number % len(names)]
        record = self._lead(number, workspace)
        match kind:
            case "poison":
                return msgspec.structs.replace(record, value=b"\xff{ no lead")
            case "same_person":
                return self._same_person(record)
            case "stray":
                home = self._line.settings.home(workspace)
                return msgspec.structs.replace(record, partition=(home + 1) % self._line.settings.kafka.partitions)
            case "bulk":
                record = msgspec.structs.replace(record, topic=self._line.settings.names.bulk)
        if kind != "duplicate":
            self._numbers.append(number)
        return record

    def _lead(self, number: int, workspace: str) -> Record:
        """Return a good lead. In a mixed load some have two strong identifiers."""
        if not self._shares or number % _LINKED_EVERY:
            return self._line.lead(number, workspace)
        fields: dict[str, Scalar] = {
            "email": f"person{number}@example.com",
            "linkedin_url": f"https://www.linkedin.com/in/person{number}",
            "first_name": "Ada",
        }
        return self._line.lead(number, workspace, fields=fields)

    def _same_person(self, record: Record) -> Record:
        """Return a lead of the same person under a new id, with some of the person's strong identifiers."""
        lead = msgspec.json.decode(record.value or b"", type=Lead)
        strong = [name for name in ("email", "linkedin_url") if name in lead.fields]
        kept = self._rng.sample(strong, self._rng.randint(1, len(strong)))
        fields = {name: value for name, value in lead.fields.items() if name in kept or name not in strong}
        again = msgspec.structs.replace(lead, lead_id=f"again-{self.count}", fields=fields)
        return msgspec.structs.replace(record, value=msgspec.json.encode(again))

    def _kind(self) -> str:
        drawn = self._rng.random()
        for kind, share in self._shares.items():
            if drawn < share:
                return kind
            drawn -= share
        return "lead"
