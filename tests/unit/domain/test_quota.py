"""Webhooks: which URL may be one, how they are counted against a plain count, and how a stopped one
is probed.
"""

import math

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.overrides import ChangeQuota, obey
from stream_app.domain.limits import suspension
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.suspension import SuspensionPolicy
from stream_app.domain.limits.webhook_quota import Quota, QuotaPolicy, Webhook
from stream_app.domain.model.addresses import (
    WEBHOOK_PATH,
    is_local,
    is_loopback,
    is_loopback_url,
    secret_part,
    token_problem,
    webhook_kind,
    webhook_problem,
)
from stream_app.domain.model.ranges import Wait
from stream_app.domain.plan import Actor, Workspace

LIMITS = QuotaPolicy(warn_at=3, rotate_at=5).limits(50_000)
PROBES = SuspensionPolicy(probe_s=60, probe_cap_s=240, probe_lease_s=30)
POOL = ("a1", "b2", "c3")
NOW_MS = 1_795_500_000_000


def ordered(state: Quota, order: ChangeQuota, who: str = "ada") -> Quota:
    """The quota after an order, which may concern a webhook that was never used."""
    by = Actor(who, "", 1_000)
    return obey(
        Workspace("acme"),
        Lane("acme", 0, quota=state),
        order,
        by,
        dict.fromkeys(POOL, 50_000),
    ).lane.quota


class QuotaMachine(RuleBasedStateMachine):
    """The model knows the counts, who is out of use, and when each suspended webhook may be probed
    at the earliest.
    """

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
            if (
                self.counts[hook] < 5
                and hook not in self.dead
                and self.now_ms >= self.probe_at_ms.get(hook, 0)
            ):
                return hook
        return None

    @rule()
    def submit(self) -> None:
        changed, picked = quota.pick(LIMITS, PROBES, self.state, POOL, self.now_ms)
        hook = self._next()
        if not isinstance(picked, quota.Picked):
            assert hook is None
            left = [
                webhook
                for webhook in self.probe_at_ms
                if self.counts[webhook] < 5 and webhook not in self.dead
            ]
            assert isinstance(picked, Wait) == bool(left)
            assert picked is None or picked.until_ms == min(
                self.probe_at_ms[webhook] for webhook in left
            )
            return
        assert picked.webhook_id == hook
        assert (picked.probe is not None) == (hook in self.probe_at_ms)
        self.state = quota.count(changed, picked.webhook_id)
        self.counts[picked.webhook_id] += 1
        self.under_way.append(picked)
        if picked.probe is not None:
            self.probe_at_ms[picked.webhook_id] = self.now_ms + 30_000  # its lease

    @rule(data=st.data(), answer=st.sampled_from(["accepted", "out", "other"]))
    def is_answered(self, data: st.DataObject, answer: str) -> None:
        if not self.under_way:
            return
        call = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        hook = call.webhook_id
        before = quota.suspended(self.state).get(call.webhook_id)
        if answer == "out":
            fresh = suspension.begin(PROBES, "full", "full", self.now_ms)
            self.state = quota.take_out(PROBES, self.state, hook, fresh, call.probe)
        elif call.probe is not None:
            self.state = quota.probed(
                self.state,
                hook,
                call.probe,
                answer == "accepted",
                self.now_ms,
            )
        after = quota.suspended(self.state).get(hook)
        if after is None:
            assert before is None or (answer == "accepted" and call.probe is not None), (
                "only its probe brings it back"
            )
            self.probe_at_ms.pop(hook, None)
        elif after != before:
            assert self.now_ms + 60_000 <= after.probe_at_ms <= self.now_ms + 240_000
            self.probe_at_ms[hook] = after.probe_at_ms

    @rule(seconds=st.sampled_from([1, 31, 61, 241]))
    def time_passes(self, seconds: int) -> None:
        self.now_ms += seconds * 1_000

    @rule(webhook_id=st.sampled_from(POOL))
    def is_taken_out_of_use(self, webhook_id: str) -> None:
        self.state = ordered(self.state, ChangeQuota(webhook_id, use=False))
        self.dead.add(webhook_id)

    @rule(webhook_id=st.sampled_from(POOL))
    def comes_back(self, webhook_id: str) -> None:
        self.state = ordered(self.state, ChangeQuota(webhook_id, use=True))
        self.dead.discard(webhook_id)
        self.probe_at_ms.pop(webhook_id, None)

    @rule()
    def all_that_were_suspended_are_resumed(self) -> None:
        self.state = quota.resumed(self.state)
        self.probe_at_ms.clear()

    @rule(webhook_id=st.sampled_from(POOL), submissions=st.integers(0, 6))
    def is_recounted(self, webhook_id: str, submissions: int) -> None:
        self.state = ordered(self.state, ChangeQuota(webhook_id, count=submissions))
        self.counts[webhook_id] = submissions

    @invariant()
    def says_how_each_of_the_pool_ended(self) -> None:
        reported = quota.used_up(self.state, POOL)
        for hook in POOL:
            count = "1 submission" if self.counts[hook] == 1 else f"{self.counts[hook]} submissions"
            how = (
                "by ada"
                if hook in self.dead
                else "full (403)"
                if hook in self.probe_at_ms
                else count
            )
            assert f"{hook}: {how}" in reported

    @invariant()
    def knows_whether_a_lead_need_not_be_a_probe(self) -> None:
        healthy = [
            h
            for h in POOL
            if self.counts[h] < 5 and h not in self.dead and h not in self.probe_at_ms
        ]
        assert quota.has_one_in_use(LIMITS, self.state, POOL) == bool(healthy)

    @rule()
    def restart(self) -> None:
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=Quota)
        assert {
            hook: self.state.webhooks.get(hook, Webhook()).count for hook in POOL
        } == self.counts


