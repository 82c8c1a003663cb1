"""Clay's balance: read every ten minutes where the workspace has a key, and written beside the
books.
"""

import asyncio
from itertools import pairwise

import msgspec
import pytest

from stream_app.domain.books.bill import billed_days
from stream_app.domain.limits.balance import Reading
from stream_app.domain.model.outcome import Denied
from stream_app.domain.model.run import RunDenied
from stream_app.domain.views.lane import LaneView
from stream_app.partition.balances import READ_EVERY_MS
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.runs import RoutineClay
from tests.support.partition.virtual import virtual_time

COST = 7  # of each run of the fake, by its own output


class PayingClay(RoutineClay):
    """Takes the credits of a lead when its run begins.

    `others` are the credits that somebody else took from the workspace.
    """

    others = 0
    read = True

    async def balance(self, workspace: str) -> float | None:
        assert workspace == "acme"
        self.balances += 1
        await asyncio.sleep(self.poll_s)
        return 10_000.0 - COST * len(self.posts_ms) - self.others if self.read else None


class Paying(Bench):
    """A partition whose workspace has a key."""

    clay: PayingClay

    def __init__(self) -> None:
        super().__init__(Setup(routines=True, max_in_flight=100), 0.1, clay=PayingClay)
        self.change_workspaces(api_key_env="KEY")

    def readings(self) -> list[Reading]:
        """Those that were published, each once."""
        records = self.committed(self.plan.topics.lanes)
        views = [msgspec.json.decode(record.value or b"", type=LaneView) for record in records]
        readings = [view.reading for view in views if view.reading is not None]
        return list(dict.fromkeys(readings))


@virtual_time
async def test_a_reading_has_what_was_booked_and_the_bill_agrees() -> None:
    bench = Paying()
    bench.publish_leads(3)
    await bench.serve_for(2_500.0)
    readings = bench.readings()
    assert len(readings) == bench.clay.balances == 5
    gaps = [then.at_ms - first.at_ms for first, then in pairwise(readings)]
    assert all(READ_EVERY_MS <= gap < READ_EVERY_MS + 120_000 for gap in gaps)
    assert readings[-1].credits == 10_000 - 3 * COST
    assert readings[-1].booked.credits == 3 * COST
    assert readings[-1].booked.most == 3 * COST
    assert readings[-1].open == 0
    [day] = billed_days(readings)
    assert day.verdict == "agrees"
    assert day.taken == (readings[0].credits - readings[-1].credits)


@virtual_time
async def test_what_somebody_else_takes_is_named() -> None:
    bench = Paying()
    bench.publish_leads(3)
    await bench.serve_for(700.0)
    bench.clay.others = 40
    bench.publish("later", "p9")
    await asyncio.sleep(700.0)
    [day] = billed_days(bench.readings()[1:])
    assert day.taken == 40 + COST
    assert day.booked == COST
    assert day.drift == 40
    assert day.verdict == "more"
    assert day.unexplained == 40


@virtual_time
async def test_a_balance_that_cannot_be_read_is_asked_for_at_the_same_pace() -> None:
    bench = Paying()
    bench.clay.read = False
    bench.publish_leads(1)
    await bench.serve_for(3_000.0)
    assert bench.readings() == []
    assert 4 <= bench.clay.balances <= 5


@virtual_time
async def test_a_new_owner_goes_on_with_the_last_reading() -> None:
    bench = Paying()
    bench.publish_leads(1)
    await bench.serve_for(300.0)
    assert bench.clay.balances == 1
    await bench.kill()
    await bench.start()
    await asyncio.sleep(200.0)
    assert bench.clay.balances == 1
    await asyncio.sleep(READ_EVERY_MS / 1000)
    assert bench.clay.balances == 2


@virtual_time
async def test_what_leads_have_reserved_while_the_balance_was_asked_for_is_kept() -> None:
    bench = Paying()
    bench.clay.poll_s = 20.0
    bench.publish_leads(1)
    await bench.serve_for(65.0)
    assert bench.clay.balances == 1
    assert bench.readings() == []
    bench.publish("later", "p9")
    await asyncio.sleep(100.0)
    assert len(bench.readings()) == 1
    days = bench.lane().budget.days
    assert sum(day.credits_spent for day in days) == 2 * COST
    assert sum(day.credits_reserved for day in days) == 0
    bench.books()


@pytest.mark.parametrize("key", [None, "KEY"])
@virtual_time
async def test_a_workspace_with_webhooks_is_read_if_it_has_a_key(key: str | None) -> None:
    asked = PayingClay()
    bench = Bench(Setup(), runs=asked)
    bench.change_workspaces(api_key_env=key)
    bench.publish_leads(1)
    await bench.serve_for(100.0)
    assert asked.balances == (1 if key else 0)
    assert (bench.lane().reading is not None) == bool(key)


@virtual_time
async def test_no_balance_is_asked_for_while_clay_refuses_the_key() -> None:
    bench = Paying()
    bench.clay.first = [Denied(401, 5, "the key was refused")]
    bench.publish_leads(1)
    await bench.serve_for(100.0)
    assert bench.lane().suspension is not None
    assert bench.clay.balances == 0


@virtual_time
async def test_a_balance_takes_no_probe_of_a_hold_that_only_a_poll_or_a_lead_can_lift() -> None:
    """A probe that it took would be nobody's until its lease ends."""
    bench = Paying()
    bench.change_destination(callback_deadline_s=7_200.0)
    bench.clay.of_run = {"run_1": RunDenied(402, "HTTP: upgrade your plan")}
    bench.publish_leads(1)
    await bench.serve_for(5_000.0)
    stop = bench.lane().suspension
    assert stop is not None
    assert bench.clay.balances >= 7
    first_s = bench.plan.workspaces["acme"].suspension.probe_s
    assert stop.backoff_ms == first_s * 1_000 * 2**stop.probe, "each probe was a poll"
