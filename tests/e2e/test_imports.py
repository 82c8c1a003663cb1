"""An import with real processes: followed from its file to the last lead."""

import asyncio
from typing import Any

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.pipeline import Pipeline
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
async def test_an_import_is_followed_from_its_file_to_the_last_lead(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2) as line:
        source = line.directory / "leads of march.csv"
        rows = "".join(f"L{number},w{number % 2},p{number}@example.com\n" for number in range(60))
        source.write_text(f"lead_id,workspace,email\n{rows}L60,w0,not an address\n")
        code, said = await line.run("publish", str(source), "--import-id", "march", "--yes")
        assert code == 1, said
        assert "`stream-app imports march` shows where they are" in said
        line.start("board")
        line.start("worker")
        found = await _until(line, {"accepted_final": 30})
        assert {each["workspace"]: each["published"] for each in found} == {"w0": 30, "w1": 30}
        assert {(each["rows"], each["refused"], each["file"]) for each in found} == {(61, 1, "leads of march.csv")}

        code, said = await line.run("publish", str(source), "--import-id", "march", "--yes")
        assert code == 1, said
        await line.until(lambda: line.last()["duplicate"] == 60, 60, "all of them again")
        await _until(line, {"accepted_final": 30})  # each lead once, whatever came of its copies
        said = await line.done("imports")
        assert said.count("march") == 4, "two imports, each from the same file"


async def _until(line: Pipeline, columns: dict[str, int]) -> list[Any]:
    """Return the two imports as soon as both have these leads."""
    async with asyncio.timeout(120 * BUSY):
        while True:
            code, said = await line.ask("imports", "march")
            found = said["imports"] if code == 0 else []
            if len(found) == 2 and all(each["columns"] == columns for each in found):
                return list(found)
            await asyncio.sleep(0.5)
