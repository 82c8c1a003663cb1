"""`python -m tests.e2e.replay_kills [--kills 20]`: 5,000 dead letters of six causes, and a replay process that dies.

Takes about five minutes, so pytest does not run it. Among them are dead letters of another program (only a value),
some of which ask to be sent whatever was sent before. First the replay process is killed again and again while the
dead letters come back; then Kafka's own tool rewinds the group after some 40 % were delivered: to the earliest, to a
time, to an offset, with more kills. In the end each lead is at Clay once or provably never, and no cap was passed.
"""

import argparse
import asyncio
import json
import random
import time
import uuid
from collections import Counter

from rich.console import Console

from stream_app.dev.kafka import Broker, LocalKafka
from stream_app.dev.process import StartError
from stream_app.domain.record import Record
from tests.e2e.behind import caught_up, eventually
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_replay import LANE, reset

CONFIG = """
[delivery]
max_attempts = 1
[replay]
max_replays = 3
backoff_base_s = 1
backoff_cap_s = 4
tiers_s = [1, 2, 4, 600]
"""
GOOD = 5_600
FOREIGN, NO_LEADS = 120, 20
FAULTS = [
    {"kind": "status_before", "status": 422, "share": 0.06},
    {"kind": "status_before", "status": 400, "share": 0.06},
    {"kind": "status_before", "status": 500, "share": 0.03},
    {"kind": "status_before", "status": 503, "share": 0.97},
]
say = Console(stderr=True).print


def bad(line: Pipeline) -> list[Record]:
    """Inputs that are rejected before they reach Clay, for three reasons."""
    names, home = line.settings.names, line.settings.home("w0")
    values = [b"{", json.dumps({"fields": {"title": "x"}}).encode()]
    values.append(json.dumps({"destination": "nowhere", "fields": {"email": "a@example.com"}}).encode())
    return [Record(names.leads, b"w0", value, (), home) for value in values * 50]


def foreign(line: Pipeline) -> list[Record]:
    """Dead letters that another program wrote. Half of their leads have `force`."""
    names, home = line.settings.names, line.settings.home("w0")
    leads = [line.lead(10_000 + number, "w0", force=number % 2 == 0).value for number in range(FOREIGN - NO_LEADS)]
    return [Record(names.dlq, None, value, (), home) for value in (*leads, *[b"no lead"] * NO_LEADS)]


async def kill_often(line: Pipeline, kills: int, rng: random.Random) -> None:
    """Run one replay process after the other, each killed at a random moment. The last one stays until all is done."""
    for _ in range(kills):
        replay = line.start("replay")
        await asyncio.sleep(rng.uniform(2.5, 10))
        replay.kill()
        await asyncio.to_thread(replay.wait, 10)
    replay = line.start("replay")
    histories = line.histories
    await line.until(
        lambda: not any(history[-1].status in ("dead_lettered", "replayed") for history in list(histories.values())),
        240,
        "all dead letters have come back",
    )
    await caught_up(line, 90)
    assert await line.stop(replay) == 0


async def reset_when_empty(kafka: Broker, line: Pipeline, *how: str) -> None:
    """Reset the offsets. A killed process counts as a member of the group until its session times out."""

    async def refused() -> str:
        try:
            await asyncio.to_thread(reset, kafka, line, *how)
        except StartError as error:
            return str(error)
        return ""

    await eventually(refused, 60)


def check(line: Pipeline) -> None:
    """Check what must hold whenever nothing is under way."""
    line.check_histories()
    for history in line.histories.values():
        steps = Counter((event.status, event.epoch) for event in history)
        for (status, epoch), times in steps.items():
            assert times <= {"replayed": 3, "parked": 1}.get(status, 99), (status, epoch, times)
    rows = line.summary()["leads"]
    assert set(rows.values()) <= {1}, "none was POSTed twice into a row"
    accepted = {history[0].lead_id for history in line.histories.values() if history[-1].status == "accepted"}
    assert accepted == set(rows)


def each_once(line: Pipeline, total: int) -> None:
    """Check that each record has one history. A killed process publishes some dead letters again. A copy of another
    program's dead letter belongs to no history and begins its own: a duplicate, or refused as its dead letter was.
    """
    reported = Counter(history[0].lead_id for history in line.histories.values() if history[-1].status != "duplicate")
    leads = {lead_id: times for lead_id, times in reported.items() if not lead_id.startswith("record:")}
    assert set(leads.values()) == {1}
    unreadable, copies = total - len(leads), len(reported) - total
    assert len(leads) == GOOD + FOREIGN - NO_LEADS
    assert 0 <= copies <= unreadable, (copies, unreadable)


async def campaign(kafka: Broker, kills: int, rng: random.Random) -> None:
    namespace = f"k{uuid.uuid4().hex[:6]}."
    async with Pipeline(kafka.bootstrap, namespace, 4, config=CONFIG, lane=LANE) as line:
        line.control("POST", "/control/faults", FAULTS)
        await line.publish([*line.leads(GOOD), *bad(line)])
        worker = line.start("worker")
        total = GOOD + 150
        await line.until(lambda: len(line.histories) == total and not line.last()["sending"], 120, "all taken")
        dead_letters = await line.read(line.settings.names.dlq)
        causes = Counter(dict(dead_letter.headers)["stream-app-reason"].decode() for dead_letter in dead_letters)
        say(f"{len(dead_letters)} dead letters: {dict(causes)}")
        assert len(dead_letters) >= 5_000
        assert len(causes) >= 6
        await line.publish(foreign(line))
        total += FOREIGN
        line.control("DELETE", "/control/faults")
        line.control("POST", "/control/faults", {"kind": "status_before", "status": 503, "share": 0.8})
        began_s = time.monotonic()
        await kill_often(line, kills, rng)
        check(line)
        states = line.last()
        delivered = states["accepted"] / total
        say(f"{kills} kills in {time.monotonic() - began_s:.0f} s: {dict(states)}, {delivered:.0%} delivered")
        assert 0.3 < delivered < 0.6, "the rewinds are to find some that were delivered and some that were not"
        uncertain = uncertain_in(line)
        each_once(line, total)

        half = {"kind": "status_before", "status": 503, "share": 0.6}
        time_to = ["--to-datetime", "2020-01-01T00:00:00.000"]
        for how, faults in ((["--to-earliest"], [half]), (time_to, [half]), (["--to-offset", "100"], [])):
            line.control("DELETE", "/control/faults")
            line.control("POST", "/control/faults", faults)
            before = line.last()["accepted"]
            await reset_when_empty(kafka, line, *how)
            await kill_often(line, 2, rng)
            check(line)
            say(f"{' '.join(how)}: {line.last()['accepted'] - before} more accepted, {dict(line.last())}")
        assert line.last()["parked"] == uncertain == uncertain_in(line), "only what may be at Clay is left"
        code, said = await line.run("books")
        assert code == 0, said
        await line.stop(worker)
        say("the books balance")


def uncertain_in(line: Pipeline) -> int:
    """Return the leads that are parked because Clay may have them."""
    return sum(
        history[-1].status == "parked" and any(event.status == "send_uncertain" for event in history)
        for history in line.histories.values()
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.replay_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with LocalKafka(progress=say) as kafka:
        asyncio.run(campaign(kafka, args.kills, random.Random(args.seed)))


if __name__ == "__main__":
    main()
