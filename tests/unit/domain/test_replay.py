"""Replays as a whole, on the pure core: whatever fails, crashes, is rewound or sent back, section
5's promises hold.

The machine below is one partition: input, the pipeline (its decisions by `classify_record`, `step`
and
`returning`), the dead letters, and the replay app with its committed offset and its record.
"""

from collections import Counter
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream_app.domain.dead_letter.replay import (
    Begin,
    Came,
    Pace,
    RedriveDedup,
    Turns,
    begin,
    goes_on,
    outlived,
    redriven,
    replay_due_ms,
    returning,
    sent_row,
    tier_s,
)
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.state_machine import Delivery, classify_record, moved
from stream_app.domain.delivery.state_machine import begin as begin_row
from stream_app.domain.model.outcome import UnsentReason
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import ReplayPolicy
from stream_app.domain.views.lane import AS_PROBE, LaneView
from tests.support.narrow import present

MAX_REPLAYS = 3
OUTCOMES = ["failed"] * 5 + ["accepted", "unanswered", "uncertain"]
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("recorded", "committed", "expected"),
    [
        ({}, None, Begin()),
        ({}, 70, Begin()),
        ({0: Came(50)}, 50, Begin(seen_to=50)),
        ({0: Came(50)}, 55, Begin(seen_to=50)),
        ({0: Came(50)}, 49, Begin(1, Came(49), seen_to=50, rewound=True)),
        ({0: Came(50)}, 0, Begin(1, Came(0), seen_to=50, rewound=True)),
        ({0: Came(50), 1: Came(0)}, 0, Begin(1, seen_to=50)),
        ({0: Came(50), 1: Came(20)}, 10, Begin(2, Came(10), seen_to=50, rewound=True)),
        ({0: Came(50), 1: Came(20)}, None, Begin(1, Came(0, 20), 20, 50, forgotten=True)),
        ({0: Came(0, 20)}, 7, Begin(0, skip_to=20, seen_to=20)),
        ({0: Came(9, 20)}, None, Begin(0, Came(0, 20), 20, 20, forgotten=True)),
        ({0: Came(9, 20)}, 7, Begin(1, Came(7), seen_to=20, rewound=True)),
    ],
)
def test_a_rewind_is_detected_by_the_groups_offset(
    recorded: dict[int, Came],
    committed: int | None,
    expected: Begin,
) -> None:
    assert begin(recorded, committed) == expected


def test_the_envelope_of_a_returning_dead_letter() -> None:
    failed = Envelope(
        origin="leads/0/1",
        disposition="failed",
        replay=2,
        epoch=1,
        not_before_ms=5,
        attempt=4,
    )
    natural = present(returning(failed, "leads.dlq/0/1", 1))
    assert natural.way == "replayed"
    assert natural.epoch == 1
    assert natural.replay == 3
    assert natural.not_before_ms == 5
    first = present(returning(failed, "leads.dlq/0/1", 2))
    assert first.way == "replayed"
    assert first.epoch == 2
    assert first.replay == 1
    assert first.not_before_ms == 0
    for disposition in ("poison", "policy"):
        assert (
            returning(Envelope(origin="leads/0/1", disposition=disposition), "leads.dlq/0/1", 2)
            is None
        )
    foreign = returning(Envelope(origin="leads/0/1", lead_id="x"), "leads.dlq/0/1")
    assert foreign == Envelope(redriven_from="leads.dlq/0/1"), (
        "another program's: nothing that it claims counts"
    )


