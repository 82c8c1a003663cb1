"""The pages of dead letters: all causes, the dead letters of one, the replay of dead letters."""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final, Literal, cast, get_args

from stream_app.board.access import AccessRefused
from stream_app.board.charts import Stack, spark, stack
from stream_app.board.formats import CAUSE_WORDS, plan_path
from stream_app.board.requests import Query, after_of, number, one_of, span_of, word, words
from stream_app.board.site import HOUR_S, ROWS, Moment, PageData, Site, Tone
from stream_app.client.results.answers import Cause
from stream_app.domain.books.records import STATE_MEANING, STATES, DeadLetterState
from stream_app.domain.dead_letter.causes import Filter, LetterSource
from stream_app.domain.dead_letter.orders import PLAN_LIFE_MS, ReplayPhase, ReplayProgress

_TONES: Final[dict[ReplayPhase, Tone]] = {
    "running": "ok",
    "stopped": "warn",
    "done": "idle",
    "refused": "bad",
}
_SILENT_MS: Final = 60_000
_REPLAY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def replay_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page. `asked`: the id of a command that was sent from it; '' if none.

    Raises:
        AccessRefused: It cannot be the id of a replay.
    """
    replay = word(query, "replay")
    asked = word(query, "asked")
    if not _REPLAY_ID.fullmatch(replay):
        raise AccessRefused(
            404,
            "unknown_replay",
            "There is no such replay: the page Dead letters lists all",
        )
    progress = site.queries.replay(replay)
    if progress is None:  # no replay process has answered
        return {"id": replay, "progress": None, "life_min": PLAN_LIFE_MS // 60_000}
    running = progress.state == "running"
    return {
        "id": replay,
        "progress": progress,
        "tone": _TONES[progress.state],
        "share": share_of(progress),
        # The command line that selects the same dead letters.
        "command": f"stream-app dlq list {options_of(progress.plan.source, progress.plan.filter)}",
        # True while a command that was sent from this page is not applied yet.
        "waits": bool(asked)
        and asked not in progress.commands
        and progress.state in ("running", "stopped"),
        "silent": running and moment.now_ms - progress.updated_at_ms > _SILENT_MS,
    }


def share_of(replay: ReplayProgress) -> float:
    """Return the percent of the dead letters that were sent or refused."""
    total = replay.total or replay.plan.dead_letters
    return round(min(100.0, (replay.sent + replay.refused) / total * 100), 2) if total else 0.0


def filter_of(
    kind: str,
    reason: str,
    workspace: str,
    destination: str,
    import_id: str = "",
) -> Filter:
    """Return what selects the dead letters with these words; '' for any."""

    def only(value: str) -> frozenset[str]:
        return frozenset({value} if value else ())

    return Filter(
        kinds=only(kind),
        reasons=only(reason),
        workspaces=only(workspace),
        destinations=only(destination),
        imports=only(import_id),
    )


def options_of(
    source: LetterSource,
    wanted: Filter,
    *,
    uncertain: bool = False,
    limit: int | None = None,
) -> str:
    """Return the options on the command line that select the same dead letters."""
    options = ["--from", source]
    for option, values in (
        ("--disposition", wanted.kinds),
        ("--reason", wanted.reasons),
        ("--status", wanted.statuses),
        ("--workspace", wanted.workspaces),
        ("--destination", wanted.destinations),
        ("--lead", wanted.leads),
        ("--import", wanted.imports),
    ):
        for value in sorted(map(str, values)):
            options += [option, value]
    options += ["--uncertain"] if uncertain else []
    options += ["--limit", str(limit)] if limit else []
    return shlex.join(options)


DeadLetterTopic = Literal["dlq", "parked"]

MAX_REPLAYS: Final = 10
_COLOURS: Final = ("failed", "refused", "enriched", "cache", "nodata")
"""CSS classes of the most frequent causes; the last one is for all others."""


def which_of(query: Query) -> DeadLetterTopic:
    """Return the topic that an address names."""
    return cast(DeadLetterTopic, one_of(query, "from", get_args(DeadLetterTopic)) or "dlq")


def cause_of(query: Query) -> Cause:
    """Return the cause that an address names."""
    named = words(query, CAUSE_WORDS)
    return Cause(
        kind=named["kind"],
        workspace=named["workspace"],
        destination=named["destination"],
        reason=named["reason"],
        http_status=named["http_status"],
    )


def dead_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page, of one workspace or ('') of all.

    `after`: how many causes the pages before have.
    """
    which = which_of(query)
    workspace = word(query, "workspace")
    after = number(query, "after") or 0
    queries = site.queries
    names = site.settings.names
    if which == "dlq":
        topic = names.dlq
        other = names.parked
    else:
        topic = names.parked
        other = names.dlq
    letters, causes = queries.causes_after(topic, workspace or None, after, ROWS)
    shown = letters.causes
    begin_s = day_begin_s(moment.now_ms)
    rows: list[PageData] = []
    came = queries.dead_letter_hours(topic, shown, begin_s)
    hours_of = dict(zip(shown, came, strict=True))
    for cause, hours in hours_of.items():
        by_hour = dict(hours)
        last = [by_hour.get(begin_s + n * HOUR_S, 0) for n in range(24)]
        share = round(cause.open / letters.open * 100, 1) if letters.open else 0.0
        rows.append(
            {
                "cause": cause,
                "share": share,  # percent of all open ones
                "spark": spark(last),  # how many came in each hour of the last day
                "last_day": sum(last),
                "command": price_command(cause, which),
                "plan": plan_of(site, cause, which),
            },
        )
    counts = queries.status_sums(workspace or None)
    kept = site.settings.topics
    return {
        "which": which,
        "letters": letters,
        "states": [(state, getattr(letters, state), STATE_MEANING[state]) for state in STATES],
        "others": queries.dead_letters(other, workspace or None).open,  # of the other topic
        "rows": rows,
        "causes": causes,
        # How many causes this page and those before it have, if there are more; else 0.
        "after": after + ROWS if causes > after + ROWS else 0,
        "hours": _by_cause(hours_of, begin_s),
        "workspace": workspace,
        "deferred": sum(count.leads for count in counts if count.status == "deferred"),
        "replays": [(replay, _TONES[replay.state]) for replay in queries.replays(MAX_REPLAYS)],
        "kept_days": kept.dlq_days if which == "dlq" else kept.parked_days,
    }


