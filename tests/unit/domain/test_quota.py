"""The quota of webhooks, against a plain count."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stream_app.domain.lane import suspension
from stream_app.domain.lane import webhook_quota as quota
from stream_app.domain.lane.bounds import Wait
from stream_app.domain.lane.suspension import SuspensionPolicy
from stream_app.domain.lane.webhook_quota import Quota, QuotaPolicy, Webhook

POLICY = QuotaPolicy(warn_at=3, rotate_at=5)
PROBES = SuspensionPolicy(probe_s=60, probe_cap_s=240, probe_lease_s=30)
POOL = ("a1", "b2", "c3")
NOW_MS = 1_796_083_140_000


def pick(policy: QuotaPolicy, state: Quota, pool: tuple[str, ...] = POOL, now_ms: int = NOW_MS) -> str | None:
    """The webhook for a lead that is no probe."""
    _, picked = quota.pick(policy, PROBES, state, pool, now_ms)
    assert not isinstance(picked, Wait)
    assert picked is None or picked.probe is None
    return None if picked is None else picked.webhook_id


class QuotaMachine(RuleBasedStateMachine):
    """The model knows the counts, who is out of use, and when each suspended webhook may be probed at the earliest."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Quota()
        self.now_ms = NOW_MS
        self.counts = dict.fromkeys(POOL, 0)
        self.dead: set[str] = set()
        self.probe_at_ms: dict[str, int] = {}
        self.under_way: list[quota.Picked] = []

    def _next(self) -> str | None:
        for hook in POOL:
            if self.counts[hook] < 5 and hook not in self.dead and self.now_ms >= self.probe_at_ms.get(hook, 0):
                return hook
        return None

    @rule()
    def submit(self) -> None:
        changed, picked = quota.pick(POLICY, PROBES, self.state, POOL, self.now_ms)
        hook = self._next()
        if not isinstance(picked, quota.Picked):
            assert hook is None
            left = [each for each in self.probe_at_ms if self.counts[each] < 5 and each not in self.dead]
            assert isinstance(picked, Wait) == bool(left)
            assert picked is None or picked.until_ms == min(self.probe_at_ms[each] for each in left)
            return
        assert (picked.webhook_id, picked.probe is not None) == (hook, hook in self.probe_at_ms)
        self.state = quota.count(changed, picked.webhook_id)
        self.counts[picked.webhook_id] += 1
        self.under_way.append(picked)
        if picked.probe is not None:
            self.probe_at_ms[picked.webhook_id] = self.now_ms + 30_000  # its lease

    @rule(data=st.data(), answer=st.sampled_from(["accepted", "gone", "other"]))
    def is_answered(self, data: st.DataObject, answer: str) -> None:
        if not self.under_way:
            return
        call = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        hook, before = call.webhook_id, quota.suspended(self.state).get(call.webhook_id)
        if answer == "gone":
            fresh = suspension.begin(PROBES, "http_404", "gone", self.now_ms)
            self.state = quota.gone(PROBES, self.state, hook, fresh, call.probe)
        elif call.probe is not None:
            self.state = quota.probed(self.state, hook, call.probe, answer == "accepted", self.now_ms)
        after = quota.suspended(self.state).get(hook)
        if after is None:
            assert before is None or (answer == "accepted" and call.probe is not None), "only its probe brings it back"
            self.probe_at_ms.pop(hook, None)
        elif after != before:
            assert self.now_ms + 60_000 <= after.probe_at_ms <= self.now_ms + 240_000
            self.probe_at_ms[hook] = after.probe_at_ms

    @rule(seconds=st.sampled_from([1, 31, 61, 241]))
    def time_passes(self, seconds: int) -> None:
        self.now_ms += seconds * 1_000

    @rule(webhook_id=st.sampled_from(POOL))
    def is_taken_out_of_use(self, webhook_id: str) -> None:
        self.state = quota.mark_dead(self.state, webhook_id, "by ada")
        self.dead.add(webhook_id)

    @rule(webhook_id=st.sampled_from(POOL))
    def comes_back(self, webhook_id: str) -> None:
        self.state = quota.revive(self.state, webhook_id)
        self.dead.discard(webhook_id)
        self.probe_at_ms.pop(webhook_id, None)

    @rule()
    def all_that_were_suspended_are_resumed(self) -> None:
        self.state = quota.resumed(self.state)
        self.probe_at_ms.clear()

    @rule(webhook_id=st.sampled_from(POOL), submissions=st.integers(0, 6))
    def is_recounted(self, webhook_id: str, submissions: int) -> None:
        self.state = quota.set_count(self.state, webhook_id, submissions)
        self.counts[webhook_id] = submissions

    @invariant()
    def says_how_each_of_the_pool_ended(self) -> None:
        reported = quota.used_up(self.state, POOL)
        for hook in POOL:
            count = "1 submission" if self.counts[hook] == 1 else f"{self.counts[hook]} submissions"
            how = "by ada" if hook in self.dead else "404" if hook in self.probe_at_ms else count
            assert f"{hook}: {how}" in reported

    @invariant()
    def knows_whether_a_lead_need_not_be_a_probe(self) -> None:
        healthy = [h for h in POOL if self.counts[h] < 5 and h not in self.dead and h not in self.probe_at_ms]
        assert quota.has_one_in_use(POLICY, self.state, POOL) == bool(healthy)

    @rule()
    def restart(self) -> None:
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=Quota)
        assert {hook: self.state.webhooks.get(hook, Webhook()).count for hook in POOL} == self.counts