def test_the_envelope_of_a_redriven_dead_letter() -> None:
    """A failed one with a fresh set of replays; a deferred one unchanged, only sooner; the others
    as inputs.
    """
    failed = redriven(
        Envelope(origin="leads/0/1", disposition="failed", replay=3, seq=9, not_before_ms=5),
        "p/0/1",
    )
    assert failed.way == "redriven"
    assert failed.replay == 1
    assert failed.seq == 9
    assert failed.not_before_ms == 0
    dead_letter = Envelope(
        origin="leads/0/1",
        way="deferred",
        replay=2,
        epoch=1,
        seq=9,
        not_before_ms=10**12,
    )
    sooner = redriven(dead_letter, "leads.deferred/0/1")
    assert sooner == msgspec.structs.replace(
        dead_letter,
        not_before_ms=0,
        redriven_from="leads.deferred/0/1",
    )
    row = Delivery(1, "deferred", "leads/0/1", 9, 0, 0, "", replay=2, epoch=1)
    assert classify_record(row, sooner, 0, DAY_MS) == "return"
    poison = Envelope(
        origin="leads/0/1",
        origin_ms=7,
        disposition="poison",
        way="deferred",
        trace_id="t",
    )
    assert redriven(poison, "p/0/1") == Envelope(redriven_from="p/0/1", origin_ms=7, trace_id="t")
    assert [
        goes_on(envelope)
        for envelope in (dead_letter, poison, Envelope(), Envelope(disposition="failed"))
    ] == [*(True, False, False, True)]


def test_the_pace_allows_one_second_in_advance_and_is_a_share_of_the_rate() -> None:
    without = Pace({})
    assert [without.turn_ms("acme", 5_000) for _ in range(3)] == [4_000, 4_100, 4_200]
    pace = Pace({"acme": 4.0})
    turns = [pace.turn_ms("acme", 10_000) for _ in range(9)]
    assert turns == [9000, 9250, 9500, 9750, 10_000, 10_250, 10_500, 10_750, 11_000]
    assert pace.turn_ms("acme", 60_000) == 59_000
    assert pace.turn_ms("who", 60_000) == 59_000, "an unknown workspace has its own turn"
    for rates, share, workspace, every_ms in (
        ({"acme": 4.0, "beta": 2.0}, 1.0, "", 500),
        ({"a": 8.0}, 0.5, "a", 250),
    ):
        pace = Pace(rates, share=share)  # without a workspace: the lowest rate
        assert [pace.turn_ms(workspace, 10_000) for _ in range(3)] == [
            9000 + every_ms * turn for turn in range(3)
        ]


def seen(at_ms: int, **turns: int) -> LaneView:
    return LaneView("acme", 0, at_ms, "open", "healthy", 100.0, 8.0, turns=turns)


def test_leads_of_a_held_destination_look_one_by_one_and_come_when_a_probe_is_due() -> None:
    turns = Turns({"acme": 4.0})
    main = Envelope(origin="leads/0/1", destination="main")
    other = Envelope()
    assert turns.turn_ms("acme", main, 1_000) == 1_000, "no view, no hold"
    turns.apply(seen(1_000, main=6_000))
    assert turns.turn_ms("acme", other, 1_000) == 1_000
    assert turns.turn_ms("who", main, 1_000) == 1_000, "a workspace that is gone holds nothing"
    assert [turns.turn_ms("acme", main, 1_000) for _ in range(3)] == [3_000, 3_250, 3_500]
    assert turns.turn_ms("acme", main, 5_000) == 6_000, "no later than the hold may end"
    assert turns.turn_ms("acme", main, 6_900) == 6_901, "the worker's own probe has a second"
    assert turns.turn_ms("acme", main, 7_000) == 7_000
    others = [msgspec.structs.replace(main, origin=f"leads/0/{number}") for number in (1, 2)]
    assert [turns.turn_ms("acme", lead, 8_500) > 8_500 for lead in others] == [True, False], (
        "another lead goes first"
    )
    assert turns.turn_ms("acme", main, 11_500) == 11_500, "it goes again if no other one comes"
    turns.apply(seen(12_000, main=AS_PROBE))
    assert [turns.turn_ms("acme", lead, 12_600) > 12_600 for lead in reversed(others)] == [
        True,
        True,
    ]
    turns.apply(seen(13_000))
    assert turns.turn_ms("acme", main, 13_000) == 13_000