TestQuotaMachine = QuotaMachine.TestCase
TestQuotaMachine.settings = settings(stateful_step_count=40)


def test_the_first_reason_of_death_stays_and_its_count_too() -> None:
    state = ordered(Quota({"a1": Webhook(7)}), ChangeQuota("a1", use=False))
    state = ordered(state, ChangeQuota("a1", use=False), "grace")
    state = quota.count(state, "a1")
    assert state.webhooks["a1"] == Webhook(8, "by ada at 1970-01-01 00:00:01 UTC")


@pytest.mark.parametrize(
    ("policy", "lifetime", "limits"),
    [
        (QuotaPolicy(), 50_000, (40_000, 45_000)),
        (QuotaPolicy(), 200_000, (160_000, 180_000)),
        (QuotaPolicy(), 1, (1, 1)),
        (QuotaPolicy(rotate_at=30_000), 50_000, (30_000, 30_000)),
        (QuotaPolicy(warn_at=7, rotate_at=30_000), 200_000, (7, 30_000)),
        (QuotaPolicy(), 0, (math.inf, math.inf)),
        (QuotaPolicy(warn_at=7, rotate_at=30_000), 0, (math.inf, math.inf)),
    ],
)
def test_the_limits_follow_the_lifetime_of_the_webhook(
    policy: QuotaPolicy,
    lifetime: int,
    limits: tuple[float, float],
) -> None:
    assert policy.limits(lifetime) == limits


def test_a_webhook_without_an_end_is_used_for_ever() -> None:
    state = Quota({"a1": Webhook(10**9), "b2": Webhook(1)})
    endless = QuotaPolicy().limits(0)
    _, picked = quota.pick(endless, PROBES, state, POOL, NOW_MS)
    assert picked == quota.Picked("a1")
    assert quota.left(endless, state, POOL) is None
    retired = Quota(dict.fromkeys(POOL, Webhook(1, "by ada")))
    assert quota.left(endless, retired, POOL) == 0


def test_a_count_may_be_set_up_to_the_lifetime_of_its_webhook() -> None:
    lane = Lane("acme", 0)
    by = Actor("ada", "", 1_000)
    lifetimes = {"a1": 50_000, "b2": 200_000, "c3": 0}
    for webhook_id, most in (("a1", 50_000), ("b2", 200_000), ("c3", 10**9)):
        order = ChangeQuota(webhook_id, count=most)
        after = obey(Workspace("acme"), lane, order, by, lifetimes)
        assert after.done
        assert after.lane.quota.webhooks[webhook_id].count == most
        above = ChangeQuota(webhook_id, count=most + 1)
        refused = obey(Workspace("acme"), lane, above, by, lifetimes)
        assert refused.done is (webhook_id == "c3")
    assert refused.done
    refused = obey(Workspace("acme"), lane, ChangeQuota("a1", count=50_001), by, lifetimes)
    assert refused.text == (
        "refused: webhook a1 takes 50,000 submissions in its lifetime (quota_lifetime of its "
        "destination)"
    )


HOSTS = ["api.clay.com", "127.0.0.1", "sim:8000", "::1", "relay.example", "127.evil.example"]
CLAY = "https://api.clay.com"


@pytest.mark.parametrize(
    "host",
    [
        CLAY,
        f"{CLAY}:443",
        CLAY.upper(),
        "http://127.0.0.1:8",
        "http://[::1]:8",
        "http://sim:8000",
        "https://relay.example",
    ],
)
@pytest.mark.parametrize("slug", ["my-table", "a/b", "%2F"])
def test_a_valid_webhook_is_accepted(host: str, slug: str) -> None:
    assert webhook_problem(host + WEBHOOK_PATH + slug, HOSTS) is None


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        (f"{WEBHOOK_PATH}my-table", "my-table"),
        (f"{WEBHOOK_PATH}my-table/", "my-table"),
        ("/v3/tc-workflows/streams/wfrs_1/webhook", "wfrs_1"),
    ],
)
def test_the_secret_part_of_a_webhook_is_removed_from_texts(path: str, secret: str) -> None:
    """Seen: a slash at the end of the URL made it the empty text, so that the slug stayed."""
    assert secret_part(CLAY + path) == secret


