"""The filler of the cache on a topic in memory: what is read again, what is remembered, and what is
not.
"""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from stream_app.cache import filler as fillers
from stream_app.cache.filler import CacheFiller, MemoryCache
from stream_app.domain.cached_results import (
    DAY_MS,
    PEOPLE_HEADER,
    CachedField,
    CacheEntry,
    company_slot,
    person_slot,
    tombstone,
)
from stream_app.domain.model.errors import BrokerUnavailable, UnreadableBatch
from stream_app.domain.model.messages import Result
from stream_app.domain.plan import CachePolicy
from tests.board.model_records import Made
from tests.support.partition.virtual import virtual_time

NOW_MS = 1_796_083_140_000
ADA = "A" * 22
FIRM = "F" * 22
POLICY = CachePolicy(stale_days=180)


def made(
    offset: int,
    person: str = ADA,
    *,
    at_ms: int = NOW_MS,
    age_s: int = 0,
    **fields: Any,
) -> Made:
    result = Result(
        person,
        "acme",
        "people",
        "clay",
        1,
        at_ms,
        age_s,
        fields or {"title": f"no. {offset}"},
    )
    result = msgspec.structs.replace(result, person=person, company=FIRM)
    return Made("t", b"k", msgspec.json.encode(result), 1, offset)


class Topic:
    """One partition in memory. `read` has what was read."""

    def __init__(self, *records: Made, begin: int = 0, end: int | None = None) -> None:
        self.records = list(records)
        self.begin = begin
        self.end = end if end is not None else len(records)
        self.read_ranges: list[Mapping[int, tuple[int, int]]] = []

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        return {0: (0, 0), 1: (self.begin, self.end)}

    async def read(
        self,
        topic: str,
        ranges: Mapping[int, tuple[int, int]],
    ) -> AsyncIterator[list[Made]]:
        self.read_ranges.append(dict(ranges))
        for number, (begin, end) in ranges.items():
            yield [
                record
                for record in self.records
                if record.partition == number and begin <= record.offset < end
            ]


class Full(MemoryCache):
    """Accepts so many calls of `add`, then none."""

    def __init__(self, accepts: int) -> None:
        super().__init__()
        self.accepts = accepts

    async def add(self, changes: Any) -> bool:
        self.accepts -= 1
        return self.accepts >= 0 and await super().add(changes)


def filler(cache: Any, owned: tuple[int, ...] = (0, 1)) -> CacheFiller:
    return CacheFiller(None, "t", 2, cache, POLICY, lambda: owned, lambda: NOW_MS)  # type: ignore[arg-type]  # no Kafka


async def title(cache: MemoryCache, person: str = ADA) -> Any:
    (entry,) = await cache.find([person_slot("acme", "people", person)])
    return entry.fields["title"].value if entry.fields else None


