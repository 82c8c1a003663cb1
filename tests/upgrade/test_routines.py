"""Back to a version that knows no routines, and forward again, with runs under way."""

import re
from pathlib import Path
from typing import Final

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.loop import CONFIG
from tests.e2e.routine_line import RoutineLine
from tests.upgrade.baseline import unpack

pytestmark = [pytest.mark.history, pytest.mark.slow, pytest.mark.timeout(400)]

RUNS: Final = 5


class GoingBack(RoutineLine):
    """A line whose file can be written as docs/upgrade.md says, before one goes back."""

    def without_routines(self) -> str:
        """Take the workspaces with routines and their destinations out. Return the file before."""
        before = self._toml
        names = "|".join(map(re.escape, self.routines))
        gone = re.compile(rf"\[(workspaces\.({names})[.\]]|destinations\.({names})-)")
        tables = re.split(r"(?m)^(?=\[)", before)
        self._toml = "".join(table for table in tables if not gone.match(table))
        return before

    def with_routines(self, before: str) -> None:
        """Write the file as it was."""
        self._toml = before


async def test_a_version_without_routines_leaves_their_rows_and_the_later_one_goes_on(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    async with GoingBack(
        kafka.bootstrap,
        namespace,
        2,
        partitions=1,
        routines=("w0",),
        public=False,
        poll_after_s=(30,),
        config=CONFIG,
    ) as line:
        worker = line.join()
        await line.publish([line.lead(number, "w0") for number in range(RUNS)])
        await line.until_last({"accepted": RUNS}, 60)
        assert await worker.stop() == 0
        before = line.without_routines()
        rows = await line.rows()
        assert all(row.run for row in rows.values())

        old = line.join(program=unpack(tmp_path))
        await line.publish([line.lead(RUNS, "w1")])
        await line.until_last({"accepted": RUNS + 1}, 60)
        assert await old.stop() == 0, old.output()[-5:]
        after = await line.rows()
        assert {lead: after[lead] for lead in rows} == rows, "no row of a run was touched"

        line.with_routines(before)
        worker = line.join()
        await line.until(lambda: line.answered() == RUNS, 120, "the results are fetched")
        assert line.charged() == line.booked()
        assert await worker.stop() == 0
        await line.books_balance()
