"""Many lanes in one partition, on virtual time: what one of them does hardly delays the others, and
loses nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final, TypeVar, cast

import msgspec
import pytest

from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.outcome import Accepted, Outcome, Refused
from stream_app.domain.plan import Actor
from tests.simulation.client import Link, PlainLink
from tests.simulation.loop import SimLoop
from tests.simulation.replayer import Replayer
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.clay import SlowClay
from tests.support.partition.replaying import ReplayProcess
from tests.support.partition.virtual import now_ms, virtual_time

T = TypeVar("T")
WELL_PER_S: Final = 2.0
WATCH_S: Final = 20.0
SOON_S: Final = 1.0


class IllClay(SlowClay):
    """Answers acme with 503 until `well_at_s`, and takes all other leads."""

    def __init__(self) -> None:
        super().__init__(0.1)
        self.well_at_s = 0.0

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        await super().send(destination, webhook_id, body, trace_id)
        is_ill = destination == "acme-main" and asyncio.get_running_loop().time() < self.well_at_s
        return Refused("http_503", 100, 503) if is_ill else Accepted(200, 100)


class SlowLink(PlainLink):
    """A broker that takes its time for each request."""

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        await asyncio.sleep(0.1)
        return request()


class Neighbours(Bench):
    """One partition, and the replay process."""

    clay: IllClay

    def __init__(
        self,
        lanes: int = 1,
        max_waiting: int = 500,
        max_in_flight: int = 100,
        link: Link | None = None,
    ) -> None:
        setup = Setup(
            callbacks=False,
            max_in_flight=max_in_flight,
            lanes=lanes,
            max_waiting=max_waiting,
            patience_s=5.0,
        )
        super().__init__(setup, link=link)
        self.clay = IllClay()
        self.start_over()
        self.published: dict[str, int] = {}
        self.most_waiting = 0

    async def start(self, replays: bool = False) -> None:
        """Start the worker, and the replay process: as in the simulation, or (`replays`) with its
        own handlers.
        """
        loop = cast(SimLoop, asyncio.get_running_loop())
        if replays:
            self.replay = ReplayProcess(self.kafka, self.plan)
        else:
            Replayer(loop, self.kafka, self.plan, Random(0), 0.0, lambda _: None).start(now_ms())
        await self.serve()

    def lead(self, workspace: str, topic: str = "") -> str:
        lead_id = f"{workspace}-{len(self.published)}"
        self.published[lead_id] = now_ms()
        self.produce(
            {"lead_id": lead_id, "fields": {"email": f"{lead_id}@example.com"}},
            topic,
            workspace.encode(),
        )
        return lead_id

    async def watch(self, neighbour: Callable[[], object], every_s: float) -> list[float]:
        """How long well leads wait for their POST while the neighbour does something, in seconds,
        shortest first.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        well: list[str] = []
        next_s = began_s
        while loop.time() < began_s + WATCH_S:
            well.append(self.lead(f"lane{len(well) % self._lanes}"))
            while every_s and next_s <= loop.time():
                neighbour()
                next_s += every_s
            self.most_waiting = max(self.most_waiting, len(self.partition.state.admission._queues))
            await asyncio.sleep(1 / WELL_PER_S)
        await asyncio.sleep(10.0)
        sent = self.sent_ms()
        return sorted((sent[lead_id] - self.published[lead_id]) / 1000 for lead_id in well)

    @property
    def _lanes(self) -> int:
        return sum(name.startswith("lane") for name in self.plan.workspaces)

    def sent_ms(self) -> dict[str, int]:
        """When the first POST of each lead was committed."""
        sent: dict[str, int] = {}
        for event in self.events():
            if event.status == "sending":
                sent.setdefault(event.lead_id, event.at_ms)
        return sent


def _ill(bench: Neighbours) -> None:
    bench.clay.well_at_s = asyncio.get_running_loop().time() + WATCH_S


def _paused(bench: Neighbours) -> None:
    lanes = bench.partition.state.lanes
    lanes["acme"] = msgspec.structs.replace(lanes["acme"], pause=Actor("operator", "a test", 1))


def _out_of_budget(bench: Neighbours) -> None:
    acme = msgspec.structs.replace(
        bench.plan.workspaces["acme"],
        budget=BudgetPolicy(credits_per_day=20),
    )
    bench.plan.put_workspace(acme, None)


