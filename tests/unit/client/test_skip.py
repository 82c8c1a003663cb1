"""`stream-app skip` passes exactly the batch at which a group, running or not, has stopped."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Final, Self

import pytest
from aiokafka import TopicPartition

from stream_app.client import skip as skipping
from stream_app.client.skip import find_unreadable, skip
from stream_app.config import Settings
from stream_app.domain.model.errors import SettingsError, StreamAppError, UnreadableBatch
from stream_app.domain.views.explain import ConsumerGroup
from tests.support.partition.virtual import virtual_time
from tests.support.settings import settings_of

BROKEN: Final = UnreadableBatch("leads", 1, 15, 18, "its checksum does not match")
PLACE: Final = TopicPartition("leads", 1)


class Kafka:
    """What groups have committed, what a reader finds after it, what was committed for whom."""

    offsets: ClassVar[dict[str, dict[TopicPartition, int]]]
    state: ClassVar[str]
    end: ClassVar[int]
    broken: ClassVar[UnreadableBatch | None]
    moved: ClassVar[list[tuple[str, dict[TopicPartition, int], str]]]
    passes_after: ClassVar[int]
    looks: ClassVar[int]

    @classmethod
    def reset(cls) -> None:
        cls.offsets = {}
        cls.state = "Stable"
        cls.end = 20
        cls.broken = BROKEN
        cls.moved = []
        cls.passes_after = 10**9
        cls.looks = 0

    @classmethod
    async def look_at(
        cls,
        _: object,
        names: list[str],
    ) -> dict[str, tuple[ConsumerGroup, dict[TopicPartition, int]]]:
        cls.looks += 1
        if cls.looks > cls.passes_after:
            cls.offsets[names[0]][PLACE] = 19
        return {
            name: (ConsumerGroup(cls.state, int(cls.state == "Stable")), cls.offsets.get(name, {}))
            for name in names
        }

    @classmethod
    async def move_group(
        cls,
        _: object,
        group: str,
        offsets: Mapping[TopicPartition, int],
        process: str,
    ) -> None:
        cls.moved.append((group, dict(offsets), process))


class Reader:
    """Reads the records of the place up to the broken batch."""

    def __init__(self, _: object) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def ends(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, Kafka.end)

    async def scan(
        self,
        ranges: Mapping[TopicPartition, tuple[int, int]],
        max_records: int,
    ) -> AsyncIterator[dict[TopicPartition, list[Any]]]:
        assert max_records == 1, "the first record says enough"
        ((place, (position, end)),) = ranges.items()
        if Kafka.broken is not None and position >= Kafka.broken.first and place == PLACE:
            raise Kafka.broken
        if position < end:
            yield {
                place: [SimpleNamespace(offset=number) for number in range(position, end)][
                    :max_records
                ],
            }


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    Kafka.reset()
    monkeypatch.setattr(skipping, "look_at", Kafka.look_at)
    monkeypatch.setattr(skipping, "move_group", Kafka.move_group)
    monkeypatch.setattr(skipping, "Reader", Reader)
    return settings_of(tmp_path, "nowhere:1", "")


@pytest.mark.parametrize(
    ("topic", "group"),
    [
        ("leads", "stream-app"),
        ("leads.bulk", "stream-app"),
        ("leads.retry", "stream-app"),
        ("leads.commands", "stream-app"),
        ("leads.callbacks", "stream-app"),
        ("leads.dlq", "stream-app-replay"),
        ("leads.deferred", "stream-app-replay"),
        ("leads.wait.60s", "stream-app-replay"),
    ],
)
def test_the_batch_at_which_the_group_of_a_topic_has_stopped_is_found(
    topic: str,
    group: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = TopicPartition(topic, 1)
    broken = UnreadableBatch(topic, 1, 15, 18, "broken")
    monkeypatch.setattr("tests.unit.client.test_skip.PLACE", place)
    Kafka.broken = broken
    Kafka.offsets = {group: {place: 15}}
    assert asyncio.run(find_unreadable(settings, f"{topic}/1/15")) is broken


@pytest.mark.parametrize(
    ("record_id", "committed", "says"),
    [
        ("leads", 15, "leads: is not topic/partition/offset, such as leads/0/15"),
        ("leads/2/15", 15, "leads/2/15: the partitions are 0 to 1"),
        (
            "leads.status/1/15",
            15,
            "leads.status: no worker and no replay process reads it, so there is nothing to skip",
        ),
        (
            "leads/0/9",
            20,
            "leads/0 can be read, so there is nothing to skip: the group stream-app is at 20, its "
            "end",
        ),
        (
            "leads/0/9",
            9,
            "leads/0 can be read, so there is nothing to skip: the group stream-app is at 9",
        ),
        (
            "leads/0/9",
            4,
            "leads/0: the record at offset 4 can be read, and is not finished: "
            "start `stream-app worker`, and wait until it is (stream-app explain shows what holds "
            "it)",
        ),
    ],
)
def test_what_is_no_such_batch_is_refused_with_what_to_do(
    record_id: str,
    committed: int,
    says: str,
    settings: Settings,
) -> None:
    Kafka.offsets = {"stream-app": {TopicPartition("leads", 0): committed}}
    with pytest.raises(StreamAppError) as refused:
        asyncio.run(find_unreadable(settings, record_id))
    assert str(refused.value) == says
    assert isinstance(refused.value, SettingsError) is (committed == 15)


def test_a_group_without_an_offset_begins_at_the_first_record(settings: Settings) -> None:
    with pytest.raises(
        StreamAppError,
        match="the record at offset 0 can be read, and is not finished",
    ):
        asyncio.run(find_unreadable(settings, "leads/0/9"))


def test_another_batch_than_the_named_one_is_not_skipped(settings: Settings) -> None:
    Kafka.offsets = {"stream-app": {PLACE: 15}}
    with pytest.raises(UnreadableBatch, match="stream-app skip leads/1/15"):
        asyncio.run(find_unreadable(settings, "leads/1/16"))


@pytest.mark.parametrize("state", ["Empty", "Dead"])
@virtual_time
async def test_a_group_without_members_is_moved(state: str) -> None:
    assert await skip(_prepared(state), BROKEN) is False
    assert Kafka.moved == [("stream-app", {PLACE: 19}, "worker")]


@virtual_time
async def test_the_processes_of_a_group_are_told_and_waited_for() -> None:
    settings = _prepared("Stable")
    Kafka.passes_after = 4
    began_s = asyncio.get_running_loop().time()
    assert await skip(settings, BROKEN) is True
    assert Kafka.moved == [("stream-app-skipped", {PLACE: 19}, "worker")]
    assert asyncio.get_running_loop().time() - began_s == 4, "it asks each second"


@virtual_time
async def test_it_says_so_when_no_process_has_passed_the_batch_in_time() -> None:
    settings = _prepared("Stable")
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(StreamAppError) as error:
        await skip(settings, BROKEN)
    assert str(error.value) == (
        "no `stream-app worker` has passed leads/1/15 yet: it will, within a minute after it can "
        "read that partition; the log says that the offsets are skipped"
    )
    assert asyncio.get_running_loop().time() - began_s == 45
    assert Kafka.looks == 46


_settings: list[Settings] = []


@pytest.fixture(autouse=True)
def _kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    _settings[:] = [settings]
    monkeypatch.setattr(
        skipping,
        "time",
        SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time()),
    )


def _prepared(state: str) -> Settings:
    Kafka.state = state
    Kafka.offsets = {"stream-app": {PLACE: 15}}
    return _settings[0]
