"""The sharing of a partition, broken on purpose: a leak between lanes must be found out (see
mutants.py).
"""

from contextlib import ExitStack
from typing import Any
from unittest.mock import PropertyMock, patch

import msgspec

from stream_app.clock import Now
from stream_app.domain.lane.admission import Held
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.lane_queue import Admitted, LaneQueue, Waiter
from stream_app.partition.lane_timer import Timetable
from stream_app.partition.lanes import Lanes
from stream_app.partition.patience import Patience
from tests.simulation.mutant import Patch, mutant
from tests.simulation.neighbours import crowded, troubled
from tests.simulation.schedule import Schedule


def troubles() -> list[Schedule]:
    return [troubled(number) for number in range(40)]


@mutant("fair", hunt=troubles)
def a_waiting_lead_holds_back_all_behind_it() -> Patch:
    return patch.object(Lanes, "shared", PropertyMock(return_value=False))


@mutant("fair", hunt=troubles)
def the_hold_of_one_lane_holds_the_others() -> Patch:
    real = AdmissionQueue._try_admit
    hold = Held("", "", 0)

    def try_admit(
        self: AdmissionQueue,
        queue: LaneQueue,
        waiter: Waiter,
        now: Now,
    ) -> Admitted | Held:
        nonlocal hold
        if hold.until_ms > now.epoch_ms:
            return hold
        answer = real(self, queue, waiter, now)
        if isinstance(answer, Held) and answer.status:
            hold = answer
        return answer

    return patch.object(AdmissionQueue, "_try_admit", try_admit)


@mutant("fair", hunt=troubles)
def a_full_window_defers_the_shortest_line() -> Patch:
    def lowest(self: Timetable[Any]) -> Any:
        return next(key for number, key in self._order if number)

    return patch.object(Timetable, "highest_key", property(lowest))


@mutant("fair", hunt=troubles)
def all_lanes_stand_in_one_line() -> Patch:
    real = AdmissionQueue._bound_wait

    def bound_wait(self: AdmissionQueue, queue: LaneQueue, waiter: Waiter) -> None:
        with patch.object(Patience, "_queue_ms", lambda *_: 1_000 * (len(self._queues) - 1)):
            real(self, queue, waiter)

    return patch.object(AdmissionQueue, "_bound_wait", bound_wait)


@mutant("4", hunt=lambda: map(crowded, range(200)))
def a_lead_is_paid_by_another_lane() -> Patch:
    real = AdmissionQueue._try_admit

    def try_admit(
        self: AdmissionQueue,
        queue: LaneQueue,
        waiter: Waiter,
        now: Now,
    ) -> Admitted | Held:
        answer = real(self, queue, waiter, now)
        name = queue.workspace
        other = "acme" if name != "acme" else "gamma"
        if not isinstance(answer, Held) and not waiter.request.as_dead_letter:
            one = self._lanes[name]
            two = self._lanes[other]
            self._lanes[name] = msgspec.structs.replace(one, budget=two.budget)
            self._lanes[other] = msgspec.structs.replace(two, budget=one.budget)
        return answer

    return patch.object(AdmissionQueue, "_try_admit", try_admit)


@mutant("2", hunt=lambda: map(crowded, range(200)))
def a_lead_that_leaves_the_window_is_forgotten() -> Patch:
    real = AdmissionQueue._bound_memory
    stack = ExitStack()

    def bound_window(self: AdmissionQueue) -> None:
        with patch.object(
            AdmissionQueue,
            "_leave",
            lambda queue, waiter, outcome: queue._queues.remove(waiter),
        ):
            real(self)

    stack.enter_context(patch.object(AdmissionQueue, "_bound_memory", bound_window))
    return stack
