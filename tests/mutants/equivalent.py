"""Mutants that change nothing that anyone could see, with the reason: at most 15 of those that a
seed draws.
"""

import re
from typing import Final

from tests.mutants.drawing import ROOT, Mutant

_ENOUGH: Final = ("ROWS | 1", "ROWS ^ 1", "ROWS << 1", "ROWS + 2")

_EQUIVALENT: Final[dict[str, list[tuple[str, ...]]]] = {
    "what is searched for is not ASCII": [
        ("client/results/export.py", "text if text.isascii() else", "text if (False) else"),
    ],
    "neither a sum nor the smaller or larger of two depends on their order": [
        (
            "domain/limits/suspension.py",
            "no_later(state.lease_until_ms, now_ms, lease_ms)",
            "(no_later(state.lease_until_ms, lease_ms, now_ms))",
        ),
        (
            "partition/commits.py",
            "min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures - 2, 10))",
            "(min(FIRST_PAUSE_S * 2.0 ** min(self.failures - 2, 10), MAX_PAUSE_S))",
        ),
        (
            "domain/limits/concurrency.py",
            "min(MIN_LIMIT, max_limit)",
            "(min(max_limit, MIN_LIMIT))",
        ),
        (
            "domain/limits/rate.py",
            "max(sent / (now_ms - state.limited_ms), (sent - policy.burst) / state.quiet_ms)",
            "(max((sent - policy.burst) / state.quiet_ms, sent / (now_ms - state.limited_ms)))",
        ),
        (
            "domain/model/text.py",
            "max(width, len(indent) + 1)",
            "(max(len(indent) + 1, width))",
        ),
    ],
    "a status below 300 was answered for before": [
        ("domain/model/outcome.py", "300 <= http_status < 500", "299 <= http_status < 500"),
    ],
    "only a debugger looks at a repr": [
        ("partition/in_flight.py", "repr=False", "repr=True"),
        ("partition/runner.py", "repr=False", "repr=True"),
    ],
    "no result is of the first millisecond of 1970": [
        (
            "client/results/export.py",
            "since_ms: int = 0",
            "since_ms: int = 1",
            "since_ms: int = -1",
        ),
    ],
    "a level is one more than that of the value around it": [
        ("domain/model/seen.py", "level < _MAX_LEVELS", "level != _MAX_LEVELS"),
    ],
    "a key has no more than three parts": [
        ("client/people.py", "len(parts) < 3", "len(parts) != 3", "len(parts) is not 3"),
    ],
    "what a function remembers changes no answer": [
        ("partition/open_runs.py", "self._routines[prefix] = routine", "pass"),
    ],
    "it grows by one": [
        ("board/read_model/on_kafka.py", "searched >= _MAX_RECORDS", "searched == _MAX_RECORDS"),
        (
            "client/results/export.py",
            "len(self._fields) < MAX_FIELD_COLUMNS",
            "len(self._fields) != MAX_FIELD_COLUMNS",
        ),
    ],
    "only the type knows of none": [
        (
            "client/doctor/checks.py",
            'settings.gateway.public_url or ""',
            "(settings.gateway.public_url)",
        ),
        (
            "client/doctor/checks.py",
            'settings.trace.endpoint or ""',
            "(settings.trace.endpoint)",
        ),
        (
            "client/doctor/gateways.py",
            'settings.gateway.public_url or ""',
            "(settings.gateway.public_url)",
        ),
        ("client/people.py", 'is_of_person(lead_id or "")', "is_of_person((lead_id))"),
    ],
    "such a callback is refused before its time is looked at": [
        (
            "client/doctor/gateways.py",
            "callback_of(body, workspace, alias, 0)",
            "callback_of(body, workspace, alias, 1)",
            "callback_of(body, workspace, alias, -1)",
        ),
    ],
    "nobody asks for the number of the header's line": [
        (
            "client/publish/rows.py",
            "feed.row[0][0], header",
            "feed.row[0][ 1], header",
            "feed.row[ -1][0], header",
        ),
    ],
    "a length has room for any lead with three bytes, too": [
        (
            "client/publish/leads.py",
            "_LENGTH_BYTES: Final = 4",
            "_LENGTH_BYTES: Final = 5",
            "_LENGTH_BYTES: Final = 3",
        ),
    ],
    "the writer ends lines itself, and the system has the same character for it": [
        (
            "board/uploads.py",
            'io.TextIOWrapper(self._rejected, "utf-8", newline="")',
            "(io.TextIOWrapper(self._rejected, 'utf-8'))",
        ),
    ],
    "a millisecond more or less of a minute is not seen": [
        (
            "client/doctor/round_trip.py",
            "Clock().now_ms() + int((within_s + _MARGIN_S) * 1000)",
            "(Clock().now_ms() + int((within_s + _MARGIN_S) * 1000) + 1)",
        ),
    ],
    "base64 ignores padding beyond what it needs, and no text has a length of 1 modulo 4": [
        ("domain/model/tokens.py", "(-len(text)", "(+len(text)", "(len(text)"),
    ],
    "to unquote a slug without a percent sign changes nothing": [
        ("domain/lead/fields.py", "in match[1] else", "in match[ 0] else"),
    ],
    "soft limits rise, so behind one that is not reached none is": [
        ("domain/limits/budget.py", "break", "continue"),
    ],
    "groups come by their newest record, so behind one that is too old all are": [
        ("board/read_model/board_query.py", "break", "continue"),
    ],
    "no position of a log is below 0": [
        (
            "client/lanes/views.py",
            "(names.commands, number), 0)",
            "(names.commands, number), -1)",
        ),
        ("board/read_model/follow.py", "get(log, 0)", "get(log, -1)"),
    ],
    "SQLite skips no row for an offset below 0 either": [
        ("board/read_model/query.py", "workspace, 0, MAX_CAUSES", "workspace, -1, MAX_CAUSES"),
    ],
    "it is the lowest rank": [
        (
            "board/read_model/account.py",
            "counts and kept.rank != NO_LEAD",
            "counts and kept.rank > NO_LEAD",
        ),
    ],
    "a clean lead stays as it is when it is cleaned again": [
        ("board/read_model/on_kafka.py", "cleaned=True", "cleaned=False"),
    ],
    "nobody sees a part of so many": [
        ("board/pages/leads.py", "_MIN_WIDTH_PERCENT), 3)", "_MIN_WIDTH_PERCENT), 4)"),
        ("board/pages/leads.py", "Band(round(x, 3)", "Band(round(x, 4)"),
    ],
    "[:-0] is the empty text, which no secret is equal to": [
        ("domain/model/addresses.py", "range(1, len(secret)", "range( 0, len(secret)"),
    ],
    "the last day but one is of that month, too": [
        ("domain/limits/budget.py", "(day=1) - timedelta(days=1)", "(day=1) - timedelta(days= 2)"),
    ],
    "a lead does not wait for as long as time has lasted": [
        (
            "domain/delivery/recorder.py",
            "ms=row.at_ms - before.at_ms",
            "ms=row.at_ms % before.at_ms",
        ),
    ],
    "an entry was just added": [("partition/deadlines.py", "len(queue) == 1", "len(queue) <= 1")],
    "a byte of megabytes, of which each lead is counted when it comes and when it goes": [
        ("partition/lane_queue.py", "self.size = 0", "self.size = -1"),
    ],
    "no clock shows a time before its own zero": [
        ("partition/patience.py", "return 0 if held", "return 1 if held"),
        (
            "partition/lane_timer.py",
            "self._fired_at_ms = 0",
            "self._fired_at_ms = 1",
            "self._fired_at_ms = -1",
        ),
        ("cache/redis.py", "self._paused_until_s = 0.0", "self._paused_until_s = -1.0"),
    ],
    "a millisecond of a place in the line is not seen": [
        ("partition/patience.py", "return 0", "return 1"),
    ],
    "a sweep that has been at the last record begins again before the first one": [
        ("board/read_model/store.py", "self._swept = -1", "self._swept = +1", "self._swept = - 0"),
    ],
    "no record is below 0": [
        ("board/read_model/store.py", "_LOOKED_AT else -1", "_LOOKED_AT else - 2"),
    ],
    "all events of a lead have its trace": [
        ("domain/spans.py", "events[0].trace_id", "events[ -1].trace_id"),
    ],
    "a group that is owed nothing is below 1 either way": [
        ("partition/lane_queue.py", "get(group, 0.0)", "get(group, -1.0)"),
    ],
    "the first event has the number 1": [
        ("domain/delivery/recorder.py", "row.seq == 1 and 0", "row.seq <= 1 and 0"),
    ],
    "from 31 to 58 days after the first of a month lies the next one": [
        (
            "domain/limits/budget.py",
            "+ timedelta(days=32)",
            "+ timedelta(days= 31)",
            "+ timedelta(days= 33)",
        ),
    ],
    "fewer than are kept are only the changed period, at which it stops anyway": [
        (
            "domain/limits/budget.py",
            "len(merged) > _KEPT",
            "len(merged) is not _KEPT",
            "len(merged) != _KEPT",
        ),
    ],
    "a view that is published a millisecond sooner is as true": [
        ("partition/lanes.py", "_VIEW_EVERY_MS / 1000", "_VIEW_EVERY_MS / 1001"),
    ],
    "a view that is published a second later is as true": [
        ("partition/lanes.py", "shown.at_ms < _VIEW_EVERY_MS", "shown.at_ms <= _VIEW_EVERY_MS"),
    ],
    "a lock may keep a key that it no longer needs, or ask again for the others": [
        ("partition/key_locks.py", "self.needs()) <= set", "self.needs()) == set"),
    ],
    "a lead that is too old ends, so that nobody asks when its hold does": [
        ("partition/admission.py", 'it was sent", 0', 'it was sent", 1'),
    ],
    "epochs are only told apart": [("domain/lane/overrides.py", "epoch + 1", "epoch + 2")],
    "each grace has a tier: it is a second at least": [
        (
            "partition/conclusions.py",
            "replay.tiers_s[0]",
            "replay.tiers_s[ 1]",
            "replay.tiers_s[ -1]",
        ),
    ],
    "bits are only told apart": [
        ("domain/dead_letter/replay.py", "bit = 1 << partition", "bit =  2 << partition"),
    ],
    "it is a context or True": [("clay/__init__.py", "self.tls is True", "self.tls == True")],
    "of an id that Kafka does not know only the state is looked at": [
        (
            "kafka/takeover/steps.py",
            "started_ms: int = -1",
            "started_ms: int = - 0",
            "started_ms: int = ~1",
        ),
    ],
    "a part that begins at the last characters is too short to be one": [
        (
            "domain/model/seen.py",
            "range(len(name) - _SHORT)",
            "range((len(name) - _SHORT + 1))",
        ),
    ],
    "a copy that is equal is as good": [
        ("domain/lane/lane.py", "if lane.destinations[alias] is health", "if (False)"),
    ],
    "a lane that is only looked at sends nothing whose age could count": [
        ("domain/views/lane_now.py", "destination, now_ms, 0, hot", "destination, now_ms, -1, hot"),
    ],
    "dead letters are looked for where there are none": [
        (
            "board/read_model/account.py",
            "self._has_letters = False",
            "self._has_letters = True",
        ),
    ],
    "all changes have as many columns": [
        ("board/read_model/account.py", "len(changes[0])", "len(changes[ -1])"),
    ],
    "a checksum may begin with any number that follows from the record": [
        (
            "board/read_model/store.py",
            "record.timestamp & 0xFFFFFFFF",
            "record.timestamp - 0xFFFFFFFF",
        ),
    ],
    "a whole number of seconds is equal to a number with a point": [
        ("board/site.py", "moment.now_ms // 1000 //", "moment.now_ms / 1000 //"),
    ],
}
"""By reason: file, a part of its line, and what that part may be as well."""

