"""A fall of the yield is told soon, and a list that is hard to find is none."""

from collections.abc import Callable
from random import Random

import msgspec
import pytest

from benchmarks.yield_alarms import FALLS, delay, false_alarms
from stream_app.domain.limits import yield_health
from stream_app.domain.limits.yield_health import (
    LASTS_MS,
    ColumnYieldHealth,
    Fall,
    YieldHealth,
    accepted,
    falls,
    has_fallen_columns,
    record_answer,
    recovered,
)
from stream_app.domain.model.messages import AnsweredColumns

HISTORIES = 5_000
HAS = AnsweredColumns(("work_email",))
LACKS = AnsweredColumns((), ("work_email",))
NOW_MS = 1_796_083_139_000


@pytest.mark.parametrize(("before", "after", "within"), FALLS)
def test_a_fall_is_told_within_so_many_answers(before: float, after: float, within: int) -> None:
    told = [delay(seed, before, after) for seed in range(200)]
    assert min(told) > 0, "nothing was told before the fall"
    assert sum(many <= within for many in told) >= 0.99 * len(told), sorted(told)[-5:]


def test_quiet_histories_have_few_false_alarms() -> None:
    """One day each, with lists of 20 to 70 %. The long test below has more and larger lists."""
    alarms = sum(false_alarms(seed, days=1, largest=300) for seed in range(HISTORIES))
    assert alarms <= HISTORIES / 1_000


@pytest.mark.long
def test_quiet_days_have_few_false_alarms() -> None:
    days = 4
    alarms = sum(false_alarms(seed, days) for seed in range(HISTORIES))
    assert alarms <= HISTORIES * days / 1_000


def answers(
    state: YieldHealth,
    share: float,
    many: int,
    list_id: int = 1,
    at_ms: int = NOW_MS,
) -> YieldHealth:
    """The state after so many answers, with values spread evenly."""
    for number in range(many):
        has = int((number + 1) * share) > int(number * share)
        state, _ = record_answer(state, "people", HAS if has else LACKS, list_id, 6, at_ms)
    return state


def fallen() -> YieldHealth:
    return answers(answers({}, 0.6, 1_000), 0.2, 100)


def test_a_fall_says_what_it_was_is_and_has_cost() -> None:
    state = answers({}, 0.6, 1_000)
    told = []
    for number in range(1, 101):
        state, news = record_answer(state, "people", HAS if number % 5 == 0 else LACKS, 1, 6, 7)
        told += [(number, fall) for fall in news]
    ((number, fall),) = told
    assert number < 100
    assert fall.destination == "people"
    assert fall.column == "work_email"
    assert fall.since_ms == 7
    assert fall.was == pytest.approx(0.6, abs=0.02)
    assert fall.now == pytest.approx(0.2, abs=0.05)
    assert 6 * number - 30 <= fall.credits <= 6 * number
    (later,) = falls(state, NOW_MS - NOW_MS + 7)
    assert later.credits == fall.credits + 6 * (100 - number)
    assert fall.text == (
        f"Clay finds work_email for {fall.now * 100:.0f} % of the leads of people, and found it "
        f"for 60 %: the leads since then have cost {fall.credits:,} credits"
    )


def test_a_fall_is_told_at_six_tenths_of_the_usual_level_at_most() -> None:
    usual = answers({}, 0.6, 1_000)
    told: list[ColumnYieldHealth] = []
    for seed in range(60):
        rng = Random(seed)
        state = usual
        for _ in range(400):
            has = rng.random() < 0.6 * 0.62
            state, _ = record_answer(state, "people", HAS if has else LACKS, 1, 6, NOW_MS)
            column = state["people"]["work_email"]
            if column.fell_ms:
                told.append(column)
                break
    assert len(told) > 20
    assert max(column.now / column.was for column in told) <= 0.6


def test_a_list_that_is_hard_to_find_is_no_fall_where_lists_differ() -> None:
    state: YieldHealth = {}
    for number, share in enumerate((0.65, 0.3, 0.5, 0.7, 0.4, 0.6, 0.25, 0.7), 1):
        state = answers(state, share, 400, number)
    assert list(falls(answers(state, 0.2, 1_000, 99), NOW_MS)) == []


