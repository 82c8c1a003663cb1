"""Faust without Kafka: agents, the table of the state, the committed offset, and what each fix says
of itself.
"""

import asyncio
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from stream_app.config import Kafka
from stream_app.domain.model.errors import BrokerUnavailable, UnreadableBatch
from stream_app.domain.model.system import SYSTEM_KEY
from stream_app.domain.model.topics import TopicNames
from stream_app.faust_app import fixes
from stream_app.faust_app import worker as worker_agents
from stream_app.faust_app.app import App, build_app
from stream_app.faust_app.fixes.recovery import SafeRecovery
from stream_app.kafka.connection import KafkaConnection
from stream_app.partition.owner import PartitionOwner
from stream_app.tasks import cancel
from tests.support.faust_bench import Owner
from tests.support.pace import BUSY
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import virtual_time

LEADS = TP("leads", 0)


@dataclass(eq=False)
class Message:
    """As much of Faust's as its bookkeeping looks at."""

    offset: int
    tp: TP = LEADS
    topic: str = LEADS.topic
    acked: bool = False


def an_app() -> App:
    return build_app("group", KafkaConnection("127.0.0.1:1"), Kafka(partitions=1))


def consumer_with(consumed: list[int]) -> Any:
    app = an_app()
    app.topics._acking_topics.add(LEADS.topic)
    app.consumer.in_flight[LEADS] = dict.fromkeys(consumed)
    return app.consumer


def ack(consumer: Any, offset: int) -> None:
    """As a stream does it."""
    consumer.in_flight[LEADS].pop(offset)
    consumer.ack(Message(offset))


@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=30).flatmap(
        lambda steps: st.tuples(st.just(steps), st.permutations(range(len(steps)))),
    ),
    st.none() | st.just(5),
)
async def test_in_any_order_of_acks_the_committed_offset_is_the_first_that_is_not_done(
    plan: tuple[list[tuple[int, bool]], list[int]],
    committed: int | None,
) -> None:
    """Offsets with gaps, of which some are given up and never acked; a commit may be due after each
    ack.
    """
    steps, order = plan
    offsets = [5 + sum(gap for gap, _ in steps[:number]) for number in range(len(steps))]
    consumer = consumer_with(offsets)
    consumer._committed_offset[LEADS] = committed
    open_offsets = set(offsets)
    position = committed
    for number in order:
        if not steps[number][1]:
            continue  # given up: it stays in flight
        ack(consumer, offsets[number])
        open_offsets.discard(offsets[number])
        proposed = consumer._new_offset(LEADS)
        if proposed is not None and consumer._should_commit(LEADS, proposed):
            position = proposed
            consumer._committed_offset[LEADS] = proposed
        done = [offset for offset in offsets if not open_offsets or offset < min(open_offsets)]
        assert position == (done[-1] + 1 if done else committed)


@pytest.mark.parametrize(
    ("in_flight", "delivered", "committed", "position"),
    [
        ([], None, None, 18),  # the batch is the first of the partition
        ([], 14, 15, 18),
        ([], 14, 16, 18),  # a transaction's marker lies before the batch
        ([14], 14, 14, None),  # not acked yet
        ([], 14, 14, None),  # waits in a queue
    ],
)
async def test_a_batch_that_was_given_up_is_committed_only_behind_what_is_committed(
    in_flight: list[int],
    delivered: int | None,
    committed: int | None,
    position: int | None,
) -> None:
    consumer = consumer_with(in_flight)
    consumer._read_offset[LEADS] = delivered
    consumer._committed_offset[LEADS] = committed
    consumer.pass_batch(UnreadableBatch(LEADS.topic, LEADS.partition, 15, 17, "damaged"))
    assert consumer._new_offset(LEADS) == position


async def test_a_suspended_flow_notifies_every_stream_once_and_stays_usable() -> None:
    consumer = consumer_with([])
    reported: list[str] = []
    consumer.on_suspend.add(lambda: reported.append("a"))
    consumer.stop_flow()
    assert reported == ["a"]
    consumer.resume_flow()
    consumer.stop_flow()
    assert reported == ["a", "a"]


