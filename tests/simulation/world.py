"""One run of a schedule: broker, Clay, workers, replay and supervisor on one virtual clock, and the
checker beside.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final
from unittest.mock import patch

import msgspec

from stream_app.domain.dead_letter.replay import giving_up, goes_on, redriven
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.model.messages import Callback, RunNotification
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.partition import lane_timer, lanes
from stream_app.partition.balances import Balances
from stream_app.partition.owner import Erasures
from tests.simulation.cached import SlowCache
from tests.simulation.checker import Checker
from tests.simulation.clay import FakeClay, Post, results_of
from tests.simulation.group import Group
from tests.simulation.kafka import MemoryKafka
from tests.simulation.loop import Process, SimLoop
from tests.simulation.orders import Order, records_of
from tests.simulation.persons import Input, fields_of, identifiers_of
from tests.simulation.replayer import Replayer
from tests.simulation.schedule import Arrival, Break, Schedule, plan_of
from tests.simulation.tape import tape_of
from tests.simulation.worker import Worker

T0_MS: Final = 1_796_083_140_000
"""2026-11-30T23:59:00Z: a minute before a day and a month turn, so that a budget that binds soon
has room again.
"""

TAKE_OVER: Final = {"look", "fence", "open", "end"}
"""The requests of a take-over; the rows are read behind it."""

SESSION_S: Final = 6.0
_HEARTBEAT_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Outcome:
    """`problems`: broken promises, the first one first; `turns` and `requests`: how many there were
    to break at.

    ends               how many transactions of the workers ended.
    commits            the numbers of the requests that were to commit a transaction.
    recovery_requests  how many requests take-overs sent since the first missed marker.
    met                the statuses and the reasons of all events.
    """

    problems: list[str]
    turns: int
    requests: int
    posts: int
    trace: list[str]
    ends: int
    commits: list[int]
    recovery_requests: int
    met: frozenset[str]


class World:
    """Everything around the workers (`worker.Surroundings`), and the faults."""

    def __init__(self, schedule: Schedule, trace: bool = False) -> None:
        self.schedule = schedule
        self.plan = plan_of(schedule.setup)
        self.spacing_s = schedule.spacing_s
        self.cache = SlowCache(self.plan, T0_MS) if schedule.setup.cached else None
        self.reopen = schedule.reopen
        self.drop_in_flight = schedule.drop_in_flight
        self._rng = Random(schedule.seed)
        self.loop = SimLoop(self._rng, schedule.shuffle, schedule.preempted)
        self.kafka = MemoryKafka(self.now_ms)
        self.group = Group(self.loop, self.kafka, self.plan.topics.worker_app, self.plan.partitions)
        self.clay = FakeClay(
            self.loop,
            self.now_ms,
            iter(schedule.fates),
            iter(schedule.answers),
            schedule.drop_in_flight,
            iter(schedule.polls),
            iter(schedule.announced),
        )
        self.problems: list[str] = []
        self.trace: list[str] | None = [] if trace else None
        self.checker = Checker(
            self.plan,
            self.now_ms,
            self.problem,
            schedule.checks_money,
            schedule.well,
        )
        self.checker.answers.calm = not (schedule.faults or schedule.losses or schedule.missed)
        self.checker.answers.ordered = bool(schedule.orders)
        self.checker.cached.expects = schedule.setup.cached
        self.checker.runs.calm = self.checker.answers.calm and not schedule.orders
        self.checker.runs.announced_settles = not (
            schedule.polls
            or schedule.orders
            or schedule.redrives_s
            or schedule.give_ups_s
            or "denied" in schedule.fates  # a refused key cannot ask, and that is tried for minutes
        )
        self.checker.runs.certain = not (
            schedule.polls
            or schedule.losses
            or schedule.missed
            # A key that is refused cannot ask, and the graces of the simulation are short.
            or "denied" in schedule.fates
        )
        self._workers: dict[Process, Worker] = {}
        self._lives: dict[str, int] = {}
        self._faults = {fault.at_step: fault for fault in schedule.faults}
        self._losses = dict(schedule.losses)
        self._requests = 0
        self._recovery = dict(schedule.recovery)
        self._recovery_requests = 0
        self._ends = 0
        self._commits: list[int] = []
        self._missed_one = False
        self._user_transactions = 0
        # the places of dead letters that were sent back or given up
        self._sent_back: set[str] = set()

    def run(self) -> Outcome:
        schedule = self.schedule
        loop = self.loop
        self.kafka.on_commit = self._on_commit
        self.kafka.on_end = self._on_end
        self.kafka.on_betrayal = lambda text: self.problem(f"whole: {text}")
        if schedule.markers_s:
            self.kafka.write_markers = partial(self.loop.outside, schedule.markers_s)
        self.kafka.on_offset = self.checker.on_offset
        self.kafka.on_fence = self.checker.answers.taken_over
        self.clay.on_post = self._on_post
        self.clay.on_answer = self.checker.on_answer
        self.clay.on_callback = self._call_back
        self.clay.on_poll = self._on_poll
        self.clay.on_announcement = self._announce
        self.clay.on_results = self.checker.runs.on_results
        self.clay.on_limited = self.checker.on_limited_poll
        self.clay.on_arrival = lambda post: self.say(
            None,
            f"Clay receives #{post.serial}: {post.fate}",
        )
        for alias, destination in self.plan.destinations.items():
            self.clay.pool(alias, destination.webhook_ids)
        loop.before_step = self._before_turn
        for serial, arrival in enumerate(schedule.arrivals):
            loop.outside(arrival.at_s, self._publish, serial, arrival)
        for number, at_s in enumerate(schedule.redrives_s):
            loop.outside(at_s, self._redrive, Random(f"redrive {schedule.seed} {number}"))
        for number, at_s in enumerate(schedule.give_ups_s):
            loop.outside(at_s, self._give_up, Random(f"give up {schedule.seed} {number}"))
        for serial, order in enumerate(schedule.orders):
            loop.outside(order.at_s, self._order, serial, order)
        Replayer(
            loop,
            self.kafka,
            self.plan,
            self._rng,
            schedule.replay_again,
            lambda text: self.say(None, text),
        ).start(self.now_ms())
        for number in range(schedule.workers):
            self._start(f"w{number + 1}")
        # The simulation's clock never steps, and it is to come to rest: no timer looks at it again
        # and again.
        with (
            patch.object(lane_timer, "_MAX_TIMER_S", 1e9),
            patch.object(lanes, "_LOOK_EVERY_S", None),
            patch.object(Erasures, "run", _never),
            patch.object(Balances, "run", _never),
        ):
            loop.run()
        if loop.limit_reached:
            self.problem("rest: it does not come to rest")
        elif not self.problems:
            self.checker.at_rest(self.kafka)
            self._close_the_books()
        loop.end()
        self.problems.extend(loop.errors)
        reported = self.problems, loop.turns, self._requests, len(self.clay.posts), self.trace or []
        events = [event for history in self.checker.histories.values() for event in history.events]
        met = frozenset(name for event in events for name in (event.status, event.reason))
        return Outcome(*reported, self._ends, self._commits, self._recovery_requests, met)

    # ------------------------------------------------------------------------ what the workers need

    def now_ms(self) -> int:
        return T0_MS + round(self.loop.time() * 1000)

    def say(self, process: Process | None, text: str) -> None:
        if self.trace is not None:
            self.trace.append(
                f"{self.loop.time():10.3f}  {process.name if process else '-':5}  {text}",
            )

    def problem(self, text: str) -> None:
        self.say(None, f"BROKEN  {text}")
        self.problems.append(text)
        self.loop.stop()

    def latency_s(self) -> float:
        return 0.002 + self._rng.random() * self.schedule.jitter_s

    def fate_of(self, what: str, process: Process) -> str:
        if what == "commit":
            self._commits.append(self._requests)
        self._requests += 1
        if self._missed_one and what in TAKE_OVER:
            self._recovery_requests += 1
            if (breaks := self._recovery.get(self._recovery_requests)) is not None:
                return self._break(breaks, self._workers[process])
        return self._losses.get(self._requests - 1, "")

    def _break(self, how: Break, worker: Worker) -> str:
        """What happens to a request of a take-over, or to the process that waits for its answer."""
        match how:
            case "crash" | "crash_before":
                self._crash(worker)
                return "lost" if how == "crash_before" else ""
            case "freeze" | "evicted":
                self._freeze(worker, 3.0 if how == "freeze" else 12.0)
                return ""
            case _:
                return how

    def ended(self, worker: Worker, error: BaseException | None) -> None:
        """It stopped in good order, or must stop: then it is gone in a moment, whatever it does
        until then.
        """
        if error is None:
            self.loop.outside(0.0, self._gone, worker)
        else:
            self.loop.outside(self._rng.choice((0.0, 0.02, 0.5)), self._crash, worker)

    def _close_the_books(self) -> None:
        """Invariant 1, by the books themselves: given all that is committed, they find every record
        in its column.
        """
        report = tape_of(self.plan, self.kafka, self.now_ms()).close()
        if not report.balanced:
            named = "; ".join(f"{problem.where} {problem.what}" for problem in report.problems)
            self.problem(
                f"1: {report.records} records in, {report.accounted} accounted for: {named}",
            )

    # ----------------------------------------------------------------------------------- supervisor

    def _start(self, name: str) -> None:
        life = self._lives.get(name, 0) + 1
        self._lives[name] = life
        worker = Worker(self, name, life, self._rng)
        self._workers[worker.process] = worker
        self.say(worker.process, "starts")
        worker.start()

    def _gone(self, worker: Worker) -> None:
        if not worker.process.dead:
            self.say(worker.process, "has ended")
            self.loop.kill(worker.process)
            self.loop.outside(self.schedule.restart_s, self._start, worker.name)

    def _crash(self, worker: Worker) -> None:
        if not worker.process.dead:
            self.say(worker.process, "is killed")
            self.loop.kill(worker.process)
            self.loop.outside(SESSION_S, self.group.leave, worker.member)
            self.loop.outside(self.schedule.restart_s, self._start, worker.name)

    def _stop(self, worker: Worker) -> None:
        self.say(worker.process, "gets SIGTERM")
        worker.request_stop()

    def _freeze(self, worker: Worker, for_s: float) -> None:
        self.say(worker.process, f"is frozen for {for_s:g} s")
        worker.process.frozen = True
        if for_s > SESSION_S:
            self.loop.outside(SESSION_S, self.group.leave, worker.member)
        self.loop.outside(for_s, self._thaw, worker)

    def _thaw(self, worker: Worker) -> None:
        if worker.process.dead:
            return
        self.say(worker.process, "goes on")
        self.loop.thaw(worker.process)
        if not self.group.knows(worker.member):
            self.loop.outside(self._rng.random() * _HEARTBEAT_S, worker.request_rejoin)

    def _before_turn(self, process: Process) -> None:
        fault = self._faults.get(self.loop.turns)
        if fault is None:
            return
        worker = self._workers[process]
        match fault.kind:
            case "crash":
                self._crash(worker)
            case "freeze":
                self._freeze(worker, fault.for_s)
            case "stop":
                self._stop(worker)
            case "rebalance":
                self.say(None, "the group rebalances")
                self.group.rebalance()

    # -------------------------------------------------------------------------- users and witnesses

    def _publish(self, serial: int, arrival: Arrival) -> None:
        plan = self.plan
        names = self.plan.topics
        home = plan.pins[arrival.workspace]
        partition = (home + 1) % self.plan.partitions if arrival.away else home
        not_after_ms = (
            None if arrival.not_after_s is None else self.now_ms() + int(arrival.not_after_s * 1000)
        )
        fields = {**fields_of(arrival.known_by, arrival.person), "serial": serial}
        document: dict[str, object] = {
            "fields": {}
            if arrival.how == "nobody"
            else {**fields, **({"note": "x" * 9_000} if arrival.how == "long" else {})},
            "lead_id": arrival.lead_id,
            "force": arrival.force,
            "workspace": "nowhere" if arrival.how == "nowhere" else arrival.workspace,
        }
        if arrival.table:
            document["destination"] = f"{arrival.workspace}-{arrival.table}"
        if arrival.import_id:
            alike = [
                other
                for other in self.schedule.arrivals
                if self._import_of(other) == self._import_of(arrival)
            ]
            document["import_id"] = arrival.import_id
            document["import_summary"] = (
                {"rows": 99, "leads": len(alike)} if alike[0] is arrival else None
            )
        if not_after_ms is not None:
            document["not_after_ms"] = not_after_ms
        junk = arrival.how == "junk"
        value = b"\xff\xfe" if junk else json.dumps(document).encode()
        topic = names.bulk if arrival.topic == "bulk" else names.leads
        record = Record(topic, arrival.workspace.encode(), value, arrival.headers)
        kinds = "" if junk else arrival.known_by
        what = Input(
            serial,
            identifiers_of(arrival.workspace, kinds, arrival.person),
            arrival.lead_id,
            arrival.force,
            not_after_ms,
            not arrival.away,
        )
        if arrival.how in ("aborted", "slow_transaction"):
            self._user_transactions += 1
            user = f"user-{self._user_transactions}"
            epoch = self.kafka.init_producer(user)
            consumed = self.kafka.send(user, epoch, partition, [record])[0]
            committed = arrival.how == "slow_transaction"
            if committed:
                self.checker.published(consumed, what)
            self.loop.outside(1.5, self.kafka.end, user, epoch, committed)
        else:
            consumed = self.kafka.log(record.topic, partition).peek(record, self.now_ms())
            self.checker.published(consumed, what)
            self.kafka.produce(partition, record)
        self.say(
            None,
            f"#{serial} {arrival.lead_id} of {arrival.person} is published as "
            f"{consumed.record_id} {arrival.how}",
        )

    @staticmethod
    def _import_of(arrival: Arrival) -> tuple[str, str]:
        return ("nowhere" if arrival.how == "nowhere" else arrival.workspace), arrival.import_id

    def _redrive(self, chance: Random) -> None:
        """An operator sends some dead letters back, perhaps for the second time."""
        names = self.plan.topics
        for topic in (names.dlq, names.parked):
            for partition in range(self.plan.partitions):
                for consumed in self.kafka.log(topic, partition).committed():
                    if chance.random() < 0.5:
                        back = redriven(read_envelope(consumed), consumed.record_id)
                        self.say(None, f"{consumed.record_id} is sent back")
                        self._sent_back.add(consumed.record_id)
                        record = Record(
                            names.retry,
                            consumed.key,
                            consumed.value,
                            back.to_headers(),
                        )
                        self.kafka.produce(partition, record)

    def _give_up(self, chance: Random) -> None:
        """An operator gives some dead letters up, whatever they have come to.

        The replay process ends one without a row once, and none that was sent back. The worker
        judges the others.
        """
        names = self.plan.topics
        for topic in (names.dlq, names.parked):
            for partition in range(self.plan.partitions):
                for consumed in self.kafka.log(topic, partition).committed():
                    has_row = goes_on(read_envelope(consumed))
                    if chance.random() < 0.5 or (
                        not has_row and consumed.record_id in self._sent_back
                    ):
                        continue
                    self._sent_back.add(consumed.record_id)
                    self.say(None, f"{consumed.record_id} is given up")
                    key, value, end = giving_up(
                        consumed,
                        self.plan.workspaces,
                        "given up by an operator",
                    )
                    self.kafka.produce(partition, Record(names.retry, key, value, end.to_headers()))

    def _order(self, serial: int, order: Order) -> None:
        for partition, record in records_of(order, serial, self.plan, self.now_ms()):
            self.checker.orders.asked(partition, record)
            self.kafka.produce(partition, record)
            self.say(None, f"c{serial} is asked of partition {partition}: {order}")

    def _call_back(self, post: Post, outcome: str, attempt: int) -> None:
        """What the gateway does with a callback."""
        destination = self.plan.destinations[post.destination]
        if not destination.callbacks:
            return
        origin, what = self.checker.input(post.serial)
        callback = Callback(
            lead_id=post.lead_id,
            workspace=destination.workspace,
            destination=destination.alias,
            at_ms=self.now_ms(),
            outcome=outcome,  # type: ignore[arg-type]  # one of the four
            fields=results_of(post.serial, outcome),  # type: ignore[arg-type]  # not changed
            credits=post.cost,
            attempt=attempt,
            forced_origin=origin if what.force else "",
        )
        record = Record(
            self.plan.topics.callbacks,
            destination.workspace.encode(),
            msgspec.json.encode(callback),
        )
        consumed = self.kafka.produce(self.plan.pins[destination.workspace], record)
        self.say(
            None,
            f"Clay calls back about #{post.serial}: {outcome}, attempt {attempt}, as "
            f"{consumed.record_id}",
        )
        self.checker.answers.called_back(consumed, origin, post)

    def _announce(self, post: Post, run: str) -> None:
        """What the gateway does with the announcement of a run."""
        destination = self.plan.destinations[post.destination]
        announced = RunNotification(
            destination.workspace,
            destination.alias,
            run,
            self.now_ms(),
        )
        record = Record(
            self.plan.topics.callbacks,
            destination.workspace.encode(),
            msgspec.json.encode(announced),
        )
        consumed = self.kafka.produce(self.plan.pins[destination.workspace], record)
        self.say(None, f"Clay announces {run} of #{post.serial}, as {consumed.record_id}")
        self.checker.runs.on_announcement(consumed, run)

    def _on_end(self, transactional_id: str) -> None:
        """Kafka ends a transaction; perhaps some of its partitions have no leader just then."""
        names = self.plan.topics
        if not transactional_id.startswith(names.worker_app):
            return
        self._ends += 1
        for missed in self.schedule.missed:
            if missed.at_end == self._ends:
                # users write there, too
                topics = {log.topic for log in self.kafka.logs} - {names.leads, names.bulk}
                lost = {"rows": {names.state}, "others": topics - {names.state}, "all": topics}[
                    missed.where
                ]
                self.say(
                    None,
                    f"Kafka ends a transaction of {transactional_id}, {missed.where} have no "
                    "leader",
                )
                self._missed_one = True
                self.kafka.leaderless = {
                    (log.topic, log.partition) for log in self.kafka.logs if log.topic in lost
                }
                self.loop.outside(
                    missed.for_s + self.schedule.markers_s,
                    self.kafka.leaderless.clear,
                )

    def _on_commit(self, records: Sequence[ConsumedRecord]) -> None:
        if self.trace is not None:
            for consumed in records:
                self._tell(consumed)
        self.checker.on_commit(records)

    def _tell(self, consumed: ConsumedRecord) -> None:
        if consumed.topic == self.plan.topics.status:
            event = json.loads(consumed.value or b"")
            self.say(
                None,
                f"  event {event['id']} {event['status']} {event.get('reason', '')} "
                f"({event['lead_id']})",
            )
        elif consumed.topic != self.plan.topics.lanes:
            key = (consumed.key or b"").decode()
            what = (
                "deleted"
                if consumed.value is None
                else consumed.value[:110].decode("utf-8", "replace")
            )
            self.say(None, f"  {consumed.record_id} {key}: {what}")

    def _on_post(self, post: Post) -> None:
        self.say(None, f"POST #{post.serial} by {post.worker} to {post.webhook_id}: {post.fate}")
        self.checker.on_post(post)

    def _on_poll(self, post: Post, worker: str) -> None:
        self.say(None, f"{worker} polls {post.run} of #{post.serial}")
        self.checker.on_poll(post, worker)


async def _never(_: object) -> None:
    await asyncio.get_running_loop().create_future()


def simulate(schedule: Schedule, trace: bool = False) -> Outcome:
    """Run it. The same schedule gives the same run."""
    return World(schedule, trace).run()
