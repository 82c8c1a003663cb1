"""The agents of the worker and of the replay app, and the Faust table of the state, without Kafka."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream_app.domain.system import SYSTEM_KEY
from stream_app.domain.topics import TopicNames
from stream_app.faust_app import agents
from stream_app.faust_app.app import FaustOptions, build_app
from stream_app.faust_app.worker import Worker
from stream_app.kafka.connection import KafkaConnection
from stream_app.partition.owner import PartitionOwner
from stream_app.replay import forward as replay_agents
from tests.partition.test_owner import Bench
from tests.partition.virtual import run

TOPICS = TopicNames("app.")
OPTIONS = FaustOptions("group", KafkaConnection("127.0.0.1:1"), 1, "app.leads.state")


async def handlers_of(app: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The handler that each agent runs, by topic."""
    ran: list[object] = []

    async def serve(app: Any, stream: Any, handler: object) -> None:
        ran.append(handler)

    monkeypatch.setattr(module, "serve", serve)
    for agent in app.agents.values():
        await agent.fun(None)
    return dict(zip(app.agents, ran, strict=True))


async def test_each_topic_of_the_worker_has_an_agent_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    app: Any = build_app(OPTIONS)
    worker: Any = SimpleNamespace(handler=lambda source: source)
    agents.define_agents(app, TOPICS, worker)
    assert await handlers_of(app, agents, monkeypatch) == agents.sources_of(TOPICS)
    for topic, agent in app.agents.items():
        assert tuple(agent.channel.topics) == (topic,)
        assert (agent.concurrency, agent.isolated_partitions) == (1, True)


async def test_each_topic_of_the_replay_app_has_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    app: Any = build_app(OPTIONS)
    replay: Any = SimpleNamespace(dead_letters="dead letters", deferred="deferred", wait=lambda tier_s: tier_s)
    replay_agents.define_agents(app, TOPICS, (2, 60), replay)
    assert await handlers_of(app, replay_agents, monkeypatch) == {
        TOPICS.dlq: "dead letters",
        TOPICS.deferred: "deferred",
        TOPICS.wait(2): 2,
        TOPICS.wait(60): 60,
    }


class Owner:
    def __init__(self) -> None:
        self.rows: Mapping[bytes, bytes] = {b"k": b"row"}

    async def assigned(self, partitions: set[int]) -> None: ...

    async def revoked(self, partitions: set[int]) -> None: ...


async def test_the_table_reads_the_rows_of_its_owner_and_refuses_writes() -> None:
    owner = Owner()
    app = build_app(OPTIONS, owner)
    table = app.tables[OPTIONS.state_topic]
    assert (table[b"k"], dict(table.items()), len(table), b"none" in table) == (b"row", {b"k": b"row"}, 1, False)
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
    assert table.changelog_topic.get_topic_name() == OPTIONS.state_topic


def test_the_table_has_all_rows_of_the_partitions_that_this_process_owns() -> None:
    async def main() -> None:
        bench = Bench()

        def build(number: int) -> PartitionOwner:
            return bench.partition

        worker = Worker(build)
        table = build_app(OPTIONS, worker).tables[OPTIONS.state_topic]
        assert dict(table.items()) == {}
        await table.on_recovery_completed({TP("app.leads.state", 0)}, set())
        bench.publish("id0", "p0")
        serving = asyncio.create_task(bench.partition.serve(bench.inlet, "hot"))
        await asyncio.sleep(60)
        committed = {each.key: each.value for each in bench.kafka.log(bench.plan.topics.state, 0).committed()}
        assert {b"d/", b"l/"} <= {key[:2] for key in table}
        assert committed.pop(SYSTEM_KEY), "every partition has it, so that it is no row of the table"
        assert dict(table.items()) == {key: value for key, value in committed.items() if value is not None}
        serving.cancel()
        await worker.revoked({0})
        assert len(table) == 0

    run(main())
