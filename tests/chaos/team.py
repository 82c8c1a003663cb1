"""The processes under attack: workers and replay, each started again when it ends, and the effect
of each fault. The gateway beside them is left in peace.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final

from tests.chaos.brokers import BrokerFaults
from tests.chaos.schedule import SESSION_S, Fault
from tests.e2e.fleet import Fleet
from tests.e2e.member import Member
from tests.support.local_cluster import LocalCluster
from tests.support.proxy import ProxiedKafka, Proxy

WORKERS: Final = 3
_LOOK_S: Final = 0.2
_TERM_S: Final = 40.0
_UP_S: Final = 60.0
_RECOVERIES: Final = 3
_IN_RECOVERY_S: Final = (0.8, SESSION_S + 2)
"""From the start of a worker to the end of its take-over: the group waits for the session of the
killed one to end.
"""
_MAY_END: Final = {"later owner": "fenced", "is kafka.bootstrap right": "no broker"}
"""What a worker's last words may be under these faults, and in short; every other end is a bug."""


class Team:
    """Three workers, the first one behind the proxy; more while a fault lasts.

    `faults` counts what was done.
    """

    def __init__(
        self,
        line: Fleet,
        kafka: ProxiedKafka | LocalCluster,
        proxy: Proxy | None,
        seed: int,
    ) -> None:
        """`proxy`: before a single broker; a cluster has none."""
        self.faults: Counter[str] = Counter()
        self.kills = 0
        self.ends: Counter[str] = Counter()
        self.untidy: list[str] = []
        self._line = line
        self._kafka = kafka
        self._proxy = proxy
        self.brokers = (
            BrokerFaults(line, kafka, WORKERS, self.settle)
            if isinstance(kafka, LocalCluster)
            else None
        )
        self._rng = random.Random(seed)
        self._slots: list[Member] = []
        self._replay: Member | None = None
        self._gateway: Member | None = None
        self._expected: set[Member] = set()
        self._lasting: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._slots = [self._join(slot) for slot in range(WORKERS)]
        self._replay = self._line.start("replay")
        self._gateway = self._line.start("gateway")
        self._watching = asyncio.create_task(self._watch())

    async def settle(self) -> None:
        """End the lasting faults, repair everything, and start again what has ended."""
        await asyncio.gather(*self._lasting)
        self._line.control("DELETE", "/control/faults")
        deadline = time.monotonic() + _UP_S
        while not await asyncio.to_thread(self._all_up):
            if time.monotonic() > deadline:
                self.untidy.append(f"not all processes are up within {_UP_S:.0f} s")
                return
            await asyncio.sleep(_LOOK_S)

    async def stop(self) -> None:
        """Stop all with SIGTERM. Each must end cleanly."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self._expected |= set(self._slots)
        members = self._slots + ([self._replay] if self._replay is not None else [])
        ending = [member for member in members if member.alive]
        if self._gateway is not None:
            ending.append(self._gateway)
        codes = await asyncio.gather(*(member.stop(_TERM_S) for member in ending))
        self.untidy += [f"ended with {code} after SIGTERM" for code in codes if code]
        for member in self._line.members:
            self._look_at_words(member)

    async def hit(self, fault: Fault) -> None:
        """Apply the fault. A lasting one continues in the background."""
        self.faults[fault.kind] += 1
        match fault.kind:
            case "kill":
                await self._kill(fault)
            case "term":
                self._last(self._terminate(self._victim(fault)))
            case "stop":
                self._last(self._freeze(self._victim(fault), fault.lasts_s))
            case "join":
                self._last(self._guest(fault.lasts_s))
            case "broker_kill" | "broker_stop" | "broker_freeze":
                assert self.brokers is not None
                await self.brokers.hit(fault)
            case "broker":
                await self._restart_broker(hard=fault.hard)
            case "cut" | "stall":
                self._last(self._break_connection(fault))
            case "hang" | "reset":
                kind = f"{fault.kind}_after_read"
                self._line.control(
                    "POST",
                    "/control/faults",
                    {"kind": kind, "share": 0.5, "for_s": fault.lasts_s},
                )
            case "recovery":
                self._last(self._kill_in_recovery(fault))
            case "replay":
                if self._replay is not None:
                    await asyncio.to_thread(self._replay.kill)

    # --------------------------------------------------------------------------------------- faults

    async def _kill(self, fault: Fault) -> None:
        for member in self._up(fault)[: 2 if fault.hard else 1]:  # a frozen one is to wake up yet
            if member.alive:
                self._expected.add(member)
                await asyncio.to_thread(member.kill)
                self.kills += 1

    async def _kill_in_recovery(self, fault: Fault) -> None:
        """Kill a worker, then twice the one in its place, at a random moment of its start and
        take-over.
        """
        slot = self._slots.index(self._victim(fault))
        for _ in range(_RECOVERIES):
            member = self._slots[slot]
            if member.alive and not member.frozen:
                self._expected.add(member)
                await asyncio.to_thread(member.kill)
                self.kills += 1
            deadline = time.monotonic() + _UP_S
            while True:
                await asyncio.sleep(_LOOK_S)
                if self._slots[slot] is not member or time.monotonic() > deadline:
                    break
            await asyncio.sleep(self._rng.uniform(*_IN_RECOVERY_S))

    async def _terminate(self, member: Member) -> None:
        self._expected.add(member)
        began = time.monotonic()
        await member.stop(_TERM_S)
        if time.monotonic() - began >= _TERM_S:
            self.untidy.append(f"a worker did not end within {_TERM_S:.0f} s of SIGTERM")

    async def _freeze(self, member: Member, lasts_s: float) -> None:
        member.freeze()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            member.thaw()

    async def _guest(self, lasts_s: float) -> None:
        member = self._line.join()
        self._expected.add(member)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            await member.stop(_TERM_S)

    async def _restart_broker(self, *, hard: bool) -> None:
        assert isinstance(self._kafka, ProxiedKafka)
        if hard:
            await asyncio.to_thread(self._kafka.kill)
        await asyncio.to_thread(self._kafka.restart)

    async def _break_connection(self, fault: Fault) -> None:
        assert self._proxy is not None
        if fault.kind == "cut":
            self._proxy.cut()
        else:
            self._proxy.stall()
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            self._proxy.repair()

    def _victim(self, fault: Fault) -> Member:
        """Return the worker that is meant, or the next one that is up."""
        return next(iter(self._up(fault)), self._slots[fault.who])

    def _all_up(self) -> bool:
        """Wait until all answer, so that they handle SIGTERM."""
        members = self._slots + ([self._replay] if self._replay is not None else [])
        return all(member.alive and member.answers() for member in members)

    def _up(self, fault: Fault) -> list[Member]:
        """Return those that are not down or frozen, from the one that is meant on."""
        order = [self._slots[(fault.who + step) % WORKERS] for step in range(WORKERS)]
        return [member for member in order if member.alive and not member.frozen]

    def _last(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    # ------------------------------------------------------------------------------- the supervisor

    def _join(self, slot: int) -> Member:
        return self._line.join(
            bootstrap=self._proxy.address if self._proxy is not None and slot == 0 else "",
        )

    async def _watch(self) -> None:
        """Start again what has ended, a little later, as a supervisor does."""
        while True:
            for slot, member in enumerate(self._slots):
                if not member.alive:
                    await asyncio.sleep(self._rng.uniform(0, 1))
                    self._count_end(member)
                    self._slots[slot] = self._join(slot)
            if self._replay is not None and not self._replay.alive:
                self._replay = self._line.start("replay")
            await asyncio.sleep(_LOOK_S)

    def _count_end(self, member: Member) -> None:
        if member in self._expected:
            return
        words = member.last_words()
        text = words[-1] if words else "nothing"
        why = next((name for sign, name in _MAY_END.items() if sign in text), None)
        self.ends[why or text[:80]] += 1
        if why is None:
            self.untidy.append(
                f"a worker ended by itself with {member.process.returncode}: {text[:200]}",
            )

    def _look_at_words(self, member: Member) -> None:
        """One that ends by itself gives the cause in one line, and none leaves a traceback."""
        printed = member.output()
        at = next((i for i, text in enumerate(printed) if "Traceback" in text), None)
        if at is not None:
            self.untidy.append(
                "a traceback: " + " | ".join(text[:200] for text in printed[max(0, at - 1) :][-3:]),
            )