def _by_cause(hours_of: Mapping[Cause, list[tuple[int, int]]], begin_s: int) -> Stack:
    """Return the chart of the last day, in which the causes that came most have their own colours.

    `hours_of`: the dead letters of each cause by hour (epoch s).
    """
    by_count = sorted(hours_of.items(), key=lambda one: -sum(count for _, count in one[1]))
    *colours, of_others = _COLOURS
    keys = dict(zip((cause for cause, _ in by_count), colours, strict=False))
    by_slot: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for cause, hours in by_count:
        for at_s, count in hours:
            by_slot[at_s][keys.get(cause, of_others)] += count
    series = [(key, _label(cause)) for cause, key in keys.items()]
    return stack([*series, (of_others, "rarer causes")], by_slot, begin_s, HOUR_S, 24, 7)


def day_begin_s(now_ms: int) -> int:
    """Return when the last day begins, epoch s: 23 full hours and the present one."""
    return now_ms // 1000 // HOUR_S * HOUR_S - 23 * HOUR_S


def _label(cause: Cause) -> str:
    where = " / ".join(filter(None, (cause.workspace, cause.destination)))
    return f"{cause.reason or 'no reason'}{f' ({where})' if where else ''}"


def plan_of(site: Site, cause: Cause, which: DeadLetterTopic) -> str:
    """Return the path of the page that plans to send a cause back."""
    workspace = cause.workspace if cause.workspace in site.settings.workspaces else ""
    destination = cause.destination if cause.destination in site.settings.destinations else ""
    return plan_path(
        which,
        kind=cause.kind,
        reason=cause.reason,
        workspace=workspace,
        destination=destination,
    )


def price_command(cause: Cause, which: DeadLetterTopic) -> str:
    """Return the command that says what sending a cause back costs; '' if no command selects it."""
    if cause.kind == "foreign":
        return ""  # the headers of another program have no reason to select by
    wanted = filter_of(cause.kind, cause.reason, cause.workspace, cause.destination)
    return f"stream-app replay plan {options_of(which, wanted)}"


def cause_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page of a cause.

    It lists all of its dead letters that are kept, those of the last day, or those in a state.
    """
    which = which_of(query)
    cause = cause_of(query)
    last_day = span_of(query) == "day"
    state = cast(DeadLetterState | None, one_of(query, "state", get_args(DeadLetterState)) or None)
    queries = site.queries
    names = site.settings.names
    topic = names.dlq if which == "dlq" else names.parked
    cause = queries.cause(topic, cause) or cause
    since_s = day_begin_s(moment.now_ms) if last_day else 0
    many = cause.written if state is None else int(getattr(cause, state))
    if last_day:
        (hours,) = queries.dead_letter_hours(topic, [cause], since_s)
        many = sum(dead_letters for _, dead_letters in hours)
    rows = queries.dead_letters_of(topic, cause, since_s * 1000, after_of(query), ROWS + 1, state)
    return {
        "which": which,
        "cause": cause,
        "dead_letters": many,
        "rows": rows[:ROWS],
        # The states whose dead letters can be given up. Those of another program come back by
        # themselves, once.
        "can_end": {"open"} if cause.kind == "foreign" else {"open", "coming_back"},
        "last_day": last_day,
        "state": state,
        "states": [(name, int(getattr(cause, name)), STATE_MEANING[name]) for name in STATES],
        "after": rows[ROWS - 1].place if len(rows) > ROWS else None,
        "command": price_command(cause, which),
        "plan": plan_of(site, cause, which),
    }
