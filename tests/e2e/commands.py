"""Commands to lanes as records of `leads.commands`, and their answers."""

import asyncio
import time
from typing import Any

import msgspec

from stream_app.domain.commands import Command, CommandAnswer
from stream_app.domain.model.records import Record
from tests.e2e.pipeline import Pipeline
from tests.support.pace import BUSY


def command(line: Pipeline, kind: str, name: str, workspace: str = "w0", **args: Any) -> Record:
    asked = Command(name, kind, workspace, int(time.time() * 1000), "jane", "a test", args)  # type: ignore[arg-type]  # a word
    home = line.settings.home(workspace)
    return Record(
        line.settings.names.commands,
        workspace.encode(),
        msgspec.json.encode(asked),
        (),
        home,
    )


async def answers(line: Pipeline) -> dict[str, CommandAnswer]:
    """Return all answers by the id of the command. No command may have two."""
    decoded = [
        msgspec.json.decode(record.value, type=CommandAnswer)
        for record in await line.read(line.settings.names.audit)
    ]
    assert len({answer.id for answer in decoded}) == len(decoded)
    return {answer.id: answer for answer in decoded}


async def answer(line: Pipeline, name: str, timeout_s: float = 20) -> CommandAnswer:
    deadline = time.monotonic() + timeout_s * BUSY
    while time.monotonic() < deadline:
        if answered := (await answers(line)).get(name):
            return answered
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name} is not answered")