TestQuotaMachine = QuotaMachine.TestCase
TestQuotaMachine.settings = settings(stateful_step_count=40)


def test_by_default_it_rotates_at_45_000() -> None:
    policy = QuotaPolicy()
    assert pick(policy, Quota({"a1": Webhook(44_999)}), ("a1", "b2")) == "a1"
    assert pick(policy, Quota({"a1": Webhook(45_000)}), ("a1", "b2")) == "b2"
    assert pick(policy, Quota({"a1": Webhook(45_000)}), ("a1",)) is None
    assert pick(policy, Quota(), ()) is None


def test_the_first_reason_of_death_stays_and_its_count_too() -> None:
    state = quota.mark_dead(Quota({"a1": Webhook(7)}), "a1", "it belongs to another table")
    state = quota.mark_dead(state, "a1", "later")
    state = quota.count(state, "a1")
    assert state.webhooks["a1"] == Webhook(8, "it belongs to another table")


def test_problems_name_the_key() -> None:
    assert QuotaPolicy().problems() == []
    wrong = QuotaPolicy(warn_at=50_001, rotate_at=10)
    assert [line.split(" ")[0] for line in wrong.problems()] == ["warn_at", "warn_at"]


def test_by_default_a_webhook_is_warned_of_at_40_000_and_left_at_45_000_before_clay_stops_it() -> None:
    rules = QuotaPolicy()
    assert (rules.warn_at, rules.rotate_at, quota.LIFETIME) == (40_000, 45_000, 50_000)
    last = quota.set_count(Quota(), "a1", 44_999)
    assert pick(rules, last, POOL) == "a1"
    assert pick(rules, quota.count(last, "a1"), POOL) == "b2"


@pytest.mark.parametrize("order", [("a1", "b2", "c3"), ("c3", "b2", "a1"), ("b2", "a1", "c3")])
def test_a_lead_waits_for_the_first_of_the_probes(order: tuple[str, ...]) -> None:
    state = Quota()
    for number, hook in enumerate(order):
        fresh = suspension.begin(PROBES, "http_404", "gone", NOW_MS + 1_000 * number)
        state = quota.gone(PROBES, state, hook, fresh, None)
    assert quota.pick(POLICY, PROBES, state, POOL, NOW_MS + 10_000)[1] == Wait(NOW_MS + 60_000)
    _, picked = quota.pick(POLICY, PROBES, state, POOL, NOW_MS + 60_000)
    assert isinstance(picked, quota.Picked)
    assert picked.webhook_id == order[0]
