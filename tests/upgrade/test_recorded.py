"""What each release wrote is read by this version: rows, events, dead letters, lanes.

What 0.1.0 wrote is refused.

A recording is made once for each release (`python -m tests.upgrade record`), and that of the
version under work is made again as long as it may change.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import LogPosition, ReadModel, Sources
from stream_app.config import Settings
from stream_app.dev.kafka import Broker
from stream_app.dev.schemas import MESSAGES
from stream_app.domain.dead_letter.orders import ReplayPause
from stream_app.domain.dead_letter.replay import Begin, Came, Turns, goes_on
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.delivery.state_machine import KINDS, read_delivery
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.model.topics import Retention, TopicNames
from stream_app.partition.in_flight import Source
from stream_app.partition.owner import PartitionOwner
from stream_app.replay.forward import Replay
from tests.board.model_records import Made
from tests.e2e.fleet import Fleet
from tests.e2e.member import Member
from tests.simulation.client import MemoryStateStore, MemoryStream
from tests.simulation.kafka import MemoryKafka
from tests.support.pace import BUSY
from tests.support.partition.clay import SlowClay
from tests.support.partition.virtual import (
    RecordingStream,
    VirtualClock,
    now_ms,
    parts,
    virtual_time,
)
from tests.support.replay_memory import Memory
from tests.upgrade.recording import NAMESPACE, RECORDED, Release, pipeline, read, to_publish

RELEASES: Final = sorted(place.stem for place in RECORDED.glob("*.jsonl") if place.stem != "0.1.0")
NAMES: Final = TopicNames(NAMESPACE)
ABSENT: Final = {
    "leads.bulk": "its records are those of leads",
    "leads.wait.600s": "its records are those of leads.wait.1s",
}
"""Topics that no recording needs, and why."""
MESSAGE_OF: Final = {
    "leads": "lead.v1",
    "leads.status": "status-event.v1",
    "leads.enriched": "result.v1",
    "leads.lanes": "lane.v1",
    "leads.callbacks": "callback.v1",
    "leads.commands": "command.v1",
    "leads.audit": "command-answer.v1",
}

PROJECTED: Final = (
    NAMES.status,
    NAMES.enriched,
    NAMES.lanes,
    NAMES.state,
    NAMES.dlq,
    NAMES.parked,
    NAMES.audit,
    NAMES.replay_state,
)

each_release = pytest.mark.parametrize("release", RELEASES)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """The configuration with which the recordings were made."""
    line = pipeline("127.0.0.1:9", NAMESPACE)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("w0", "w1"):
            patch.setenv(f"WEBHOOK_{name[1]}", f"http://127.0.0.1:9/v3/sources/webhook/{name}--crm")
        patch.setenv("CALLBACK_KEY", "a key of callback tokens, only for tests")
        yield line._settings()
    line.children.close()


def recording(release: str) -> Release:
    return read(RECORDED / f"{release}.jsonl")


@each_release
def test_a_recording_has_a_record_of_each_kind(release: str, settings: Settings) -> None:
    made = recording(release)
    planned = {topic.name.removeprefix(NAMESPACE) for topic in settings.topic_plan()}
    assert made.topics | ABSENT.keys() >= planned, "or say in ABSENT why it needs none"
    assert {(record.key or b"")[:2] for record in made.of("stream-app-state")} == KINDS
    dispositions = {read_envelope(record).disposition for record in made.of("leads.dlq")}
    assert dispositions == {"failed", "poison"}
    ways = {
        read_envelope(record).way
        for topic in ("leads.retry", "leads.deferred")
        for record in made.of(topic)
    }
    assert ways >= {"replayed", "redriven", "deferred"}


@each_release
def test_messages_are_read(release: str) -> None:
    made = recording(release)
    for topic, name in MESSAGE_OF.items():
        read_ones = [
            msgspec.json.decode(stored.value or b"", type=MESSAGES[name])
            for stored in made.of(topic)
            if _json(stored)
        ]
        assert read_ones, topic
    for record in made.of("stream-app-replay-state"):
        kind = (record.key or b"").split(b"/")[0]
        type_ = {b"dlq": Came, b"pause": ReplayPause, b"replay": MESSAGES["replay-progress.v1"]}[
            kind
        ]
        msgspec.json.decode(record.value or b"", type=type_)


@each_release
def test_the_read_model_projects_it(release: str, tmp_path: Path) -> None:
    made = recording(release)
    kept = Retention(status_days=3_650, dlq_days=3_650, parked_days=3_650)
    path = tmp_path / "model.sqlite"
    model = ReadModel(path, Sources(NAMES, 1, kept, frozenset({"w0", "w1"})))
    for topic in PROJECTED:
        records = [
            Made(
                topic,
                sent.key,
                sent.value,
                sent.partition,
                sent.offset,
                sent.headers,
                sent.timestamp_ms,
            )
            for sent in made.records
            if sent.topic == topic
        ]
        model.apply({topic: records}, {(topic, 0): LogPosition(records[-1].offset + 1)}, None)
    ask = Queries(path, set())
    last: dict[str, tuple[str, str]] = {}
    for record in made.of("leads.status"):
        event = msgspec.json.decode(record.value or b"", type=StatusEvent)
        last[event.origin] = event.lead_id, event.status
    for origin, (lead_id, status) in last.items():
        lead = ask.lead(lead_id, 0)
        assert lead is not None
        assert status in {
            history.status for history in lead.histories if history.origin == origin
        }, lead_id
    model.close()


def waiting(made: Release) -> list[ConsumedRecord]:
    """Return the dead letters that were still to be replayed: a later row of their lead has no
    other status.
    """
    rows = {
        record.key: read_delivery(record.key or b"", record.value or b"") for record in _leads(made)
    }
    waits = {row.origin for row in rows.values() if row.state == "dead_lettered"}
    return [
        record
        for record in made.of("leads.dlq")
        if goes_on(read_envelope(record)) and read_envelope(record).origin in waits
    ]


@each_release
@virtual_time
async def test_an_owner_goes_on_with_it_and_sends_only_what_waited(
    release: str,
    settings: Settings,
) -> None:
    made = recording(release)
    kafka = MemoryKafka(now_ms)
    plan = settings.plan
    clay = SlowClay(0.1)
    for record in made.of("stream-app-state"):
        kafka.produce(0, Record(record.topic, record.key, record.value))
    store = MemoryStateStore(kafka, "t-0", NAMES.state, 0)
    owner = PartitionOwner(0, store, parts(plan, clay))
    await owner.take_over()
    assert len(owner.state.rows) == len(made.of("stream-app-state")) - _rows(
        made,
        b"n/",
        b"c/",
        b"l/",
    )
    assert sum(owner.state.rows.parked.values()) == Counter(_states(made))["parked"]

    letters = waiting(made)
    memory = Memory(Begin())
    assert letters, "the release stopped while dead letters waited"
    about = (
        NAMES,
        plan.replay,
        {"w0": 1000.0, "w1": 1000.0},
        memory.publish,
        memory.begin,
        memory.moving,
    )
    replay = Replay(*about, VirtualClock(), Turns({}), lambda *_: None, lambda *_: None)
    forwarding = asyncio.create_task(replay.dead_letters(RecordingStream(letters, topic=NAMES.dlq)))
    await asyncio.sleep(0.1)
    leads = made.of("leads")
    again = [stored for stored in leads if b'"lead-1"' in (stored.value or b"")]
    for lead in [*to_publish([*leads, *again]), *(stored for _, stored in memory.published)]:
        kafka.produce(0, lead)
    generation = kafka.next_generation("g")
    sources: dict[str, Source] = {NAMES.leads: "hot", NAMES.retry: "retry"}
    serving = [
        asyncio.create_task(
            owner.runner.serve(MemoryStream(kafka, "g", generation, topic, 0), source),
        )
        for topic, source in sources.items()
    ]
    await asyncio.sleep(30)
    events = [
        msgspec.json.decode(stored.value or b"", type=StatusEvent)
        for stored in kafka.log(NAMES.status, 0).committed()
    ]
    ended = {
        event.lead_id: event.status for event in events if event.status in ("accepted", "duplicate")
    }
    sent = {read_envelope(letter).lead_id for letter in letters}
    assert {lead for lead, status in ended.items() if status == "accepted"} == sent, (
        "none ends as a duplicate"
    )
    assert len(clay.bodies) == len(letters)
    assert ended.get("lead-1") == "duplicate"
    for task in (*serving, forwarding):
        task.cancel()
    await owner.close()


def _leads(made: Release) -> list[ConsumedRecord]:
    return [
        record for record in made.of("stream-app-state") if (record.key or b"").startswith(b"d/")
    ]


def _states(made: Release) -> list[str]:
    return [read_delivery(record.key or b"", record.value or b"").state for record in _leads(made)]


def _rows(made: Release, *kinds: bytes) -> int:
    return sum((record.key or b"")[:2] in kinds for record in made.of("stream-app-state"))


def _json(record: ConsumedRecord) -> bool:
    return (record.value or b"").startswith(b"{")


# ---------------------------------------------------------------------------------- on a real Kafka


@each_release
@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_replay_is_planned_from_it(release: str, kafka: Broker, namespace: str) -> None:
    """Until a dead letter of 0.1.0 is among them: the plan is refused, and says what to do."""
    made = read(RECORDED / f"{release}.jsonl", namespace)
    async with pipeline(kafka.bootstrap, namespace) as line:
        await line.publish(to_publish(made.records))
        code, plan = await line.ask("replay", "plan")
        assert code == 0, plan
        assert plan["go"] == len(waiting(recording(release))), plan
        code, listed = await line.ask("dlq", "list")
        assert code == 0
        assert listed["matching"] == len(recording(release).of("leads.dlq"))
        await line.publish(
            [msgspec.structs.replace(to_publish(letters_of_0_1_0(namespace))[0], partition=0)],
        )
        code, output = await line.run("replay", "plan")
        assert code == 1, output
        (text,) = output.splitlines()
        assert text.startswith(
            f"{line.settings.names.dlq}/0/{listed['matching']} was written by version 0.1.0, whose",
        )
        assert "drain its dead letters" in text


def letters_of_0_1_0(namespace: str) -> list[ConsumedRecord]:
    made = read(RECORDED / "0.1.0.jsonl", namespace)
    return [record for record in made.records if record.topic.endswith("leads.dlq")]


async def ends(member: Member) -> str:
    """Return the one line with which a process ends."""
    assert await member.ended(60 * BUSY) != 0, member.output()
    assert not [text for text in member.output() if "Traceback" in text], member.output()
    (line,) = member.last_words()
    return line


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_no_dead_letter_of_0_1_0_ends_as_a_duplicate(kafka: Broker, namespace: str) -> None:
    made = read(RECORDED / "0.1.0.jsonl", namespace)
    assert len(letters_of_0_1_0(namespace)) == 50
    async with Fleet(kafka.bootstrap, namespace, 2, partitions=2) as line:
        names = line.settings.names
        await line.publish(to_publish(made.records))
        members = [line.start(process) for process in ("replay", "worker", "board")]
        for text in await asyncio.gather(*map(ends, members)):
            assert "it has rows that were written by an earlier build" in text
            assert "drain it with that build, or take a new kafka.namespace" in text
        assert not await line.read(names.retry)
        assert len(await line.read(names.dlq)) == 50
        assert not line.histories
        assert not line.requests()
