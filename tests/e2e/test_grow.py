"""Partitions are added to a running system: its lanes stay, one of them moves there, and the suppressed stay so."""

from __future__ import annotations

import msgspec
import pytest

from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import Broker
from stream_app.kafka.topics import create_topics
from tests.e2e.fleet import Fleet

pytestmark = pytest.mark.timeout(280)
BEFORE, AFTER = "partitions = 2", "partitions = 4\nhashed_partitions = 2"
SAY = ("--why", "a test")


@pytest.mark.slow
async def test_partitions_are_added_while_leads_flow(kafka: Broker, namespace: str) -> None:
    async with Fleet(kafka.bootstrap, namespace, 3, partitions=2, pinned=False) as line:
        homes = line.settings.homes
        workers = [line.join(), line.join()]
        for worker in workers:
            await worker.joined(60)
        await line.publish(line.leads(30))
        await line.until_over(30, 60)
        code, said = await line.run("suppress", "add", "person100@example.com", *SAY)
        assert code == 0, said

        line.configure(BEFORE, AFTER)
        assert line.settings.homes == homes
        code, said = await line.run("topics", "--grow")
        assert code == 0, said
        await line.publish([line.lead(number, "w0") for number in range(30, 40)])
        await line.until_over(40, 60)
        code, said = await line.run("suppress", "add", "person101@example.com", *SAY)
        assert code == 3, f"no worker has the new partitions yet: {said}"

        for number, worker in enumerate(workers):
            await line.publish([line.lead(40 + number, "w1")])
            assert await line.stop(worker.process) == 0, worker.last_words()
            workers[number] = line.join()
            await workers[number].joined(60)
        code, said = await line.run("lanes", "move", "w0", "--partition", "3", *SAY)
        assert code == 0, said
        suppressed = [line.lead(number, name) for number in (100, 101) for name in line.names]
        await line.publish([*suppressed, line.lead(0, "w0"), line.lead(42, "w0"), line.lead(43, "w2")])
        await line.until_over(51, 60)
        last = line.last()
        assert last == {"accepted": 44, "suppressed": 6, "duplicate": 1}, last
        assert line.posted_again() == {}
        assert line.summary()["accepted"] == 44
        line.check_histories()
        for words in (("suppress", "list"), ("lanes", "pause", "w0", *SAY), ("books",)):
            code, said = await line.run(*words)
            assert code == 0, said
            assert "not in every partition" not in said

        line.configure(AFTER, BEFORE)
        for words in (("suppress", "add", "person102@example.com", *SAY), ("worker",)):
            code, said = await line.run(*words)
            assert (code, "has 4 partitions, the config says 2; Kafka removes none" in said) == (1, True), said


async def test_a_forgotten_hashed_partitions_sends_nothing(kafka: Broker, namespace: str) -> None:
    async with Fleet(kafka.bootstrap, namespace, 3, partitions=2, pinned=False) as line:
        worker = line.join()
        await worker.joined(60)
        await line.publish(line.leads(6))
        await line.until_over(6, 60)
        code, said = await line.run("suppress", "add", "person100@example.com", *SAY)
        assert code == 0, said

        line.configure(BEFORE, "partitions = 4")
        await create_topics(connection_of(line.settings), line.settings.topic_plan(), 30, lambda _: None, grow=True)
        strays = [
            msgspec.structs.replace(line.lead(number, line.names[number % 3]), partition=partition)
            for number in (0, 1, 2, 100)
            for partition in (2, 3)
        ]
        await line.publish(strays)
        for _ in range(2):
            wrong = line.join()
            assert await wrong.ended(60) != 0
            assert "set kafka.hashed_partitions" in wrong.last_words()[-1]
        assert worker.alive
        assert line.summary()["accepted"] == 6

        line.configure("partitions = 4", AFTER)
        assert await line.stop(worker.process) == 0, worker.last_words()
        await line.join().joined(60)
        await line.until_over(14, 60)
        assert line.last() == {"accepted": 6, "duplicate": 6, "suppressed": 2}
        assert line.posted_again() == {}
