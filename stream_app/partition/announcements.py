"""What an announcement of a finished run is about, top to bottom.

    a run that a lead waits for -> its results are asked for now
    a run that has settled its lead -> nothing
    a run that nobody knows -> ask for its results -> its item names the lead -> a callback

The last line settles a POST whose answer was lost: Clay has the lead, and the id of the run came
with that answer, so there is no other way to find the run. The results come from Clay itself and
with the workspace's key, so a forged announcement can cost a question and nothing else.

Clay is not asked unless a lead of this routine may have such a run. The record of an announcement
is not acked until the announcement is concluded, so that another owner of the partition asks again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.callback.routine import callback_of_run
from stream_app.domain.delivery.state_machine import Reason
from stream_app.domain.model.messages import Callback, RunNotification
from stream_app.domain.model.run import (
    RunAnswer,
    RunDenied,
    RunFinished,
    RunGone,
    RunLimited,
    RunTooLarge,
    RunUnfinished,
    RunUnread,
)
from stream_app.partition.in_flight import InFlight
from stream_app.partition.open_runs import OpenRuns, RoutinePlace

T = TypeVar("T")

_PAUSES_S: Final = (0.0, 5.0, 15.0, 30.0, 60.0, 120.0)
"""The pauses before each question about a run that nobody knows, in seconds: 4 minutes in all."""
_UNKNOWN: Final = Reason(
    "unknown_run",
    "no lead waits for this run: another program began it, or its lead was settled before",
)
_TOO_MANY: Final = Reason(
    "too_many_runs",
    "Clay is asked about too many runs already that nobody here knows: give this routine a "
    "completion webhook of its own",
)


@define(eq=False, repr=False, kw_only=True)
class Announcements:
    """Finds the leads of announced runs.

    `most` is how many runs that nobody knows may be asked about at a time, because their records
    take places that callbacks need. `ask` asks Clay within the lane's rate, and `poll_now` has the
    results of a lead's run asked for now.
    """

    _clock: Clock
    _runs: OpenRuns
    _most: int
    _ask: Callable[[str, str], Awaitable[RunAnswer]]
    _poll_now: Callable[[bytes], None]
    _asked: dict[tuple[RoutinePlace, str], asyncio.Event] = field(init=False, factory=dict)
    _under_way: int = field(init=False, default=0)

    @asynccontextmanager
    async def asking(
        self,
        in_flight: InFlight,
        announced: RunNotification,
    ) -> AsyncIterator[Callback | Reason | None]:
        """Find what an announced run says of a lead. The caller commits that inside the block.

        Yields:
            A callback, or the reason why the run says nothing of a lead; None if there is nothing
            more to do about it.

        Raises:
            StreamSuspended: The stream was suspended meanwhile.
        """
        if not self._runs.are_loaded.is_set():
            await _unless_suspended(in_flight, self._runs.are_loaded.wait())
        routine = RoutinePlace(announced.workspace, announced.destination)
        asked = routine, announced.run
        if self._is_known(*asked):
            yield None
            return
        if self._under_way >= self._most:
            yield _TOO_MANY
            return
        self._under_way += 1
        try:
            if (concluded := self._asked.get(asked)) is not None:
                # Another announcement of the same run is under way, and this one must not be acked
                # before that one is concluded: a later owner of the partition would get only the
                # other one, or none.
                await _unless_suspended(in_flight, concluded.wait())
                yield None
                return
            concluded = asyncio.Event()
            self._asked[asked] = concluded
            try:
                says = await self._search(in_flight, *asked)
                yield says
                # Only now, after the caller has committed it: until then the record could be given
                # up and come again, and would have to be asked about again.
                if isinstance(says, Callback) or says is _UNKNOWN:
                    self._runs.note_settled(*asked)
            finally:
                del self._asked[asked]
                concluded.set()
        finally:
            self._under_way -= 1

    def _is_known(self, routine: RoutinePlace, run: str) -> bool:
        """Return True if this run is known. If a lead waits for it, have its results asked for."""
        key = self._runs.lead_of_run(routine, run)
        if key is not None:
            self._poll_now(key)
        return key is not None or self._runs.is_settled(routine, run)

    async def _search(
        self,
        in_flight: InFlight,
        routine: RoutinePlace,
        run: str,
    ) -> Callback | Reason | None:
        why = _UNKNOWN
        for pause_s in _PAUSES_S:
            if pause_s:
                await _unless_suspended(in_flight, asyncio.sleep(pause_s))
                # Second look: Clay's answer to the POST may have come during the pause, and named
                # the run.
                if self._is_known(routine, run):
                    return None
            if self._runs.any_in_doubt(routine):
                answer = await _unless_suspended(
                    in_flight,
                    self._ask(routine.destination, run),
                )
                if isinstance(answer, RunFinished):
                    return self._of_results(routine, run, answer)
                why = _not_learnt(answer)
                if isinstance(answer, RunTooLarge):
                    break
            elif not self._runs.any_sending(routine):
                break
        return why

    def _of_results(
        self,
        routine: RoutinePlace,
        run: str,
        answer: RunFinished,
    ) -> Callback | Reason:
        """Return what these results say of the lead that one of their items is."""
        leads = (self._runs.lead_of_item(routine, item.id) for item in answer.items)
        # Second look: the answer to the POST may have come while Clay was asked, and named the run.
        key = next(filter(None, leads), None) or self._runs.lead_of_run(routine, run)
        return _UNKNOWN if key is None else callback_of_run(key, answer, self._clock.now_ms())


async def _unless_suspended(in_flight: InFlight, wait: Awaitable[T]) -> T:
    """Return what `wait` returns. Raises StreamSuspended if the stream is suspended before that."""
    task = asyncio.ensure_future(wait)
    try:
        await in_flight.wait_or_give_up(task)
        return task.result()
    finally:
        task.cancel()


def _not_learnt(answer: RunAnswer) -> Reason:
    """Return why the results of a run that nobody knows are not known either."""
    match answer:
        case RunUnfinished():
            return Reason("run_unfinished", "Clay announced this run, and says that it goes on")
        case RunTooLarge(text=text):
            return Reason("result_too_large", f"whose run this is cannot be read: {text}")
        case RunGone(text=text):
            return Reason("result_gone", f"Clay does not know this run, or no longer: {text}")
        case RunDenied(text=text):
            return Reason("run_denied", f"Clay did not let us read this run: {text}")
        case RunLimited():
            return Reason("run_limited", "Clay was asked too often, and this run was not read")
        case RunUnread(reason=reason, text=text):
            return Reason(reason, f"this run could not be read: {text}")
        case RunFinished():
            return _UNKNOWN
