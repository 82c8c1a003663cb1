"""Mutants that change nothing that anyone could see, with the reason: at most 15 of those that a seed draws."""

import re
from typing import Final

from tests.mutants.drawing import ROOT, Mutant

_TOKEN: Final = 'return urlsafe_b64decode(text + "=" * ({}len(text) % 4)).decode()'
_OWED: Final = "return -1 if self._owed.get(group, {}) >= 1.0 else PRIORITY[group]"
_REACHED: Final = "reached = max(self._at[log].next, before.get(log,{}))"
_CAUSES: Final = "return self.causes_after(topic, workspace, {}, MOST_CAUSES)[0]"
_ENOUGH: Final = ("ROWS | 1", "ROWS ^ 1", "ROWS << 1", "ROWS + 2")
_SLUG: Final = 'slug = _lower(unquote(match[1]) if "%" in match[{}] else match[1])'
_PUT: Final = (
    "while len(merged) {} _KEPT and merged[0] is not changed and (_is_done(merged[0]) or len(merged) > _MOST_KEPT):"
)
_QUEUED: Final = "if row.seq {} 1 and 0 < resolved.envelope.origin_ms <= row.at_ms - _WORTH_NOTING_MS:"
_NEXT_MONTH: Final = (
    "first_of_next = begin.replace(day=1) + timedelta(days={})",
    "length = ((first + timedelta(days={})).replace(day=1) - first).days",
)
_RECENT: Final = "return shown is not None and now_ms - shown.at_ms {} _VIEW_EVERY_MS"
_SLEEP: Final = "await asyncio.sleep(_VIEW_EVERY_MS / {})"
_NEEDS: Final = (
    "if set(self.needs()) {} set(self.keys):  # else the rows of the earlier holder showed that it needs more"
)
_TOO_OLD: Final = '_TOO_OLD: Final = Held("not_after", "its not_after passed before it was sent", {}, "expired")'
_SWEPT: Final = "self._swept = rows[-1][0] if len(rows) == _LOOKED_AT else {}"
_OF_LEAD: Final = "return int(events[{}].trace_id[:8], 16) < sampling.ratio * 2**32"
_PERIOD: Final = "repeats = any(secret[:-period] == secret[period:] for period in range({}, len(secret) // 2 + 1))"
_WHO: Final = "who = None if isinstance(lead, Unreadable) else identify(lead, cleaned={})"
_BAND: Final = "bands.append(Band(round(x, {}), round(max(width, _NARROWEST), {}), tone, text))"
_LAST: Final = "last_of_previous = day.replace(day=1) - timedelta(days={})"
_WAITED: Final = "more.update(waited_ms=row.at_ms {} before.at_ms, waited_as=before.state, sampled=row.sampled)"
_COUNTS: Final = "if kept.counts and kept.rank {} NO_LEAD"
_ENDS: Final = "return {} if held.reason == _IN_FLIGHT else held.until_ms"
_EPOCH: Final = (
    "fresh = breaker.Breaker(epoch=lane.breaker.epoch + {}, since_ms=now_ms, next_lease=lane.breaker.next_lease)"
)
_TIER: Final = "topic = self._plan.topics.wait(tier_s(replay, grace_ms) or replay.tiers_s[{}])"
_TLS: Final = "return ssl.create_default_context() if self.tls {} True else self.tls"
_BITS: Final = "bits, bit = self._partitions.pop(person, 0), {} << partition"
_NO_SUCH_TIME: Final = "no clock shows a time before its own zero"

