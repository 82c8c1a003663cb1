"""Replays that operators order, from the order to the last dead letter that is sent.

The replay process that has partition 0 of leads.dlq carries them out (the orders are those of
domain/dead_letter/orders.py). Only while there is work does it take the operator's transactional
id, with which a new operator fences those before it. What it sends and the progress are one
transaction, so another process continues exactly where a killed one ended.

Each dead letter is sent at most once (domain/dead_letter/replay.py), and the lead pipeline accepts
a dead letter only if it is the latest record of its lead. So an interrupted run can be repeated.
"""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import chain
from typing import Any, Final, Literal

import msgspec
from aiokafka import TopicPartition
from msgspec.structs import replace

from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, topic_reader
from stream_app.domain.commands import CommandAnswer, read_answer
from stream_app.domain.dead_letter.causes import (
    Filter,
    LetterSource,
    addressed_to,
    headers_of,
    kind_of,
)
from stream_app.domain.dead_letter.orders import (
    MAX_GIVEN_UP,
    Effect,
    PricedPlan,
    ReplayCommand,
    ReplayOrders,
    ReplayPlan,
    ReplayProgress,
    advanced,
    begun,
    command_row,
    finished,
    given_up,
    progress_row,
    read_progress,
)
from stream_app.domain.dead_letter.replay import (
    SENT,
    Pace,
    giving_up,
    goes_on,
    outlived,
    redriven,
    sent_row,
)
from stream_app.domain.delivery.envelope import WorkspaceKeys, read_envelope
from stream_app.domain.model.errors import (
    SettingsError,
    StreamAppError,
    UnknownFormat,
    UnreadableBatch,
)
from stream_app.domain.model.records import ConsumedRecord, Record, parse_record_id
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import MAX_CARRIED_BYTES
from stream_app.kafka.connection import silent
from stream_app.kafka.producers import send_command
from stream_app.kafka.readers import Reader, consumed
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from stream_app.ops import logs
from stream_app.replay.plan import Chosen, dead_letter_of, records_at, survey_in_thread, topic_of
from stream_app.replay.state import ReplayState
from stream_app.tasks import cancel, run_until

_ANSWER_WITHIN_S: Final = 15.0
_MAX_COMMAND_BYTES: Final = 900_000
_MAX_RECORDS_AT_ONCE: Final = 500
_LOOK_EVERY_S: Final = 0.3
_AGAIN_S: Final = 2.0

log = logs.get("replay")


def ordered_plan(
    planned_at_ms: int,
    source: LetterSource,
    wanted: Filter,
    ends: Mapping[int, int],
    priced: PricedPlan,
    **how: Any,
) -> ReplayPlan:
    """Return the order to send what a plan has found.

    It sends no more dead letters than the plan has, and spends no more than the plan's price.
    """
    most = priced.go, priced.credits_at_most, priced.actions_at_most
    return ReplayPlan(planned_at_ms, source, wanted, dict(ends), *most, **how)


def start_command(
    plan: ReplayPlan,
    who: str,
    why: str,
    *,
    replay: str | None = None,
) -> ReplayCommand:
    """Return the command that starts a replay.

    `replay` is its id; None: a new one. Two commands with the same id start one replay.

    Raises:
        SettingsError: The command is too large for Kafka.
    """
    replay = replay or f"r-{uuid.uuid4().hex[:12]}"
    command = ReplayCommand(replay, "start", replay, Clock().now_ms(), who, why, plan)
    if len(command_row(command)[1]) > _MAX_COMMAND_BYTES:
        raise SettingsError(
            [f"the filter is larger than {_MAX_COMMAND_BYTES:,} bytes: name fewer leads"],
        )
    return command


def change_command(
    kind: Literal["stop", "resume"],
    replay: str,
    who: str,
    why: str,
) -> ReplayCommand:
    """Return a command that stops or resumes a replay."""
    return ReplayCommand(f"c-{uuid.uuid4().hex}", kind, replay, Clock().now_ms(), who, why)