def test_a_hold_without_an_end_is_looked_at_every_two_seconds_however_long_it_lasts() -> None:
    turns = Turns({"acme": 1_000.0})
    lead = Envelope(origin="leads/0/1", destination="main")
    turns.apply(seen(0, main=0))
    waits_ms = [turns.turn_ms("acme", lead, now_ms) - now_ms for now_ms in (10_000, 900_000)]
    assert waits_ms == [2_000, 2_000]


def test_the_next_tier_is_the_longest_that_makes_it_late_by_less_than_the_shortest() -> None:
    policy = ReplayPolicy(tiers_s=(2, 60))
    rests_ms = (-1, 0, 1, 2000, 58_000, 58_001, 60_000, 999_000)
    assert [tier_s(policy, rest_ms) for rest_ms in rests_ms] == [None, None, 2, 2, 2, 60, 60, 60]


def way_through_tiers(policy: ReplayPolicy, delay_ms: int) -> list[int]:
    tiers = list[int]()
    while (tier := tier_s(policy, delay_ms - 1000 * sum(tiers))) is not None:
        tiers.append(tier)
    return tiers


@given(
    st.sets(st.integers(1, 5_000), min_size=1, max_size=6).map(lambda tiers: tuple(sorted(tiers))),
    st.integers(-1_000, 20_000_000),
)
def test_the_tiers_together_are_never_shorter_than_the_delay_and_longer_by_less_than_the_shortest(
    tiers_s: tuple[int, ...],
    delay_ms: int,
) -> None:
    tiers = way_through_tiers(ReplayPolicy(tiers_s=tiers_s), delay_ms)
    assert tiers == sorted(tiers, reverse=True)
    late_ms = 1000 * sum(tiers) - max(0, delay_ms)
    assert 0 <= late_ms < 1000 * tiers_s[0]


def test_with_the_default_tiers_a_delay_is_two_dozen_steps_at_most() -> None:
    policy = ReplayPolicy()
    assert (
        max(len(way_through_tiers(policy, rest_s * 1000)) for rest_s in range(policy.tiers_s[-1]))
        == 23
    )
    assert way_through_tiers(policy, 599_900) == [600], (
        "a moment has passed since it was meant to wait ten minutes"
    )


@pytest.mark.parametrize("reason", sorted(get_args(UnsentReason)))
def test_an_unreachable_clay_delays_longer_than_a_refusal(reason: str) -> None:
    policy = ReplayPolicy(backoff_base_s=10, backoff_unreachable_base_s=30, backoff_cap_s=200)
    dues_s = [replay_due_ms(policy, reason, replay, 0, 1.0) / 1000 for replay in (1, 2, 3)]
    assert dues_s == ([10, 40, 160] if reason == "pool_timeout" else [30, 120, 200])
    assert replay_due_ms(policy, reason, 1, 0, 0.0) == dues_s[0] * 500, "half of it is jitter"