_EQUIVALENT: Final[dict[tuple[str, str, str], str]] = {
    ("stream_app/domain/model/tokens.py", _TOKEN.format("-"), _TOKEN.format(sign)): (
        "base64 ignores padding beyond what it needs, and no text has a length of 1 modulo 4"
    )
    for sign in ("+", "")
} | {
    ("stream_app/domain/lead/fields.py", _SLUG.format("1"), _SLUG.format(" 0")): (
        "to unquote a slug without a percent sign changes nothing"
    ),
    ("stream_app/domain/limits/budget.py", "break", "continue"): (
        "soft limits rise, so behind one that is not reached none is"
    ),
    ("stream_app/board/read_model/board_query.py", "break", "continue"): (
        "groups come by their newest record, so behind one that is too old all are"
    ),
    ("stream_app/board/read_model/follow.py", _REACHED.format(" 0"), _REACHED.format(" -1")): (
        "no position of a log is below 0"
    ),
    ("stream_app/board/read_model/query.py", _CAUSES.format("0"), _CAUSES.format("-1")): (
        "SQLite skips no row for an offset below 0 either"
    ),
    ("stream_app/board/read_model/account.py", _COUNTS.format("!="), _COUNTS.format(">")): "it is the lowest rank",
    ("stream_app/board/read_model/on_kafka.py", _WHO.format("True"), _WHO.format("False")): (
        "a clean lead stays as it is when it is cleaned again"
    ),
    ("stream_app/board/pages/leads.py", _BAND.format(3, 3), _BAND.format(3, 4)): "nobody sees a part of so many",
    ("stream_app/board/pages/leads.py", _BAND.format(3, 3), _BAND.format(4, 3)): "nobody sees a part of so many",
    ("stream_app/domain/model/addresses.py", _PERIOD.format("1"), _PERIOD.format(" 0")): (
        "[:-0] is the empty text, which no secret is equal to"
    ),
    ("stream_app/domain/limits/budget.py", _LAST.format("1"), _LAST.format(" 2")): (
        "the last day but one is of that month, too"
    ),
    ("stream_app/domain/delivery/recorder.py", _WAITED.format("-"), _WAITED.format("%")): (
        "a lead does not wait for as long as time has lasted"
    ),
    ("stream_app/partition/deadlines.py", "if len(queue) == 1:", "if len(queue) <= 1:"): "an entry was just added",
    ("stream_app/partition/admission.py", "self._waiting_bytes = 0", "self._waiting_bytes = -1"): (
        "a byte of megabytes, of which each lead is counted when it comes and when it goes"
    ),
    ("stream_app/partition/lane_queue.py", "return 0", "return 1"): "a millisecond of a place in the line is not seen",
    ("stream_app/partition/lane_queue.py", _ENDS.format("0"), _ENDS.format("1")): _NO_SUCH_TIME,
    **{
        ("stream_app/board/read_model/store.py", "self._swept = -1", f"self._swept = {first}"): (
            "a sweep that has been at the last record begins again before the first one"
        )
        for first in ("+1", "- 0")
    },
    ("stream_app/board/read_model/store.py", _SWEPT.format("-1"), _SWEPT.format("- 2")): "no record is below 0",
    ("stream_app/domain/spans.py", _OF_LEAD.format("0"), _OF_LEAD.format(" -1")): "all events of a lead have its trace",
    ("stream_app/partition/lane_queue.py", _OWED.format("0.0"), _OWED.format("-1.0")): (
        "a group that is owed nothing is below 1 either way"
    ),
    ("stream_app/domain/delivery/recorder.py", _QUEUED.format("=="), _QUEUED.format("<=")): (
        "the first event has the number 1"
    ),
    **{
        ("stream_app/domain/limits/budget.py", line.format("32"), line.format(days)): (
            "from 31 to 58 days after the first of a month lies the next one"
        )
        for line in _NEXT_MONTH
        for days in (" 31", " 33")
    },
    ("stream_app/domain/limits/budget.py", _PUT.format(">"), _PUT.format("is not")): (
        "fewer than are kept are only the changed period, at which it stops anyway"
    ),
    ("stream_app/domain/limits/budget.py", _PUT.format(">"), _PUT.format("!=")): (
        "fewer than are kept are only the changed period, at which it stops anyway"
    ),
    ("stream_app/partition/lane_queue.py", "self._fired_at_ms = 0", "self._fired_at_ms = 1"): _NO_SUCH_TIME,
    ("stream_app/partition/lane_queue.py", "self._fired_at_ms = 0", "self._fired_at_ms = -1"): _NO_SUCH_TIME,
    ("stream_app/cache/redis.py", "self._paused_until_s = 0.0", "self._paused_until_s = -1.0"): _NO_SUCH_TIME,
    ("stream_app/partition/lanes.py", _SLEEP.format("1000"), _SLEEP.format("1001")): (
        "a view that is published a millisecond sooner is as true"
    ),
    ("stream_app/partition/lanes.py", _RECENT.format("<"), _RECENT.format("<=")): (
        "a view that is published a second later is as true"
    ),
    ("stream_app/partition/in_flight.py", _NEEDS.format("<="), _NEEDS.format("==")): (
        "a lock may keep a key that it no longer needs, or ask again for the others"
    ),
    ("stream_app/partition/admission.py", _TOO_OLD.format("0"), _TOO_OLD.format("1")): (
        "a lead that is too old ends, so that nobody asks when its hold does"
    ),
    ("stream_app/domain/lane/overrides.py", _EPOCH.format("1"), _EPOCH.format("2")): "epochs are only told apart",
    (
        "stream_app/partition/lead.py",
        _TIER.format("0"),
        _TIER.format(" 1"),
    ): "each grace has a tier: it is a second at least",
    ("stream_app/domain/dead_letter/replay.py", _BITS.format("1"), _BITS.format(" 2")): "bits are only told apart",
    ("stream_app/clay/egress.py", _TLS.format("is"), _TLS.format("==")): "it is a context or True",
    ("stream_app/kafka/takeover/steps.py", "started_ms: int = -1", "started_ms: int = - 0"): (
        "of an id that Kafka does not know only the state is looked at"
    ),
}
"""By file, line, and the line as it is changed."""

