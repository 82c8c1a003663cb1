"""Commands to lanes on real Kafka: their answers, and what happens to the leads from then on."""

import asyncio
import time
from pathlib import Path

import httpx
import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.addresses import webhook_id
from stream_app.domain.model.topics import home_partition
from tests.e2e.behind import eventually
from tests.e2e.commands import answer, answers, command
from tests.e2e.pipeline import Pipeline
from tests.support.pace import slowness

pytestmark = pytest.mark.timeout(180)
_SIMULATED = 'callbacks = false\nallowed_hosts = ["127.0.0.1"]\n'


@pytest.mark.slow
async def test_a_pause_under_load_holds_every_lead_until_resume(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2) as line:
        await line.publish(line.leads(400))
        await line.publish(
            [
                command(line, "rate", f"slow-{name}", name, rate_per_s=10, burst=10)
                for name in line.names
            ],
        )
        worker = line.start("worker")
        await line.until(lambda: line.last()["accepted"] >= 40, 60, "40 accepted")
        await line.publish([command(line, "pause", "c1")])
        paused = await answer(line, "c1")
        assert paused.lane is not None
        assert paused.applied is True
        assert paused.lane.holds == "paused"
        async with httpx.AsyncClient() as client:
            shown = await client.get(f"http://127.0.0.1:{worker.port}/lanes/w0")
        assert shown.status_code == 404, (
            "its port is open to other machines, and a lane shows money"
        )
        before = sendings(line, "w0")
        assert len(before) < 200, "it came before all were gone"
        assert max(before) <= paused.at_ms
        others = len(sendings(line, "w1"))
        await line.until(
            lambda: len(sendings(line, "w1")) > others + 20,
            30,
            "the other lane goes on",
        )
        assert sendings(line, "w0") == before
        assert sum(lead.startswith("lead-") for lead in of_w0(line)) == len(before), (
            "and nothing reached Clay but these"
        )
        await line.publish(
            [
                command(line, "rate", "fast", rate_per_s=1000, burst=1000),
                command(line, "resume", "c2"),
            ],
        )
        assert (await answer(line, "c2")).text.startswith("resumed")
        await line.until(lambda: len(sendings(line, "w0")) == 200, 30, "all of the lane")
        assert await worker.stop() == 0
        line.check_histories()
        assert (await answers(line))["slow-w0"].at_ms <= min(before), (
            "what waited came before the first lead"
        )


def sendings(line: Pipeline, workspace: str) -> list[int]:
    """Return when the leads of a workspace were sent."""
    steps = (event for history in list(line.histories.values()) for event in history)
    return sorted(
        step.at_ms for step in steps if step.status == "sending" and step.workspace == workspace
    )


def of_w0(line: Pipeline) -> list[str]:
    """Return the leads of the first workspace (even numbers) that Clay has."""
    return [lead for lead in line.summary()["leads"] if int(lead.removeprefix("lead-")) % 2 == 0]


@pytest.mark.slow
async def test_a_command_is_queued_until_a_worker_runs(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2, partitions=2) as line:
        await line.publish(line.leads(20))
        code, output = await line.run("lanes", "pause", "w0", "--why", "no operator is here")
        assert code == 3, output
        queued = output.split("queued ")[1].split()[0]
        code, output = await line.run("explain")
        assert code == 1
        assert "no worker runs" in output
        assert "stream-app worker" in output
        worker = line.start("worker")
        # The worker takes the first lead of w0 with the event of its hold. It leaves the others on
        # Kafka until that one has gone.
        await line.until_last({"accepted": 10, "held_paused": 1}, 40)
        assert (await answer(line, queued)).applied
        assert sendings(line, "w0") == []
        # How far the worker has read is in the views of its lanes, which come after its events.
        await eventually(lambda: _explains_otherwise(line, 9), 40)
        books = await line.books_balance()
        assert books["columns"]["held"]["records"] == 1
        assert books["columns"]["waiting"]["records"] == 9
        code, output = await line.ask("explain", "--workspace", "w0")
        (finding,) = output["findings"]
        assert "stream-app lanes resume w0" in finding["lifts"]
        code, output = await line.ask("lanes", "resume", "w0", "--why", "go on", "--who", "jane")
        assert code == 0, output
        (resumed,) = output["answers"]
        assert resumed["who"] == "jane"
        assert resumed["applied"] is True
        assert resumed["lane"].get("holds", "") == ""
        code, output = await line.run(
            "lanes",
            "quota",
            "w0",
            "--webhook",
            "unknown",
            "--use",
            "--why",
            "x",
        )
        assert code == 1, output
        assert "NOT APPLIED" in output, output
        output = await line.done("lanes", "budget", "w0", "--credits-per-day", "9000", "--why", "x")
        assert "unlimited -> 9000" in output
        await line.until_over(20, 30)
        output = await line.done("lanes")
        assert "running" in output
        code, output = await line.run("lanes", "log")
        assert "jane resume (go on)" in output
        await line.done("explain")
        assert await worker.stop() == 0


