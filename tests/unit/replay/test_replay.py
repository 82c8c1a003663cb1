"""The handlers of the replay process over an in-memory stream: where each record goes, when, and
what is given up.
"""

import asyncio
from collections.abc import Awaitable
from unittest.mock import Mock

import pytest

from stream_app.domain.dead_letter.replay import Begin, Turns
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.model.errors import UnknownFormat
from stream_app.domain.model.records import ConsumedRecord, Headers, Record
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import ReplayPolicy
from stream_app.kafka.producers import Publish
from stream_app.replay.forward import Replay
from tests.simulation.kafka import MemoryKafka
from tests.simulation.schedule import Setup, plan_of
from tests.support.partition.replaying import ReplayProcess
from tests.support.partition.virtual import RecordingStream, VirtualClock, now_ms, virtual_time
from tests.support.replay_memory import Memory

NAMES = TopicNames()
FAILED = Envelope(
    origin="leads/0/1",
    lead_id="lead-1",
    disposition="failed",
    reason="http_503",
    replay=1,
    seq=4,
)


class ReplayBench:
    def __init__(
        self,
        dead_letters: list[ConsumedRecord],
        begin: Begin | None = None,
        rate_per_s: float = 1000.0,
        publish: Publish | None = None,
    ) -> None:
        self.memory = Memory(begin or Begin())
        self.stream = RecordingStream(dead_letters, topic=NAMES.dlq)
        policy = ReplayPolicy(tiers_s=(2, 60), rate_share=0.5)
        rates = {"acme": rate_per_s}
        memory = self.memory
        nothing = Mock()
        where = publish or memory.publish, memory.begin, memory.moving, VirtualClock()
        self.replay = Replay(NAMES, policy, rates, *where, Turns(rates), nothing, nothing)

    async def serve(self) -> asyncio.Task[None]:
        serving = asyncio.create_task(self.replay.dead_letters(self.stream))
        await asyncio.sleep(0.1)
        return serving


def dead_letter(
    offset: int,
    envelope: Envelope | None = FAILED,
    value: bytes | None = b"{}",
) -> ConsumedRecord:
    headers = envelope.to_headers() if envelope else ()
    return ConsumedRecord(NAMES.dlq, 0, offset, b"acme" if envelope else None, value, headers, 1)


def waits(tier: str, offset: int, since_ms: int) -> ConsumedRecord:
    return ConsumedRecord(tier, 0, offset, b"acme", b"{}", FAILED.to_headers(), since_ms)


def due_in(seconds: float) -> Envelope:
    return Envelope(
        origin="leads/0/2",
        disposition="failed",
        not_before_ms=now_ms() + int(seconds * 1000),
    )


@virtual_time
async def test_each_record_goes_to_its_tier_and_is_acked() -> None:
    poison = Envelope(origin="leads/0/3", disposition="poison")
    bench = ReplayBench(
        [
            dead_letter(0),
            dead_letter(1, due_in(1.5)),
            dead_letter(2, due_in(90)),
            dead_letter(3, poison),
        ],
    )
    await bench.serve()
    assert bench.memory.topics == ["leads.retry", "leads.wait.2s", "leads.wait.60s"]
    assert bench.stream.acked == [0, 1, 2, 3]
    first = bench.memory.published[0][1]
    back = read_envelope(ConsumedRecord("leads.retry", 0, 0, first.key, first.value, first.headers))
    assert back.way == "replayed"
    assert back.replay == 2
    assert back.epoch == 0
    assert back.seq == 4
    assert back.disposition == ""
    assert first.partition == 0


@virtual_time
async def test_a_new_epoch_replays_older_dead_letters_at_once() -> None:
    bench = ReplayBench([dead_letter(0, due_in(30))], Begin(epoch=2, seen_to=9, rewound=True))
    await bench.serve()
    assert bench.memory.topics == ["leads.retry"]
    headers = dict(bench.memory.published[0][1].headers)
    assert headers["stream-app-rewind-epoch"] == b"2"
    assert headers["stream-app-replay-count"] == b"1"