_TUNING: Final[dict[str, dict[str, str]]] = {
    "a second or a millisecond more or less of a wait delays a step, and changes none": {
        "partition/admission.py": "_RECORD_HOLD_AFTER_MS",
        "partition/commits.py": "LONGEST_PAUSE_S",
        "partition/deadlines.py": "_AGAIN_MS",
        "partition/lane_queue.py": "_LONGEST_TIMER_S",
        "partition/lanes.py": "_LOOK_EVERY_S",
        "partition/owner.py": "_LOOK_EVERY_S",
        "partition/timeout.py": "_LONGEST_SLEEP_S _RETRY_AFTER_S _LISTENED_EVERY_MS",
        "clay/client.py": "_HOST_WITHIN_S",
        "cache/filler.py": "_TRY_AGAIN_S",
        "cache/redis.py": "_LONGEST_PAUSE_S",
        "board/read_model/follow.py": "_ANSWER_WITHIN_S",
        "board/read_model/on_kafka.py": "_RESULT_WITHIN_S _SEARCH_WITHIN_S _BUSY_S",
    },
    "how much is done in one go bounds memory and pauses, and changes no result": {
        "domain/callback/body.py": "_CHEAP_CHARACTERS",
        "partition/deadlines.py": "_SLICE",
        "partition/in_flight.py": "_AHEAD _PAUSE_EVERY _MAX_RELEASED",
        "partition/owner.py": "_READ",
        "partition/rows.py": "_NEXT_LOOK_MS _LOOKED_AT",
        "partition/runner.py": "_UNFINISHED",
        "partition/timeout.py": "_BATCH",
        "cache/filler.py": "MOST_ENTRIES MOST_BYTES MOST_RESULTS _PIECE",
        "cache/redis.py": "_CONNECTIONS",
        "board/read_model/account.py": "_DELETED_AT_ONCE",
        "board/read_model/follow.py": "_MOST_RECORDS _MOST_AT_ONCE _FETCH_BYTES _FETCH_ALL_BYTES",
        "board/read_model/on_kafka.py": "_MOST_RECORDS _MOST_AT_ONCE",
        "board/read_model/store.py": "_LOOKED_AT _CACHE_KIB _WAL_PAGES",
    },
    "one more or less of hundreds that are kept or answered is no promise": {
        "board/read_model/history.py": "MOST_CHANGES MOST_IMPORTS",
        "board/read_model/query.py": "MOST_CAUSES",
    },
}
"""By reason and file: numbers that only tune, none below 3. A test that knew one exactly would only repeat it."""


def why_equivalent(mutant: Mutant) -> str:
    """Return why nobody could see the mutant; '' if one could."""
    if reason := _EQUIVALENT.get(mutant.key):
        return reason
    if mutant.operator in ("NumberReplacer", "RemoveDecorator"):
        decorator = (ROOT / mutant.path).read_text().splitlines()[mutant.lines.start - 1]
        if decorator.startswith(("@cache", "@lru_cache")) and mutant.before in ("", decorator):
            return "what a function remembers, and how much, changes no answer"
    if mutant.after in (mutant.before.replace("ROWS + 1", more) for more in _ENOUGH):
        return "a page asks for more rows than it shows only to know whether there is another one"
    one_column = mutant.before.startswith("return None if row is None else")
    if one_column and mutant.after == mutant.before.replace("row[0]", "row[ -1]"):
        return "the row of such a query has one column"
    name, path = mutant.before.partition(" ")[0].partition(":")[0], mutant.path.removeprefix("stream_app/")
    if mutant.operator != "NumberReplacer":
        return ""
    return next((reason for reason, files in _TUNING.items() if name in files.get(path, "").split()), "")


def outdated() -> list[str]:
    """Return the entries whose line is gone."""
    lines = [(path, re.escape(before)) for path, before, _ in _EQUIVALENT]
    for files in _TUNING.values():
        lines += [(f"stream_app/{path}", rf"^{name}\b.* = ") for path, names in files.items() for name in names.split()]
    return [f"{path} has no {line}" for path, line in lines if not re.search(line, (ROOT / path).read_text(), re.M)]