async def _explains_otherwise(line: Pipeline, waiting: int) -> object:
    """Return the report of `explain` while it does not say that this many leads wait for w0."""
    code, report = await line.ask("explain", "--workspace", "w0")
    causes = [(finding["code"], finding.get("waiting")) for finding in report["findings"]]
    return "" if (code, causes) == (1, [("paused", waiting)]) else report


@pytest.mark.slow
async def test_a_worker_killed_between_a_command_and_its_answer_applies_it_once(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=1) as line:
        worker = line.start("worker")
        for number in range(8):
            await line.publish([command(line, "correct", f"c{number}", credits=10**number)])
            await asyncio.sleep(0.002 * number)
            worker.kill()
            worker = line.start("worker")
            if number % 2:
                # else the next one is asked before a worker has come
                await answer(line, f"c{number}")
        await answer(line, "c7")
        by_id = await answers(line)
        assert sorted(by_id) == [f"c{number}" for number in range(8)]
        last = max(by_id.values(), key=lambda answered: answered.at_ms)
        assert last.lane is not None
        assert last.lane.meters["credits_month"].elsewhere == 11_111_111
        assert await worker.stop() == 0


async def test_suppressed_people_and_cancelled_imports_are_not_sent_and_the_books_balance(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2, partitions=2) as line:
        code, output = await line.run("suppress", "add", "person3@example.com", "--why", "objected")
        assert code == 3, output
        assert output.count("queued c-") == 1, output
        await line.publish(line.leads(10))
        await line.publish([command(line, "pause", "c1")])
        await line.publish(
            [line.lead(number, "w0", import_id="march.csv") for number in range(10, 30)],
        )
        worker = line.start("worker")
        await line.until(lambda: line.last()["accepted"] == 4, 40, "those of w1, but for person 3")
        await line.done("lanes", "cancel", "w0", "--import", "march.csv", "--why", "wrong list")
        await line.done("lanes", "cancel", "w0", "--lead", "lead-0", "--why", "not that one")
        await line.publish(
            [line.lead(30, "w0", import_id="march.csv"), command(line, "resume", "c2")],
        )
        await line.until_over(31, 30)
        ended = {history[0].lead_id: history[-1] for history in line.histories.values()}
        suppressed = {
            lead: event.reason for lead, event in ended.items() if event.status == "suppressed"
        }
        cancelled = dict.fromkeys(
            ["lead-0", *(f"lead-{number}" for number in range(10, 30))],
            "cancelled",
        )
        assert suppressed == {"lead-3": "suppressed", **cancelled}
        assert line.summary()["leads"].keys() == ended.keys() - suppressed.keys()
        code, output = await line.run(
            "suppress",
            "list",
            "person3@example.com",
            "person4@example.com",
        )
        assert code == 1, output
        assert "1 person is on the suppression list" in output, output
        assert "person3" not in output
        assert "some partition has no worker" not in output
        await line.done("suppress", "remove", "Person3@Example.com", "--why", "a mistake")
        code, output = await line.run(
            "suppress",
            "remove",
            "Person3@Example.com",
            "--why",
            "a mistake",
        )
        assert code == 1, output
        assert "0 people are off the suppression list; 1 person was not on it" in output, output
        await line.publish([line.lead(3, "w1")])
        await line.until(lambda: "lead-3" in line.summary()["leads"], 20, "it may be sent now")
        await line.until_over(32, 20)
        assert await worker.stop() == 0
        line.check_histories()
        await line.books_balance()
        written = [text for member in line.started for text in member.output()]
        assert not [text for text in written if "person3@" in text]