@pytest.mark.parametrize(
    ("ends", "every_s"),
    [
        (None, 1.0),
        (BrokerUnavailable("gone"), fillers._TRY_AGAIN_S),
        (UnreadableBatch("t", 0, 5, 6, "broken"), fillers._TRY_AGAIN_S),
    ],
)
@virtual_time
async def test_it_looks_once_a_second_and_begins_again_when_kafka_is_away_or_a_batch_cannot_be_read(
    ends: Exception | None,
    every_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_s: list[float] = []

    async def look(_: CacheFiller, reader: object) -> None:
        looked_s.append(asyncio.get_running_loop().time())
        if ends is not None:
            raise ends

    monkeypatch.setattr(CacheFiller, "look", look)
    monkeypatch.setattr(fillers, "TopicReader", lambda *_: nullcontext())
    filling = asyncio.create_task(filler(MemoryCache()).run())
    await asyncio.sleep(3.5 * every_s)
    filling.cancel()
    assert [round(later - earlier, 3) for earlier, later in pairwise(looked_s)] == [every_s] * 3


@virtual_time
async def test_results_are_taken_in_small_pieces_with_a_short_pause_after_each() -> None:
    topic = Topic(*(made(number) for number in range(500)))
    began_s = asyncio.get_running_loop().time()
    await filler(MemoryCache()).look(topic)  # type: ignore[arg-type]  # no Kafka
    assert 0.1 <= asyncio.get_running_loop().time() - began_s <= 0.5, "1,000 to 5,000 a second"


@virtual_time
async def test_it_reads_what_is_new_and_goes_on_behind_the_markers_at_the_end() -> None:
    newer = made(4, at_ms=NOW_MS + 1, title="CTO", industry="bikes")
    cache = MemoryCache()
    topic = Topic(made(3), newer, begin=3, end=6)
    for _ in range(2):
        await filler(cache).look(topic)  # type: ignore[arg-type]  # in memory
    assert topic.read_ranges == [{1: (3, 6)}], "the second time there is nothing new"
    assert await cache.filled_to(1) == 6
    assert await title(cache) == "CTO"
    assert await cache.find([company_slot("acme", FIRM)]) == [
        CacheEntry({"industry": CachedField("bikes", NOW_MS + 1, "people")}),
    ]
    await filler(cache, owned=()).look(topic)  # type: ignore[arg-type]  # in memory
    again = Topic(made(0, title="new"))
    await filler(cache).look(again)  # type: ignore[arg-type]  # in memory
    assert again.read_ranges == [{1: (0, 1)}], "the topic was created again"


@pytest.mark.parametrize(
    ("at_ms", "age_s", "kept"),
    [
        (NOW_MS - 180 * DAY_MS, 0, True),
        (NOW_MS - 180 * DAY_MS - 1, 0, False),
        (NOW_MS - 1, 180 * 86_400, False),
        (NOW_MS, 180 * 86_400, True),
        (NOW_MS - 90 * DAY_MS - 1, 90 * 86_400, False),
    ],
)
@virtual_time
async def test_a_result_is_remembered_until_it_is_stale(at_ms: int, age_s: int, kept: bool) -> None:
    cache = MemoryCache()
    assert await filler(cache).take([made(0, at_ms=at_ms, age_s=age_s)])
    assert (await title(cache) is not None) is kept


@virtual_time
async def test_an_erased_person_is_forgotten_in_the_order_of_the_topic() -> None:
    gone = tombstone("t", "acme", "people", ADA, [ADA])
    erased = Made("t", gone.key, None, 1, 1, tuple(gone.headers))
    for records, left in (
        ([made(0), erased], None),
        ([erased, made(2)], "no. 2"),
        ([made(0), erased, made(2)], "no. 2"),
    ):
        cache = MemoryCache()
        foreign = [
            Made("t", b"k", b"{foreign", 1, 9),
            Made("t", gone.key, None, 1, 10, ((PEOPLE_HEADER, None),)),
        ]
        assert await filler(cache).take([*records, *foreign])
        assert await title(cache) == left
        assert await cache.filled_to(1) == 11
    full = Full(0)
    assert not await filler(full).take([made(0), erased])
    assert await full.filled_to(1) == 0, "what was not taken is read again"


@virtual_time
async def test_only_the_last_results_are_read_and_all_erasures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fillers, "MAX_RESULTS", 2)
    gone = tombstone("t", "acme", "people", ADA, [ADA])
    cache = MemoryCache()
    await cache.add(
        [
            (
                person_slot("acme", "people", ADA),
                CacheEntry({"title": CachedField("old", 1, "people")}),
            ),
        ],
    )
    bob = "B" * 22
    eve = "E" * 22
    joe = "J" * 22
    topic = Topic(
        Made("t", gone.key, None, 1, 0, tuple(gone.headers)),
        made(1, bob),
        made(2, eve),
        made(3, joe),
    )
    await filler(cache).look(topic)  # type: ignore[arg-type]  # in memory
    assert [await title(cache, who) for who in (ADA, bob, eve, joe)] == [
        None,
        None,
        "no. 2",
        "no. 3",
    ]


@virtual_time
async def test_a_cache_that_does_not_accept_is_filled_from_the_same_place_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fillers, "_PIECE", 2)
    cache = Full(1)
    topic = Topic(*(made(number) for number in range(5)))
    await filler(cache).look(topic)  # type: ignore[arg-type]  # in memory
    assert await cache.filled_to(1) == 2
    assert await title(cache) == "no. 1"
    cache.accepts = 9
    await filler(cache).look(topic)  # type: ignore[arg-type]  # in memory
    assert topic.read_ranges == [{1: (0, 5)}, {1: (2, 5)}]
    assert await title(cache) == "no. 4"


@virtual_time
async def test_memory_is_bounded_by_entries_and_bytes_and_keeps_what_was_used_last() -> None:
    one = CacheEntry({"title": CachedField("x" * 20, 1, "people")})
    size = fillers._ENTRY_BYTES + len("a") + len(msgspec.json.encode(one))
    for cache in (MemoryCache(max_entries=2), MemoryCache(max_bytes=2 * size)):
        await cache.add([("a", one), ("b", one)])
        assert len(cache) == 2
        await cache.find(["a"])
        await cache.add([("c", one)])
        assert [bool(answer.fields) for answer in await cache.find(["a", "b", "c"])] == [
            True,
            False,
            True,
        ]
        await cache.forget(["a", "never"])
        await cache.add([("d", one)])
        assert len(cache) == 2, "what is forgotten makes room"
        for slot in ("d", "c"):
            await cache.add([(slot, one)])
        assert len(cache) == 2, "what is written again takes no more"


@virtual_time
async def test_the_memory_of_the_cache_counts_keys_and_objects() -> None:
    """Many small results take more for their objects than for what they say."""
    tracemalloc.start()
    cache = MemoryCache(max_bytes=2**20)
    max_bytes = 2**20
    before = tracemalloc.get_traced_memory()[0]
    for number in range(5_000):
        await cache.add(
            [
                (
                    f"{{acme}}:person:{number:043d}",
                    CacheEntry({"title": CachedField(f"{number}", 1, "people")}),
                ),
            ],
        )
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(cache) < 5_000, "it is full"
    assert 0.7 * max_bytes < grown < 1.2 * max_bytes
