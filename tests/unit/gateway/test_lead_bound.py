"""How often one lead may call back: a valid token that is posted again and again fills nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.gateway import holding, lead_bound
from stream_app.gateway.lead_bound import AT_ONCE, MAX_LEADS, ONE_MORE_EVERY_S, LeadBound
from tests.gateway.support import Gateway, good

DAY_S = 86_400.0


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def gateway(time: Time) -> Gateway:
    made = Gateway()
    made.receiver._bound = LeadBound(time)
    return made


async def test_one_valid_token_fills_nothing(gateway: Gateway, time: Time) -> None:
    answers = [
        await gateway.post(good(note=f"{number} " + "x" * 1_000)) for number in range(4 * AT_ONCE)
    ]
    assert [answer.status_code for answer in answers] == [200] * AT_ONCE + [429] * (3 * AT_ONCE)
    assert len(gateway.inbox.records) == AT_ONCE
    refused = answers[-1]
    assert "crm-17" not in refused.text
    assert "called back" in refused.text
    assert int(refused.headers["retry-after"]) == ONE_MORE_EVERY_S
    assert gateway.counted() == {"enriched": AT_ONCE, "too_often": 3 * AT_ONCE}
    assert (await gateway.post(good("crm-18"))).status_code == 200, (
        "each lead has a bound of its own"
    )

    time.now_s += ONE_MORE_EVERY_S
    again = [(await gateway.post(good())).status_code for _ in range(3)]
    assert again == [200, 429, 429], "one more after a while"


async def test_the_repeats_of_clay_and_several_rows_of_a_lead_are_taken(gateway: Gateway) -> None:
    """Clay repeats a callback up to 5 times, and a lead may have a row of several attempts, each
    run by hand twice.
    """
    for attempt in ("1", "2", "3"):
        for _ in range(2 * 5):
            assert (await gateway.post(good(attempt=attempt))).status_code == 200


async def test_a_callback_without_a_place_does_not_count(gateway: Gateway) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holding, "MAX_CALLBACKS", 0)
        for _ in range(3 * AT_ONCE):
            assert "too many callbacks are held" in (await gateway.post(good())).text
    for _ in range(AT_ONCE):
        assert (await gateway.post(good())).status_code == 200
    assert (await gateway.post(good())).status_code == 429


async def test_a_refused_sender_uses_up_nothing(gateway: Gateway) -> None:
    forged = good() | {"callback_token": good("crm-18")["callback_token"]}
    for _ in range(2 * AT_ONCE):
        assert (await gateway.post(forged)).status_code == 403
    assert (await gateway.post(good())).status_code == 200


@given(st.lists(st.floats(0, DAY_S), max_size=300))
def test_no_day_has_more_than_twice_the_bound(waits_s: list[float]) -> None:
    time = Time()
    bound = LeadBound(time)
    taken_at_s: list[float] = []
    for wait_s in waits_s:
        time.now_s += wait_s / 20
        if bound.take("acme", "people", "crm-17", ""):
            taken_at_s.append(time.now_s)
    for begin_s in taken_at_s:
        in_a_day = sum(begin_s <= at_s < begin_s + DAY_S for at_s in taken_at_s)
        assert in_a_day <= AT_ONCE + DAY_S / ONE_MORE_EVERY_S


class Bucket:
    """The same bound as a bucket of `AT_ONCE` callbacks that leaks one each `ONE_MORE_EVERY_S`."""

    def __init__(self) -> None:
        self.level = 0.0
        self.at_s = 0.0

    def leak(self, now_s: float) -> None:
        self.level = max(0.0, self.level - (now_s - self.at_s) / ONE_MORE_EVERY_S)
        self.at_s = now_s

    def take(self) -> bool:
        fits = self.level + 1 <= AT_ONCE
        self.level += fits
        return fits


LEADS = (
    ("acme", "people", "crm-1", ""),
    ("acme", "people", "crm-1", "leads/0/1"),
    ("acme", "firms", "crm-1", ""),
    ("beta", "people", "crm-1", ""),
    ("acme", "people", "crm-2", ""),
    ("acmepeople", "", "crm-1", ""),
    ("acme", 'people","crm-1', "", ""),
)
STEPS = st.tuples(
    # whole halves of the time in which one leaks: the sums of floats are exact
    st.integers(0, 4),
    st.sampled_from(range(len(LEADS))),
    st.integers(1, AT_ONCE + 2),
    st.booleans(),
)


@given(st.lists(STEPS, max_size=30))
def test_each_lead_has_a_bucket_of_its_own(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    time = Time()
    bound = LeadBound(time)
    buckets = [Bucket() for _ in LEADS]
    for halves, lead, times, is_given_back in steps:
        time.now_s += halves * ONE_MORE_EVERY_S / 2
        for bucket in buckets:
            bucket.leak(time.now_s)
        for _ in range(times):
            taken = bound.take(*LEADS[lead])
            assert taken == buckets[lead].take()
            if taken and is_given_back:
                bound.give_back(*LEADS[lead])
                buckets[lead].level -= 1
        full = [bucket for bucket in buckets if bucket.level]
        assert len(bound) >= len(full), "a lead whose bucket is not empty is remembered"


@pytest.mark.parametrize("now_s", [0.1, 7_341.337, 13_971.123_456_789, 8_640_000.7])
def test_as_many_are_taken_at_whatever_time(now_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for at_once in (1, 2, AT_ONCE):
        monkeypatch.setattr(lead_bound, "AT_ONCE", at_once)
        for part in range(50):
            time = Time()
            time.now_s = now_s + part / 49
            bound = LeadBound(time)
            taken = [bound.take(*LEADS[0]) for _ in range(at_once + 1)]
            assert taken == [True] * at_once + [False]


@pytest.mark.parametrize(
    ("after_s", "is_taken"),
    [(ONE_MORE_EVERY_S - 1, False), (ONE_MORE_EVERY_S, True)],
)
def test_one_more_is_taken_when_its_time_has_come(after_s: int, is_taken: bool) -> None:
    time = Time()
    bound = LeadBound(time)
    assert [bound.take(*LEADS[0]) for _ in range(AT_ONCE)] == [True] * AT_ONCE
    time.now_s += after_s
    assert bound.take(*LEADS[0]) is is_taken


def test_what_is_given_back_of_a_forgotten_lead_changes_nothing() -> None:
    bound = LeadBound(Time())
    bound.give_back(*LEADS[0])
    assert len(bound) == 0
    assert bound.take(*LEADS[0])


def test_the_lead_that_has_not_called_back_for_the_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lead_bound, "MAX_LEADS", 3)
    time = Time()
    bound = LeadBound(time)

    def take(lead: str) -> bool:
        time.now_s += 1.0
        return bound.take("acme", "people", lead, "")

    for lead in ("a", "b", "c"):
        assert [take(lead) for _ in range(AT_ONCE + 1)] == [True] * AT_ONCE + [False]
    assert not take("a"), "three are remembered, and a refused one is not the oldest any more"
    assert take("d")
    assert len(bound) == 3
    assert take("b"), "it was forgotten"
    assert not take("a")


def test_a_lead_is_kept_in_16_bytes() -> None:
    bound = LeadBound(Time())
    bound.take("acme", "people", "crm-1" * 20, "leads/0/1")
    assert [len(key) for key in bound._full_ms] == [16], "100,000 leads are 20 MB"


def test_many_leads_take_bounded_memory_and_the_busy_one_is_remembered() -> None:
    time = Time()
    bound = LeadBound(time)
    for number in range(2 * MAX_LEADS):
        time.now_s += 0.001
        bound.take("acme", "people", f"crm-{number}", "")
        if number % (MAX_LEADS // 2) == 0:
            for _ in range(AT_ONCE):
                bound.take("acme", "people", "busy", "")
    assert len(bound) <= MAX_LEADS
    assert not bound.take("acme", "people", "busy", "")
    time.now_s += 2 * DAY_S
    bound.take("acme", "people", "crm-1", "")
    assert len(bound) == 1, "what is full again is forgotten"