@pytest.mark.slow
async def test_a_webhook_and_a_workspace_are_added_live(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    config = f'secrets_dir = "{tmp_path}"'
    async with Pipeline(kafka.bootstrap, namespace, 1, config=config, partitions=2) as line:
        url = line.environment["WEBHOOK_0"]
        worker = line.start("worker")
        replay = line.start("replay")
        await line.publish([command(line, "quota", "c1", webhook_id=webhook_id(url), count=45_000)])
        assert (await answer(line, "c1")).applied
        await line.publish(line.leads(4))
        await line.until(lambda: line.last()["held_paused"] >= 1, 30, "the pool is used up")
        code, report = await line.ask("explain", "--workspace", "w0")
        assert report["findings"][0]["code"] == "no_webhook", report
        (tmp_path / "SECOND").write_text(url.replace("--crm", "--second"))
        (tmp_path / "OTHER").write_text(url.replace("w0--crm", "new--crm"))
        path = next(line.directory.glob("worker-*.toml"))
        new = (
            "[workspaces.new.budget]\nunlimited = true\n"
            f'[destinations.new]\nworkspace = "new"\nwebhooks_env = ["OTHER"]\n{_SIMULATED}'
        )
        path.write_text(path.read_text().replace('["WEBHOOK_0"]', '["WEBHOOK_0", "SECOND"]') + new)
        path = next(line.directory.glob("replay-*.toml"))
        path.write_text(path.read_text() + new)
        code, report = await line.run("lanes", "reload", "--why", "a second webhook")
        assert code == 0, report
        assert "adopted: " in report, report
        assert "destination w0-crm with 2 webhooks" in report
        adopted = '"workspaces": 2, "destinations": 2'
        await line.until(
            lambda: adopted in replay.log.read_text(),
            20,
            "replay has adopted it by itself",
        )
        await line.until_over(4, 20)
        home = home_partition("new", 2, {})
        lead = msgspec.structs.replace(line.lead(9, "w0"), key=b"new", partition=home)
        value = (lead.value or b"").replace(b'"w0"', b'"new"')
        await line.publish([msgspec.structs.replace(lead, value=value)])
        await line.until_over(5, 20)
        assert line.last() == {"accepted": 5}
        assert [await process.stop() for process in (worker, replay)] == [0, 0]
        written = [text for member in line.started for text in member.output()]
        assert not [text for text in written if url in text]


@pytest.mark.slow
async def test_a_reload_waits_for_replay_and_names_what_a_gateway_lacks(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    config = f'secrets_dir = "{tmp_path}"'
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        config=config,
        partitions=2,
        callbacks=True,
    ) as line:
        running = [line.start("worker"), line.start("gateway")]
        await line.ready(*running)
        (tmp_path / "TABLE").write_text("a secret of a table, only for this test")
        (tmp_path / "OTHER").write_text(
            line.environment["WEBHOOK_0"].replace("w0--crm", "new--crm"),
        )
        new = """
[workspaces.new]
budget.unlimited = true
[destinations.new]
workspace = "new"
webhooks_env = ["OTHER"]
callback_secrets_env = ["TABLE"]
allowed_hosts = ["127.0.0.1"]
"""

        def append(pattern: str, text: str = new) -> None:
            for path in line.directory.glob(pattern):
                path.write_text(path.read_text() + text)

        append("stream_app.toml")
        append("worker-*.toml")
        began = time.monotonic()
        code, report = await line.run("lanes", "reload", "--why", "a new table")
        assert time.monotonic() - began < 40 * slowness(), (
            "replay is absent, and the wait is bounded"
        )
        assert code == 1, report
        assert "all: adopted: workspace new (new), destination new (new)" in report
        assert "no replay process has answered for 2 of 2 partitions within" in report
        assert "new: a gateway lacks TABLE" in report

        replays = [line.start("replay"), line.start("replay")]
        await line.ready(*replays)
        append("replay-*.toml")
        append("gateway-*.toml")
        report = await line.done("lanes", "reload", "--why", "the gateway has it")
        assert "replay: " in report
        assert "new: 8 answers at http://127.0.0.1" in report
        assert "accept TABLE" in report
        assert not [
            word for word in ("lacks", "no replay process", "NOT APPLIED") if word in report
        ], report

        append("replay-*.toml", "[no_such_table]\n")
        code, report = await line.ask("lanes", "reload", "--why", "a typing error")
        assert code == 1, report
        answers = sorted(report["answers"], key=lambda row: (row["kind"], row["partition"]))
        assert [(row["kind"], row["applied"], row["partition"]) for row in answers] == [
            ("reload", True, 0),
            ("reload", True, 1),
            ("replay reload", False, 0),
            ("replay reload", False, 1),
        ]
        assert "no_such_table" in answers[2]["text"]
        code, report = await line.run("lanes", "log")
        assert (
            " replay reload (a typing error)  replay: NOT APPLIED, the configuration is invalid"
            in report
        )
        assert [await process.stop() for process in (*running, *replays)] == [0, 0, 0, 0]
