"""One worker process: joins the group, takes its partitions over, serves them, and gives them up on
request.

What `stream-app worker` does through Faust, with the same objects of the line and the partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol, TypeVar

from stream_app.clock import Clock
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.errors import BrokerUnavailable, Fenced, StateStoreError
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Plan
from stream_app.partition.in_flight import Source
from stream_app.partition.owner import PartitionOwner
from stream_app.partition.ports import Observer
from stream_app.partition.state import WorkerParts
from tests.simulation.cached import SlowCache, facts
from tests.simulation.clay import FakeClay
from tests.simulation.client import MemoryStateStore, MemoryStream, NoAnswer, Repair
from tests.simulation.group import REBALANCE_TIMEOUT_S, UNKNOWN_MEMBER, Group
from tests.simulation.kafka import MemoryKafka
from tests.simulation.loop import Process, SimLoop

T = TypeVar("T")
ANSWER_TIMEOUT_S = 3.0
HEARTBEAT_HOLDS_S = 5.0  # less than a session
SERVE_ENDS_S = 200.0


class Surroundings(Protocol):
    """What a worker has of the world."""

    loop: SimLoop
    kafka: MemoryKafka
    group: Group
    clay: FakeClay
    plan: Plan
    spacing_s: float
    cache: SlowCache | None
    reopen: bool
    drop_in_flight: bool

    def now_ms(self) -> int: ...

    def say(self, process: Process | None, text: str) -> None: ...

    def latency_s(self) -> float: ...

    def fate_of(self, what: str, process: Process) -> str:
        """'' or, for a request to the broker, 'lost' (it never arrives), 'unknown' (its answer does
        not), 'refused'.

        'half': half of it arrives, and no answer.
        """

    def ended(self, worker: Worker, error: BaseException | None) -> None: ...

    def problem(self, text: str) -> None: ...


class SimLink:
    """A process's way to the broker: takes time, may lose a request or its answer, outlives the
    process.
    """

    def __init__(self, world: Surroundings, process: Process) -> None:
        self._world = world
        self._process = process
        self._last_s: dict[str, float] = {}

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        loop = self._world.loop
        answer: asyncio.Future[T] = loop.create_future()
        # One connection for the group's offsets: they do not overtake each other.
        at_s = max(loop.time() + self._world.latency_s(), self._last_s.get(what, 0.0) + 1e-6)
        if what == "offsets":
            self._last_s[what] = at_s
        loop.outside(at_s - loop.time(), self._arrive, what, request, answer)
        return await answer

    def _arrive(self, what: str, request: Callable[[], T], answer: asyncio.Future[T]) -> None:
        world = self._world
        if self._process.dead and world.drop_in_flight:
            return
        fate = world.fate_of(what, self._process)
        if fate == "half" and isinstance(request, Repair):
            request.half()
        if fate in ("lost", "refused", "half"):
            world.say(self._process, f"{what} is {fate}")
            world.loop.outside(
                0.0 if fate == "refused" else ANSWER_TIMEOUT_S,
                _fail,
                answer,
                NoAnswer(what),
            )
            return
        try:
            result = request()
        except Exception as error:  # noqa: BLE001  # whatever the broker says goes back to who asked
            world.say(self._process, f"{what}: the broker says {error!r}")
            world.loop.outside(world.latency_s(), _fail, answer, error)
            return
        if fate == "unknown":
            world.say(self._process, f"{what} is done, but its answer is lost")
            world.loop.outside(ANSWER_TIMEOUT_S, _fail, answer, NoAnswer(what))
        else:
            world.loop.outside(world.latency_s(), _tell, answer, result)


def _tell(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[T], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


class SimClock(Clock):
    """Virtual time; chance is the schedule's."""

    def __init__(self, now_ms: Callable[[], int], rng: Random) -> None:
        self._now_ms = now_ms
        self._rng = rng

    def now_ms(self) -> int:
        return self._now_ms()

    def boot_ms(self) -> int:
        return self._now_ms()

    def rand(self) -> float:
        return self._rng.random()