def test_a_failure_that_begins_with_a_new_list_is_told_where_lists_are_alike() -> None:
    state: YieldHealth = {}
    for number in range(1, 41):
        state = answers(state, 0.6, 400, number)
    assert list(falls(state, NOW_MS)) == []
    assert len(list(falls(answers(state, 0.2, 100, 99), NOW_MS))) == 1


def test_leads_without_an_import_are_one_list() -> None:
    state = answers(answers({}, 0.6, 1_000, 0), 0.2, 100, 0)
    assert len(list(falls(state, NOW_MS))) == 1


def test_lists_beside_each_other_are_compared_each_with_itself() -> None:
    state: YieldHealth = {}
    for _ in range(300):
        state = answers(answers(state, 0.6, 5, 1), 0.2, 5, 2)
    assert list(falls(state, NOW_MS)) == []


def test_a_fall_is_over_when_the_yield_is_back() -> None:
    state = answers(fallen(), 0.6, 200)
    assert list(falls(state, NOW_MS)) == []
    assert len(list(falls(answers(state, 0.2, 100), NOW_MS))) == 1, "another one is told again"


def test_a_fall_of_a_day_is_the_usual_level() -> None:
    state = fallen()
    assert list(falls(state, NOW_MS + LASTS_MS)) == []
    after = answers(state, 0.2, 1_000, at_ms=NOW_MS + LASTS_MS)
    assert list(falls(after, NOW_MS + LASTS_MS)) == []


@pytest.mark.parametrize(("ends", "falls_again"), [(accepted, False), (recovered, True)])
def test_an_operator_accepts_the_low_level_and_a_probe_does_not(
    ends: Callable[[YieldHealth, str], YieldHealth],
    falls_again: bool,
) -> None:
    state = ends(fallen(), "people")
    assert list(falls(state, NOW_MS)) == []
    assert len(list(falls(answers(state, 0.2, 400), NOW_MS))) == falls_again


@pytest.mark.parametrize(("after_ms", "many"), [(LASTS_MS - 1, 1), (LASTS_MS, 0)])
def test_the_first_answer_a_day_after_a_fall_forgets_it(after_ms: int, many: int) -> None:
    state = answers(fallen(), 0.2, 1, at_ms=NOW_MS + after_ms)
    assert len(list(falls(state, NOW_MS))) == many


def test_a_probe_must_have_each_column_that_fell() -> None:
    state = fallen()
    assert has_fallen_columns(state, "people", HAS)
    assert not has_fallen_columns(state, "people", LACKS)
    assert has_fallen_columns({}, "people", LACKS)


def test_a_column_is_at_most_24_numbers_and_a_removed_one_is_forgotten() -> None:
    state: YieldHealth = {}
    for number in range(1, 9):
        state = answers(state, 0.5, 60, number)
    numbers = msgspec.json.encode(state["people"]["work_email"])
    assert len(_flat(msgspec.json.decode(numbers))) == 24
    assert len(numbers) < 300
    assert msgspec.json.decode(numbers, type=ColumnYieldHealth) == state["people"]["work_email"]
    state, _ = record_answer(state, "people", AnsweredColumns(("phone",)), 9, 6, NOW_MS)
    assert list(state["people"]) == ["phone"]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_column_that_is_never_or_always_there_raises_nothing(share: float) -> None:
    state: YieldHealth = {}
    for number in range(1, 400):
        state = answers(state, share, 60, number)
    assert list(falls(state, NOW_MS)) == []
    assert yield_health.YIELD_FELL == "yield_fell"


def _flat(value: object) -> list[object]:
    if isinstance(value, list):
        return [number for part in value for number in _flat(part)]
    return [value]


def test_the_words_of_a_fall_count_one_credit() -> None:
    fall = Fall("people", "work_email", NOW_MS, 0.6, 0.2, 1)
    assert fall.text.endswith("the leads since then have cost 1 credit")
