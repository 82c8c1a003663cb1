"""Carries out the replays that operators order (domain/dead_letter/orders.py). Part of the replay process.

The process that has partition 0 of leads.dlq carries them out. It takes the operator's transactional id only while
there is work, which fences a process that did so before it. What it sends and the progress are one transaction, so
another process continues exactly where a killed one ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from stream_app.config import Settings
from stream_app.config.kafka_access import topic_reader
from stream_app.domain.dead_letter.headers import WorkspaceKeys
from stream_app.domain.dead_letter.orders import (
    ReplayProgress,
    advanced,
    begun,
    finished,
    given_up,
    progress_row,
)
from stream_app.domain.errors import SettingsError, StreamAppError, UnreadableBatch
from stream_app.domain.record import Record
from stream_app.kafka.connection import silent
from stream_app.ops import logs
from stream_app.ops.clock import SystemClock
from stream_app.replay.plan import Chosen, survey_in_thread, topic_of
from stream_app.replay.send import Redriver, Sent, dead_letters_at
from stream_app.replay.state import ReplayState
from stream_app.tasks import cancel, run_until

log = logs.get("replay")

_LOOK_EVERY_S: Final = 0.3
_AGAIN_S: Final = 2.0


class OrderRunner:
    """Carries out ordered replays, one at a time.

    `owns` returns True if this process is the one that carries them out.
    """

    def __init__(self, settings: Settings, state: ReplayState, owns: Callable[[], bool]) -> None:
        self._settings = settings
        self._state = state
        self._owns = owns
        self._warn = logs.Throttled(lambda why: log.warning("ordered_replay_waits", because=why))

    async def run(self) -> None:
        """Carry out replays until cancelled."""
        while True:
            if self._owns() and self._state.orders.pending:
                try:
                    async with Redriver(self._settings) as redriver:
                        await self._state.current()
                        await _Session(self._settings, self._state, redriver, self._owns).work()
                    await self._state.current()
                    self._warn.reset()
                except StreamAppError as error:
                    self._warn(str(error))
                    await asyncio.sleep(_AGAIN_S)
            await asyncio.sleep(_LOOK_EVERY_S)


class _Session:
    """The work of one operator, from taking over to the end of the work or an error."""

    def __init__(self, settings: Settings, state: ReplayState, redriver: Redriver, owns: Callable[[], bool]) -> None:
        self._settings = settings
        self._state = state
        self._redriver = redriver
        self._owns = owns
        self._orders = redriver.orders
        self._seen = set(self._orders.commands)
        self._clock = SystemClock()

    async def work(self) -> None:
        """Apply all commands and carry out the replay that runs, until nothing is left to do."""
        while self._owns():
            for key in self._unseen():
                self._seen.add(key)
                self._orders.commands[key] = self._state.orders.commands[key]
            step = self._orders.next_step(self._clock.now_ms())
            if step is not None:
                answer = Record(self._settings.names.audit, b"", msgspec.json.encode(step.answer), (), 0)
                await self._write(step.rows, answer)
                log.info("replay_command", kind=step.answer.kind, id=step.answer.id, text=step.answer.text)
            elif (replay := self._orders.running) is not None:
                await self._carry_out(replay)
            else:
                return

    async def _carry_out(self, replay: ReplayProgress) -> None:
        """Send the rest of a replay. Ends early when a command arrives or the partition is lost."""
        stop = asyncio.Event()
        watching = asyncio.create_task(self._watch(stop))
        try:
            planned = await run_until(stop, self._plan(replay))
            if planned is not None:
                replay, chosen, paces = planned
                await self._write(dict([progress_row(replay)]))
                if replay.state == "running":
                    replay = await self._send(replay, chosen, paces, stop)
                    if not stop.is_set():
                        replay = finished(replay, self._clock.now_ms())
                        await self._write(dict([progress_row(replay)]))
        except (SettingsError, UnreadableBatch) as error:
            replay = given_up(self._orders.replays[replay.id], str(error), self._clock.now_ms())
            await self._write(dict([progress_row(replay)]))
        except StreamAppError:
            raise
        except Exception as error:  # a command must not end the process again and again
            log.exception("ordered_replay_bug", replay=replay.id)
            text = f"a bug ended it ({type(error).__name__}): the log of the replay process has more"
            replay = given_up(self._orders.replays[replay.id], text, self._clock.now_ms())
            await self._write(dict([progress_row(replay)]))
        finally:
            await cancel([watching])
        if replay.state != "running":
            log.info("ordered_replay", replay=replay.id, state=replay.state, text=replay.text)

    async def _plan(self, replay: ReplayProgress) -> tuple[ReplayProgress, Chosen, Mapping[str, float]]:
        plan = replay.plan
        priced, chosen = await survey_in_thread(
            self._settings,
            plan.source,
            plan.filter,
            silent,
            ranges={
                number: (replay.next.get(number, 0), end)
                for number, end in plan.ends.items()
                if 0 <= number < self._settings.kafka.partitions
            },
            uncertain=plan.uncertain,
            limit=replay.left,
            rate_per_s=plan.rate_per_s,
        )
        if not replay.total:
            replay = begun(replay, priced, self._clock.now_ms())
        return replay, chosen, priced.paces

    async def _send(
        self, before: ReplayProgress, chosen: Chosen, paces: Mapping[str, float], stop: asyncio.Event
    ) -> ReplayProgress:
        """Send the chosen dead letters, and return the progress after them."""
        topic = topic_of(self._settings, before.plan.source)

        def progress(sent: Sent) -> dict[bytes, bytes]:
            key, value = progress_row(
                advanced(before, sent.dead_letters, sent.refused, sent.next, self._clock.now_ms())
            )
            self._orders.apply(key, value)
            return {key: value}

        async with topic_reader(self._settings) as reader:
            dead_letters = dead_letters_at(reader, topic, chosen, WorkspaceKeys(self._settings.workspaces))
            sent = await self._redriver.send(dead_letters, paces, progress, stop)
        return advanced(before, sent.dead_letters, sent.refused, sent.next, self._clock.now_ms())

    async def _write(self, rows: Mapping[bytes, bytes | None], *others: Record) -> None:
        await self._redriver.write(rows, others)
        for key, value in rows.items():
            self._orders.apply(key, value)

    async def _watch(self, stop: asyncio.Event) -> None:
        while self._owns() and not self._unseen():  # noqa: ASYNC110 - the assignment is no event
            await asyncio.sleep(_LOOK_EVERY_S)
        stop.set()

    def _unseen(self) -> list[bytes]:
        return [key for key in self._state.orders.commands if key not in self._seen]
