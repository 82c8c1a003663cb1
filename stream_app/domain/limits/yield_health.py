"""Detects that Clay finds a column much less often than before: a provider of Clay fails.

Clay takes each lead, answers and charges as always, so nothing else notices. A list of leads that
are hard to find looks the same in a count of all answers: after a list of which Clay knows 70 % may
come one of which it knows 20 %, and nothing is wrong. What tells the two apart is that a failing
provider changes the yield *within* a list. So answers are counted by list, which is the import of
the lead (all leads without an import are one list), and each list is compared with itself:

- A list's **base** is what it had until now. The answers after a **possible fall** are kept apart
  from it: a fall becomes possible with an answer that a level of half the base explains better, and
  is dismissed, and its answers join the base, as soon as the base explains all of them better
  (the CUSUM test of Page).
- It is **reported** when the likelihood ratio of two levels instead of one exceeds
  `e ** _EVIDENCE`, and the new level is at most `_SHARE` of the old one. The ratio knows how many
  answers the base has, so a small base proves little. A base that cannot prove a fall to half,
  because it is too small, learns from each answer.
- A **new list** has no base of its own. It begins with some answers at the mean level of the last
  lists, and with more of them the more alike those lists were: with 100 where all had the same
  level, so that a list that begins during the failure is reported, too, and with about ten where
  lists had 20 to 70 %, which proves nothing against a list of 20 %.

While a fall lasts, nothing is learned, and it is over when the average of about the last hundred
answers is back at three quarters of the base, or after a day, when the low level is taken for the
usual one.

**Limits.** A list of fewer than about a hundred answers, and leads of several lists that are
published without an import, are not told apart. If a list is sorted, so that the leads at its end
are harder to find, its end looks like a failure. A failure that begins before the base is large
enough (75 answers at 60 %, 330 at 20 %, 1,000 at 7 %) is learned as the level of its list. The
last three lists are kept, so of four that are answered in turn none is followed.
`benchmarks/yield_alarms.py` counts false alarms and delays.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from stream_app.domain.model.messages import AnsweredColumns
from stream_app.domain.model.numbers import Real, TimeMs, Whole
from stream_app.domain.model.text import count, percent

YIELD_FELL: Final = "yield_fell"  # the reason of the suspension that it may lead to
LASTS_MS: Final = 86_400_000
"""How long a fall is reported at most. Then the low level is the usual one."""
_EVIDENCE: Final = 14.5
_SHARE: Final = 0.6
_BACK: Final = 0.75
_LISTS: Final = 3
_MAX_BASE_ANSWERS: Final = 4_000  # a larger base is halved, so that it follows a slow change
_MAX_FALL_ANSWERS: Final = 1_000  # answers after which a change that is no fall joins the base
_LEARNED: Final = 50  # answers from which on a list says something about the next one
_FORGETS: Final = 0.1  # weight of the last list in the mean and variance of levels
_MAX_PRIOR_ANSWERS: Final = 100.0
_MIN_PRIOR_ANSWERS: Final = 2.0
_MIN_LEVEL: Final = 0.001  # no level is certain
_SMOOTHING: Final = 0.01  # weight of the last answer while a fall lasts
# Before anything is known, lists may have any level from 20 to 70 %, and more.
_FIRST_MEAN: Final = 0.45
_FIRST_VARIANCE: Final = 0.0625


class ListYield(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    omit_defaults=True,
    gc=False,
):
    """The answers to the leads of one list: 6 numbers.

    Attributes:
        id: A checksum of the import's name; 0 for leads without an import.
        answered: Answers of the base.
        filled: Those of them that have a value.
        since: Answers since a fall became possible; 0 if none is.
        since_filled: Those of them that have a value.
        credits: What the leads of these answers cost.
    """

    id: Whole
    answered: Real = 0
    filled: Real = 0
    since: Whole = 0
    since_filled: Whole = 0
    credits: Whole = 0


class ColumnYieldHealth(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    omit_defaults=True,
    gc=False,
):
    """What is known of a column: at most 24 numbers, of which 18 are those of three lists.

    Attributes:
        lists: The last lists, that of the last answer first.
        mean: The mean level of earlier lists.
        variance: The variance of these levels.
        fell_ms: When a fall was reported, epoch ms; 0 while none lasts.
        was: The level before it.
        now: The level since, which follows the answers.
        credits: What the leads of all answers since the fall have cost.
    """

    lists: tuple[ListYield, ...] = ()
    mean: Real = _FIRST_MEAN
    variance: Real = _FIRST_VARIANCE
    fell_ms: TimeMs = 0
    was: Real = 0
    now: Real = 0
    credits: Whole = 0


YieldHealth = dict[str, dict[str, ColumnYieldHealth]]
"""Destination -> column -> what is known of it."""


class Fall(msgspec.Struct, frozen=True):
    """A fall that lasts.

    Attributes:
        destination: The destination of the column.
        column: The column, as `yield` of the destination names it.
        since_ms: When it was reported, epoch ms.
        was: The level of its list before, from 0 to 1.
        now: The level since then.
        credits: What the leads of all answers since the fall have cost.
    """

    destination: str
    column: str
    since_ms: TimeMs
    was: Real
    now: Real
    credits: Whole

    @property
    def text(self) -> str:
        """The fall in words, with what it has cost until now."""
        return (
            f"Clay finds {self.column} for {percent(self.now, 0)} of the leads of "
            f"{self.destination}, and found it for {percent(self.was, 0)}: the leads since then "
            f"have cost {count(self.credits, 'credit')}"
        )


def record_answer(
    state: Mapping[str, dict[str, ColumnYieldHealth]],
    destination: str,
    answer: AnsweredColumns,
    list_id: int,
    credits_: int,
    now_ms: int,
) -> tuple[YieldHealth, list[Fall]]:
    """Return the state after an answer of Clay.

    Columns that the destination no longer names are forgotten.

    Args:
        state: What is known of all destinations of a lane.
        destination: That of the lead.
        answer: Which columns have a value.
        list_id: The list of the lead; 0 if it has no import.
        credits_: What the lead cost.
        now_ms: The time, epoch ms.

    Returns:
        The state, and the falls that this answer shows.
    """
    known = state.get(destination, {})
    columns: dict[str, ColumnYieldHealth] = {}
    told: list[Fall] = []
    for name in (*answer.filled, *answer.empty):
        before = known.get(name, ColumnYieldHealth())
        after = after_answer(before, list_id, name in answer.filled, credits_, now_ms)
        columns[name] = after
        if after.fell_ms and not before.fell_ms:
            told.append(_fall(destination, name, after))
    return {**state, destination: columns}, told


def falls(state: YieldHealth, now_ms: int) -> Iterator[Fall]:
    """Yield the falls that last."""
    for destination, columns in state.items():
        for name, column in columns.items():
            if column.fell_ms and now_ms - column.fell_ms < LASTS_MS:
                yield _fall(destination, name, column)


def accepted(state: YieldHealth, destination: str) -> YieldHealth:
    """Return the state after an operator has resumed a destination.

    The level since the fall is the usual one from now on.
    """
    columns = {
        name: _accepted(column) if column.fell_ms else column
        for name, column in state.get(destination, {}).items()
    }
    return {**state, destination: columns}


def recovered(state: YieldHealth, destination: str) -> YieldHealth:
    """Return the state after a probe has shown that a destination has its columns again."""
    columns = {
        name: _without_fall(column, _bases(column.lists)) if column.fell_ms else column
        for name, column in state.get(destination, {}).items()
    }
    return {**state, destination: columns}


def has_fallen_columns(state: YieldHealth, destination: str, answer: AnsweredColumns) -> bool:
    """Return True if an answer has a value in each column whose yield fell."""
    fell = {name for name, column in state.get(destination, {}).items() if column.fell_ms}
    return fell <= set(answer.filled)


def after_answer(
    column: ColumnYieldHealth,
    list_id: int,
    is_filled: bool,
    credits_: int,
    now_ms: int,
) -> ColumnYieldHealth:
    """Return what is known of a column after one answer."""
    if column.fell_ms and now_ms - column.fell_ms >= LASTS_MS:
        column = _accepted(column)
    if column.fell_ms:
        return _in_fall(column, is_filled, credits_)
    column = _with_list(column, list_id)
    current, *others = column.lists
    alike, level = _usual(column)
    answered = current.answered + alike
    filled = current.filled + alike * level
    base = filled / answered
    since = current.since + 1
    since_filled = current.since_filled + is_filled
    cost = current.credits + credits_
    # A level of half the base against the base.
    half = since_filled * _LN_HALF + (since - since_filled) * math.log((1 - base / 2) / (1 - base))
    proves = base * -_LN_HALF + (1 - base) * math.log((1 - base) / (1 - base / 2))
    if half <= 0 or since > _MAX_FALL_ANSWERS or answered * proves < _EVIDENCE:
        current = _joined(ListYield(list_id, current.answered, current.filled, since, since_filled))
        return msgspec.structs.replace(column, lists=(current, *others))
    current = ListYield(
        list_id,
        current.answered,
        current.filled,
        since,
        since_filled,
        cost,
    )
    column = msgspec.structs.replace(column, lists=(current, *others))
    if since_filled > _SHARE * base * since:
        return column
    if _two_levels(answered, filled, since, since_filled) < _EVIDENCE:
        return column
    now = since_filled / since
    return msgspec.structs.replace(column, fell_ms=now_ms, was=base, now=now, credits=cost)


_LN_HALF: Final = -math.log(2)


def _in_fall(column: ColumnYieldHealth, is_filled: bool, credits_: int) -> ColumnYieldHealth:
    """Return the column after an answer while a fall lasts."""
    now = column.now + _SMOOTHING * (is_filled - column.now)
    if now < _BACK * column.was:
        return msgspec.structs.replace(column, now=now, credits=column.credits + credits_)
    return _without_fall(column, _bases(column.lists))


def _bases(lists: tuple[ListYield, ...]) -> tuple[ListYield, ...]:
    """Return the lists without the answers since a possible fall.

    They say nothing about the level before it, nor about that after it.
    """
    return tuple(ListYield(known.id, known.answered, known.filled) for known in lists)


def _accepted(column: ColumnYieldHealth) -> ColumnYieldHealth:
    """Return the column with what it has now as its usual level."""
    lists = tuple(
        ListYield(known.id, known.since, known.since_filled) if known.since else known
        for known in column.lists
    )
    return _without_fall(column, lists)


def _without_fall(
    column: ColumnYieldHealth,
    lists: tuple[ListYield, ...],
) -> ColumnYieldHealth:
    return ColumnYieldHealth(lists, column.mean, column.variance)


def _joined(known: ListYield) -> ListYield:
    """Return the list with the answers since a possible fall as part of its base."""
    answered = known.answered + known.since
    filled = known.filled + known.since_filled
    size = 0.5 if answered > _MAX_BASE_ANSWERS else 1
    return ListYield(known.id, answered * size, filled * size)


def _with_list(column: ColumnYieldHealth, list_id: int) -> ColumnYieldHealth:
    """Return the column with this list in front. The one that is left out is learned from."""
    lists = column.lists
    if lists and lists[0].id == list_id:
        return column
    mine = next((known for known in lists if known.id == list_id), ListYield(list_id))
    others = tuple(known for known in lists if known.id != list_id)
    mean = column.mean
    variance = column.variance
    for left in others[_LISTS - 1 :]:
        mean, variance = _learned(mean, variance, left)
    return msgspec.structs.replace(
        column,
        lists=(mine, *others[: _LISTS - 1]),
        mean=mean,
        variance=variance,
    )


def _learned(mean: float, variance: float, known: ListYield) -> tuple[float, float]:
    """Return mean and variance of the levels with that of one more list."""
    if known.answered < _LEARNED:
        return mean, variance
    off = known.filled / known.answered - mean
    return (
        mean + _FORGETS * off,
        (1 - _FORGETS) * (variance + _FORGETS * off * off),
    )


def _usual(column: ColumnYieldHealth) -> tuple[float, float]:
    """Return with how many answers at which level the first list of a column begins.

    That is the beta distribution which has the mean and variance of the levels of other lists.
    """
    mean = column.mean
    variance = column.variance
    for other in column.lists[1:]:
        mean, variance = _learned(mean, variance, other)
    mean = min(max(mean, _MIN_LEVEL), 1 - _MIN_LEVEL)
    alike = mean * (1 - mean) / max(variance, 1e-9) - 1
    return min(max(alike, _MIN_PRIOR_ANSWERS), _MAX_PRIOR_ANSWERS), mean


def _two_levels(answered: float, filled: float, since: int, since_filled: int) -> float:
    """Return the logarithm of the likelihood of two levels against that of one."""
    one = (filled + since_filled) / (answered + since)
    return _gained(filled, answered, one) + _gained(since_filled, since, one)


def _gained(filled: float, answered: float, one: float) -> float:
    """Return how much more likely some answers are at their own level than at another one."""
    own = filled / answered
    return sum(
        many * math.log(part / at)
        for many, part, at in ((filled, own, one), (answered - filled, 1 - own, 1 - one))
        if many > 0
    )


def _fall(destination: str, name: str, column: ColumnYieldHealth) -> Fall:
    return Fall(destination, name, column.fell_ms, column.was, column.now, column.credits)