def give_up_commands(
    records: Sequence[str],
    who: str,
    why: str,
    now_ms: int,
    command_id: str | None = None,
) -> list[ReplayCommand]:
    """Return the commands that give up these dead letters (`topic/partition/offset`).

    `command_id` is the id of the first command, from which the other ids follow; None: new ids.
    """
    name = command_id or f"c-{uuid.uuid4().hex}"
    commands: list[ReplayCommand] = []
    for first in range(0, len(records), MAX_GIVEN_UP):
        mine = tuple(records[first : first + MAX_GIVEN_UP])
        part = name if not first else f"{name}-{first // MAX_GIVEN_UP}"
        commands.append(ReplayCommand(part, "give_up", part, now_ms, who, why, dead_letters=mine))
    return commands


def command_record(settings: Settings, command: ReplayCommand) -> Record:
    """Return the record of a command."""
    return Record(settings.names.replay_state, *command_row(command), (), 0)


async def submit(settings: Settings, command: ReplayCommand) -> None:
    """Write a command to Kafka. Raises BrokerUnavailable."""
    await send_command(
        connection_of(settings),
        [command_record(settings, command)],
        "stream-app replay list",
    )


async def submit_and_follow(
    settings: Settings,
    command: ReplayCommand,
) -> AsyncGenerator[ReplayProgress, None]:
    """Write a command to Kafka, and yield each progress of its replay from then on.

    It ends if no progress has come within 15 seconds, and does not end by itself otherwise.

    Raises:
        BrokerUnavailable: Kafka does not answer.
    """
    place = TopicPartition(settings.names.replay_state, 0)
    answered = False
    deadline_s = time.monotonic() + _ANSWER_WITHIN_S
    async with Reader(connection_of(settings)) as reader:
        # Before the command, so that its first progress comes after `starts`.
        starts = await reader.ends([place])
        await submit(settings, command)
        async for polled in reader.follow(starts):
            for record in chain.from_iterable(polled.values()):
                progress = read_progress(record.key, record.value)
                if progress is not None and progress.id == command.replay:
                    answered = True
                    yield progress
            if not answered and time.monotonic() > deadline_s:
                return


async def submit_and_await(
    settings: Settings,
    commands: Sequence[ReplayCommand],
) -> dict[str, CommandAnswer]:
    """Write commands to Kafka, and return their answers by id.

    A command that is not answered within 15 s is missing.

    Raises:
        BrokerUnavailable: Kafka does not answer.
    """
    place = TopicPartition(settings.names.audit, 0)
    wanted = {command.id for command in commands}
    answers: dict[str, CommandAnswer] = {}
    async with Reader(connection_of(settings)) as reader:
        # Before the commands, so that their answers come after `starts`.
        starts = await reader.ends([place])
        for command in commands:
            await submit(settings, command)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                async for polled in reader.follow(starts):
                    for record in chain.from_iterable(polled.values()):
                        answer = read_answer(record.value)
                        if answer is not None and answer.id in wanted:
                            answers[answer.id] = answer
                    if answers.keys() == wanted:
                        break
    return answers


async def ordered_replays(settings: Settings) -> ReplayOrders:
    """Return all replays that operators ordered. Raises BrokerUnavailable."""
    orders = ReplayOrders()
    topic = settings.names.replay_state
    async with topic_reader(settings) as reader:
        ranges = {0: (await reader.bounds(topic))[0]}
        async for records in reader.read(topic, ranges):
            for record in records:
                orders.apply(record.key, record.value)
    return orders