_TUNING: Final[dict[str, dict[str, str]]] = {
    "a second or a millisecond more or less of a wait delays a step, and changes none": {
        "partition/admission.py": "_RECORD_HOLD_AFTER_MS",
        "partition/announcements.py": "_PAUSES_S",
        "partition/commits.py": "MAX_PAUSE_S",
        "partition/deadlines.py": "_AGAIN_MS",
        "partition/lane_timer.py": "_MAX_TIMER_S",
        "partition/lanes.py": "_LOOK_EVERY_S",
        "partition/owner.py": "_LOOK_EVERY_S",
        "partition/results.py": "_GONE_AGAIN_MS _MAX_HOLD_MS",
        "partition/timeout.py": "_MAX_SLEEP_S _RETRY_AFTER_S _LISTENED_EVERY_MS",
        "clay/client.py": "_HOST_WITHIN_S",
        "cache/filler.py": "_TRY_AGAIN_S",
        "cache/redis.py": "_MAX_PAUSE_S",
        "client/doctor/checks.py": "_WITHIN_S",
        "client/doctor/gateways.py": "_WITHIN_S",
        "client/results/lookup.py": "_WITHIN_S _ANSWERS_WITHIN_S",
        "client/messages.py": "_WITHIN_S _IN_ALL_S",
        "client/doctor/round_trip.py": "_CANCELLED_WITHIN_S",
        "board/uploads.py": "_STOP_WITHIN_S",
        "board/read_model/follow.py": "_ANSWER_WITHIN_S",
        "board/read_model/on_kafka.py": "_RESULT_WITHIN_S _SEARCH_WITHIN_S _BUSY_S",
    },
    "how much is done in one go bounds memory and pauses, and changes no result": {
        "domain/callback/body.py": "_CHEAP_CHARACTERS",
        "partition/deadlines.py": "_SLICE",
        "partition/places.py": "_AHEAD _PAUSE_EVERY _MAX_RELEASED",
        "partition/owner.py": "_READ",
        "partition/rows.py": "_NEXT_LOOK_MS _LOOKED_AT",
        "partition/runner.py": "RECORDS_FOR_A_POST",
        "partition/timeout.py": "_BATCH",
        "cache/filler.py": "MAX_ENTRIES MAX_CACHE_BYTES MAX_RESULTS _PIECE",
        "cache/redis.py": "_CONNECTIONS",
        "client/books/compare.py": "_BATCH _CACHE_KIB",
        "client/books/read.py": "_FETCH_BYTES",
        "gateway/holding.py": "_AT_ONCE",
        "client/publish/leads.py": "_IN_MEMORY_BYTES",
        "client/results/export.py": "_CACHE_KIB",
        "client/publish/send.py": "BATCH_BYTES MAX_UNDER_WAY",
        "board/uploads.py": "_ITEMS_A_TURN _CHUNK_BYTES",
        "board/read_model/account.py": "_DELETED_AT_ONCE",
        "board/read_model/follow.py": (
            "_MAX_RECORDS _MAX_POLLS_AT_ONCE _FETCH_BYTES _FETCH_ALL_BYTES"
        ),
        "board/read_model/on_kafka.py": "_MAX_RECORDS _MAX_RECORDS_AT_ONCE",
        "board/read_model/store.py": "_LOOKED_AT _CACHE_KIB _WAL_PAGES",
    },
    "one more or less of hundreds that are kept or answered is no promise": {
        "board/read_model/history.py": "MAX_CHANGES MAX_IMPORTS",
        "board/read_model/query.py": "MAX_CAUSES",
    },
}
"""By reason and file: numbers that only tune, none below 3. A test that knew one exactly would only
repeat it.
"""


def why_equivalent(mutant: Mutant) -> str:
    """Return why nobody could see the mutant; '' if one could."""
    path, before, after = mutant.key
    path = path.removeprefix("stream_app/")
    for reason, changes in _EQUIVALENT.items():
        for file, part, *others in changes:
            if file == path and after in [before.replace(part, other, 1) for other in others]:
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
    name = mutant.before.partition(" ")[0].partition(":")[0]
    if mutant.operator != "NumberReplacer":
        return ""
    return next(
        (reason for reason, files in _TUNING.items() if name in files.get(path, "").split()),
        "",
    )


def outdated() -> list[str]:
    """Return the entries whose line is gone."""
    parts = [
        (path, re.escape(part)) for changes in _EQUIVALENT.values() for path, part, *_ in changes
    ]
    for files in _TUNING.values():
        parts += [
            (path, rf"^{name}\b.* = ") for path, names in files.items() for name in names.split()
        ]
    return [
        f"{path} has no {part}"
        for path, part in parts
        if not re.search(part, (ROOT / "stream_app" / path).read_text(), re.M)
    ]