class Partition(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, Delivery] = {}
        self.queue: list[tuple[int, Envelope]] = []
        self.dlq: list[tuple[int, Envelope]] = []
        self.parked: list[tuple[int, Envelope]] = []
        self.position = 0
        self.committed: int | None = None
        self.recorded: dict[int, Came] = {}
        self.how = Begin()
        # reached Clay, for sure or perhaps, since an operator's last word
        self.posted: Counter[int] = Counter()
        self.delivered: Counter[int] = Counter()
        self.asked: Counter[int] = Counter()
        self.sent_back: Counter[int] = Counter()
        self.rounds: Counter[tuple[int, int, int]] = Counter()
        self.parks: Counter[tuple[int, int, int]] = Counter()
        self.now_ms = 0

    @initialize(leads=st.integers(1, 3))
    def leads_come(self, leads: int) -> None:
        self.queue = [(lead, Envelope(origin=f"leads/0/{lead}")) for lead in range(leads)]

    @precondition(lambda self: self.queue)
    @rule(outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=12, max_size=12))
    def the_line_works(self, outcomes: list[str]) -> None:
        for outcome in outcomes:
            if self.queue:
                self._take(0, outcome, again=False)

    @precondition(lambda self: self.queue)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), again=st.booleans())
    def the_line_takes_one_out_of_turn(
        self,
        data: st.DataObject,
        outcome: str,
        again: bool,
    ) -> None:
        self._take(data.draw(st.integers(0, len(self.queue) - 1)), outcome, again=again)

    def _take(self, at: int, outcome: str, *, again: bool) -> None:
        # With `again` its ack is lost, and it is redelivered.
        lead, envelope = self.queue[at] if again else self.queue.pop(at)
        self.now_ms += 1
        row = self.rows.get(lead)
        verdict = classify_record(row, envelope, self.now_ms, DAY_MS)
        if verdict == "fresh":
            row = begin_row(envelope, self.now_ms)
        elif verdict == "return":
            assert row is not None
            if envelope.way == "redriven":
                self.sent_back[lead] += 1
                self.posted[lead] = 0
            self.rounds[lead, envelope.epoch, self.sent_back[lead]] += 1
            row = moved(row, "replayed", self.now_ms, replay=envelope.replay, epoch=envelope.epoch)
        else:
            assert verdict == "done", verdict
            return
        assert row.replay <= MAX_REPLAYS
        self._send(lead, moved(row, "sending", self.now_ms), outcome)

    def _send(self, lead: int, row: Delivery, outcome: str) -> None:
        assert not self.posted[lead], (
            "sent again though it may have arrived, and no operator said so"
        )
        self.posted[lead] += outcome != "failed"
        if outcome == "accepted":
            self.delivered[lead] += 1
            self.rows[lead] = moved(row, "accepted", self.now_ms, final=True)
        elif outcome == "unanswered":
            row = moved(moved(row, "accepted", self.now_ms), "callback_overdue", self.now_ms)
            self._park(lead, msgspec.structs.replace(row, sends=row.sends + 1))
        elif outcome == "uncertain":
            self._park(lead, moved(row, "send_uncertain", self.now_ms, sends=row.sends + 1))
        elif row.replay >= MAX_REPLAYS:
            self._park(lead, row)
        else:
            row = moved(row, "dead_lettered", self.now_ms)
            self.rows[lead] = row
            self.dlq.append((lead, self._dead_letter(row)))

    def _park(self, lead: int, row: Delivery) -> None:
        row = moved(row, "parked", self.now_ms)
        self.rows[lead] = row
        self.parks[lead, row.epoch, self.sent_back[lead]] += 1
        self.parked.append((lead, self._dead_letter(row)))

    def _dead_letter(self, row: Delivery) -> Envelope:
        return Envelope(
            origin=row.origin,
            seq=row.seq,
            disposition="failed",
            replay=row.replay,
            epoch=row.epoch,
        )

    @precondition(lambda self: self.position < len(self.dlq))
    @rule(
        most=st.integers(1, 9),
        times=st.integers(1, 2),
        commits=st.booleans(),
        records=st.booleans(),
    )
    def the_replay_app_works(self, most: int, times: int, commits: bool, records: bool) -> None:
        for lead, dead_letter in self.dlq[self.position : self.position + most]:
            if self.position >= self.how.skip_to:
                back = present(returning(dead_letter, "leads.dlq/0/0", self.how.epoch))
                self.queue += [(lead, back)] * times
            self.position += 1
        if commits:
            self.committed = self.position
        if records and self.committed is not None:
            came = self.recorded.get(self.how.epoch, Came(0))
            if self.committed > came.offset:
                self.recorded[self.how.epoch] = msgspec.structs.replace(came, offset=self.committed)

    @rule()
    def it_crashes(self) -> None:
        before = self.how.epoch
        self._starts()
        assert self.how.epoch == before, "a plain restart is no rewind"

    @precondition(lambda self: self.committed)
    @rule(data=st.data())
    def it_is_rewound(self, data: st.DataObject) -> None:
        self.committed = data.draw(st.integers(0, self.committed or 0))
        self._starts()

    @rule()
    def kafka_forgets_its_offset(self) -> None:
        before = self.how.epoch
        self.committed = None
        self._starts()
        assert self.how.epoch == before

    def _starts(self) -> None:
        self.how = begin(self.recorded, self.committed)
        self.position = self.committed or 0
        if self.how.record is not None:
            self.recorded[self.how.epoch] = self.how.record

    @precondition(lambda self: self.parked or self.dlq)
    @rule(data=st.data(), times=st.integers(1, 2))
    def an_operator_sends_one_back(self, data: st.DataObject, times: int) -> None:
        lead, dead_letter = data.draw(st.sampled_from(self.parked + self.dlq))
        self.asked[lead] += 1
        self.queue += [(lead, redriven(dead_letter, "leads.parked/0/0"))] * times

    @invariant()
    def never_delivered_twice(self) -> None:
        assert all(times <= 1 for times in self.delivered.values())

    @invariant()
    def an_operators_word_counts_once(self) -> None:
        assert all(self.sent_back[lead] <= self.asked[lead] for lead in self.sent_back)

    @invariant()
    def at_most_max_replays_a_rewind(self) -> None:
        assert all(times <= MAX_REPLAYS for times in self.rounds.values()), self.rounds

    @invariant()
    def parked_at_most_once_a_rewind(self) -> None:
        assert all(times <= 1 for times in self.parks.values()), self.parks

    @invariant()
    def what_failed_can_always_come_back(self) -> None:
        """No row waits for a dead letter that does not exist: its own last dead letter is its
        successor's.
        """
        dead_letters = {
            lead: dead_letter
            for lead, dead_letter in self.dlq + self.parked
            if lead in self.rows and dead_letter.seq == self.rows[lead].seq
        }
        for lead, row in self.rows.items():
            if row.state in ("dead_lettered", "parked"):
                assert lead in dead_letters
                back = redriven(dead_letters[lead], "leads.parked/0/0")
                assert classify_record(row, back, self.now_ms, DAY_MS) == "return"


