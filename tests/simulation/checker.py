"""Invariants, checked from outside: from what is committed on Kafka and from what Clay received.

It sees every commit, every offset and every POST as it happens, and finds a broken promise at once.
The numbers in the messages name the invariant: 1 books, 2 histories and copies, 3 one POST for a
lead, 4 money and submissions, 5 limits of a lane, 6 callbacks, 7 replays and attempts, 8 commands,
9 answers that are not Clay's.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from stream_app.domain.delivery.envelope import lead_envelope, read_envelope
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Period
from stream_app.domain.limits.suspension import Suspension
from stream_app.domain.model.messages import RESEND, RESEND_ORDERED, Status, StatusEvent
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.system import SYSTEM_KEY
from stream_app.domain.plan import Plan, in_force
from tests.simulation.answers import ANSWERED, REFUSALS, Answers, History
from tests.simulation.cached import CachedChecks
from tests.simulation.clay import Post
from tests.simulation.kafka import Log, MemoryKafka
from tests.simulation.money import MoneyChecks
from tests.simulation.neighbours import NeighbourChecks
from tests.simulation.orders import OrderChecks
from tests.simulation.persons import Input, PersonChecks
from tests.simulation.runs import RunChecks
from tests.simulation.submissions import SubmissionChecks
from tests.simulation.worker import sources
from tests.support.legal import follows

UNDER_WAY: Final = frozenset[Status](
    {"received", "held_budget", "held_paused", "held_outage", "sending", "refused", "replayed"},
)
"""States in which a record must not be acked: the next owner has something to do."""

ENDED: Final = ANSWERED | {
    "served_from_cache",
    "rejected_invalid",
    "duplicate",
    "expired",
    "parked",
    "suppressed",
    "replaced",
    "confirmed",
}
"""States in which a history may be at rest for good; `accepted` too, where there are no callbacks.
"""

_event: Final = msgspec.json.Decoder(StatusEvent)
_row: Final = msgspec.json.Decoder(Delivery)
_lane: Final = msgspec.json.Decoder(Lane)


class Checker:
    """`problem` receives each broken promise in one line."""

    def __init__(
        self,
        plan: Plan,
        now_ms: Callable[[], int],
        problem: Callable[[str], None],
        checks_money: bool = False,
        well: Sequence[str] = (),
    ) -> None:
        self.checks_money = checks_money
        self.histories: defaultdict[str, History] = defaultdict(History)
        self.money = MoneyChecks(plan, problem)
        self.submissions = SubmissionChecks(problem)
        self.neighbours = NeighbourChecks(well, problem)
        self.persons = PersonChecks(self.histories, problem)
        self._plan = plan
        self._now_ms = now_ms
        self._problem = problem
        self._inputs: dict[str, Input] = {}
        self._origin_of: dict[int, str] = {}
        self._rows: dict[bytes, Delivery] = {}
        self._lanes: dict[str, Lane] = {}
        self._blocked_until: defaultdict[str, int] = defaultdict(int)
        self._heard: dict[tuple[str, str], tuple[int, int]] = {}
        self._buckets: dict[str, tuple[float, int]] = {}
        self._begun: set[int] = set()
        self.orders = OrderChecks(plan, problem)
        self.answers = Answers(plan, self.histories, now_ms, problem)
        self.cached = CachedChecks(plan, self.histories, self._inputs, problem)
        self.runs = RunChecks(plan, self.histories, now_ms, problem)

    def input(self, serial: int) -> tuple[str, Input]:
        """The place of that record, and what it is."""
        place = self._origin_of[serial]
        return place, self._inputs[place]

    def published(self, consumed: ConsumedRecord, what: Input) -> None:
        self._inputs[consumed.record_id] = what
        self.neighbours.published(consumed)
        self._origin_of[what.serial] = consumed.record_id

    # ------------------------------------------------------------------ one transaction of the line

    def on_commit(self, records: Sequence[ConsumedRecord]) -> None:
        names = self._plan.topics
        events: list[StatusEvent] = []
        dead_letters: list[ConsumedRecord] = []
        rows: list[ConsumedRecord] = []
        results: list[ConsumedRecord] = []
        for consumed in records:
            if consumed.topic == names.enriched:
                results.append(consumed)
            elif consumed.topic == names.status:
                events.append(_event.decode(consumed.value or b""))
            elif consumed.topic == names.state:
                rows.append(consumed)
            elif consumed.topic in (
                names.dlq,
                names.deferred,
                names.parked,
            ) or consumed.topic.startswith(names.wait(0)[:-2]):
                dead_letters.append(consumed)
        self.orders.before_commit(records)
        for event in events:
            self.neighbours.on_event(event)
            if not (
                self.answers.reported(event)
                or self.runs.reported(event)
                or self.orders.reported(event)
            ):
                self._check_step(event, rows)
        answered = self.answers.on_commit(events, results, rows, self.runs.is_of_run)
        self.cached.on_commit(events, answered)
        self.orders.on_commit(records)
        if self.checks_money:
            self.money.on_commit(events)
        touched = self._apply(rows)
        for workspace in touched:
            self._check_money(workspace)
        if events or dead_letters:
            self._check_dead_letters(events, dead_letters)

    def _check_step(self, event: StatusEvent, rows: list[ConsumedRecord]) -> None:
        history = self.histories[event.origin]
        last = history.events[-1] if history.events else None
        if event.origin not in self._inputs:
            self._problem(f"2: {event.id} reports a record that was never committed")
        if event.id != f"{event.origin}#{event.seq}" or event.seq != (last.seq + 1 if last else 1):
            self._problem(f"6: {event.id} follows #{last.seq if last else 0}: out of sequence")
        if not follows(last.status if last else None, event.status):
            self._problem(
                f"6: {event.id} {event.status} follows {last.status if last else 'nothing'}: "
                "illegal",
            )
        if last is not None and event.destination in self._plan.destinations:
            self.answers.check_overdue(event, last)
            self.answers.check_silence(event)
        if last is None or last.status == "rerouted":
            self._check_person(event)
        else:
            self.persons.on_step(event)
        history.events.append(event)
        if event.status in ANSWERED and self.runs.is_of_run(event):
            self.runs.on_answered(event)
        if event.status not in UNDER_WAY:
            history.concluded_seq = event.seq
        if (
            last is not None
            and last.status == "send_uncertain"
            and event.status in ("parked", "replayed")
        ):
            if event.status == "replayed" and event.reason != "resend":
                self._problem(f"3: {event.id} goes on after an uncertain send without saying so")
            if (
                last.due_at_ms is not None
                and self._has_grace(event)
                and event.at_ms < last.due_at_ms
            ):
                self._problem(
                    f"3: {event.id} is decided {last.due_at_ms - event.at_ms} ms before its "
                    "grace is over",
                )
        if event.status == "replayed" and event.reason == "replayed":
            history.replays[event.epoch] += 1
            if history.replays[event.epoch] > self._plan.replay.max_replays:
                self._problem(
                    f"7: {event.id} is replay {history.replays[event.epoch]} of its epoch",
                )
        if event.attempt > self._plan.delivery.max_attempts:
            self._problem(f"7: {event.id} counts {event.attempt} attempts")
        if event.status == "sending":
            self._check_sending(event, rows)
        elif (
            event.status in REFUSALS
            and last is not None
            and (post := history.posts.get(last.seq)) is not None
        ):
            self._blocked_until[event.workspace] = max(
                self._blocked_until[event.workspace],
                post.not_before_ms,
            )

    def _check_person(self, event: StatusEvent) -> None:
        what = self._inputs.get(event.origin)
        if what is not None:
            self.persons.on_first(event, what)

    def _has_grace(self, event: StatusEvent) -> bool:
        destination = self._plan.destinations.get(event.destination)
        return destination is not None and (
            destination.can_confirm or destination.uncertain == "resend"
        )

    def _check_sending(self, event: StatusEvent, rows: list[ConsumedRecord]) -> None:
        """Nothing goes out in a block, in an open breaker, from an empty bucket, too late for the
        lead.
        """
        name = event.workspace
        at_ms = event.at_ms
        if at_ms < self._blocked_until[name]:
            self._problem(
                f"5: {event.id} goes out {self._blocked_until[name] - at_ms} ms before Retry-After",
            )
        lane = self._lanes.get(name)
        if lane is not None and at_ms < lane.rate.blocked_until_ms:
            self._problem(f"5: {event.id} goes out of a blocked lane")
        if lane is not None and lane.breaker.phase == "open" and at_ms < lane.breaker.until_ms:
            self._problem(f"5: {event.id} goes out through an open breaker")
        stop = lane.suspension if lane is not None else None
        if stop is not None and at_ms < stop.probe_at_ms and not _is_lifted(name, stop, rows):
            self._problem(f"5: {event.id} goes out of a stopped lane")
        self._take_token(name, at_ms, event.id)
        what = self._inputs.get(event.origin)
        self.orders.on_sending(
            event,
            self.persons.person(what.identifiers) if what is not None else (),
            lane,
        )
        if what is not None:
            self.persons.on_sending(what)
        if what is not None and what.not_after_ms is not None and at_ms > what.not_after_ms:
            self._problem(
                f"5: {event.id} goes out {at_ms - what.not_after_ms} ms after its not_after",
            )

    def _take_token(self, name: str, at_ms: int, what: str) -> None:
        policy = self._plan.workspaces[name].rate
        tokens, then_ms = self._buckets.get(name, (float(policy.burst), at_ms))
        tokens = min(policy.burst, tokens + max(0, at_ms - then_ms) * policy.rate_per_s / 1000) - 1
        self._buckets[name] = tokens, max(at_ms, then_ms)
        if tokens < -0.01:
            self._problem(f"5: {what} goes out of an empty bucket")

    # ------------------------------------------------------------------------------- rows and lanes

    def _apply(self, records: list[ConsumedRecord]) -> list[str]:
        touched: dict[str, None] = {}
        for consumed in records:
            key = consumed.key or b""
            if (key == SYSTEM_KEY) is (consumed.partition in self._begun):
                self._problem(
                    f"begin: {consumed.record_id} is {key!r}: a partition begins with its "
                    "system, once",
                )
            self._begun.add(consumed.partition)
            if key.startswith(b"l/"):
                lane = _lane.decode(consumed.value or b"")
                self._lanes[lane.workspace] = lane
                touched[lane.workspace] = None
                self.submissions.on_lane(lane)
            elif key.startswith(b"d/"):
                if consumed.value is None:
                    del self._rows[key]
                    continue
                row = _row.decode(consumed.value)
                self._rows[key] = row
                self.submissions.on_row(row)
                touched[key.split(b"/", 2)[1].decode()] = None
                events = self.histories[row.origin].events
                if not any(
                    event.seq == row.seq and event.status == row.state for event in events[-4:]
                ):
                    self._problem(f"6: the row {row.origin}#{row.seq} {row.state} has no event")
        return list(touched)

    def _check_money(self, name: str) -> None:
        """In every committed state the lane's reservations are those of the open rows, and the caps
        hold.
        """
        prefix = f"d/{name}/".encode()
        days: defaultdict[str, int] = defaultdict(int)
        months: defaultdict[str, int] = defaultdict(int)
        for key, row in self._rows.items():
            if row.reservation is not None and key.startswith(prefix):
                days[row.reservation.day] += row.reservation.credits
                months[row.reservation.month] += row.reservation.credits
        lane = self._lanes.get(name)
        if lane is None:
            return
        policy = in_force(self._plan.workspaces[name], lane.changes).budget
        self._check_periods(name, lane.budget.days, days, policy.credits_per_day)
        self._check_periods(name, lane.budget.months, months, policy.credits_per_month)

    def _check_periods(
        self,
        name: str,
        periods: Sequence[Period],
        reserved: dict[str, int],
        cap: int | None,
    ) -> None:
        for period in periods:
            if period.credits_reserved != reserved.pop(period.id, 0):
                self._problem(
                    f"4: {name} reserves {period.credits_reserved} in {period.id}, its rows do not",
                )
            if cap is not None and period.credits_spent + period.credits_reserved > cap:
                self._problem(
                    f"4: {name} has {period.credits_spent} + {period.credits_reserved} of {cap}",
                )
        if any(reserved.values()):
            self._problem(f"4: rows of {name} reserve what its lane does not know of")

    # --------------------------------------------------------------------------------- dead letters

    def _check_dead_letters(
        self,
        events: list[StatusEvent],
        dead_letters: list[ConsumedRecord],
    ) -> None:
        """Each dead letter, deferred, waiting or parked copy is committed with its event, one for
        one.
        """
        names = self._plan.topics
        wanted = {
            (event.origin, event.seq): event.status
            for event in events
            if event.status
            in ("dead_lettered", "deferred", "parked", "rejected_invalid", "send_uncertain")
        }
        for event in events:
            if (
                event.status == "parked"
                and wanted.get((event.origin, event.seq - 1)) == "send_uncertain"
            ):
                del wanted[event.origin, event.seq - 1]  # parked at once: nothing waits
        topics: dict[Status, str] = {
            "dead_lettered": names.dlq,
            "rejected_invalid": names.dlq,
            "deferred": names.deferred,
            "parked": names.parked,
        }
        for dead_letter in dead_letters:
            envelope = read_envelope(dead_letter)
            status = wanted.pop((envelope.origin, envelope.seq), None)
            if status is None or topics.get(status, dead_letter.topic) != dead_letter.topic:
                self._problem(
                    f"2: {dead_letter.record_id} ({envelope.origin}#{envelope.seq}) has no event",
                )
        for (origin, seq), status in wanted.items():
            self._problem(f"2: {origin}#{seq} {status} has no dead letter")

    # ------------------------------------------------------------------------------- acks and POSTs

    def on_offset(self, group: str, log: Log, before: int, after: int) -> None:
        """The group's offset moves: what it passes must be concluded."""
        if after < before:
            self._problem(
                f"2: the offset of {log.topic}/{log.partition} goes back from {before} to {after}",
            )
        while (consumed := log.read(before)) is not None and consumed.offset < after:
            before = consumed.offset + 1
            if self.answers.acked(consumed.record_id) or self.runs.acked(consumed.record_id):
                continue
            envelope = lead_envelope(consumed, self._plan.topics.inputs)
            if consumed.topic == self._plan.topics.commands:
                self.orders.on_acked(consumed)
            elif self.histories[envelope.origin].concluded_seq <= envelope.seq:
                self._problem(
                    f"2: {consumed.record_id} ({envelope.origin}#{envelope.seq}) is acked "
                    "before it is concluded",
                )

    def on_post(self, post: Post) -> None:
        """A POST leaves: its `sending` must be committed, and be its alone."""
        origin = self._origin_of[post.serial]
        history = self.histories[origin]
        sending = next(
            (event for event in reversed(history.events) if event.status == "sending"),
            None,
        )
        if sending is None:
            self._problem(f"3: {origin} is POSTed before its `sending` is committed")
            return
        if sending.seq in history.posts:
            self._problem(f"3: {sending.id} is POSTed twice")
        history.posts[sending.seq] = post
        self.submissions.on_post(post)
        heard_ms, until_ms = self._heard.get((post.worker, post.destination), (0, 0))
        if heard_ms < sending.at_ms < until_ms:
            self._problem(
                f"5: {sending.id} is POSTed before the Retry-After that {post.worker} has heard of",
            )
        self.answers.on_post(sending)
        self.runs.on_post(post, origin)
        if post.at_ms - sending.at_ms > self._plan.delivery.max_request_start_age_s * 1000:
            self._problem(
                f"3: {sending.id} is POSTed {post.at_ms - sending.at_ms} ms after its turn",
            )

    def on_answer(self, post: Post) -> None:
        """A worker reads Clay's answer."""
        _, until_ms = self._heard.get((post.worker, post.destination), (0, 0))
        if post.not_before_ms > until_ms:
            self._heard[post.worker, post.destination] = self._now_ms(), post.not_before_ms

    def on_poll(self, post: Post, worker: str) -> None:
        """A worker asks about a run: that takes a token of the lane's bucket, as a POST does."""
        self.runs.on_poll(post, worker)
        if self.runs.calm:
            name = self._plan.destinations[post.destination].workspace
            self._take_token(name, self._now_ms(), f"a poll of {post.run}")
        _, until_ms = self._heard.get((worker, post.destination), (0, 0))
        if self._now_ms() < until_ms:
            self._problem(
                f"5: {worker} polls {post.run} before the end of its Retry-After",
            )

    def on_limited_poll(self, post: Post, worker: str, after_ms: int) -> None:
        """A worker is given a Retry-After."""
        _, until_ms = self._heard.get((worker, post.destination), (0, 0))
        now_ms = self._now_ms()
        self._heard[worker, post.destination] = now_ms, max(until_ms, now_ms + after_ms)

    # -------------------------------------------------------------------------------------- the end

    def at_rest(self, kafka: MemoryKafka) -> None:
        """Nothing is left to do: nothing may be lost, hang in the air, or have been paid twice."""
        names = self._plan.topics
        for transactional_id in kafka.open_transactions:
            self._problem(f"2: {transactional_id} left a transaction open")
        for topic in sources(names):
            for partition in range(self._plan.partitions):
                log = kafka.log(topic, partition)
                left = log.read(kafka.offset(names.worker_app, topic, partition) or 0)
                if left is not None:
                    self._problem(f"2: {left.record_id} is not acked at rest")
        for place in self._inputs:
            events = self.histories[place].events
            if not events:
                self._problem(f"2: {place} is lost: no event reports it")
            elif events[-1].status not in ENDED and not self._is_final(events[-1]):
                self._problem(f"2: {place} is left at {events[-1].status}")
        self._check_paid()
        self.submissions.at_rest(self._lanes.values(), self.answers.calm)
        self.orders.at_rest(self._lanes.values())
        self.cached.at_rest()
        self.answers.at_rest(self.orders.corrections.values())
        self.runs.at_rest(self.orders.corrections.values())
        self.answers.check_spent(self._lanes.values(), self.orders.corrections.values())

    def _is_final(self, event: StatusEvent) -> bool:
        return (
            event.status == "accepted" and not self._plan.destinations[event.destination].callbacks
        )

    def _check_paid(self) -> None:
        """Of each identifier, whichever leads it was in."""
        allowed = Counter[str]()
        unrefused = Counter[str]()
        consumed = Counter[str]()
        plain: set[str] = set()
        for origin, what in self._inputs.items():
            if what.force:
                allowed.update(what.identifiers)
            else:
                plain |= what.identifiers
            history = self.histories[origin]
            after: dict[int, Status] = {event.seq - 1: event.status for event in history.events}
            for event in history.events:
                if event.status == "sending" and after.get(event.seq) not in REFUSALS:
                    unrefused.update(what.identifiers)
                if event.status == "replayed" and event.reason in (RESEND, RESEND_ORDERED):
                    allowed.update(what.identifiers)
            for seq, post in history.posts.items():
                consumed.update(what.identifiers if post.took else ())
                if post.took and after.get(seq) in REFUSALS:
                    self._problem(f"3: {origin}#{seq} is reported as refused, but Clay has it")
        for person in unrefused:
            most = allowed[person] + (person in plain)
            if unrefused[person] > most or consumed[person] > most:
                self._problem(
                    f"3: {person} was sent {unrefused[person]} times ({consumed[person]} "
                    f"arrived), {most} are allowed",
                )


def _is_lifted(workspace: str, stop: Suspension, rows: list[ConsumedRecord]) -> bool:
    """Whether the callback of a probe is in the same transaction: it ends the suspension, and then
    leads are sent.
    """
    prefix = f"d/{workspace}/".encode()
    probes = (
        _row.decode(row.value) for row in rows if row.value and (row.key or b"").startswith(prefix)
    )
    return any(row.probed_ms == stop.since_ms and row.state in ANSWERED for row in probes)
