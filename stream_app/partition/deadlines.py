"""The leads of one partition that wait for their callback, in the order of their deadlines.

There is one queue of keys for each destination and kind of deadline, because all deadlines of one
queue are equally long. The rows are scanned once, when the partition is taken over. After that only
the heads of the queues are read, and a lead that was settled meanwhile is dropped when it is the
head.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import Final, NamedTuple

from stream_app.domain.callback.interpret import OVERDUE, WAITING, due_ms, open_run
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.state_machine import Delivery, lead_of, read_delivery
from stream_app.domain.model.errors import RowUnreadable
from stream_app.domain.model.messages import Status
from stream_app.domain.plan import Destination, Plan
from stream_app.partition.lanes import Lanes
from stream_app.partition.poll_queue import PollQueue
from stream_app.partition.rows import Rows

_AGAIN_MS: Final = 1_000
_SLICE: Final = 5_000  # Reading this many rows takes some milliseconds.
_KINDS: Final[dict[Status, bool]] = {
    **dict.fromkeys(WAITING, False),
    **dict.fromkeys(OVERDUE, True),
}
_STATES: Final = {state.encode() for state in _KINDS}


class LeadWithDeadline(NamedTuple):
    """A lead that waits, with the key of its row and its deadline (epoch ms)."""

    key: bytes
    row: Delivery
    destination: Destination
    due_ms: int


class DeadlineQueue:
    """The keys of the rows whose lead waits for a callback, overdue or not.

    There is a queue for each workspace, destination, and whether its leads are overdue.

    Attributes:
        polls: The runs of those of the leads that went to a routine. Such a lead has two clocks,
            its deadline and the polls of its run, and the rows are scanned once for both.
    """

    def __init__(self, plan: Plan, rows: Rows, lanes: Lanes) -> None:
        self._plan = plan
        self._rows = rows
        self._lanes = lanes
        self._queues: dict[tuple[str, str, bool], deque[bytes]] = {}
        self._again: deque[tuple[int, bytes]] = deque()
        self._first_added = asyncio.Event()  # set when an empty queue gets a lead
        self.polls = PollQueue(plan, rows)

    def clear(self) -> None:
        """Forget all leads: the rows are replaced."""
        self._queues.clear()
        self._again.clear()
        self.polls.clear()

    async def load(self) -> None:
        """Find the waiting leads among the rows, a slice at a time.

        Leads that are added meanwhile come after them.
        """
        by_destination: dict[tuple[str, str, bool], list[tuple[int, bytes]]] = {}
        for number, key in enumerate(self._rows.leads()):
            # `leads` is a copy of the keys, because rows may come and go during the sleep below. A
            # row that is gone has no state. A lead that is settled later is dropped at the head of
            # its queue, and `add` queues one that comes.
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            raw = self._rows.get(key) or b""
            begin = raw.find(b'"') + 1
            if raw[begin : raw.find(b'"', begin)] not in _STATES:
                continue
            with suppress(RowUnreadable):  # It is reported when that lead is processed.
                row = read_delivery(key, raw)
                if not row.final:
                    by_destination.setdefault((*lead_of(key)[:2], _KINDS[row.state]), []).append(
                        (row.at_ms, key),
                    )
                    if run := open_run(row):
                        self.polls.add(key, run, row.accepted_at_ms)
        for name, keys in by_destination.items():
            keys.sort()
            self._queues[name] = deque(chain((key for _, key in keys), self._queues.get(name, ())))

    def note(self, step: CommitStep) -> None:
        """Add the lead of a step that has events, if the lead waits from this step on."""
        last = step.events[-1]
        # An accepted lead waits only if its destination calls back, and then its event has the
        # deadline. The lead's own row is the first one of a step with events.
        if last.status in OVERDUE or (last.status in WAITING and last.due_at_ms is not None):
            self.add(step.rows[0][0], last.status)
            if last.run:
                self.polls.add(step.rows[0][0], last.run, last.at_ms)

    def add(self, key: bytes, state: Status) -> None:
        """Add a lead that has just come into one of the states."""
        queue = self._queues.setdefault((*lead_of(key)[:2], _KINDS[state]), deque())
        queue.append(key)
        if len(queue) == 1:
            self._first_added.set()

    async def wait(self, now_ms: int, longest_s: float) -> None:
        """Wait until the next deadline, for at most `longest_s` seconds.

        A lead that comes into an empty queue ends the wait, too.
        """
        # No await between the look and the clear: `at_ms` has a lead that came before, and a lead
        # that comes later sets the event again.
        at_ms = self.next_ms()
        self._first_added.clear()
        delay_s = None if at_ms is None else min(longest_s, max(0.001, (at_ms - now_ms) / 1000))
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._first_added.wait()

    def __len__(self) -> int:
        """How many leads are queued. Some may be settled already."""
        return sum(map(len, self._queues.values())) + len(self._again)

    def workspaces(self) -> set[str]:
        names = {
            (workspace, alias) for (workspace, alias, _), queue in self._queues.items() if queue
        }
        return {workspace for workspace, alias in names if self._plan.destination(workspace, alias)}

    def next_ms(self) -> int | None:
        """The earliest deadline (epoch ms), or None if no lead waits."""
        heads = map(self._head, self._queues.values())
        again = (at_ms for at_ms, _ in self._again)
        return min(chain(again, (at_ms for at_ms in heads if at_ms is not None)), default=None)

    def pop_due(self, now_ms: int, most: int) -> list[bytes]:
        """Remove and return the keys whose deadline has passed, `most` of them at most."""
        due: dict[bytes, None] = {}
        while self._again and self._again[0][0] <= now_ms and len(due) < most:
            due[self._again.popleft()[1]] = None
        for queue in self._queues.values():
            while len(due) < most and (at_ms := self._head(queue)) is not None and at_ms <= now_ms:
                due[queue.popleft()] = None
        return list(due)

    def put_back(self, keys: Iterable[bytes], now_ms: int) -> None:
        """Queue those that are still due again, for one second later."""
        for key in keys:
            lead = self.find(key)
            if lead is not None and lead.due_ms <= now_ms:
                self._again.append((now_ms + _AGAIN_MS, key))

    def _head(self, queue: deque[bytes]) -> int | None:
        """The deadline of the first lead that still waits. Those before it are dropped."""
        while queue:
            if (lead := self.find(queue[0])) is not None:
                return lead.due_ms
            queue.popleft()
        return None

    def find(self, key: bytes) -> LeadWithDeadline | None:
        """A lead as it waits now.

        None if it no longer waits, or if its destination is not configured any more.
        """
        row = self._rows.delivery(key)
        destination = self._plan.destination(*lead_of(key)[:2])
        if row is None or destination is None or row.final or row.state not in _KINDS:
            return None
        return LeadWithDeadline(
            key,
            row,
            destination,
            due_ms(row, destination, self._lanes[destination.workspace]),
        )
