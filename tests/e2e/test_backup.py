"""Loss: what docs/backup.md says, on a whole system that loses a topic, the read model or the cluster."""

import asyncio
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.error import HTTPError

import pytest

from stream_app.dev.kafka import Broker, LocalKafka
from tests.e2e import test_new_namespace as more_partitions
from tests.e2e.pipeline import CALLBACK
from tests.e2e.test_new_namespace import CONFIG, SUPPRESSED, Systems, lane_of
from tests.support.kafka import delete_topics
from tests.support.pace import BUSY

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"


def blocks(heading: str, language: str = "sh") -> list[str]:
    """The blocks of a section in their order. '': what is before the first section."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition(f"## {heading}\n")[2] if heading else text, flags=re.M)[0]
    return [textwrap.dedent(block) for block in re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)]


class Losses(Systems):
    """A system of four leads, of which one is suppressed and three are answered, that loses something."""

    async def work(self) -> None:
        """Run the system until the leads are at rest. Keep the copies of the page."""
        self.write("stream_app.toml")
        self.write("old.toml")
        self.old = [self.start(name) for name in ("gateway", "worker")]
        await self.ready(*self.old)
        assert (await self.run("suppress", "add", SUPPRESSED, "--why", "objected"))[0] == 0
        await self.publish(self.leads(4))
        await self.until(lambda: self.at_rest() == 4, 120, "four leads are at rest")
        (copies,) = blocks("")
        await self.shell(f"export STREAM_APP_CONFIG=old.toml\n{copies}")
        rows = ["lead_id,email,first_name", *(f"lead-{number},person{number}@example.com,Ada" for number in range(6))]
        rows.append("lead-6,Person0@example.com,Ada")  # the person of lead-0, under another id
        (self.directory / "leads.csv").write_text("\n".join(rows) + "\n")

    async def python(self, program: str) -> str:
        """Run a program of the page."""
        (self.directory / "program.py").write_text(program)
        return await self.shell(f"{sys.executable} program.py")

    async def carry_over(self) -> None:
        """Do steps 4 and 5 of the page on a new namespace, with the copies."""
        _, _, create, carry_over = more_partitions.blocks()
        self.write("new.toml")
        await self.shell(create)
        await self.follow_again()
        new = [self.start(name) for name in ("gateway", "worker")]
        await self.ready(*new)
        was = lane_of(self.directory / "lanes.json")
        ((webhook, quota),) = was["webhooks"].items()
        spent = was["meters"]["credits_day"]["spent"]
        block = carry_over.replace("--credits 120", f"--credits {spent}").replace("12000", str(quota["count"]))
        await self.shell(f"export STREAM_APP_CONFIG=new.toml\n{block}", acme="w0", ID=webhook)

    def move_to(self, bootstrap: str) -> None:
        """Let processes that start from now on use another cluster."""
        self._toml = self._toml.replace(self.bootstrap, bootstrap)
        self.bootstrap = bootstrap
        self.settings = self._settings()

    def board_again(self, board: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """Start the board again, with the same configuration and so with the same file."""
        (config,) = self.directory.glob("board-*.toml")
        argv = [sys.executable, "-m", "stream_app", "board", "--config", str(config)]
        started = self.children.spawn(argv, log=self._log("board-again"))
        self.ports[started.pid] = self.ports[board.pid]
        return started

    async def not_ready(self, process: subprocess.Popen[bytes]) -> str:
        """Wait until a process is not ready. Return why."""
        async with asyncio.timeout(150 * BUSY):
            while True:
                try:
                    await self.get(process, "/readyz")
                except HTTPError as refused:
                    with refused:
                        return refused.read().decode()
                await asyncio.sleep(0.5)

    async def publishes_the_rest(self) -> None:
        """Publish what the page calls the rest: two leads of six, and the suppressed one, which ends as such again."""
        assert await self.python(blocks("stream-app-state is gone", "python")[1]) == "3 were published\n"
        await self.until(lambda: self.at_rest() == 3, 120, "three leads are at rest")
        assert self.last()["suppressed"] == 1
        assert self.summary()["leads"] == {f"lead-{number}": 1 for number in (0, 1, 3, 4, 5)}, "each once, at Clay"


def losses(kafka: Broker, namespace: str) -> Losses:
    return Losses(kafka.bootstrap, namespace, 1, config=CONFIG, partitions=2, callbacks=True, script=CALLBACK)


@pytest.fixture(autouse=True)
def pepper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSON_PEPPER", "a pepper of 32 random characters, only for tests")


async def test_the_state_is_gone(kafka: Broker, namespace: str) -> None:
    write_down, sent, _ = [*blocks("stream-app-state is gone"), *blocks("stream-app-state is gone", "python")]
    async with losses(kafka, namespace) as line:
        await line.work()
        state = line.settings.names.state
        await delete_topics(kafka.bootstrap, state)
        assert await asyncio.to_thread(line.old[1].wait, 60) == 1
        assert f"{state}: the topic was deleted" in line.logs[line.old[1].pid].read_text()
        await line.publish([line.lead(4, "w0")])  # it waits on Kafka, so it was not sent
        await line.stop(line.old[0])
        await line.shell(write_down)
        worker = line.start("worker")
        assert await asyncio.to_thread(worker.wait, 60) == 1
        assert f"{state}/0: it is empty, and {line.settings.names.lanes}/0 is not" in line.logs[worker.pid].read_text()
        code, text = await line.run("suppress", "list")
        assert code == 1
        assert f"{state}/0: it is empty" in text
        await line.python(sent)
        assert (line.directory / "sent.csv").read_text().split() == ["lead_id", "lead-0", "lead-1", "lead-3"]

        line.begin_again(f"new.{namespace}", 2)
        await line.carry_over()
        await line.publishes_the_rest()


async def test_the_cluster_is_gone(kafka: Broker, namespace: str) -> None:
    async with losses(kafka, namespace) as line:
        await line.work()
        for process in line.old:
            assert await line.stop(process) == 0
        at_clay = sorted(line.summary()["leads"])
        (line.directory / "sent.csv").write_text("\n".join(["lead_id", *at_clay]) + "\n")
        with LocalKafka() as other:
            line.move_to(other.bootstrap)
            await line.carry_over()
            await line.publishes_the_rest()


async def test_the_events_are_gone(kafka: Broker, namespace: str) -> None:
    (create,) = blocks("leads.status is gone")
    async with losses(kafka, namespace) as line:
        await line.work()
        worker = line.old[1]
        await delete_topics(kafka.bootstrap, line.settings.names.status)
        await line.publish([line.lead(0, "w0"), line.lead(4, "w0")])
        assert "partition 0 is being taken over again" in await line.not_ready(worker)
        assert (await line.run("doctor"))[0] == 1
        assert "lead-4" not in line.summary()["leads"]

        await line.shell(create)
        await line.follow_again()
        await line.until(lambda: line.last() == {"enriched": 1, "duplicate": 1}, 180, "the new lead is at rest")
        assert line.summary()["leads"] == {f"lead-{number}": 1 for number in (0, 1, 3, 4)}
        await line.ready(worker)
        code, books = await line.run("books")
        assert code == 1
        assert [f"(lead-{number}): lost" in books for number in range(5)] == [True] * 4 + [False]


async def test_the_read_model_is_gone(kafka: Broker, namespace: str) -> None:
    (delete,) = blocks("The read model is gone")
    async with losses(kafka, namespace) as line:
        await line.work()
        board = line.start("board")
        await line.ready(board)
        before = await line.run("status", "lead-0")
        assert before[0] == 0
        assert await line.stop(board) == 0
        (model,) = line.directory.glob("model-*.sqlite")
        kept = model.with_suffix(".messages.json")
        kept.write_text("[]")
        await line.shell(delete.replace("model.", f"{model.stem}."))
        assert not model.exists()
        assert kept.exists()
        again = line.board_again(board)
        await line.ready(again)
        assert await line.run("status", "lead-0") == before
        assert model.exists()