@pytest.mark.parametrize("host", [CLAY, "http://127.0.0.1:8", "http://sim:8000"])
def test_the_webhook_of_a_workflow_is_accepted(host: str) -> None:
    url = f"{host}/v3/tc-workflows/streams/wfrs_0a-B/webhook"
    assert webhook_problem(url, HOSTS) is None
    assert webhook_kind(url) == "workflow"
    assert webhook_kind(host + WEBHOOK_PATH + "wfrs_0a-B") == "table"


@pytest.mark.parametrize(
    ("problem", "path"),
    [
        ("/v3 before it", "/tc-workflows/streams/wfrs_1/webhook"),
        ("<id>/webhook", "/v3/tc-workflows/streams/wfrs_1/webhook/batch"),
        ("<id>/webhook", "/v3/tc-workflows/streams/wfrs_1/webhook/"),
        ("<id>/webhook", "/v3/tc-workflows/streams//webhook"),
        ("<id>/webhook", "/v3/tc-workflows/streams/wfrs_1"),
        ("no . or ..", "/v3/tc-workflows/streams/../webhook"),
        ("no . or ..", "/v3/tc-workflows/streams/%2e%2e/webhook"),
    ],
)
def test_an_invalid_webhook_of_a_workflow_is_refused(problem: str, path: str) -> None:
    assert problem in (webhook_problem(CLAY + path, HOSTS) or "")


@pytest.mark.parametrize(
    ("problem", "url"),
    [
        *(
            ("one of", f"http{host}{WEBHOOK_PATH}x")
            for host in ("://sim:8001", "s://a.b", "s://api.clay.com.a.b")
        ),
        *(
            ("https://", f"{host}{WEBHOOK_PATH}x")
            for host in ("http://api.clay.com", "ftp://api.clay.com", "a", "")
        ),
        *(
            ("https://", f"http://{host}{WEBHOOK_PATH}x")
            for host in ("relay.example", "127.evil.example")
        ),
        *(
            ("no . or ..", f"{CLAY}{WEBHOOK_PATH}{path}")
            for path in (
                "../../v1/admin",
                "a/..",
                "%2e%2e/x",
                ".",
                "a/%252E%252e/x",
                "a%2f..%2fb",
                "..%5cx",
            )
        ),
        *(
            ("no user", f"{CLAY}{rest}")
            for rest in (f"@evil.example{WEBHOOK_PATH}x", f"{WEBHOOK_PATH}x#f")
        ),
        *(("?query", f"{CLAY}{WEBHOOK_PATH}x{query}") for query in ("?a=b", "?")),
        *(("<slug>", f"{CLAY}{path}") for path in (WEBHOOK_PATH, "/webhook/x", "/", "")),
        *(
            ("malformed", f"https://{host}{WEBHOOK_PATH}x")
            for host in ("api.clay.com:port", "[api")
        ),
        *(("ASCII", f"{CLAY}{WEBHOOK_PATH}{slug}") for slug in ("x y", "x\n", "x\x7f", "\u00e9")),
    ],
)
def test_an_invalid_webhook_is_refused(problem: str, url: str) -> None:
    assert problem in (webhook_problem(url, HOSTS) or "")


@given(st.one_of(st.text(), st.text().map(f"{CLAY}{WEBHOOK_PATH}".__add__)))
def test_a_valid_webhook_can_be_requested(url: str) -> None:
    if webhook_problem(url, HOSTS) is None:
        assert httpx.URL(url).host == "api.clay.com"


def test_a_token_is_printable_ascii() -> None:
    assert token_problem("abc 123~") is None
    assert all(token_problem(bad) for bad in ("", " a", "a\n", "a\r\nb: c", "\u00e9", "\x7f"))


@pytest.mark.parametrize(
    ("host", "loopback", "local"),
    [
        ("127.0.0.1", True, True),
        ("127.9.9.9", True, True),
        ("::1", True, True),
        ("localhost", True, True),
        ("sim", False, True),
        ("sim_1-a", False, True),
        ("10.0.0.1", False, False),
        ("a.b", False, False),
        ("2130706433", False, False),
        ("0x7f000001", False, False),
        ("0x", False, False),
        ("", False, False),
    ],
)
def test_which_hosts_mean_this_machine_or_a_container_beside_it(
    host: str,
    loopback: bool,
    local: bool,
) -> None:
    assert is_loopback(host) == loopback
    assert is_local(host) == local
    if host:
        assert (
            is_loopback_url(f"http://[{host}]:8/x" if ":" in host else f"http://{host}:8/x")
            is loopback
        )
    assert not is_loopback_url("no URL")