def _bursting(bench: Neighbours) -> None:
    for _ in range(400):
        bench.lead("acme")


def _backfilling(bench: Neighbours) -> None:
    for _ in range(400):
        bench.lead("acme", bench.plan.topics.bulk)


@pytest.mark.parametrize("lanes", [1, 19])
@pytest.mark.parametrize("trouble", [_ill, _paused, _out_of_budget, _bursting, _backfilling])
@virtual_time
async def test_a_healthy_lane_is_not_delayed_by_its_neighbour(
    trouble: Callable[[Neighbours], None],
    lanes: int,
) -> None:
    bench = await Neighbours.started(lanes)
    trouble(bench)
    waits_s = await bench.watch(lambda: bench.lead("acme"), 1 / 8)
    assert waits_s[int(len(waits_s) * 0.99)] < SOON_S
    assert bench.most_waiting <= bench.plan.delivery.max_waiting


@pytest.mark.parametrize("lanes", [1, 19])
@virtual_time
async def test_a_healthy_lane_does_not_wait_until_a_burst_before_it_is_deferred(lanes: int) -> None:
    # so few records at once that the burst takes 5 s
    bench = Neighbours(lanes, max_in_flight=2, link=SlowLink())
    await bench.start()
    _bursting(bench)
    waits_s = await bench.watch(lambda: None, 0)
    assert waits_s[-1] < SOON_S


@virtual_time
async def test_records_that_were_taken_ahead_are_given_up_when_the_stream_is_suspended() -> None:
    bench = await Neighbours.started(max_in_flight=2, link=SlowLink())
    for _ in range(60):
        bench.lead("acme")
    await asyncio.sleep(0.5)
    assert len(bench.partition.runner._unfinished) > 0
    bench.stream.suspend()
    await asyncio.sleep(1.0)
    assert len(bench.partition.runner._unfinished) == 0


@virtual_time
async def test_a_burst_is_deferred_about_once_and_comes_back_in_order_of_age() -> None:
    bench = await Neighbours.started()
    burst = [bench.lead("acme") for _ in range(600)]
    await asyncio.sleep(600 / 8 + 60)
    deferred = Counter(event.lead_id for event in bench.events() if event.status == "deferred")
    sent = bench.sent_ms()
    assert len(sent) == len(burst)
    assert max(sent.values()) - min(sent.values()) < 600 / 8 * 1_000 * 1.1, (
        "the lane's rate is used"
    )
    assert sum(deferred.values()) < 1.2 * len(burst)
    assert max(deferred.values()) <= 3


def _revived(bench: Neighbours) -> None:
    lanes = bench.partition.state.lanes
    lanes["acme"] = msgspec.structs.replace(lanes["acme"], pause=None)
    lanes.reconfigured()
    bench.partition.state.admission.ask_again()


@pytest.mark.parametrize("trouble", ["ill", "paused"])
@virtual_time
async def test_a_held_lead_writes_few_events_and_goes_when_its_lane_opens(trouble: str) -> None:
    bench = Neighbours()
    await bench.start(replays=True)
    began_ms = now_ms()
    bench.clay.well_at_s = asyncio.get_running_loop().time() + 3_600.0 * (trouble == "ill")
    if trouble == "paused":
        _paused(bench)
    leads = [bench.lead("acme") for _ in range(40)]
    await asyncio.sleep(3_600.0)
    events = Counter(event.lead_id for event in bench.events())
    posts = Counter(bench.clay.lead_ids)
    assert len(posts) <= len(leads) // 4 * (trouble == "ill"), "few leads are probes"
    for lead_id in leads:
        assert events[lead_id] <= 6 + 2 * posts[lead_id], (
            "a probe is a POST, with one event before it and one behind it"
        )
    assert events.total() <= 4 * len(leads) + 2 * posts.total()
    if trouble == "paused":
        _revived(bench)
    await asyncio.sleep(120.0)
    done = [event.at_ms for event in bench.events() if event.status == "accepted"]
    assert len(done) == len(leads)
    done.sort()
    # after three probes
    if trouble == "ill":
        opened_ms = done[2]
        after = done[3:]
    else:
        opened_ms = began_ms + 3_600_000
        after = done
    for place, at_ms in enumerate(after, 1):
        assert at_ms <= opened_ms + 2_000 + place * 1_000 / (8 * 0.5), place
