"""Replays by operators on real Kafka: interrupted by Ctrl-C, two at once, against the budget, before retention."""

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.behind import caught_up
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_replay import CONFIG, DOWN, LANE, reset
from tests.support.replaying import replaying

pytestmark = pytest.mark.timeout(240)

# A shell without job control starts what is in its background deaf to Ctrl-C, and pytest may have been started so.
_AT_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("stream_app", run_name="__main__", alter_sys=True)
"""
LEADS = 40


@pytest.mark.long
async def test_interrupted_and_concurrent_selections_send_each_dead_letter_once(kafka: Broker, namespace: str) -> None:
    budget = LANE + "[workspaces.{name}.budget]\ncredits_per_day = 1000\n"
    async with Pipeline(kafka.bootstrap, namespace, 1, config=CONFIG, lane=budget) as line, running(line):
        line.control("POST", "/control/faults", DOWN)
        await line.publish(line.leads(LEADS))
        worker = line.start("worker")
        await line.until(lambda: line.last()["dead_lettered"] == LEADS, 40, "all are dead letters")
        line.control("DELETE", "/control/faults")
        await ask_in_vain(line)

        # Ctrl-C in the middle, then the same again.
        select, log = operator(line, "--rate", "4")
        await line.until(lambda: line.last()["accepted"] >= 6, 40, "some were sent back")
        select.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(select.wait, 30) == 130, log.read_text()
        assert "run the same command to continue; nothing is sent twice" in log.read_text()
        assert line.last()["accepted"] < LEADS - 10

        # It goes on while a second operator begins: the first one is stopped, and says so.
        select, log = operator(line, "--rate", "4")
        before = line.last()["accepted"]
        await line.until(lambda: line.last()["accepted"] >= before + 4, 40, "it went on")
        code, sent = await line.ask("replay", "select", "--yes")
        assert code == 0, sent
        assert await asyncio.to_thread(select.wait, 60) == 1, log.read_text()
        assert "another operator has started" in log.read_text()
        await line.until(lambda: line.last()["accepted"] == LEADS, 30, "all are accepted")
        code, sent = await line.ask("replay", "select", "--yes")
        assert (code, sent) == (1, {"sent": 0, "refused": {}})

        line.check_histories()
        places = Counter(
            dict(record.headers)["stream-app-redriven-from"] for record in await line.read(line.settings.names.retry)
        )
        assert sorted(places.values()) == [1] * LEADS, "each dead letter went back once"
        assert line.summary()["leads"] == {f"lead-{number}": 1 for number in range(LEADS)}
        await rewind_past_what_is_kept(kafka, line)
        assert await line.stop(worker) == 0
        assert set(line.summary()["leads"].values()) == {1}
        await line.books_balance()


@asynccontextmanager
async def running(line: Pipeline) -> AsyncIterator[None]:
    """Carry out ordered replays, without automatic ones."""
    with replaying(line.settings):
        yield


def operator(line: Pipeline, *more: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Run `stream-app replay select --yes` at a terminal. Return its output."""
    log = line.directory / f"select-{len(list(line.directory.glob('select-*')))}.log"
    config = str(line.directory / "stream_app.toml")
    argv = [sys.executable, "-c", _AT_A_TERMINAL, "replay", "select", "--yes", "--config", config, *more]
    return line.children.spawn(argv, log=log), log


async def ask_in_vain(line: Pipeline) -> None:
    """A selection that is wrong or too expensive is refused, and nothing is sent."""
    for argv, code, words in (
        (("plan", "--reason", "no_such_reason"), 1, "0 dead letters match"),
        (("select", "--lead", "unknown", "--yes"), 1, "nothing to send back"),
        (("select", "--status", "503", "--reason", "http_504", "--yes"), 2, "contradict each other"),
        (("plan", "--disposition", "deferred"), 2, "use --from deferred"),
        (("plan", "--since", "2026-01-02", "--until", "2026-01-01"), 2, "nothing is both younger"),
        (("plan", "--workspace", "w7"), 2, "there is no workspace w7"),
        (("select", "--rate", "0", "--yes"), 2, 'Invalid value "0.0" for --rate. Must be >= 0.001'),
        (("plan", "--rate", "nan"), 2, 'Invalid value "nan" for --rate.'),
    ):
        got, said = await line.run("replay", *argv)
        assert (got, words in said) == (code, True), (argv, said)
    # What an operator has changed live is what is left, not what the file says.
    await line.done("lanes", "budget", "w0", "--credits-per-day", "100", "--why", "until Monday")
    code, plan = await line.ask("replay", "plan")
    (price,) = plan["prices"]
    assert (code, price["credits"], price["credits_left"], price["actions"]) == (0, 6 * LEADS, 100, LEADS)
    code, said = await line.run("replay", "select", "--yes")
    assert (code, "40 leads cost about 240 credits and 40 actions, there are 100 left" in said) == (1, True), said
    assert len(await line.read(line.settings.names.retry)) == 0
    await line.done("lanes", "budget", "w0", "--credits-per-day", "1000", "--why", "it is Monday")


async def rewind_past_what_is_kept(kafka: Broker, line: Pipeline) -> None:
    """A rewind to before retention goes back to the oldest dead letter, and reports it."""
    names, home = line.settings.names, line.settings.home("w0")
    replay = line.start("replay")
    await caught_up(line)
    assert await line.stop(replay) == 0
    end = max(dead_letter.offset for dead_letter in await line.read(names.dlq)) + 1
    file = line.directory / "gone.json"
    gone = {"topic": names.dlq, "partition": home, "offset": 9}
    file.write_text(json.dumps({"version": 1, "partitions": [gone]}))
    kafka.run_tool("org.apache.kafka.tools.DeleteRecordsCommand", "--offset-json-file", str(file))

    for how in (("--to-datetime", "2020-01-01"), ("--to-offset", "3")):
        code, answer = await line.ask("replay", "rewind", *how, "--partition", str(home), "--dry-run")
        (move,) = answer["moves"]
        assert (code, move["to"], move["expired"]) == (0, 9, True), answer
        assert answer["plan"]["fates"].keys() == {"delivered"}
    code, said = await line.run("replay", "rewind", "--to-datetime", "2020-01-01", "--dry-run")
    assert (code, "the first dead letter still kept" in said) == (0, True), said
    code, said = await line.run("replay", "rewind", "--to-datetime", "2999-01-01")
    assert (code, "nothing to rewind: no dead letter is kept between that place" in said) == (1, True), said
    code, said = await line.run("replay", "rewind", "--to-earliest", "--partition", "9")
    assert (code, "the partitions are 0 to 3" in said) == (2, True), said

    said = reset(kafka, line, "--to-datetime", "2020-01-01T00:00:00.000")
    assert f" {end} " not in said
    replay = line.start("replay")
    await caught_up(line)
    assert await line.stop(replay) == 0
    assert '"rewound"' in line.logs[replay.pid].read_text()
    assert line.last() == {"accepted": LEADS}