class OrderRunner:
    """Carries out ordered replays, one at a time.

    `owns` returns True if this process is the one that carries them out.
    """

    def __init__(self, settings: Settings, state: ReplayState, owns: Callable[[], bool]) -> None:
        self._settings = settings
        self._state = state
        self._owns = owns
        self._warn = logs.Throttled(lambda why: log.warning("ordered_replay_waits", because=why))

    def adopt(self, now: Settings) -> None:
        """Take workspaces and destinations from these settings for the next replay.

        A change of anything else needs a restart.
        """
        self._settings = replace(
            self._settings,
            workspaces=now.workspaces,
            destinations=now.destinations,
        )

    async def run(self) -> None:
        while True:
            if self._owns() and self._state.orders.pending:
                try:
                    async with aclosing(
                        _Operator(self._settings, self._state, self._owns),
                    ) as operator:
                        await operator.take_over()
                        await operator.work()
                    # `pending` has the commands of this operator until the follower has read what
                    # the operator wrote.
                    await self._state.current()
                    self._warn.reset()
                except StreamAppError as error:
                    self._warn(str(error))
                    await asyncio.sleep(_AGAIN_S)
            await asyncio.sleep(_LOOK_EVERY_S)


class _Operator:
    """The work of one operator, from the take-over to the end of the work or an error.

    `take_over` fences every operator that started before. The work raises Fenced if another one has
    started meanwhile, and Aborted if a transaction failed. `aclose` must be called in any case,
    even if the take-over failed.
    """

    def __init__(self, settings: Settings, state: ReplayState, owns: Callable[[], bool]) -> None:
        names = settings.names
        limits = StateStoreLimits(topic_max_record_bytes={names.retry: MAX_CARRIED_BYTES - 1024})
        writes_to = {(names.audit, 0)} | {
            (names.retry, number) for number in range(settings.kafka.partitions)
        }
        self._kafka = TransactionalState(
            connection_of(settings),
            f"{names.replay_app}-operator",
            names.replay_state,
            0,
            limits,
            writes_to=writes_to,
        )
        self._settings = settings
        self._names = names
        self._state = state
        self._owns = owns
        self._clock = Clock()
        self._sent: set[bytes] = set()

    async def take_over(self) -> None:
        rows = await self._kafka.take_over()
        self._orders = ReplayOrders(rows.items())
        self._sent = {key for key in rows if key.startswith(SENT)}
        kept = self._settings.topics
        # Kafka deletes whole segments, which may keep a record for a day longer.
        kept_ms = (max(kept.dlq_days, kept.deferred_days, kept.parked_days) + 2) * 86_400_000
        oldest_ms = self._clock.now_ms() - kept_ms
        keys = [*outlived(rows, oldest_ms), *self._orders.outlived(oldest_ms)]
        self._outlived = [Record(self._names.replay_state, key, None) for key in keys]

    async def aclose(self) -> None:
        await self._kafka.close()

    async def work(self) -> None:
        """Apply all commands and carry out the replay that runs, until nothing is left to do."""
        # After the take-over, because the follower may be behind the rows that it has read: a
        # command that an earlier operator has answered is gone from them, and would be carried out
        # again.
        await self._state.current()
        self._seen = set(self._orders.commands)
        while self._owns():
            for key in self._unseen():
                self._seen.add(key)
                self._orders.commands[key] = self._state.orders.commands[key]
            step = self._orders.next_step(self._clock.now_ms())
            if step is not None:
                ends: list[Record] = []
                # While the dead letters are read, another process may become the operator. It
                # fences this one first, so that the write below fails.
                if step.given_up:
                    step, ends = await self._given_up(step)
                answer = Record(self._names.audit, b"", msgspec.json.encode(step.answer), (), 0)
                await self._write(step.rows, [answer, *ends])
                log.info(
                    "replay_command",
                    kind=step.answer.kind,
                    id=step.answer.id,
                    text=step.answer.text,
                )
            elif (replay := self._orders.running) is not None:
                await self._carry_out(replay)
            else:
                return

    async def _given_up(self, step: Effect) -> tuple[Effect, list[Record]]:
        """Return the step with its answer in words, and the records that end its dead letters.

        A dead letter without a row is ended once. For any other one, the row of its lead says
        whether the end still concerns it.
        """
        names = self._names
        answer = step.answer
        text = f"given up by {answer.who}{f': {answer.why}' if answer.why else ''}"
        ends: list[Record] = []
        ended = 0
        before = 0
        try:
            for dead_letter in await self._dead_letters(step.given_up):
                row = sent_row(dead_letter)
                once = not goes_on(read_envelope(dead_letter))
                if once and row[0] in self._sent:
                    before += 1
                    continue
                key, value, envelope = giving_up(dead_letter, self._settings.workspaces, text)
                ends.append(
                    Record(names.retry, key, value, envelope.to_headers(), dead_letter.partition),
                )
                if once:
                    ends.append(Record(names.replay_state, *row))
                ended += 1
        except (UnknownFormat, UnreadableBatch) as error:  # It would be the same the next time.
            refused = replace(answer, applied=False, reason="unreadable", text=str(error))
            return replace(step, answer=refused), []
        gone = len(step.given_up) - ended - before
        says = count(ended, "dead letter is", "dead letters are") + " given up"
        says += f", {before:,} had been sent back or given up before" if before else ""
        says += f", {count(gone, 'is', 'are')} no longer kept" if gone else ""
        applied = replace(answer, applied=ended > 0, reason="" if ended else "no_change", text=says)
        return replace(step, answer=applied), ends

    async def _dead_letters(self, places: Iterable[str]) -> list[ConsumedRecord]:
        """Read the dead letters at these places.

        A dead letter that comes back by itself, or that is no longer kept, is left out.
        """
        names = self._names
        chosen: dict[str, Chosen] = {names.dlq: defaultdict(set), names.parked: defaultdict(set)}
        for topic, partition, offset in filter(None, map(parse_record_id, places)):
            if topic in chosen and partition < self._settings.kafka.partitions:
                chosen[topic][partition].add(offset)
        async with topic_reader(self._settings) as reader:
            return [
                consumed(record)
                for topic, offsets in chosen.items()
                async for record in records_at(reader, topic, offsets)
                if topic == names.parked or kind_of(headers_of(record.headers)) != "foreign"
            ]

    async def _carry_out(self, replay: ReplayProgress) -> None:
        """Send the rest of a replay. Ends early when a command arrives or the partition is lost."""
        stop = asyncio.Event()
        watching = asyncio.create_task(self._watch(stop))
        try:
            planned = await run_until(stop, self._plan(replay))
            if planned is not None:
                replay, chosen, paces = planned
                await self._write_progress(replay)
                if replay.state == "running":
                    replay = await self._send(replay, chosen, paces, stop)
                    # Second look: if a command came or the partition was lost meanwhile, the replay
                    # is not finished. The command, or the next operator, decides how it goes on.
                    if not stop.is_set():
                        replay = finished(replay, self._clock.now_ms())
                        await self._write_progress(replay)
        except (SettingsError, UnreadableBatch) as error:
            replay = await self._give_up(replay, str(error))
        except StreamAppError:
            raise
        except Exception as error:  # A command must not end the process again and again.
            log.exception("ordered_replay_bug", replay=replay.id)
            text = (
                f"a bug ended it ({type(error).__name__}): the log of the replay process has more"
            )
            replay = await self._give_up(replay, text)
        finally:
            await cancel([watching])
        if replay.state != "running":
            log.info("ordered_replay", replay=replay.id, state=replay.state, text=replay.text)

    async def _plan(
        self,
        replay: ReplayProgress,
    ) -> tuple[ReplayProgress, Chosen, Mapping[str, float]]:
        plan = replay.plan
        ends = {
            number: end
            for number, end in plan.ends.items()
            if 0 <= number < self._settings.kafka.partitions
        }
        priced, chosen = await survey_in_thread(
            self._settings,
            plan.source,
            plan.filter,
            silent,
            ranges={number: (replay.next.get(number, 0), end) for number, end in ends.items()},
            uncertain=plan.uncertain,
            limit=replay.left,
            rate_per_s=plan.rate_per_s,
        )
        if not replay.total:
            replay = begun(replay, priced, self._clock.now_ms())
        return replay, chosen, priced.paces

    async def _send(
        self,
        before: ReplayProgress,
        chosen: Chosen,
        paces: Mapping[str, float],
        stop: asyncio.Event,
    ) -> ReplayProgress:
        """Send the chosen dead letters in order, and return the progress after them.

        `paces` are dead letters per second, by workspace. `stop` ends the replay early, after the
        batch under way.
        """
        names = self._names
        pace = Pace(paces)
        sent = 0
        # A list of this replay only: what it leaves when it fails must not go with the next one.
        waiting = self._outlived
        self._outlived = []
        refused: dict[str, str] = {}  # record id -> why
        # Partition -> the offset after the last dead letter that was sent or refused.
        reached: dict[int, int] = {}

        async def flush() -> None:
            nonlocal sent
            if waiting:
                sent += sum(record.topic == names.retry for record in waiting)
                await self._write_progress(
                    advanced(before, sent, refused, reached, self._clock.now_ms()),
                    waiting,
                )
                waiting.clear()

        async with topic_reader(self._settings) as reader:
            topic = topic_of(self._settings, before.plan.source)
            keys = WorkspaceKeys(self._settings.workspaces)
            async for record in records_at(reader, topic, chosen):
                dead_letter = dead_letter_of(record, keys)
                envelope = read_envelope(dead_letter)
                value = dead_letter.value
                if goes_on(envelope) and not value:
                    refused[dead_letter.record_id] = (
                        "it no longer holds its lead: publish the lead again"
                    )
                    reached[dead_letter.partition] = dead_letter.offset + 1
                    continue
                workspace, _ = addressed_to(dict(dead_letter.headers), dead_letter.key, value)
                turn_ms = pace.turn_ms(workspace, self._clock.now_ms())
                if len(waiting) >= _MAX_RECORDS_AT_ONCE or turn_ms > self._clock.now_ms():
                    await flush()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(
                            stop.wait(),
                            max(0, turn_ms - self._clock.now_ms()) / 1000,
                        )
                # Second look: during the wait, a command may have come or the partition may have
                # been lost.
                if stop.is_set():
                    break
                headers = redriven(envelope, dead_letter.record_id).to_headers()
                key = dead_letter.key if value is not None else dead_letter.key or b""
                waiting.append(Record(names.retry, key, value, headers, dead_letter.partition))
                if not goes_on(envelope):
                    waiting.append(Record(names.replay_state, *sent_row(dead_letter)))
                reached[dead_letter.partition] = dead_letter.offset + 1
            await flush()
        return advanced(before, sent, refused, reached, self._clock.now_ms())

    async def _give_up(self, replay: ReplayProgress, text: str) -> ReplayProgress:
        """End a replay that cannot go on, where its last transaction has left it."""
        replay = given_up(self._orders.replays[replay.id], text, self._clock.now_ms())
        await self._write_progress(replay)
        return replay

    async def _write_progress(self, replay: ReplayProgress, others: Iterable[Record] = ()) -> None:
        await self._write(dict([progress_row(replay)]), others)

    async def _write(self, rows: Mapping[bytes, bytes | None], others: Iterable[Record]) -> None:
        """Write rows of the replay state and records of other topics in one transaction."""
        others = list(others)
        await self._kafka.transact(
            [*(Record(self._names.replay_state, *row) for row in rows.items()), *others],
        )
        # After the commit, so that `_orders` is what Kafka has: a replay that fails ends there.
        for key, value in rows.items():
            self._orders.apply(key, value)
        written = (record.key for record in others if record.topic == self._names.replay_state)
        self._sent.update(key for key in written if key is not None and key.startswith(SENT))

    async def _watch(self, stop: asyncio.Event) -> None:
        while self._owns() and not self._unseen():  # noqa: ASYNC110 - the assignment is no event
            await asyncio.sleep(_LOOK_EVERY_S)
        stop.set()

    def _unseen(self) -> list[bytes]:
        return [key for key in self._state.orders.commands if key not in self._seen]
