"""Replays by hand and corrected dead letters with the commands that a user types, on real Kafka.

Deferred records have the same tools. No suppressed or erased people are shown, exported or sent.
"""

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import TopicNames
from tests.e2e.behind import behind, caught_up, eventually
from tests.e2e.commands import answer, command
from tests.e2e.forgetting import forget
from tests.e2e.member import Member
from tests.e2e.pipeline import Pipeline
from tests.e2e.replaying import CONFIG, DOWN, LANE

pytestmark = pytest.mark.timeout(300)

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"


def documented_rewind(kafka: Broker, names: TopicNames) -> list[str]:
    """Return the command of docs/dead-letters.md with the tool from pip, for this broker and
    namespace.
    """
    (text,) = re.findall(
        r"^    (python -m stream_app\.dev\.kafka_tools .*\\\n.*)$",
        PAGE.read_text(),
        re.M,
    )
    ours = {
        "python": sys.executable,
        "127.0.0.1:9092": kafka.bootstrap,
        "stream-app-replay": names.replay_app,
        "leads.dlq": names.dlq,
    }
    words = shlex.split(text.replace("\\\n", " "))
    assert ours.keys() <= set(words)
    return [ours.get(word, word) for word in words]


@pytest.mark.slow
async def test_price_select_redrive_rewind_and_pause(kafka: Broker, namespace: str) -> None:
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        config=CONFIG,
        lane=LANE,
    ) as line:
        names = line.settings.names
        line.control("POST", "/control/faults", DOWN)
        await line.publish(line.leads(30))
        worker = line.start("worker")
        replay = line.start("replay")
        await line.until(lambda: line.last()["parked"] == 30, 40, "30 parked")

        await caught_up(line)
        assert 'stream_app_parked_leads{workspace="w0"} 30.0' in await worker.get("/metrics")

        # Nothing moves while an operator has paused it.
        assert (await line.ask("replay", "pause", "--why", "a test"))[1] == {
            "paused": True,
            "was_paused_by": None,
        }

        # What parked leads would cost, and sending some of them back: each once, whatever is run
        # again.
        code, plan = await line.ask("replay", "plan", "--from", "parked", "--status", "503")
        assert code == 0
        assert plan["dead_letters"] == 30
        assert plan["go"] == 30
        assert plan["causes"] == {"http_503": 30}
        ((part,),) = (quoted["parts"] for quoted in plan["quotes"])
        assert part["leads"] == 30
        assert part["credits"] == 180
        assert plan["quotes"][0]["left"] == {}

        line.control("DELETE", "/control/faults")
        await correct_a_parked_lead(line)
        code, answer = await line.ask("replay", "redrive", "--limit", "10", "--yes")
        assert code == 0
        assert answer == {"sent": 10, "refused": {}}
        await line.until(lambda: line.last()["accepted"] == 11, 30, "10 accepted")
        both = [line.ask("replay", "redrive", "--limit", "10", "--yes") for _ in range(2)]
        answers = await asyncio.gather(*both)
        assert sum(answer.get("sent", 0) for _, answer in answers) in (10, 20), answers
        await eventually(lambda: behind(line, {names.worker_app: [names.retry]}), 30)
        done = line.last()["accepted"]
        code, plan = await line.ask("replay", "plan", "--from", "parked")
        assert plan["fates"] == {"sent_back": done - 1, "goes": 30 - done, "replaced": 1}

        # The rest by a rewind, which the pause holds back until it is lifted.
        assert await replay.stop() == 0
        rewind = documented_rewind(kafka, names)
        ran = await asyncio.to_thread(
            subprocess.run,
            rewind,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        replay = line.start("replay")
        await rewound(line)
        assert line.last()["accepted"] == done
        assert (await line.ask("replay", "resume"))[1]["was_paused_by"]
        ends = {"accepted": 30, "replaced": 1}
        await line.until(lambda: line.last() == ends, 40, "all accepted")
        await replay.stop()

        # Kafka may forget where the group stood: the process has its own record, so nothing comes
        # back once more.
        await forget(kafka.bootstrap, names.replay_app)
        replay = line.start("replay")
        # of another program
        await line.publish([msgspec.structs.replace(line.lead(101, "w0"), topic=names.dlq)])
        ends["accepted"] += 1
        await line.until(lambda: line.last() == ends, 40, "that one")
        await caught_up(line)
        await replay.stop()
        await worker.stop()
        line.check_histories()
        assert line.last() == ends
        assert set(line.summary()["leads"].values()) == {1}
        await line.books_balance()


async def rewound(line: Pipeline) -> None:
    """A replay process has logged the rewind."""

    async def silent() -> bool:
        return not any(
            '"rewound"' in log.read_text() for log in line.directory.glob("replay-*.log")
        )

    await eventually(silent, 30)


async def correct_a_parked_lead(line: Pipeline) -> None:
    """Export parked leads, and publish one with another field, which replaces its dead letters."""
    file = line.directory / "parked.jsonl"
    code, exported = await line.ask("dlq", "export", str(file), "--from", "parked")
    assert code == 0
    assert exported["dead_letters"] == 30
    document = json.loads(file.read_text().splitlines()[0])
    document["lead"]["fields"]["title"] = "corrected"
    file.write_text(json.dumps(document))
    code, published = await line.ask("publish", str(file), "--yes")
    assert code == 0
    assert published["published"] == 1
    await line.until(
        lambda: line.last() == {"accepted": 1, "replaced": 1, "parked": 29},
        30,
        "one is corrected",
    )
    code, plan = await line.ask("replay", "plan", "--from", "parked")
    assert code == 0
    assert plan["fates"] == {"goes": 29, "replaced": 1}
    code, plan = await line.ask("replay", "plan", "--reason", "http_503")
    fates = {"later_dead_letter": 58, "replaced": 2}
    assert code == 1, "the last word of the others is in leads.parked"
    assert plan["fates"] == fates, "the last word of the others is in leads.parked"


@pytest.mark.slow
async def test_deferred_leads_are_shown_and_sent_sooner(kafka: Broker, namespace: str) -> None:
    # Two workspaces in one partition: what one of them holds is deferred, so that it does not block
    # the other.
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        2,
        partitions=1,
        config=CONFIG,
        lane=LANE,
    ) as line:
        await line.done("replay", "pause", "--why", "only what is ordered")
        worker = line.start("worker")
        replay = line.start("replay")
        await line.publish([command(line, "pause", "c1")])
        assert (await answer(line, "c1")).applied
        await line.publish(line.leads(20))
        await line.until(
            lambda: line.last() == {"deferred": 10, "accepted": 10},
            40,
            "w0 deferred, w1 accepted",
        )
        people = [f"person{number}@example.com" for number in (0, 2)]
        await line.done("suppress", "add", *people, "--why", "objected")
        await line.done("erase", "lead-6", "--why", "asked for it", "--yes")

        code, counted = await line.ask("dlq", "--from", "deferred")
        assert code == 0
        assert counted["dead_letters"] == 10
        assert counted["suppressed"] == 3
        assert [(cause["kind"], cause["reason"]) for cause in counted["causes"]] == [
            ("deferred", "paused"),
        ]
        code, plan = await line.ask("replay", "plan", "--from", "deferred", "--limit", "6")
        assert code == 0
        assert plan["fates"] == {"suppressed": 3, "goes": 6, "over_limit": 1}

        file = line.directory / "dead-letters.jsonl"
        code, exported = await line.ask("dlq", "export", str(file), "--from", "deferred")
        assert code == 0
        assert exported["dead_letters"] == 7
        assert exported["suppressed"] == 3
        lines = [json.loads(text) for text in file.read_text().splitlines()]
        assert not {listed["lead"]["lead_id"] for listed in lines} & {"lead-0", "lead-2", "lead-6"}
        await shown(line, line.settings.names.deferred, 2)

        # Sooner than in an hour; each once, whatever is run again.
        await line.publish([command(line, "resume", "c2")])
        assert (await answer(line, "c2")).applied
        select = ("replay", "select", "--from", "deferred", "--yes")
        code, sent = await line.ask(*select)
        assert code == 0
        assert sent == {"sent": 7, "refused": {}}
        await line.until(lambda: line.last()["accepted"] == 17, 60, "all that may go")
        code, sent = await line.ask(*select)
        assert code == 1, "not twice"
        assert sent["sent"] == 0, "not twice"
        await replay.stop()
        await worker.stop()
        line.check_histories()
        assert line.last() == {"accepted": 17, "deferred": 3, "erased": 1}
        assert set(line.summary()["leads"].values()) == {1}
        await line.books_balance()


