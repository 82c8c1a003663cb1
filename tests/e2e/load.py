"""A steady load of good and bad leads, so that a fault hits leads at every step."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final, Self
from unittest import mock

import aiokafka.record._crecords.default_records as batches
import msgspec

from stream_app.domain.lead.identity import identify
from stream_app.domain.model.messages import Lead, Scalar
from stream_app.domain.model.records import Record
from stream_app.kafka.connection import kafka_producer
from tests.e2e.pipeline import Pipeline
from tests.simulation.schedule import foreign_headers
from tests.support.odd_batches import gzip_with_more_behind_it, lz4_with_a_wrong_checksum

_TICK_S = 0.05
_DELIVERY_MS = 120_000
MIXED = {
    "duplicate": 0.04,
    "same_person": 0.06,
    "stray": 0.03,
    "poison": 0.02,
    "hostile": 0.04,
    "bulk": 0.1,
}
"""Shares of what is not simply a new lead on `leads`."""

_LINKED_EVERY: Final = 3
"""One new lead in so many of a mixed load has a LinkedIn URL beside its e-mail address."""
_FOREIGN: Final = 0.1
HOSTILE: Final = "hostile"
"""The source of leads that are made to stop or to fool a worker."""
_MARKS: Final = "a" + "\u0301" * 15_000 + "\u0316" * 15_000
_LETTERS: Final = "".join(chr(0x4E00 + number) for number in range(20_000, 0, -1))
_POISON: Final = ("marks", "letters", "mailtos", "blown up")
POISON: Final = (*_POISON, "headers")
"""Hostile leads that a worker has to reject. They count as poison."""
_TRICKS: Final = (*_POISON, "forged id", "two people", "forged import", "odd codec")
_ODD: Final = {"lz4_encode": lz4_with_a_wrong_checksum, "gzip_encode": gzip_with_more_behind_it}
_BATCH_EVERY: Final = 100
"""One batch of `_BATCHES` for so many records."""
_BATCHES: Final = ("headers", "too large", "without values")
_HEADERS: Final = [("", None)] * 200_000
_MIB: Final = 1 << 20
WITHOUT_VALUE: Final = "without value"
"""The kind of records without a value."""
_CODECS: Final = (None, None, None, None, "gzip", "snappy", "lz4", "zstd")


def _encode(
    usual: Callable[..., bytes],
    odd: Callable[..., bytes],
    payload: bytes,
    *more: Any,
    **named: Any,
) -> bytes:
    """Compress a batch as a strange producer does if a hostile lead is in it."""
    return odd(payload) if f'"{HOSTILE}: '.encode() in payload else usual(payload, *more, **named)


class Load:
    """`async with Load(...)` publishes until the block ends. Then all records are on Kafka.

    per_s: records a second over all workspaces. mixed: add the shares of `MIXED`, headers of other
    programs on some records, and every codec of Kafka. bombs: add batches that are small on Kafka
    and large in memory.
    """

    def __init__(
        self,
        line: Pipeline,
        per_s: float,
        *,
        mixed: bool = False,
        bombs: bool = False,
        seed: int = 1,
    ) -> None:
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
        self._patches = ExitStack()
        self._trick = ""
        self._tricks = 0
        self._bombs = bombs
        self._bomber: Any = None

    async def __aenter__(self) -> Self:
        if self._shares:
            for name, odd in _ODD.items():
                usual = getattr(batches, name)
                self._patches.enter_context(
                    mock.patch.object(batches, name, partial(_encode, usual, odd)),
                )
        for codec in dict.fromkeys(self._codecs):
            self._producers[codec] = kafka_producer(
                bootstrap_servers=self._line.bootstrap,
                enable_idempotence=True,
                request_timeout_ms=_DELIVERY_MS,
                compression_type=codec,
                max_request_size=16 * 2**20,  # of what is not compressed yet
            )
            await self._producers[codec].start()
        if self._bombs:
            self._bomber = kafka_producer(
                bootstrap_servers=self._line.bootstrap,
                enable_idempotence=True,
                request_timeout_ms=_DELIVERY_MS,
                compression_type="zstd",
                max_request_size=1 << 30,
                max_batch_size=1 << 30,
            )
            self._producers["bombs"] = self._bomber
            await self._bomber.start()
        self._task = asyncio.create_task(self._publish())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
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
            self._patches.close()
        if (
            error is None
            and not self._task.cancelled()
            and (failure := self._task.exception()) is not None
        ):
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
                codec = self._outer.choice(self._codecs)
                producer = self._producers[
                    codec if kind != HOSTILE else ("gzip", "lz4")[self._tricks % 2]
                ]
                sent = await producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers=headers,
                )
                is_poison = kind == HOSTILE and self._trick in POISON
                # only now: the load may end while the producer has no room for it yet
                self.kinds["poison" if is_poison else kind] += 1
                self._sent.add(sent)
                sent.add_done_callback(self._sent.discard)
                if self._bombs and self.count % _BATCH_EVERY == 0:
                    await self._send_batch()
            await asyncio.sleep(_TICK_S)

    async def _send_batch(self) -> None:
        """Publish one batch, of a few hundred bytes to some KB.

        Its records are poison or have no value.
        """
        what = _BATCHES[self.count // _BATCH_EVERY % len(_BATCHES)]
        workspace = self._outer.choice(self._line.names)
        names = self._line.settings.names
        topic = self._outer.choice((names.leads, names.bulk))
        batch = self._bomber.create_batch()

        def add(
            key: bytes | None,
            value: bytes | None,
            headers: Sequence[tuple[str, bytes | None]],
        ) -> None:
            assert (
                batch.append(timestamp=None, key=key, value=value, headers=list(headers))
                is not None
            )

        kind = "poison"
        records = 1  # a batch that is too large is one
        match what:
            case "headers":
                lead = {
                    "workspace": workspace,
                    "source": f"{HOSTILE}: {what}",
                    "fields": {"email": "eve@example.com"},
                }
                add(workspace.encode(), json.dumps(lead).encode(), _HEADERS)
            case "too large":
                for _ in range(17):
                    add(workspace.encode(), bytes(_MIB), [])
            case _:
                kind = WITHOUT_VALUE
                records = 500
                for number in range(records):
                    add(workspace.encode() if number % 2 else None, None, [])
        sent = await self._bomber.send_batch(
            batch,
            topic,
            partition=self._line.settings.home(workspace),
        )
        self.kinds[kind] += records
        self._sent.add(sent)
        sent.add_done_callback(self._sent.discard)

    def _draw(self, kind: str) -> Record:
        names = self._line.names
        number = self.count
        if kind in ("duplicate", "same_person") and self._numbers:
            number = self._rng.choice(self._numbers[-2_000:])
        workspace = names[number % len(names)]
        record = self._lead(number, workspace)
        match kind:
            case "hostile":
                return msgspec.structs.replace(record, value=self._hostile(number, workspace))
            case "poison":
                return msgspec.structs.replace(record, value=b"\xff{ no lead")
            case "same_person":
                return self._same_person(record)
            case "stray":
                home = self._line.settings.home(workspace)
                return msgspec.structs.replace(
                    record,
                    partition=(home + 1) % self._line.settings.kafka.partitions,
                )
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
        """Return a lead of the same person under a new id, with some of the person's strong
        identifiers.
        """
        lead = msgspec.json.decode(record.value or b"", type=Lead)
        strong = [name for name in ("email", "linkedin_url") if name in lead.fields]
        kept = self._rng.sample(strong, self._rng.randint(1, len(strong)))
        fields = {
            name: value for name, value in lead.fields.items() if name in kept or name not in strong
        }
        again = msgspec.structs.replace(lead, lead_id=f"again-{self.count}", fields=fields)
        return msgspec.structs.replace(record, value=msgspec.json.encode(again))

    def _hostile(self, number: int, workspace: str) -> bytes:
        """Return a lead that is to stop a worker, or to pass for somebody else's."""
        self._tricks += 1
        trick = self._outer.choice(_TRICKS)
        self._trick = trick
        victim = self._rng.choice(self._numbers[-500:] or [number])
        fields: dict[str, Any] = {"email": f"hostile{self.count}@example.com", "first_name": "Eve"}
        more: dict[str, Any] = {}
        match trick:
            case "marks":
                fields["title"] = _MARKS
            case "letters":
                fields = {"domain": f"{_LETTERS}.de"}
            case "mailtos":
                fields["email"] = "mailto:" * 14_000
            case "blown up":
                fields["notes"] = " " * (8 * 2**20)  # a few KB on Kafka
            case "forged id":
                known = identify(Lead({"email": f"person{victim}@example.com"}))
                more["lead_id"] = known.lead_id if known else ""
            case "two people":
                fields["email"] = f"person{victim}@example.com"
                fields["linkedin_url"] = f"https://www.linkedin.com/in/person{number + 1_000_000}"
            case "forged import":
                more |= {
                    "import_id": "load",
                    "import_summary": {"rows": 10**9, "leads": 1, "file": "x", "who": "eve"},
                }
        return json.dumps(
            {"workspace": workspace, "source": f"{HOSTILE}: {trick}", "fields": fields, **more},
        ).encode()

    def _kind(self) -> str:
        drawn = self._rng.random()
        for kind, share in self._shares.items():
            if drawn < share:
                return kind
            drawn -= share
        return "lead"