class Said(Observer):
    """For the trace: the simulation checks from outside only."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def answered(self, answer: CommandAnswer) -> None:
        self._say(f"command {answer.id} is answered: {answer.text}")

    def recovering(self, partition: int, error: Exception) -> None:
        self._say(f"partition {partition} recovers: {error}")


class Worker:
    """`name` is the machine's, `member` the group's for this life of it."""

    def __init__(self, world: Surroundings, name: str, life: int, rng: Random) -> None:
        self.name = name
        self.member = f"{name}.{life}"
        self.process = Process(self.member)
        self.stopping = False
        self._world = world
        self._rng = rng
        self._link = SimLink(world, self.process)
        self._rebalance = asyncio.Event()
        self._previous: dict[str, Lane] = {}
        self._partitions: dict[int, PartitionOwner] = {}
        self._streams: list[MemoryStream] = []
        self._serving: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._world.loop.spawn(self.process, self._main())

    def request_rejoin(self) -> None:
        """By the coordinator, or because its heartbeats are refused."""
        if not self.process.dead:
            self._world.loop.run_in(self.process, self._rebalance.set)

    def request_stop(self) -> None:
        """SIGTERM."""
        self.stopping = True
        self.request_rejoin()

    async def _main(self) -> None:
        while not self.stopping:
            generation, mine, was_known = await self._join()
            if generation == UNKNOWN_MEMBER:
                continue
            if not was_known:
                await self._forget()
            await self._assigned(generation, mine)
            await self._rebalance.wait()
            self._rebalance.clear()
            await self._give_up()
        await self._forget()
        self._world.loop.outside(0.001, self._world.group.leave, self.member)
        self._world.ended(self, None)

    async def _forget(self) -> None:
        """Others may have had them meanwhile: see `_StateStore.on_rebalance`."""
        for partition in self._partitions.values():
            await partition.close()
        self._partitions.clear()

    async def _join(self) -> tuple[int, list[int], bool]:
        """Return the generation, the partitions, and whether the group still knew this member when
        it asked.
        """
        answer: asyncio.Future[tuple[int, list[int], bool]] = self._world.loop.create_future()

        def arrive() -> None:
            group = self._world.group
            known = group.knows(self.member)
            group.join(
                self.member,
                self.request_rejoin,
                lambda generation, mine: _tell(answer, (generation, mine, known)),
            )

        self._world.loop.outside(self._world.latency_s(), arrive)
        return await answer

    async def _assigned(self, generation: int, mine: list[int]) -> None:
        self._world.say(self.process, f"owns partitions {mine} in generation {generation}")
        for number in list(self._partitions):
            if number not in mine or self._world.reopen:
                await self._partitions.pop(number).close()
        for number in mine:
            if number not in self._partitions:
                self._partitions[number] = await self._open(number)
        names = self._world.plan.topics
        for number in mine:
            for topic, source in sources(names).items():
                stream = MemoryStream(
                    self._world.kafka,
                    names.worker_app,
                    generation,
                    topic,
                    number,
                    self._link,
                )
                self._streams.append(stream)
                self._serve(stream, source)

    def _serve(self, stream: MemoryStream, source: Source) -> None:
        """From its first record on, as Faust does."""
        if stream.suspended.is_set():
            return
        if stream.is_empty:
            stream.when_more(
                lambda: self._world.loop.run_in(self.process, self._serve, stream, source),
            )
            return
        serving = self._world.loop.create_task(
            self._partitions[stream.partition].runner.serve(stream, source),
        )
        serving.add_done_callback(self._served)
        self._serving.append(serving)

    async def _open(self, number: int) -> PartitionOwner:
        world = self._world
        names = self._world.plan.topics
        partition = PartitionOwner(
            number,
            MemoryStateStore(
                world.kafka,
                f"{names.worker_app}-{number}",
                names.state,
                number,
                self._link,
            ),
            WorkerParts(
                plan=world.plan,
                clay=(clay := world.clay.client(self.process)),
                runs=clay if has_routines(world.plan) else None,
                clock=SimClock(world.now_ms, self._rng),
                observer=Said(lambda text: world.say(self.process, text)),
                alarm=self._alarm,
                still_member=self._still_member,
                last_known_lanes=self._previous,
                spacing_s=world.spacing_s,
                cache=world.cache,
                local_facts=facts if world.cache is not None else lambda _: {},
            ),
        )
        while True:
            try:
                await partition.take_over()
            except BrokerUnavailable:
                await asyncio.sleep(0.5)
            except StateStoreError as error:
                world.problem(f"refused: {error}")
                await asyncio.Event().wait()
            else:
                world.say(self.process, f"has taken over partition {number}")
                return partition

    async def _still_member(self) -> float:
        while True:
            try:
                if await self._link.ask("heartbeat", lambda: self._world.group.knows(self.member)):
                    return HEARTBEAT_HOLDS_S
            except NoAnswer:
                pass
            await asyncio.sleep(0.5)

    async def _give_up(self) -> None:
        self._world.say(self.process, "gives its partitions up")
        for stream in self._streams:
            stream.suspend()
        try:
            async with asyncio.timeout(REBALANCE_TIMEOUT_S):
                for stream in self._streams:
                    await stream.drained()
        except TimeoutError:
            # else it was frozen, and the group went on without it
            if self._world.group.knows(self.member):
                self._world.problem(f"rest: {self.member} holds up the rebalance")
        for stream in self._streams:
            await stream.end()
        if self._serving:
            _, running = await asyncio.wait(self._serving, timeout=SERVE_ENDS_S)
            if running:
                self._world.problem(f"rest: serve of {self.member} does not end with its stream")
        self._streams.clear()
        self._serving.clear()

    def _served(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.problem(f"serve raised {error!r}")

    def _alarm(self, error: BaseException) -> None:
        self._world.say(self.process, f"must stop: {error}")
        if not isinstance(error, Fenced):
            is_refusal = isinstance(error, StateStoreError)
            self._world.problem(
                f"refused: {error}" if is_refusal else f"{self.member}: alarm {error!r}",
            )
        self._world.ended(self, error)


def has_routines(plan: Plan) -> bool:
    """Whether a destination is a routine: the others take no turns for the results of runs."""
    return any(destination.kind == "routine" for destination in plan.destinations.values())


def sources(names: TopicNames) -> dict[str, Source]:
    """What a worker takes, the lead topics in their order of priority."""
    beside: dict[str, Source] = {names.commands: "command", names.callbacks: "callback"}
    return {names.leads: "hot", names.retry: "retry", names.bulk: "bulk", **beside}
