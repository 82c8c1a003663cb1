"""Ordered replays: what each command does, and that no crash, stop or second operator sends a dead
letter twice.
"""

import re
from collections import Counter
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_app.domain.dead_letter.orders import (
    COMMAND,
    ENDED_PHASES,
    FATE_MEANING,
    MAX_REFUSALS,
    PLAN_LIFE_MS,
    Fate,
    PricedPlan,
    ReplayCommand,
    ReplayOrders,
    ReplayPause,
    ReplayPlan,
    ReplayProgress,
    advanced,
    begun,
    command_row,
    finished,
    progress_row,
    read_progress,
)
from stream_app.domain.views.price import Part, Quote
from tests.support.narrow import present
from tests.support.replay_plans import COST, NOW_MS, plan


def start(replay: str = "r-1", its: ReplayPlan | None = None, **more: Any) -> ReplayCommand:
    return ReplayCommand(
        replay,
        "start",
        replay,
        NOW_MS,
        "jane",
        "Clay is back",
        its or plan(),
        **more,
    )


def change(kind: Any, replay: str = "r-1", command: str = "c-1") -> ReplayCommand:
    return ReplayCommand(
        command,
        kind,
        replay,
        NOW_MS,
        "joe",
        "a look first",
    )


def priced(
    dead_letters: int,
    left: int | None = None,
    cost: int = COST,
) -> PricedPlan:
    fates = Counter[Fate]({"goes": dead_letters})
    credits = dead_letters * cost
    part = Part("people", dead_letters, cost, credits, credits, dead_letters, dead_letters)
    price = Quote("acme", [part], {} if left is None else {"credits_day": left}, True, 1.0)
    return PricedPlan(
        dead_letters,
        fates,
        Counter(),
        [price] if dead_letters else [],
        {"acme": 4.0},
    )


