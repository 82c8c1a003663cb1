"""The commands of `stream-app` that the documents show, run on a whole system: each does its work or says why not."""

import json
import time
from pathlib import Path

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.pipeline import Pipeline
from tests.repository.test_docs import DOCUMENTS
from tests.support.shell import commands_of, lines_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NOT_HERE = {
    "demo": "tests/e2e/test_demo.py runs it",
    "sim --script sim.toml": "the system of this test has one",
    "worker": "the system of this test has one",
    "replay": "the system of this test has one",
    "gateway": "the system of this test has one",
    "board": "the system of this test has one",
    "trace": "tests/integration/test_trace.py runs it",
    "lanes --watch": "runs until Ctrl-C",
}
"""Commands that this test does not run -> why."""
DONE, NO, QUEUED, NO_BOARD = 0, 1, 3, 5
NAMES = {"acme": "w0", "people": "w0-crm"}


def documented() -> list[list[str]]:
    """Each command that is shown in a block, once, with the names of this test's system."""
    commands: dict[tuple[str, ...], None] = {}
    for document in DOCUMENTS:
        for line in lines_of(document):
            for words in commands_of(line):
                if words[0].rpartition("/")[2] == "stream-app" and not any("$" in word for word in words):
                    arguments = tuple(NAMES.get(word, word) for word in words[1:])
                    if " ".join(arguments) not in NOT_HERE:
                        commands[arguments] = None
    return [list(command) for command in commands]


def write_inputs(directory: Path) -> None:
    """The files that the commands read."""
    (directory / "leads.csv").write_text("email,first_name\nada@example.com,Ada\ngrace@example.com,Grace\n")
    lead = {"fields": {"email": "edsger@example.com", "first_name": "Edsger"}, "workspace": "w0"}
    (directory / "backfill.jsonl").write_text(json.dumps(lead) + "\n")
    (directory / "suppressed.json").write_text('[{"person": "AAAAAAAAAAAAAAAAAAAAAA"}]')
    (directory / "fix.json").write_text('[{ "op": "add", "path": "/fields/title", "value": "CEO" }]')


async def test_documented_commands_run(kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_URL", "http://127.0.0.1:1/nothing-is-here")
    config = '[notify]\nurl_env = "NOTIFY_URL"\n'
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=2, callbacks=True, config=config) as line:
        write_inputs(line.directory)
        for process in ("gateway", "board", "worker", "replay"):
            line.start(process)
        board_up = time.monotonic() + 60
        while (await line.run("imports"))[0] == NO_BOARD:
            assert time.monotonic() < board_up, "the board does not answer"
        failed: list[str] = []
        commands = documented()
        assert len(commands) > 40
        for shown in commands:
            words = [word.replace("leads.dlq/", f"{line.settings.names.dlq}/") for word in shown]
            asks = words[0] == "erase" or "--round-trip" in words
            agreed = ["--yes"] if asks and "--yes" not in words else []  # there is no terminal to ask on
            code, printed = await line.run(*words, *agreed)
            if code not in (DONE, NO, QUEUED) or "Traceback" in printed:
                failed.append(f"stream-app {' '.join(words)}: exit code {code}: {printed[-500:]}")
        assert not failed, "\n".join(failed)
        assert line.directory.joinpath("enriched.csv").exists()