@virtual_time
async def test_a_dead_letter_of_another_program_is_an_input_once() -> None:
    bench = ReplayBench(
        [dead_letter(4, None), dead_letter(5, None), dead_letter(6, None, None)],
        Begin(seen_to=5),
    )
    await bench.serve()
    assert bench.stream.acked == [4, 5, 6]
    came = ("stream-app-origin-timestamp-ms", b"1")  # an erasure since then counts
    records = [record for _, record in bench.memory.published]
    assert [(record.key, record.value, record.headers) for record in records] == [
        (
            None,
            b"{}",
            (came, ("stream-app-redriven-from", b"leads.dlq/0/5"), ("stream-app-format", b"1")),
        ),
        (
            b"",
            None,
            (came, ("stream-app-redriven-from", b"leads.dlq/0/6"), ("stream-app-format", b"1")),
        ),
    ]


@virtual_time
@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (
            (("origin", b"leads/0/1"), ("disposition", b"failed"), ("app-version", b"0.1.0")),
            "was written by version 0.1.0",
        ),
        (
            (*FAILED.to_headers(), ("stream-app-format", b"2")),
            "has format 2, and this program reads up to 1",
        ),
    ],
)
async def test_a_dead_letter_of_a_version_that_is_not_read_ends_the_process(
    headers: Headers,
    why: str,
) -> None:
    other = ConsumedRecord(NAMES.dlq, 0, 1, b"acme", b"{}", headers, 1)
    bench = ReplayBench([dead_letter(0), other, dead_letter(2)])
    serving = await bench.serve()
    with pytest.raises(UnknownFormat, match=f"^leads.dlq/0/1 {why}"):
        await serving
    assert bench.memory.topics == ["leads.retry"]
    assert 1 not in bench.stream.acked


@virtual_time
async def test_records_below_the_expired_offset_are_skipped() -> None:
    bench = ReplayBench(
        [dead_letter(0), dead_letter(1), dead_letter(2)],
        Begin(skip_to=2, seen_to=2),
    )
    await bench.serve()
    assert bench.stream.acked == [0, 1, 2]
    assert len(bench.memory.published) == 1


@virtual_time
async def test_a_pause_holds_all_records_until_the_stream_is_suspended() -> None:
    bench = ReplayBench([dead_letter(0), dead_letter(1)])
    bench.memory.moving.clear()
    serving = await bench.serve()
    await asyncio.sleep(3600)
    assert bench.memory.published == []
    bench.stream.suspended.set()
    await asyncio.wait_for(serving, 1)
    assert bench.stream.acked == []
    assert bench.stream.given_up == [0]


@virtual_time
async def test_a_dead_letter_that_became_due_in_a_pause_waits_no_longer() -> None:
    bench = ReplayBench([dead_letter(0, due_in(90))])
    bench.memory.moving.clear()
    await bench.serve()
    await asyncio.sleep(3600)
    bench.memory.moving.set()
    await asyncio.sleep(0.1)
    assert bench.memory.topics == [NAMES.retry]


@virtual_time
async def test_deferred_leads_come_back_when_due() -> None:
    """Never early, within two seconds, and so in order of age; on the way its headers stay what
    they are.
    """
    plan = plan_of(Setup(rate_per_s=1_000.0))
    kafka = MemoryKafka(now_ms)
    began_ms = now_ms()
    ReplayProcess(kafka, plan)
    dues_ms = [began_ms + due_s * 1000 for due_s in (61, 61, 65, 68, 670, 673)]
    for lead, due_ms in enumerate(dues_ms):
        envelope = Envelope(origin=f"leads/0/{lead}", way="deferred", not_before_ms=due_ms)
        kafka.produce(0, Record(NAMES.deferred, b"acme", b"{}", envelope.to_headers()))
        await asyncio.sleep(2)  # the second has 59 s left
    await asyncio.sleep(900)
    tiers = [NAMES.wait(tier) for tier in ReplayPolicy().tiers_s]
    forwarded = [
        record for topic in (*tiers, NAMES.retry) for record in kafka.log(topic, 0).committed()
    ]
    back = [
        (read_envelope(record).origin, record.timestamp_ms)
        for record in kafka.log(NAMES.retry, 0).committed()
    ]
    assert {origin for origin, _ in back[:2]} == {"leads/0/0", "leads/0/1"}, "due at one moment"
    assert [origin for origin, _ in back[2:]] == [f"leads/0/{lead}" for lead in range(2, 6)]
    assert all(
        0 <= at_ms - due_ms <= 2_100 for (_, at_ms), due_ms in zip(back, dues_ms, strict=True)
    ), back
    assert len({record.headers for record in forwarded}) == 6
    assert all(
        (kafka.offset("replay", topic, 0) or 0) == kafka.log(topic, 0).end
        for topic in (NAMES.deferred, *tiers)
    )