class Rows:
    """The replay state, and a process that applies the commands in it."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.answers: list[tuple[str, bool, str]] = []
        self.kinds: list[str] = []

    def put(self, *commands: ReplayCommand) -> None:
        for command in commands:
            self.write(dict([command_row(command)]))

    def write(self, rows: dict[bytes, bytes | None] | dict[bytes, bytes]) -> None:
        for key, value in rows.items():
            self.rows.pop(key, None)
            if value is not None:
                self.rows[key] = value

    def apply(self, now_ms: int = NOW_MS) -> ReplayOrders:
        """Apply all commands, each in a transaction, with the rows read again each time."""
        while step := ReplayOrders(self.rows.items()).next_step(now_ms):
            self.write(step.rows)
            assert step.answer.at_ms == now_ms
            assert step.answer.partition == 0
            self.answers.append((step.answer.id, step.answer.applied, step.answer.reason))
            self.kinds.append(step.answer.kind)
        return ReplayOrders(self.rows.items())


def test_a_pause_is_on_kafka_as_every_version_has_written_it() -> None:
    row = b'{"by":"jane","why":"Clay is down","at_ms":7}'
    assert msgspec.json.decode(row, type=ReplayPause) == ReplayPause("jane", "Clay is down", 7)
    assert msgspec.json.encode(ReplayPause("jane", "Clay is down", 7)) == row


def test_a_replay_is_started_stopped_resumed_and_done_and_each_command_is_answered_once() -> None:
    rows = Rows()
    rows.put(start())
    first = present(rows.apply().running)
    counted = begun(first, priced(10), NOW_MS)
    assert counted.state == "running"
    assert counted.total == 10
    assert counted.credits == 60
    rows.write(
        dict([progress_row(advanced(counted, 4, {}, {0: 4}, NOW_MS))]),
    )
    rows.put(change("stop"))
    stopped = rows.apply().replays["r-1"]
    assert stopped.state == "stopped"
    assert stopped.text == "stopped after 4 of 10 dead letters by joe"
    rows.put(change("resume", command="c-2"), change("stop"))
    resumed = rows.apply().replays["r-1"]
    assert resumed.state == "running", "the same command twice does nothing"
    assert resumed.left == 6, "the same command twice does nothing"
    assert resumed.next == {0: 4}, "the same command twice does nothing"
    again = begun(resumed, priced(6), NOW_MS)
    assert again.total == 10
    done = finished(
        advanced(
            again,
            5,
            {"leads.dlq/0/9": "no lead"},
            {0: 10},
            NOW_MS,
        ),
        NOW_MS,
    )
    assert done.state == "done"
    assert done.text == "9 dead letters were sent back, 1 refused"
    assert rows.answers == [
        ("r-1", True, ""),
        ("c-1", True, ""),
        ("c-2", True, ""),
        ("c-1", False, "repeated"),
    ]
    assert rows.kinds == ["replay", "replay_stop", "replay_resume", "replay_stop"]


def test_the_same_replay_twice_is_one_replay_even_after_its_end() -> None:
    rows = Rows()
    rows.put(start(), start())
    running = present(rows.apply().running)
    rows.write(dict([progress_row(finished(running, NOW_MS))]))
    assert not rows.apply().pending
    rows.put(start())
    orders = rows.apply(NOW_MS + 60_000)
    assert orders.running is None
    assert orders.pending is False
    assert rows.answers[-1] == ("r-1", False, "repeated")


def test_a_second_operator_stops_the_first_which_can_be_resumed() -> None:
    rows = Rows()
    rows.put(start("r-1"), start("r-2"))
    orders = rows.apply()
    assert orders.running is not None
    assert orders.running.id == "r-2"
    assert orders.pending is True
    assert "another operator has started" in orders.replays["r-1"].text
    rows.put(change("resume", "r-1"))
    orders = rows.apply()
    assert orders.replays["r-1"].state == "running"
    assert orders.replays["r-2"].state == "stopped"


@pytest.mark.parametrize("age_ms", [PLAN_LIFE_MS + 1, -PLAN_LIFE_MS - 1, 86_400_000])
def test_an_expired_plan_is_refused(age_ms: int) -> None:
    rows = Rows()
    rows.put(start())
    orders = rows.apply(NOW_MS + age_ms)
    expired = orders.replays["r-1"]
    assert expired.state == "refused"
    assert expired.text == "the plan is older than 10 minutes: plan again"
    assert not orders.pending
    assert COMMAND + b"r-1" not in rows.rows


def test_bad_commands_are_answered_and_change_nothing() -> None:
    rows = Rows()
    wrong = {
        b"command/x": b"{",
        b"command/y": b'{"id":"y","kind":"explode","replay":"r","at_ms":1,"who":"j"}',
    }
    rate = msgspec.structs.replace(plan(), rate_per_s=-1.0)
    no_plan = ReplayCommand("r-8", "start", "r-8", NOW_MS, "jane")
    rows.write(wrong)
    rows.put(
        start("r-7", rate),
        no_plan,
        change("stop", "r-9", "c-9"),
        msgspec.structs.replace(start("r-5"), id="r-6"),
    )
    orders = rows.apply()
    assert orders.replays == {}
    assert rows.rows == {}
    reasons = {name: reason for name, applied, reason in rows.answers if not applied}
    assert reasons == dict.fromkeys(("x", "y", "r-7", "r-8", "r-6"), "unreadable") | {
        "c-9": "unknown",
    }


@pytest.mark.parametrize(("length", "reason"), [(64, "unknown"), (65, "unreadable")])
@pytest.mark.parametrize("what", ["id", "replay", "who"])
def test_names_of_a_command_have_at_most_64_characters(what: str, length: int, reason: str) -> None:
    rows = Rows()
    named = {"id": "x" * length, "replay": "x" * length} if what == "id" else {what: "x" * length}
    rows.put(msgspec.structs.replace(change("stop"), **named))
    rows.apply()
    assert [answer[2] for answer in rows.answers] == [reason]


def test_a_replay_that_is_started_has_at_most_64_characters_in_its_name() -> None:
    rows = Rows()
    long = "x" * 65
    rows.put(msgspec.structs.replace(start(long), id=long))
    rows.apply()
    assert [answer[2] for answer in rows.answers] == ["unreadable"]


def ordered(its: ReplayPlan, sent: int = 0) -> ReplayProgress:
    return ReplayProgress(
        "r-1",
        "running",
        "jane",
        "",
        NOW_MS,
        its,
        sent=sent,
    )


def test_what_costs_more_than_is_left_is_refused_with_figures_unless_it_is_wanted() -> None:
    dear = begun(
        ordered(plan()),
        priced(10, left=59),
        NOW_MS,
    )
    words = "acme: 10 leads cost about 60 credits and 10 actions, and 59 credits of today are left"
    assert dear.state == "refused"
    assert dear.text == words
    assert (
        begun(
            ordered(plan(over_budget=True)),
            priced(10, left=59),
            NOW_MS,
        ).state
        == "running"
    )
    assert (
        begun(
            ordered(plan(), sent=3),
            priced(7, left=1),
            NOW_MS,
        ).state
        == "stopped"
    ), "it was resumed"


def test_what_costs_more_than_the_plan_said_is_refused() -> None:
    dear = begun(
        ordered(plan()),
        priced(10, cost=7),
        NOW_MS,
    )
    assert dear.state == "refused"
    assert "up to 70 credits" in dear.text
    assert "allows 60" in dear.text
    more = begun(
        ordered(plan()),
        priced(11, cost=5),
        NOW_MS,
    )
    assert more.state == "refused"
    assert "up to 55 credits and 11 actions" in more.text
    assert (
        begun(
            ordered(plan()),
            priced(9),
            NOW_MS,
        ).state
        == "running"
    ), "what costs less is sent"


def test_a_plan_of_which_nothing_is_left_is_refused_in_words() -> None:
    none = begun(
        ordered(plan()),
        priced(0),
        NOW_MS,
    )
    assert none.state == "refused"
    assert "nothing to send back" in none.text
    assert (
        begun(
            ordered(plan(), sent=3),
            priced(0),
            NOW_MS,
        ).state
        == "done"
    )


def test_reasons_of_refused_dead_letters_are_bounded_and_all_are_counted() -> None:
    many = {f"leads.dlq/0/{number}": "no lead" for number in range(1_000)}
    refused = advanced(
        ordered(plan()),
        0,
        many,
        {0: 1_000},
        NOW_MS,
    )
    assert refused.refused == 1_000
    assert len(refused.refusals) == MAX_REFUSALS
    assert (
        len(
            advanced(
                refused,
                0,
                {"leads.dlq/0/1000": "no lead"},
                {},
                NOW_MS,
            ).refusals,
        )
        == MAX_REFUSALS
    )


@pytest.mark.parametrize(
    ("total", "sent", "refused", "says"),
    [
        (
            6,
            4,
            1,
            (
                "4 dead letters were sent back, 1 refused, 1 no longer need sending or are no "
                "longer kept"
            ),
        ),
        (4, 4, 1, "4 dead letters were sent back, 1 refused"),
        (1, 1, 0, "1 dead letter was sent back, 0 refused"),
    ],
)
def test_a_replay_says_at_its_end_what_became_of_each(
    total: int,
    sent: int,
    refused: int,
    says: str,
) -> None:
    replay = ReplayProgress(
        "r",
        "running",
        "jane",
        "",
        NOW_MS,
        plan(),
        total=total,
        sent=sent,
        refused=refused,
    )
    assert replay.left == replay.plan.dead_letters - (sent + refused)
    assert finished(replay, NOW_MS + 1).text == says
    assert finished(replay, NOW_MS + 1).state == "done"


def test_ended_replays_are_forgotten_after_their_dead_letters() -> None:
    done = finished(ordered(plan()), NOW_MS)
    orders = ReplayOrders(
        [
            progress_row(done),
            progress_row(
                msgspec.structs.replace(ordered(plan()), id="r-2"),
            ),
        ],
    )
    assert orders.outlived(NOW_MS) == []
    assert orders.outlived(NOW_MS + 1) == [b"replay/r-1"]


def test_rows_of_other_kinds_are_no_progress() -> None:
    assert (
        read_progress(
            b"sent/leads.dlq/0/1",
            progress_row(ordered(plan()))[1],
        )
        is None
    )
    assert read_progress(b"replay/r-1", b"{") is None
    assert read_progress(b"replay/r-1", None) is None


LEADS = 30


class Replays(RuleBasedStateMachine):
    """Two replay processes that crash at any step, operators that order at once, and leads that end
    meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = Rows()
        self.now_ms = NOW_MS
        self.sent: Counter[int] = Counter()
        self.gone: set[int] = set()  # delivered by another way
        self.ordered = 0
        self.owner = 0  # the last process that took over; all others are fenced
        self.sessions: dict[int, tuple[int, ReplayOrders]] = {}
        self.limits: dict[str, int] = {}

    @rule(end=st.integers(0, LEADS), limit=st.integers(1, LEADS), twice=st.booleans())
    def order(self, end: int, limit: int, twice: bool) -> None:
        going = [
            number for number in range(end) if not self.sent[number] and number not in self.gone
        ][:limit]
        if not going:
            return
        self.ordered += 1
        replay = f"r-{self.ordered}"
        its = msgspec.structs.replace(
            plan(len(going), end),
            planned_at_ms=self.now_ms,
        )
        self.limits[replay] = len(going)
        self.rows.put(*[start(replay, its)] * (1 + twice))

    @precondition(lambda self: self.ordered)
    @rule(kind=st.sampled_from(["stop", "resume"]), data=st.data(), command=st.integers(0, 50))
    def change(self, kind: str, data: st.DataObject, command: int) -> None:
        replay = data.draw(st.integers(1, self.ordered))
        self.rows.put(change(kind, f"r-{replay}", f"c-{command}"))

    @rule(lead=st.integers(0, LEADS - 1))
    def ends_meanwhile(self, lead: int) -> None:
        self.gone.add(lead)

    @rule(minutes=st.integers(1, 8))
    def later(self, minutes: int) -> None:
        self.now_ms += minutes * 60_000

    @rule(process=st.integers(0, 1))
    def take_over(self, process: int) -> None:
        """A process starts, perhaps after a crash: it fences the other and reads the rows."""
        self.owner += 1
        self.sessions[process] = (self.owner, ReplayOrders(self.rows.rows.items()))

    @rule(
        process=st.integers(0, 1),
        most=st.integers(1, 7),
        reads=st.booleans(),
        crashes=st.booleans(),
    )
    def step(self, process: int, most: int, reads: bool, crashes: bool) -> None:
        """One transaction of a process, as replay/orders.py does it.

        A crash comes before it; a fenced one fails.
        """
        if process not in self.sessions:
            return
        token, orders = self.sessions[process]
        if reads:
            for key, value in list(self.rows.rows.items()):
                if key.startswith(COMMAND):
                    orders.apply(key, value)
        sends: list[int] = []
        step = orders.next_step(self.now_ms)
        if step is not None:
            rows = dict(step.rows)
        elif (replay := orders.running) is not None:
            rows, sends = self.carry_out(replay, most)
        else:
            return
        if crashes or token != self.owner:
            del self.sessions[process]
            return
        self.rows.write(rows)
        for row in rows.items():
            orders.apply(*row)
        self.sent.update(sends)

    def carry_out(
        self,
        replay: ReplayProgress,
        most: int,
    ) -> tuple[dict[bytes, bytes | None], list[int]]:
        first = replay.next.get(0, 0)
        end = replay.plan.ends[0]
        going = [
            number
            for number in range(first, end)
            if not self.sent[number] and number not in self.gone
        ][: replay.left]
        sends: list[int] = []
        if not replay.total:
            replay = begun(replay, priced(len(going)), self.now_ms)
        elif going:
            sends = going[:most]
            replay = advanced(replay, len(sends), {}, {0: sends[-1] + 1}, self.now_ms)
        else:
            replay = finished(replay, self.now_ms)
        rows: dict[bytes, bytes | None] = dict([progress_row(replay)])
        return rows | (
            {COMMAND + replay.id.encode(): None} if replay.state in ENDED_PHASES else {}
        ), sends

    @invariant()
    def each_is_sent_once_at_most(self) -> None:
        assert set(self.sent.values()) <= {0, 1}

    @invariant()
    def what_is_sent_is_counted_and_the_cap_is_kept(self) -> None:
        orders = ReplayOrders(self.rows.rows.items())
        assert sum(replay.sent for replay in orders.replays.values()) == sum(self.sent.values())
        assert all(replay.sent <= self.limits[replay.id] for replay in orders.replays.values())
        assert sum(replay.state == "running" for replay in orders.replays.values()) <= 1

    def teardown(self) -> None:
        """None is lost: after a last order everything that can be sent is sent."""
        self.order(LEADS, LEADS, False)
        last = f"r-{self.ordered}"
        going = [
            number for number in range(LEADS) if not self.sent[number] and number not in self.gone
        ]
        self.take_over(0)
        for _ in range(500):
            self.step(0, 7, True, False)
        if going and ReplayOrders(self.rows.rows.items()).replays[last].state == "done":
            assert all(self.sent[number] == 1 for number in going)
        orders = ReplayOrders(self.rows.rows.items())
        assert not orders.pending
        self.each_is_sent_once_at_most()
        self.what_is_sent_is_counted_and_the_cap_is_kept()


Replays.TestCase.settings = settings(stateful_step_count=40)
TestReplays = Replays.TestCase


def test_the_fates_read_alike_after_one_and_after_more() -> None:
    assert FATE_MEANING.keys() == set(get_args(Fate))
    for words in FATE_MEANING.values():
        assert not re.match(r"(?:is|are|was|were|has|have|leads)\b", words), words
