"""More partitions: the commands of docs/sizing.md, run as they are written there, on two whole systems in turn."""

import asyncio
import csv
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
from tests.support.pace import BUSY

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"
CONFIG = '[privacy]\npepper_env = "PERSON_PEPPER"\n'
SUPPRESSED = "person2@example.com"


def blocks() -> list[str]:
    """The blocks of shell in the section, in their order."""
    section = PAGE.read_text(encoding="utf-8").partition("## More partitions: a new namespace\n")[2]
    return [textwrap.dedent(block) for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)]


class Systems(Pipeline):
    """An old namespace, then a new one."""

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
        self.gateway_port, self.board_port = port, board
        self.settings = self._settings()

    async def follow_again(self) -> None:
        """Follow the events of the new namespace, and forget those of the old one."""
        assert self._follower is not None
        await cancel([self._follower])
        self.histories.clear()
        self._follower = asyncio.create_task(self._follow())

    def at_rest(self) -> int:
        """How many leads are answered, or will never be sent."""
        return sum(self.last()[status] for status in ("enriched", "no_data", "suppressed"))

    def write(self, name: str) -> None:
        """Write the present configuration under this name."""
        (self.directory / name).write_text(self._toml)

    async def shell(self, block: str, **names: str) -> str:
        """Run a block as a shell does, with these names in place of those of the page. Every command must succeed."""
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


def lane_of(file: Path) -> Mapping[str, Any]:
    """The view of the only lane in what `lanes --json` wrote."""
    (lane,) = json.loads(file.read_text())["facts"]["lanes"]
    return dict(lane["view"])


async def test_the_page_begins_a_namespace_with_more_partitions(
    kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSON_PEPPER", "a pepper of 32 random characters, only for tests")
    drain, note, create, carry_over = blocks()
    async with Systems(
        kafka.bootstrap, namespace, 1, config=CONFIG, partitions=2, callbacks=True, script=CALLBACK
    ) as line:
        line.write("old.toml")
        old = [line.start(name) for name in ("gateway", "worker", "replay")]
        await line.ready(old[1])
        assert (await line.run("suppress", "add", SUPPRESSED, "--why", "objected"))[0] == 0
        await line.publish(line.leads(4))
        await line.until(lambda: line.at_rest() == 4, 120, "four leads are at rest")
        assert line.last()["suppressed"] == 1
        assert "The books balance" in await line.shell(drain)
        await line.shell(f"export STREAM_APP_CONFIG=old.toml\n{note}")
        was = lane_of(line.directory / "lanes.json")
        with (line.directory / "answered.csv").open() as answered:
            assert {row["lead_id"] for row in csv.DictReader(answered)} <= {"lead-0", "lead-1", "lead-3"}
        for process in reversed(old):
            assert await line.stop(process) == 0

        line.begin_again(f"new.{namespace}", 8)
        line.write("new.toml")
        await line.shell(create)
        await line.follow_again()
        new = [line.start(name) for name in ("gateway", "worker")]
        await line.ready(new[1])
        ((webhook_id, webhook),) = was["webhooks"].items()
        today = was["meters"]["credits_day"]["spent"]
        block = carry_over.replace("--credits 120", f"--credits {today}").replace("12000", str(webhook["count"]))
        await line.shell(f"export STREAM_APP_CONFIG=new.toml\n{block}", acme="w0", ID=webhook_id)
        await line.shell("STREAM_APP_CONFIG=new.toml stream-app lanes --json > lanes.json")
        now = lane_of(line.directory / "lanes.json")
        assert now["webhooks"][webhook_id]["count"] == webhook["count"] == 3
        assert now["meters"]["credits_day"]["elsewhere"] == today > 0
        assert now["meters"]["credits_month"]["elsewhere"] == today + 1080

        await line.publish([line.lead(2, "w0"), line.lead(9, "w0")])
        await line.until(lambda: line.at_rest() == 2, 120, "two leads are at rest")
        assert line.last()["suppressed"] == 1, "the person is on the list of the new namespace, too"
        assert line.summary()["leads"].keys() == {"lead-0", "lead-1", "lead-3", "lead-9"}
