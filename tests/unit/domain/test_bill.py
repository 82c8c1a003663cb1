"""Clay's bill against the books, over drawn histories whose every charge is known."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.domain.books.bill import BilledDay, billed_days
from stream_app.domain.limits.balance import Booked, Reading, balance_reading
from stream_app.domain.limits.budget import Budget, Period

BEGIN_MS = 1_796_083_200_000  # 2026-12-01 00:00 UTC
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
CEILING = 20
ESTIMATE = 6


@dataclass(frozen=True, slots=True)
class Lead:
    """A lead from its POST to the end, in minutes from the beginning.

    reported Clay's answer says the cost.
    charged  when Clay takes the cost.
    settled  when the books have it.
    again    when an answer comes to a lead that was booked at its ceiling, if one comes.
    """

    cost: int
    reported: bool
    sent: int
    charged: int
    settled: int
    again: int | None = None


@dataclass
class History:
    """A workspace at Clay, and its lane."""

    leads: list[Lead]
    others: list[tuple[int, int]] = field(default_factory=list)  # when, and how many credits
    top_ups: list[tuple[int, int]] = field(default_factory=list)

    def balance(self, minute: int) -> float:
        taken = sum(lead.cost for lead in self.leads if lead.charged <= minute)
        taken += sum(credits_ for at, credits_ in self.others if at <= minute)
        added = sum(credits_ for at, credits_ in self.top_ups if at <= minute)
        return float(10_000 + added - taken)

    def charged(self, after: int, until: int) -> int:
        """What the ledger has charged in these minutes."""
        leads = sum(lead.cost for lead in self.leads if after < lead.charged <= until)
        return leads + sum(credits_ for at, credits_ in self.others if after < at <= until)

    def booked(self, minute: int) -> tuple[Booked, int]:
        """The totals, and what is reserved."""
        totals = Booked()
        reserved = 0
        for lead in self.leads:
            if lead.sent <= minute < lead.settled:
                reserved += CEILING
            if lead.settled > minute:
                continue
            if lead.again is not None:
                totals = totals.unreported(CEILING, CEILING)
                if lead.again <= minute:
                    totals = totals.corrected(CEILING, lead.cost)
            elif lead.reported:
                totals = totals.reported(CEILING, lead.cost)
            else:
                totals = totals.unreported(CEILING, ESTIMATE)
        return totals, reserved

    def readings(self, minutes: list[int]) -> list[Reading]:
        readings: list[Reading] = []
        for minute in minutes:
            totals, reserved = self.booked(minute)
            readings.append(
                balance_reading(
                    readings[-1] if readings else None,
                    BEGIN_MS + minute * MINUTE_MS,
                    self.balance(minute),
                    totals,
                    totals,
                    Budget((Period("2026-12-01", credits_reserved=reserved),)),
                ),
            )
        return readings

    def days(self, minutes: list[int]) -> list[BilledDay]:
        return billed_days(self.readings(minutes))


@st.composite
def drawn_leads(draw: st.DrawFn) -> Lead:
    sent = draw(st.integers(0, 4_000))
    cost = draw(st.integers(0, CEILING))
    settled = sent + draw(st.integers(0, 300))
    kind = draw(st.sampled_from(["reported", "unreported", "late", "lost"]))
    if kind == "lost":
        again = settled + draw(st.integers(0, 900))
        return Lead(cost, reported=True, sent=sent, charged=again, settled=settled, again=again)
    charged = draw(st.integers(sent, settled))
    if kind == "late":  # a destination without callbacks
        charged = settled + draw(st.integers(0, 60))
    return Lead(cost, reported=kind == "reported", sent=sent, charged=charged, settled=settled)


LEADS = st.lists(drawn_leads(), max_size=30)
MINUTES = st.lists(st.integers(1, 90), min_size=1, max_size=80).map(
    lambda gaps: [sum(gaps[:count]) for count in range(len(gaps) + 1)],
)


def spanned(day: BilledDay) -> tuple[int, int]:
    return (day.since_ms - BEGIN_MS) // MINUTE_MS, (day.until_ms - BEGIN_MS) // MINUTE_MS


@settings(max_examples=500)
@given(LEADS, MINUTES)
def test_each_number_is_the_ledgers_and_a_workspace_of_our_own_always_agrees(
    leads: list[Lead],
    minutes: list[int],
) -> None:
    history = History(leads)
    days = history.days(minutes)
    for day in days:
        since, until = spanned(day)
        assert day.taken == history.charged(since, until)
        assert day.booked == history.booked(until)[0].credits - history.booked(since)[0].credits
        assert day.drift == day.taken - day.booked
        assert day.least <= day.taken <= day.most
        assert day.verdict == "agrees"
        assert day.says == "agrees"
        assert day.unexplained == 0
    if days:
        begin, _ = spanned(days[-1])
        assert sum(day.taken for day in days) == history.charged(begin, minutes[-1])
        # Where costs were guessed before the first reading, an hour passes until days are compared.
        is_clear = not history.booked(minutes[0])[0].guessed
        wait = 0 if is_clear else 60
        assert begin == next(minute for minute in minutes if minute >= minutes[0] + wait)
    assert [day.day for day in days] == sorted({day.day for day in days}, reverse=True)


@settings(max_examples=500)
@given(LEADS, MINUTES, st.integers(1, 2_000), st.integers(1, 5_000))
def test_what_others_take_is_named_once_it_is_above_what_explains_it(
    leads: list[Lead],
    minutes: list[int],
    credits_: int,
    at: int,
) -> None:
    quiet = {day.day: day for day in History(leads).days(minutes)}
    for day in History(leads, others=[(at, credits_)]).days(minutes):
        since, until = spanned(day)
        before = quiet[day.day]
        others = credits_ if since < at <= until else 0
        assert day.drift == before.drift + others
        assert day.unexplained == max(0, others - (before.most - before.taken))
        assert day.verdict == ("more" if day.unexplained else "agrees")


@settings(max_examples=500)
@given(LEADS, MINUTES, st.integers(1, 500), st.integers(1, 5_000))
def test_a_rise_makes_its_time_unknown_and_never_a_finding_that_clay_took_more(
    leads: list[Lead],
    minutes: list[int],
    credits_: int,
    at: int,
) -> None:
    history = History(leads, top_ups=[(at, credits_)])
    for day in history.days(minutes):
        assert day.verdict != "more"
        assert ("cannot be compared" in day.says) == (day.unknown_ms > 0)


IDLE = Lead(5, reported=True, sent=1, charged=1, settled=1)


def test_a_top_up_alone_leaves_the_rest_of_the_day_compared() -> None:
    [day] = History([IDLE], others=[(100, 7)], top_ups=[(30, 500)]).days([0, 20, 40, 90, 110])
    assert day.taken == 12
    assert day.booked == 5
    assert day.unknown_ms == 20 * MINUTE_MS
    assert day.verdict == "more"
    assert day.says == (
        "Clay took 7 credits more than the leads explain: someone else used this workspace, or a "
        "lead cost more than its ceiling; the balance rose (credits were added or returned), so 20 "
        "minutes cannot be compared"
    )


def test_a_day_with_a_rise_from_end_to_end_is_unknown() -> None:
    [day] = History([], top_ups=[(30, 500)]).days([0, 60])
    assert day.verdict == "unknown"
    assert day.taken == 0
    assert day.least == 0
    assert day.most == 0


def test_a_top_up_that_is_used_up_before_the_next_reading_is_told_as_too_little_taken() -> None:
    leads = [Lead(10, True, 1, 1, 1) for _ in range(10)]
    [day] = History(leads, top_ups=[(2, 50)]).days([0, 60])
    assert day.taken == 50
    assert day.booked == 100
    assert day.drift == -50
    assert day.verdict == "less"  # a credit of each may be rounded up
    assert day.unexplained == -40
    assert "took 40 credits less" in day.says


def test_what_is_booked_before_midnight_may_be_taken_after_it() -> None:
    late = Lead(CEILING, reported=False, sent=1_430, charged=1_450, settled=1_435)
    today, yesterday = History([late]).days([1_400, 1_441, 1_500])
    assert yesterday.booked == ESTIMATE
    assert yesterday.taken == 0
    assert yesterday.verdict == "agrees"
    assert today.booked == 0
    assert today.taken == CEILING
    assert today.most == CEILING
    assert today.verdict == "agrees"


def test_an_answer_that_comes_when_its_lead_was_given_up_explains_what_clay_took() -> None:
    lost = Lead(CEILING, reported=True, sent=1, charged=1_600, settled=1_300, again=1_600)
    today, _ = History([lost]).days([1_200, 1_310, 1_380, 1_441, 1_700])
    assert today.booked == 0
    assert today.taken == CEILING
    assert today.verdict == "agrees"


def test_a_rise_between_readings_that_were_not_kept_is_seen_all_the_same() -> None:
    history = History([Lead(60, True, 30, 30, 30)], top_ups=[(15, 50)])
    readings = history.readings([0, 10, 20, 60])
    assert billed_days(readings)[0].unknown_ms == 10 * MINUTE_MS
    [day] = billed_days([readings[0], readings[-1]])
    assert readings[-1].credits < readings[0].credits
    assert day.verdict == "unknown"
    assert day.unknown_ms == HOUR_MS


def test_fractions_of_clay_leave_no_binary_rest() -> None:
    readings = [
        Reading(BEGIN_MS, 100.3),
        Reading(BEGIN_MS + HOUR_MS, 100.2, Booked(1, 0, 1)),
        Reading(BEGIN_MS + 2 * HOUR_MS, 99.6, Booked(1, 0, 1)),
    ]
    [day] = billed_days(readings)
    assert day.taken == 0.7
    assert day.drift == -0.3
    assert day.verdict == "agrees"


def test_a_lane_that_began_again_is_not_compared_with_its_past() -> None:
    readings = [Reading(BEGIN_MS, 100, Booked(50, 50, 50)), Reading(BEGIN_MS + HOUR_MS, 90)]
    [day] = billed_days(readings)
    assert day.verdict == "unknown"


@pytest.mark.parametrize("count", [0, 1])
def test_one_reading_says_nothing(count: int) -> None:
    assert billed_days([Reading(BEGIN_MS, 100)] * count) == []


def test_what_was_booked_while_clay_was_asked_may_be_in_its_answer_or_not() -> None:
    before = Booked(100, 100, 100)
    after = before.reported(CEILING, 8)
    first = balance_reading(None, BEGIN_MS, 50, before, after, Budget())
    assert first.open == 8
    for already in (0, 8):
        then = Reading(BEGIN_MS + HOUR_MS, 50 - (8 - already), after)
        assert billed_days([first, then])[0].verdict == "agrees"


@pytest.mark.parametrize(
    ("reserved", "cost", "least", "most"),
    [(20, 0, 0, 20), (20, 1, 0, 20), (20, 8, 7, 20), (5, 8, 4, 8)],
)
def test_between_which_limits_the_cost_of_a_booked_lead_lies(
    reserved: int,
    cost: int,
    least: int,
    most: int,
) -> None:
    """The last lead cost more than its ceiling, and only its ceiling was seen in flight."""
    before = Booked(100, 90, 110, 10)
    assert before.reported(reserved, cost) == Booked(100 + cost, 90 + least, 110 + cost, 10)
    assert before.unreported(reserved, cost) == Booked(100 + cost, 90, 110 + most, 10 + most)


def test_clay_may_have_taken_the_cost_of_before_or_that_of_a_correction() -> None:
    before = Booked(100, 90, 110, 10)
    assert before.corrected(20, 8) == Booked(88, 90, 130, 10)
    assert before.corrected(6, 9) == Booked(103, 90, 119, 10)


def test_leads_that_are_still_open_from_the_day_before_may_be_in_a_reading() -> None:
    days = (Period("2026-12-01", credits_reserved=20), Period("2026-12-02", credits_reserved=40))
    assert balance_reading(None, BEGIN_MS, 50, Booked(), Booked(), Budget(days)).open == 60


def test_an_operators_correction_of_a_day_explains_what_others_took() -> None:
    booked = Booked(10, 10, 10).elsewhere(7)
    [day] = billed_days([Reading(BEGIN_MS, 100), Reading(BEGIN_MS + HOUR_MS, 83, booked)])
    assert day.drift == 0
    assert day.verdict == "agrees"
    assert booked == Booked(17, 10, 17), "an operator's word does not prove that Clay took it"
    assert Booked().elsewhere(-4) == Booked(-4, -4, 0)
