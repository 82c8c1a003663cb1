"""The quota of webhooks, against a plain count."""

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stream_app.core import quota
from stream_app.core.quota import Quota, QuotaPolicy, Webhook

POLICY = QuotaPolicy(warn_at=3, rotate_at=5)
POOL = ("a1", "b2", "c3")


class QuotaMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = Quota()
        self.counts = dict.fromkeys(POOL, 0)
        self.dead: set[str] = set()

    def _usable(self) -> list[str]:
        return [hook for hook in POOL if self.counts[hook] < 5 and hook not in self.dead]

    @rule()
    def submit(self) -> None:
        picked = quota.pick(POLICY, self.state, POOL)
        assert picked == next(iter(self._usable()), None)
        if picked is None:
            return
        self.state = quota.count(self.state, picked)
        self.counts[picked] += 1

    @rule(webhook_id=st.sampled_from(POOL))
    def dies(self, webhook_id: str) -> None:
        self.state = quota.mark_dead(self.state, webhook_id, "404")
        self.dead.add(webhook_id)

    @rule(webhook_id=st.sampled_from(POOL))
    def comes_back(self, webhook_id: str) -> None:
        self.state = quota.revive(self.state, webhook_id)
        self.dead.discard(webhook_id)

    @rule(webhook_id=st.sampled_from(POOL), submissions=st.integers(0, 6))
    def is_counted_anew(self, webhook_id: str, submissions: int) -> None:
        self.state = quota.set_count(self.state, webhook_id, submissions)
        self.counts[webhook_id] = submissions

    @invariant()
    def says_how_each_of_the_pool_ended(self) -> None:
        told = quota.used_up(self.state, POOL)
        for hook in POOL:
            assert f"{hook}: {'404' if hook in self.dead else f'{self.counts[hook]} submissions'}" in told

    @rule()
    def restart(self) -> None:
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=Quota)
        assert {hook: self.state.webhooks.get(hook, Webhook()).count for hook in POOL} == self.counts


TestQuotaMachine = QuotaMachine.TestCase
TestQuotaMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_by_default_it_rotates_at_45_000() -> None:
    policy = QuotaPolicy()
    assert quota.pick(policy, Quota({"a1": Webhook(44_999)}), ("a1", "b2")) == "a1"
    assert quota.pick(policy, Quota({"a1": Webhook(45_000)}), ("a1", "b2")) == "b2"
    assert quota.pick(policy, Quota({"a1": Webhook(45_000)}), ("a1",)) is None
    assert quota.pick(policy, Quota(), ()) is None


def test_the_first_reason_of_death_stays_and_its_count_too() -> None:
    state = quota.mark_dead(Quota({"a1": Webhook(7)}), "a1", "the webhook is gone (404)")
    state = quota.mark_dead(state, "a1", "later")
    state = quota.count(state, "a1")
    assert state.webhooks["a1"] == Webhook(8, "the webhook is gone (404)")


def test_problems_name_the_key() -> None:
    assert quota.problems(QuotaPolicy()) == []
    wrong = QuotaPolicy(warn_at=50_001, rotate_at=10)
    assert [line.split(" ")[0] for line in quota.problems(wrong)] == ["warn_at", "warn_at"]


def test_by_default_a_webhook_is_warned_of_at_40_000_and_left_at_45_000_before_clay_stops_it() -> None:
    rules = QuotaPolicy()
    assert (rules.warn_at, rules.rotate_at, quota.LIFETIME) == (40_000, 45_000, 50_000)
    last = quota.set_count(Quota(), "a1", 44_999)
    assert quota.pick(rules, last, POOL) == "a1"
    assert quota.pick(rules, quota.count(last, "a1"), POOL) == "b2"
