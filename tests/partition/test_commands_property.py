"""Whatever happens, each command is applied once and answered."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.partition.test_commands import _HAPPENS, Bench
from tests.partition.virtual import run


@given(st.lists(_HAPPENS, min_size=1, max_size=14))
def test_each_command_is_applied_once_and_every_record_is_answered(happens: list[Any]) -> None:
    """A command corrects by a power of 7 of its own, so the sum in the lane says which were booked, and how often."""
    arguments: dict[str, dict[str, Any]] = {"suppress": {"people": ["x" * 22]}, "cancel_lead": {"lead_id": "a"}}

    async def main() -> None:
        bench = Bench()
        await bench.start()
        asked: list[tuple[str, int]] = []
        for what, value in happens:
            if what == "wait":
                await asyncio.sleep(value)
            elif what == "kill":
                await asyncio.sleep(value)
                await bench.kill()
                await bench.start()
            else:
                args = {"credits": 7**value} if what == "correct" else arguments.get(what, {})
                bench.command(what, f"{what}-{value}", **args)
                asked.append((what, value))
        await asyncio.sleep(5.0)
        answers = bench.answers()
        assert len(answers) == len(asked), "each record is answered, once"
        applied = [answer.id for answer in answers if answer.applied]
        assert sorted(applied) == sorted({f"{what}-{value}" for what, value in asked}), "each command, once"
        months = bench.lane().budget.months if asked else ()
        booked = months[-1].credits_elsewhere if months else 0
        assert booked == sum(7**value for what, value in set(asked) if what == "correct")
        assert bench.alarms == []

    run(main())
