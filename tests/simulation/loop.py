"""An event loop on virtual time that runs several simulated processes, and lets each of them freeze
or vanish.

Nothing waits: when no callback is ready, the clock jumps to the next timer. Which process a
callback belongs to is in its context, so a killed process simply never gets another turn: no
cancellation, no `finally`, as with kill -9.
"""

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from heapq import heappop
from random import Random
from typing import Any


class Process:
    """One operating system process as the loop sees it: each of its turns begins after an await."""

    __slots__ = ("context", "dead", "frozen", "held", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.held: deque[asyncio.Handle] = deque()
        self.context = contextvars.Context()
        self.context.run(_owner.set, self)


_owner: contextvars.ContextVar[Process | None] = contextvars.ContextVar("owner", default=None)


class SimLoop(asyncio.BaseEventLoop):
    """Runs until nothing is left to do. `turns`: so many were taken by processes.

    shuffle    how often (0 to 1) a turn goes to another ready callback.
    preempted  the turns, by number, that go to the next ready callback: the one that was due waits
    behind all others.
    """

    _ready: deque[Any]  # of BaseEventLoop, whose stubs keep them to themselves
    _scheduled: list[Any]

    def __init__(
        self,
        rng: Random,
        shuffle: float = 0.0,
        preempted: Iterable[int] = (),
        max_steps: int = 200_000,
    ) -> None:
        super().__init__()
        self.turns = 0
        self._now_s = 0.0
        self._rng = rng
        self._shuffle = shuffle
        self._preempted = set(preempted)
        self._outside = contextvars.Context()
        self._tasks: list[asyncio.Task[Any]] = []
        self._left = max_steps
        self.before_step: Callable[[Process], None] | None = None
        self.errors: list[str] = []
        self.limit_reached = False
        self.set_exception_handler(self._note_error)

    def time(self) -> float:
        return self._now_s

    def outside(
        self,
        delay_s: float,
        callback: Callable[..., object],
        *args: object,
    ) -> asyncio.TimerHandle:
        """Something that happens in the world: no crash of a process takes it back."""
        return self.call_at(self._now_s + delay_s, callback, *args, context=self._outside)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = super().create_task(coro, **options)
        self._tasks.append(task)
        return task

    def spawn(self, process: Process, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a process."""
        return self.create_task(main, context=process.context)

    def run_in(self, process: Process, callback: Callable[..., object], *args: object) -> None:
        """Something that reaches a process from outside: a signal, an answer."""
        self.call_soon(callback, *args, context=process.context)

    def kill(self, process: Process) -> None:
        process.dead = True

    def thaw(self, process: Process) -> None:
        process.frozen = False
        self._ready.extend(process.held)
        process.held.clear()

    def run(self) -> None:
        """Until nothing is ready and no timer is set."""
        self.run_forever()

    def end(self) -> None:
        """Take apart what is left, in silence: unfinished tasks of dead processes above all."""
        for task in self._tasks:
            if task.done():
                continue
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # as BaseEventLoop itself does
            with contextlib.suppress(RuntimeError, KeyError, ValueError, asyncio.InvalidStateError):
                if (coroutine := task.get_coro()) is not None:  # an eager task has none at its end
                    coroutine.close()
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    def _run_once(self) -> None:
        ready = self._ready
        timers = self._scheduled
        while timers and (timers[0]._cancelled or (not ready and timers[0]._when > self._now_s)):
            if timers[0]._cancelled:
                heappop(timers)._scheduled = False
            else:
                self._now_s = timers[0]._when
        while timers and timers[0]._when <= self._now_s:
            timer = heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        if not ready:
            self.stop()
            return
        if self._shuffle and len(ready) > 1 and self._rng.random() < self._shuffle:
            ready.rotate(-self._rng.randrange(len(ready)))
        if self.turns + 1 in self._preempted and len(ready) > 1:
            self._preempted.discard(self.turns + 1)
            ready.rotate(-1)
        handle = ready.popleft()
        if handle._cancelled:
            return
        process = handle._context.get(_owner)
        if process is not None:
            if process.dead:
                process.held.append(handle)  # only to keep its task until the end
                return
            if not process.frozen and self.before_step is not None:
                self.turns += 1
                self.before_step(process)
            if process.dead or process.frozen:
                process.held.append(handle)
                return
        self._left -= 1
        if not self._left:
            self.limit_reached = True
            self.stop()
        handle._run()

    def _note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            return  # no task awaits it any more: its process is dead
        self.errors.append(f"{context.get('message')}: {error!r}")

    def _process_events(self, event_list: object) -> None: ...

    def _write_to_self(self) -> None: ...