async def test_a_rebalance_finds_the_fetcher_idle_at_any_moment_after_the_flow_has_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fetcher wakes up some turns of the loop later.

    If the flow stops in between, it must come to rest again.
    """

    async def nothing(**_: Any) -> dict[TP, list[Any]]:
        await asyncio.sleep(0)
        return {}

    async def fetch() -> None:
        while True:
            await consumer._wait_next_records(1.0)

    consumer = consumer_with([])
    consumer._active_partitions = {LEADS}
    monkeypatch.setattr(consumer, "_getmany", nothing)
    consumer.stop_flow()
    fetching = asyncio.create_task(fetch())
    for turns in range(20):
        await asyncio.sleep(0.001)
        consumer.resume_flow()
        for _ in range(turns):
            await asyncio.sleep(0)
        consumer.stop_flow()
        await asyncio.sleep(0.001)
        async with asyncio.timeout(10 * BUSY):
            await consumer.stop_fetching()
    await cancel([fetching])


@pytest.mark.parametrize("taken_by_the_group", [True, False])
async def test_an_offset_that_the_group_refused_is_not_believed_committed(
    taken_by_the_group: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the marker of a concluded record is dropped, and its redelivery repeats its
    history.
    """
    consumer = consumer_with([])
    consumer._committed_offset[LEADS] = 5
    monkeypatch.setattr(consumer, "assignment", lambda: {LEADS})
    monkeypatch.setattr(consumer, "_commit", AsyncMock(return_value=taken_by_the_group))
    monkeypatch.setattr(consumer.app.producer, "flush", AsyncMock())
    assert await consumer._commit_offsets({LEADS: 9}) == taken_by_the_group
    assert consumer._committed_offset[LEADS] == (9 if taken_by_the_group else 5)


async def test_a_member_with_another_id_was_evicted_even_if_it_learns_so_only_when_it_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that was frozen while it gave its leads up kept partitions that another one had
    owned meanwhile.
    """
    consumer = consumer_with([])
    monkeypatch.setattr(consumer, "_on_partitions_assigned", AsyncMock())
    monkeypatch.setattr(consumer.app, "on_rebalance_return", lambda: None)
    seen: list[bool] = []
    for member_id in ("w1", "w1", "w1-again", "w1-again"):
        coordinator = SimpleNamespace(member_id=member_id)
        consumer._thread = SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator))
        await consumer.on_partitions_assigned({LEADS})
        seen.append(consumer.was_evicted)
    assert seen == [True, False, True, False]


async def test_a_stop_of_a_thread_that_has_ended_by_itself_is_no_crash() -> None:
    """As when the app has crashed: its own loop is closed then, and upstream's stop logs a
    traceback.
    """
    thread = consumer_with([])._new_consumer_thread()
    thread.thread_loop.close()
    thread._stopped_set()
    assert thread.should_stop


async def test_committed_offsets_are_waited_for_as_long_as_the_group_has_no_coordinator() -> None:
    """A coordinator that is known and gives none is another matter: then the process ends, and its
    next start heals.
    """
    thread = SimpleNamespace(knows_coordinator=False)
    recovery: Any = SimpleNamespace(app=SimpleNamespace(consumer=SimpleNamespace(_thread=thread)))
    given = asyncio.Event()
    waiting = asyncio.create_task(SafeRecovery._wait(recovery, given.wait(), 0.01))
    await asyncio.wait({waiting}, timeout=0.1)
    assert not waiting.done()
    given.set()
    await waiting
    thread.knows_coordinator = True
    with pytest.raises(BrokerUnavailable, match="did not return the committed offsets"):
        await SafeRecovery._wait(recovery, asyncio.Event().wait(), 0.01)


ROOT = Path(__file__).parents[3]
COMBINING = {"safe_app"}
HELPERS = {"DaemonThread", "SafeTableManager"}
MODULES = [
    importlib.import_module(f"{fixes.__name__}.{module.name}")
    for module in pkgutil.iter_modules(fixes.__path__)
    if module.name not in COMBINING
]
FIXES = {
    name: member
    for module in MODULES
    for name, member in inspect.getmembers(module, inspect.isclass)
    if member.__module__ == module.__name__ and name not in HELPERS
}


@pytest.mark.parametrize("name", FIXES)
def test_a_fix_names_its_cause_its_tests_and_its_end(name: str) -> None:
    text = inspect.getdoc(FIXES[name]) or ""
    assert text.startswith("Fix: ")
    assert re.search(r"^Upstream:", text, re.MULTILINE)
    reports = re.findall(r"docs/reference/upstream/[\w-]+\.md", text)
    assert re.search(r"^Reports?:", text, re.MULTILINE)
    assert reports
    assert all((ROOT / report).exists() for report in reports)
    assert re.search(r"^Remove it", text, re.MULTILINE)
    path = r"(?:tests|benchmarks)/[\w/]+\.py"
    sources = [(ROOT / file).read_text() for file in re.findall(path, text)]
    assert sources
    for test in re.findall(r"\btest_\w+", re.sub(path, "", text)):
        assert any(f"def {test}(" in source for source in sources), test


TOPICS = TopicNames("app.")


async def test_a_stream_that_ends_subscribes_to_nothing_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the program of docs/reference/upstream/subscribes-again.md, which shows that stock Faust
    does.
    """
    app: Any = an_app()
    subscribed: list[list[str]] = []

    async def subscribe(topics: Iterable[str]) -> None:
        subscribed.append(sorted(topics))

    app.consumer = SimpleNamespace(subscribe=subscribe)
    conductor = app.topics
    monkeypatch.setattr(conductor, "_resubscribe_sleep_lock_seconds", 0.1)
    channels = [
        app.topic(TOPICS.leads).clone(active_partitions={TP(TOPICS.leads, number)})
        for number in range(2)
    ]
    for channel in channels:
        conductor.add(channel)
    app.agents._agents_started.set()
    app.tables._tables_registered.set()
    await conductor.start()
    await asyncio.sleep(0.1)
    channels[1].on_stop_iteration()
    await asyncio.sleep(0.3)
    await conductor.stop()
    assert subscribed == [[TOPICS.leads]]


