"""Loss, and more partitions: whole systems, with the commands of docs/backup.md and docs/sizing.md
as they stand.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stream_app.dev.kafka import Broker
from stream_app.dev.process import free_port
from stream_app.tasks import cancel
from tests.e2e.pipeline import CALLBACK, Pipeline
from tests.support.kafka import delete_topics
from tests.support.pace import BUSY

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

DOCS = Path(__file__).parents[2] / "docs"
CONFIG = '[privacy]\npepper_env = "PERSON_PEPPER"\n'
SUPPRESSED = "person2@example.com"


def blocks(page: str, heading: str, language: str = "sh") -> list[str]:
    """The blocks of a section in their order. '': what is before the first section."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = re.split(
        r"^## ",
        text.partition(f"## {heading}\n")[2] if heading else text,
        flags=re.M,
    )[0]
    return [
        textwrap.dedent(block)
        for block in re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    ]


class Systems(Pipeline):
    """A system of four leads, of which one is suppressed and three are answered, and then a new
    namespace.
    """

    async def work(self) -> None:
        """Run the system until the leads are at rest. Keep the copies of the page."""
        self.write("stream_app.toml")
        self.write("old.toml")
        self.old = [self.start(name) for name in ("gateway", "worker")]
        await self.ready(*self.old)
        assert (await self.run("suppress", "add", SUPPRESSED, "--why", "objected"))[0] == 0
        await self.publish(self.leads(4))
        await self.until(lambda: self.at_rest() == 4, 120, "four leads are at rest")
        (copies,) = blocks("backup.md", "")
        await self.shell(f"export STREAM_APP_CONFIG=old.toml\n{copies}")
        rows = [
            "lead_id,email,first_name",
            *(f"lead-{number},person{number}@example.com,Ada" for number in range(6)),
        ]
        rows.append("lead-6,Person0@example.com,Ada")  # the person of lead-0, under another id
        (self.directory / "leads.csv").write_text("\n".join(rows) + "\n")

    def at_rest(self) -> int:
        """How many leads are answered, or will never be sent."""
        return sum(self.last()[status] for status in ("enriched", "no_data", "suppressed"))

    def write(self, name: str) -> None:
        """Write the present configuration under this name."""
        (self.directory / name).write_text(self._toml)

    async def shell(self, block: str, **names: str) -> str:
        """Run a block as a shell does, with these names in place of those of the page.

        Every command must succeed.
        """
        for shown, own in names.items():
            block = re.sub(rf"(?<![\w.-]){re.escape(shown)}(?![\w.-])", own, block)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ran = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-e", "-o", "pipefail", "-c", block],
            capture_output=True,
            text=True,
            timeout=200 * BUSY,
            check=False,
            cwd=self.directory,
            env=os.environ | {"PATH": path},
        )
        assert ran.returncode == 0, (block, ran.stdout, ran.stderr)
        return ran.stdout

    async def python(self, program: str) -> str:
        """Run a program of the page."""
        (self.directory / "program.py").write_text(program)
        return await self.shell(f"{sys.executable} program.py")

    def begin_again(self, namespace: str, partitions: int) -> None:
        """Let processes that start from now on belong to a new namespace, with a URL of its own."""
        for before, now in (
            (f'namespace = "{self.settings.kafka.namespace}"', f'namespace = "{namespace}"'),
            (f"partitions = {self.settings.kafka.partitions}", f"partitions = {partitions}"),
            (str(self.gateway_port), str(port := free_port())),
            (str(self.board_port), str(board := free_port())),
        ):
            assert before in self._toml
            self._toml = self._toml.replace(before, now)
        self.gateway_port = port
        self.board_port = board
        self.settings = self._settings()

    async def follow_again(self) -> None:
        """Follow the events of the new topics, and forget those of the old ones."""
        assert self._follower is not None
        await cancel([self._follower])
        self.histories.clear()
        self._follower = asyncio.create_task(self._follow())

    async def carry_over(self, create: str, carry_over: str) -> None:
        """Do the last steps of the page in the new namespace, with what was written down."""
        self.write("new.toml")
        await self.shell(create)
        await self.follow_again()
        new = [self.start(name) for name in ("gateway", "worker")]
        await self.ready(*new)
        was = self.lane()
        ((webhook, quota),) = was["webhooks"].items()
        spent = was["meters"]["credits_day"]["spent"]
        block = carry_over.replace("--credits 120", f"--credits {spent}").replace(
            "12000",
            str(quota["count"]),
        )
        await self.shell(f"export STREAM_APP_CONFIG=new.toml\n{block}", acme="w0", ID=webhook)
        await self.shell("STREAM_APP_CONFIG=new.toml stream-app lanes --json > lanes.json")
        now = self.lane()
        assert now["webhooks"][webhook]["count"] == quota["count"] == 3
        assert now["meters"]["credits_day"]["elsewhere"] == spent > 0
        assert now["meters"]["credits_month"]["elsewhere"] == spent + 1080

    def lane(self) -> Mapping[str, Any]:
        """The view of the only lane in what `lanes --json` wrote."""
        (lane,) = json.loads((self.directory / "lanes.json").read_text())["facts"]["lanes"]
        return dict(lane["view"])


@pytest.fixture
def systems(kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Systems:
    monkeypatch.setenv("PERSON_PEPPER", "a pepper of 32 random characters, only for tests")
    return Systems(
        kafka.bootstrap,
        namespace,
        1,
        config=CONFIG,
        partitions=2,
        callbacks=True,
        script=CALLBACK,
    )


async def test_the_state_is_gone(systems: Systems) -> None:
    """A new namespace with more partitions goes on with what was written down."""
    (write_down,) = blocks("backup.md", "stream-app-state is gone")
    sent, publish = blocks("backup.md", "stream-app-state is gone", "python")
    drain, note, create, carry_over = blocks("sizing.md", "More partitions: a new namespace")
    async with systems as line:
        await line.work()
        assert "The books balance" in await line.shell(drain)
        await line.shell(f"export STREAM_APP_CONFIG=old.toml\n{note}")
        state = line.settings.names.state
        await delete_topics(line.bootstrap, state)
        assert await line.old[1].ended(60 * BUSY) == 1
        assert f"{state}: the topic was deleted" in line.old[1].log.read_text()
        await line.publish([line.lead(4, "w0")])  # it waits on Kafka, so it was not sent
        await line.old[0].stop()
        await line.shell(write_down)
        worker = line.start("worker")
        assert await worker.ended(60 * BUSY) == 1
        assert (
            f"{state}/0: it is empty, and {line.settings.names.lanes}/0 is not"
            in worker.log.read_text()
        )
        code, text = await line.run("suppress", "list")
        assert code == 1
        assert f"{state}/0: it is empty" in text
        await line.python(sent)
        assert (line.directory / "sent.csv").read_text().split() == [
            "lead_id",
            "lead-0",
            "lead-1",
            "lead-3",
        ]

        line.begin_again(f"new.{line.settings.kafka.namespace}", 8)
        await line.carry_over(create, carry_over)
        assert await line.python(publish) == "3 were published\n", (
            "two leads of six, and the suppressed one"
        )
        await line.until(lambda: line.at_rest() == 3, 120, "three leads are at rest")
        assert line.last()["suppressed"] == 1, "the person is on the list of the new namespace, too"
        assert line.summary()["leads"] == {f"lead-{number}": 1 for number in (0, 1, 3, 4, 5)}, (
            "each once, at Clay"
        )