TestPartition = Partition.TestCase
TestPartition.settings = settings(stateful_step_count=40)


DEAD_LETTER = ConsumedRecord("t.leads.dlq", 3, 17, b"acme", b"{}", timestamp_ms=5_000)


def test_the_replay_state_remembers_a_redrive_longer_than_leads_retry() -> None:
    sent_back = RedriveDedup("t.leads.dlq")
    assert not sent_back.has(DEAD_LETTER.record_id, "poison")
    sent_back.apply_state(*sent_row(DEAD_LETTER))
    assert sent_back.has(DEAD_LETTER.record_id, "poison")
    assert not sent_back.has("t.leads.dlq/3/18", "poison")
    sent_back.apply_retry({"stream-app-redriven-from": b"t.leads.dlq/3/18"})
    assert sent_back.has("t.leads.dlq/3/18", "failed")


def test_a_dead_letter_of_another_program_is_replayed_once() -> None:
    sent_back = RedriveDedup("t.leads.dlq")
    sent_back.apply_state(b"dlq/3/0", b'{"offset":9,"skip_to":18}')
    sent_back.apply_state(b"dlq/3/1", b'{"offset":4}')
    sent_back.apply_state(b"pause", b'{"by":"jane"}')
    assert sent_back.has(DEAD_LETTER.record_id, "foreign")
    assert not sent_back.has(DEAD_LETTER.record_id, "poison"), "it passes these over"
    assert not sent_back.has("t.leads.dlq/3/18", "foreign")
    assert not sent_back.has("t.leads.parked/3/17", "foreign")


def test_a_row_is_deleted_after_its_dead_letter() -> None:
    key, value = sent_row(DEAD_LETTER)
    rows = {key: value, b"dlq/3/0": b'{"offset":9}', b"pause": b"{}"}
    assert list(outlived(rows, 5_000)) == []
    assert list(outlived(rows, 5_001)) == [key]
    sent_back = RedriveDedup("t.leads.dlq")
    sent_back.apply_state(key, value)
    sent_back.apply_state(key, None)
    assert not sent_back.has(DEAD_LETTER.record_id, "poison")