@virtual_time
async def test_a_justified_wait_is_not_under_way() -> None:
    """A pause, a workspace's pace, a head that is not due; and nothing is when nothing waits."""
    bench = ReplayBench([dead_letter(offset) for offset in range(50)], rate_per_s=0.02)
    place = (NAMES.dlq, 0)
    assert list(bench.replay.under_way({place: True})) == [
        "the records of leads.dlq/0 do not move",
    ], "not taken"
    await bench.serve()
    assert bench.stream.acked
    assert bench.replay.under_way({place: True}) == {}, "its pace"
    bench = ReplayBench([dead_letter(0)])
    bench.memory.moving.clear()
    await bench.serve()
    assert bench.replay.under_way({place: True}) == {}, "the pause"
    bench.memory.moving.set()
    await asyncio.sleep(0.1)
    assert bench.replay.under_way({place: False}) == {}
    assert bench.stream.acked == [0], "a pause ends"
    tier = NAMES.wait(60)
    stream = RecordingStream([waits(tier, 0, now_ms())], topic=tier)
    waiting = asyncio.ensure_future(bench.replay.wait(stream, 60))
    await asyncio.sleep(30)
    assert bench.replay.under_way({(tier, 0): True}) == {}, "not due"
    await asyncio.sleep(31)
    assert stream.acked == [0]
    waiting.cancel()


@virtual_time
async def test_an_unacknowledged_record_is_under_way_while_the_next_head_is_not_due() -> None:
    silent: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def publish(record: Record) -> Awaitable[object]:
        return silent

    bench = ReplayBench([], publish=publish)  # Kafka, when it is silent
    tier = NAMES.wait(60)
    stream = RecordingStream(
        [waits(tier, 0, now_ms() - 60_000), waits(tier, 1, now_ms())],
        topic=tier,
    )
    waiting = asyncio.ensure_future(bench.replay.wait(stream, 60))
    await asyncio.sleep(10)
    assert bench.replay.under_way({(tier, 0): True}) == {
        "the records of leads.wait.60s/0 do not move": 0,
    }
    silent.set_result(None)
    await asyncio.sleep(1)
    assert bench.replay.under_way({(tier, 0): True}) == {}
    waiting.cancel()


@virtual_time
async def test_a_record_that_waits_for_the_rate_is_given_up_at_a_suspension() -> None:
    bench = ReplayBench([dead_letter(offset) for offset in range(50)], rate_per_s=0.02)
    serving = await bench.serve()
    bench.stream.suspended.set()
    await asyncio.wait_for(serving, 1)
    assert bench.stream.given_up == [len(bench.memory.published)]


@virtual_time
async def test_what_was_published_is_acked_before_a_suspended_stream_is_left() -> None:
    written: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def publish(record: Record) -> Awaitable[object]:
        return written

    bench = ReplayBench([dead_letter(0)], publish=publish)
    serving = await bench.serve()
    bench.stream.suspended.set()
    bench.stream.over.set()
    await asyncio.sleep(1)
    assert not serving.done()
    assert bench.stream.acked == []
    written.set_result(None)
    await asyncio.wait_for(serving, 1)
    assert bench.stream.acked == [0]


@virtual_time
async def test_what_an_earlier_stream_left_unacked_is_not_under_way_in_the_next_one() -> None:
    silent: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def publish(record: Record) -> Awaitable[object]:
        return silent

    bench = ReplayBench([dead_letter(0)], publish=publish)
    serving = await bench.serve()
    assert bench.replay.under_way({(NAMES.dlq, 0): True}) != {}
    serving.cancel()
    await asyncio.sleep(1)
    bench.memory.moving.clear()
    bench.stream = RecordingStream([dead_letter(0)], topic=NAMES.dlq)
    serving = await bench.serve()
    assert bench.replay.under_way({(NAMES.dlq, 0): True}) == {}, "it waits for the end of a pause"
    serving.cancel()