async def shown(line: Pipeline, topic: str, suppressed: int) -> None:
    """`dlq show` shows the value of lead 4, and not that of the suppressed one.

    Retries decide about their order.
    """
    records = await line.read(topic)
    for number, is_suppressed in ((suppressed, True), (4, False)):
        dead_letter = next(
            record for record in records if f"person{number}@".encode() in record.value
        )
        place = f"{topic}/{dead_letter.partition}/{dead_letter.offset}"
        assert "@example.com" not in await line.done("dlq", "show", place)
        code, document = await line.ask("dlq", "show", place, "--value")
        assert code == 0
        assert document["suppressed"] == is_suppressed
        assert ("value" in document) == (not is_suppressed)
        assert ("@example.com" in json.dumps(document)) is not is_suppressed


async def test_open_dead_letters_are_given_up_and_nothing_waits_for_a_person(
    kafka: Broker,
    namespace: str,
) -> None:
    """A record that is no JSON, one that is nobody, a lead that Clay refused for good, and one that
    would come back.
    """
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        partitions=1,
        config=CONFIG,
        lane=LANE,
    ) as line:
        names = line.settings.names
        board = line.start("board")
        worker = line.start("worker")
        replay = line.start("replay")
        await line.ready(board, worker, replay)
        await line.done("replay", "pause", "--why", "nothing comes back by itself")
        await line.publish(
            [Record(names.leads, b"w0", value) for value in (b"no json", b'{"fields": {}}')],
        )
        line.control("POST", "/control/faults", {"kind": "status_before", "status": 422})
        await line.publish(line.leads(1))
        await line.until(lambda: line.last()["rejected_invalid"] == 3, 60, "three are refused")
        line.control("DELETE", "/control/faults")
        line.control("POST", "/control/faults", DOWN)
        await line.publish(line.leads(2)[1:])
        await line.until(lambda: line.last()["dead_lettered"] == 1, 60, "one is a dead letter")

        code, answer = await line.ask(
            "dlq",
            "give-up",
            "--reason",
            "not_json",
            "--why",
            "a broken export",
            "--yes",
        )
        assert code == 0, answer
        assert answer["given_up"] == 1, answer
        assert answer["fates"] == {"goes": 1}, answer
        assert answer["answers"][0]["text"] == "1 dead letter is given up"
        code, answer = await line.ask(
            "dlq",
            "give-up",
            "--reason",
            "not_json",
            "--why",
            "once more",
            "--yes",
        )
        assert code == 1
        assert answer["given_up"] == 0
        assert answer["fates"] == {"sent_back": 1}
        code, listed = await line.ask("dlq", "list")
        left = [
            letter["record_id"]
            for letter in listed["dead_letters"]
            if letter["reason"] != "not_json"
        ]
        code, answer = await line.ask(
            "dlq",
            "give-up",
            *left,
            "--why",
            "none of them is worth it",
            "--yes",
        )
        assert code == 0, answer
        assert answer["given_up"] == 3, answer
        assert len(left) == 3, answer
        await line.until(lambda: line.last() == {"suppressed": 4}, 60, "all have ended")

        async def waits() -> bool:
            shown = (await line.ask("dlq"))[1]["states"]
            return shown is None or (shown["open"], shown["coming_back"], shown["given_up"]) != (
                0,
                0,
                4,
            )

        await eventually(waits, 60)
        await eventually(
            lambda: lacks(board, 'dead_letters_kept{state="open",topic="dlq"} 0.0'),
            60,
        )
        await eventually(
            lambda: lacks(board, 'dead_letters_kept{state="given_up",topic="dlq"} 4.0'),
            60,
        )
        log = await line.done("lanes", "log")
        assert "give_up (a broken export)" in log
        assert "replay_pause (nothing comes back by itself)" in log
        await line.done("replay", "resume", "--why", "all is done")
        assert "replay_resume (all is done)" in await line.done("lanes", "log")
        books = await line.books_balance()
        assert books["columns"]["rejected"]["leads"] == 4
        assert books["records"] == 4
        line.check_histories()
        for process in (replay, worker, board):
            await process.stop()


async def lacks(member: Member, sample: str) -> bool:
    """True while a metric has another value."""
    return f"stream_app_{sample}" not in await member.get("/metrics")
