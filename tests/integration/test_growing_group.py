"""Partitions are added under running apps: those with the old options leave them alone, and lose nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.admin import NewPartitions

from stream_app.dev.kafka import Broker
from stream_app.faust_app.app import FaustOptions
from stream_app.faust_app.assigned import assigned
from stream_app.kafka.connection import KafkaConnection
from tests.support.apps import app_with
from tests.support.bench import Owner, Recorder, running
from tests.support.kafka import admin, committed, create_topics, publish, until


async def grow(kafka: Broker, partitions: int, *topics: str) -> None:
    async with admin(kafka.bootstrap) as client:
        await client.create_partitions({topic: NewPartitions(partitions) for topic in topics})


class Group:
    """Apps of one group on the topics `leads` and `state`, which have two partitions at first."""

    def __init__(self, kafka: Broker, namespace: str) -> None:
        self.kafka, self.leads, self.state = kafka, f"{namespace}leads", f"{namespace}state"
        self.name = f"{namespace}group"

    def app(self, partitions: int, owner: Owner, recorder: Recorder) -> Any:
        options = FaustOptions(
            self.name,
            KafkaConnection(self.kafka.bootstrap),
            partitions,
            self.state,
            session_timeout_s=6,
            commit_interval_s=0.1,
        )
        return app_with(options, {self.leads: recorder}, owner)


async def learn(app: Any) -> None:
    """Have an app ask for the partitions now. By itself it asks every five minutes."""
    thread = app.consumer._thread
    done = asyncio.Event()

    def ask() -> None:
        asked = thread._consumer._client.force_metadata_update()
        asked.add_done_callback(lambda _: thread.parent_loop.call_soon_threadsafe(done.set))

    thread.thread_loop.call_soon_threadsafe(ask)
    await done.wait()


def partitions_of(app: Any) -> set[int]:
    """The partitions that Kafka has assigned to an app, also those that it leaves alone."""
    consumer = app.consumer._thread._consumer
    return {tp.partition for tp in consumer.assignment()}


async def test_an_app_with_the_old_options_leaves_added_partitions_to_one_that_knows_them(
    kafka: Broker, namespace: str
) -> None:
    group = Group(kafka, namespace)
    await create_topics(kafka.bootstrap, group.leads, group.state, partitions=2)
    owner, recorder, new_owner, new_recorder = Owner(), Recorder(), Owner(), Recorder()
    old = group.app(2, owner, recorder)
    async with running(old):
        await publish(kafka.bootstrap, group.leads, [b"0", b"1"], 2)
        await until(lambda: len(recorder.consumed) == 2)

        await grow(kafka, 4, group.leads)
        await publish(kafka.bootstrap, group.leads, [b"2", b"3", b"4", b"5"], 4)
        await until(lambda: len(recorder.consumed) == 4)
        generation = old.consumer_generation_id
        await learn(old)
        await until(lambda: old.consumer_generation_id != generation, 30, "a rebalance")
        assert (partitions_of(old), owner.owned) == ({0, 1}, {0, 1}), "only some of the topics have more"

        await grow(kafka, 4, group.state)
        await learn(old)
        await until(lambda: partitions_of(old) == {0, 1, 2, 3}, 30, "all partitions")
        await publish(kafka.bootstrap, group.leads, [b"6", b"7", b"8", b"9"], 4)
        await until(lambda: len(recorder.consumed) == 6)
        assert owner.owned == {0, 1}
        assert {number for _, number in assigned(old)} == {0, 1}

        async with running(group.app(4, new_owner, new_recorder)):
            await until(lambda: new_owner.owned, 30, "the new app has partitions")
            await publish(kafka.bootstrap, group.leads, [b"10", b"11"], 2)
            await until(lambda: {b"10", b"11"} <= {*recorder.values, *new_recorder.values}, 30, "both serve")
            await old.stop()
            await until(lambda: new_owner.owned == {0, 1, 2, 3}, 60, "the new app has all partitions")
            await until(lambda: len(recorder.consumed) + len(new_recorder.consumed) == 12, 30, "all records")
    assert sorted(recorder.values + new_recorder.values, key=lambda value: int(value or b"")) == [
        str(number).encode() for number in range(12)
    ], "each once"
    assert await committed(kafka.bootstrap, group.name) == {(group.leads, 0): 4, (group.leads, 1): 4} | {
        (group.leads, number): 2 for number in (2, 3)
    }