async def test_the_table_reads_the_rows_of_its_owner_and_refuses_writes() -> None:
    owner = Owner()
    owner.rows = {b"k": b"row"}
    app = an_app()
    app.add_state_table(TOPICS.state, owner)
    table = app.tables[TOPICS.state]
    assert table[b"k"] == b"row"
    assert dict(table.items()) == {b"k": b"row"}
    assert len(table) == 1
    assert b"none" not in table
    owner.rows = {b"k": b"changed"}
    assert table[b"k"] == b"changed"
    with pytest.raises(KeyError):
        table[b"none"]
    for write in (
        lambda: table.__setitem__(b"k", b"v"),
        lambda: table.__delitem__(b"k"),
        lambda: table.update({b"k": b"v"}),
        lambda: table.pop(b"k"),
        table.clear,
    ):
        with pytest.raises(TypeError, match="read-only"):
            write()
    assert owner.rows == {b"k": b"changed"}
    assert table.changelog_topic.get_topic_name() == TOPICS.state


@virtual_time
async def test_the_table_has_all_rows_of_the_partitions_that_this_process_owns() -> None:
    bench = Bench()

    def build(number: int) -> PartitionOwner:
        return bench.partition

    worker = worker_agents.Worker(build)
    app = an_app()
    app.add_state_table(TOPICS.state, worker)
    table = app.tables[TOPICS.state]
    assert dict(table.items()) == {}
    await table.on_recovery_completed({TP("app.leads.state", 0)}, set())
    bench.publish("id0", "p0")
    serving = asyncio.create_task(bench.partition.runner.serve(bench.stream, "hot"))
    await asyncio.sleep(60)
    committed = {
        record.key: record.value
        for record in bench.kafka.log(bench.plan.topics.state, 0).committed()
    }
    assert {b"d/", b"l/"} <= {key[:2] for key in table}
    assert committed.pop(SYSTEM_KEY), "every partition has it, so that it is no row of the table"
    assert dict(table.items()) == {
        key: value for key, value in committed.items() if value is not None
    }
    serving.cancel()
    await worker.revoked({0})
    assert len(table) == 0
