"""The next polls of the runs that leads of one partition wait for, by lane and in their order.

A lead has only one next poll, whatever time has passed, so that there are fewer polls while the
rate of the lane delays them. So the queues have no more entries than runs are open, and one more
for each run that is polled earlier than it was to be. The times follow from the rows
(domain/callback/schedule.py), and nothing is written for a poll. Which lead a run belongs to is
known in open_runs.py.
"""

import asyncio
from contextlib import suppress
from heapq import heappop, heappush
from typing import NamedTuple

import attrs

from stream_app.domain.callback.interpret import OVERDUE, open_run
from stream_app.domain.callback.schedule import next_poll_ms
from stream_app.domain.delivery.state_machine import Delivery, lead_of
from stream_app.domain.plan import Destination, Plan
from stream_app.partition.rows import Rows


@attrs.define(eq=False)
class OpenRun:
    """The run that a lead waits for.

    Attributes:
        run: Its id.
        key: The key of its lead's row.
        due_ms: When it is polled next (epoch ms); None while it is asked for.
        gone: How often in a row Clay did not know it.
        hastened_ms: When Clay announced its end (epoch ms); None if that has not happened since it
            was last asked for.
    """

    run: str
    key: bytes
    due_ms: int | None
    gone: int = 0
    hastened_ms: int | None = None


class RunningLead(NamedTuple):
    """A lead whose run is open, with the key of its row."""

    key: bytes
    row: Delivery
    destination: Destination

    def next_poll_ms(self, after_ms: int) -> int:
        """Return when its run is polled next (epoch ms), later than `after_ms`."""
        row = self.row
        overdue_ms = row.at_ms if row.state in OVERDUE else None
        return next_poll_ms(row.run, row.accepted_at_ms, overdue_ms, self.destination, after_ms)


class PollQueue:
    """The next poll of each lead that waits for a run.

    Attributes:
        changed: The workspaces whose runs are to be looked through, because one of them was added,
            put back or hastened, or because a request has ended. A dict keeps their order.
    """

    def __init__(self, plan: Plan, rows: Rows) -> None:
        self._plan = plan
        self._rows = rows
        self._open: dict[bytes, OpenRun] = {}
        self._queues: dict[str, list[tuple[int, bytes]]] = {}
        self._some_changed = asyncio.Event()
        self.changed: dict[str, None] = {}

    def __len__(self) -> int:
        """How many leads have a next poll. Some may have been settled already."""
        return len(self._open)

    def clear(self) -> None:
        """Forget all leads: the rows are replaced."""
        self._open.clear()
        self._queues.clear()
        self.changed.clear()

    def add(self, key: bytes, run: str, accepted_ms: int) -> None:
        """Add the run of a lead, with its first poll. It takes the place of an earlier run.

        Args:
            key: The key of the lead's row.
            run: The id of the run.
            accepted_ms: When Clay accepted the POST that began it, epoch ms.
        """
        destination = self._plan.destination(*lead_of(key)[:2])
        before = self._open.get(key)
        if destination is not None and (before is None or before.run != run):
            opened = OpenRun(run, key, None)
            self._open[key] = opened
            self.put_back(opened, next_poll_ms(run, accepted_ms, None, destination, accepted_ms))

    def due(self, workspace: str, now_ms: int) -> OpenRun | None:
        """Return the run of the lane that is to be polled now; None if there is none."""
        at_ms = self.next_ms(workspace)
        if at_ms is None or at_ms > now_ms:
            return None
        return self._open[self._queues[workspace][0][1]]

    def next_ms(self, workspace: str) -> int | None:
        """Return when a run of the lane is polled next (epoch ms); None if none is open."""
        queue = self._queues.get(workspace)
        while queue:
            at_ms, key = queue[0]
            opened = self._open.get(key)
            if opened is not None and opened.due_ms == at_ms:
                return at_ms
            heappop(queue)  # The run was closed, or is polled at another time.
        self._queues.pop(workspace, None)
        return None

    def take(self, opened: OpenRun) -> None:
        """Take a run out of its queue: it is asked for now."""
        opened.due_ms = None
        opened.hastened_ms = None

    def put_back(self, opened: OpenRun, due_ms: int) -> None:
        """Put a run into its queue, to be polled at `due_ms`; at once if Clay announced its end."""
        if opened.hastened_ms is not None:
            due_ms = min(due_ms, opened.hastened_ms)
        self._put(opened, due_ms)

    def postpone(self, opened: OpenRun, next_ms: int, held_until_ms: int) -> None:
        """Put a run back that cannot be polled now.

        Args:
            opened: The run.
            next_ms: When it is polled next by its schedule, epoch ms.
            held_until_ms: When it may be polled again, epoch ms. If Clay has announced its end, it
                is polled then.
        """
        announced = opened.hastened_ms is not None
        self._put(opened, min(next_ms, held_until_ms) if announced else next_ms)

    def _put(self, opened: OpenRun, due_ms: int) -> None:
        if self._open.get(opened.key) is not opened:
            return  # The rows were replaced, it was closed, or its lead waits for another run.
        opened.due_ms = due_ms
        workspace = lead_of(opened.key)[0]
        heappush(self._queues.setdefault(workspace, []), (due_ms, opened.key))
        self.change(workspace)

    def hasten(self, key: bytes, now_ms: int) -> None:
        """Have the run of a lead polled now: Clay says that it has finished.

        It is polled after the runs that are due already. Otherwise those of a busy lane whose end
        nobody announces would wait for as long as others are announced.

        Args:
            key: The key of the lead's row.
            now_ms: The time, epoch ms.
        """
        opened = self._open.get(key)
        if opened is None:
            return
        # A poll that is under way may have come too early. Then `put_back` has the run polled again
        # at once.
        opened.hastened_ms = now_ms
        if opened.due_ms is not None and opened.due_ms > now_ms:
            self.put_back(opened, now_ms)

    def close(self, opened: OpenRun) -> None:
        """Forget a run that will settle no lead."""
        if self._open.get(opened.key) is opened:
            del self._open[opened.key]

    def find(self, opened: OpenRun) -> RunningLead | None:
        """Return the lead of a run as it is now; None if this run cannot settle it any more.

        Then the lead was settled or parked, or was sent again and waits for another run, or its
        destination is not configured any more.
        """
        row = self._rows.delivery(opened.key)
        destination = self._plan.destination(*lead_of(opened.key)[:2])
        if row is None or destination is None or open_run(row) != opened.run:
            return None
        return RunningLead(opened.key, row, destination)

    def change(self, workspace: str) -> None:
        """Have the runs of the lane polled that are due."""
        self.changed[workspace] = None
        self._some_changed.set()

    async def wait(self, longest_s: float | None) -> None:
        """Wait until a lane has a run to poll, for at most `longest_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._some_changed.wait()
        # Cleared before the caller looks at `changed`: what comes later sets it again.
        self._some_changed.clear()
