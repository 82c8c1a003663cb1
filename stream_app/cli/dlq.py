"""`stream-app dlq`: count, list, show, export and settle dead letters."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec
from cyclopts import Parameter

from stream_app.cli import lanes
from stream_app.cli.base import (
    COMMON,
    NO,
    OK,
    QUEUED,
    Common,
    OptionalWhole,
    confirm,
    on_kafka,
    with_actions,
)
from stream_app.cli.files import private_file
from stream_app.cli.options import WHICH, Audit, Positive, Which, iso
from stream_app.cli.output import say, show_json
from stream_app.cli.replay import Redrive, select_and_order
from stream_app.cli.tables import Column, Table, reading, table_of
from stream_app.client.results.answers import Cause, DeadLetters
from stream_app.client.results.lookup import find_dead_letters
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.domain.books.records import STATES
from stream_app.domain.dead_letter.causes import CauseGroup, DeadLetterTally, Filter, LetterSource
from stream_app.domain.dead_letter.orders import FATE_MEANING, Fate
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.text import count
from stream_app.replay import inspect
from stream_app.replay.orders import give_up_commands, submit_and_await
from stream_app.replay.plan import survey_given_up, topic_of

From = Annotated[LetterSource, Parameter(name="--from")]

_ON_THE_LIST: Final = "of people on the suppression list (erased, or they objected)"
_MAX_GROUPS: Final = 30
_GIVEN_UP: Final[dict[Fate, str]] = {"goes": "can be given up"}
"""What becomes of dead letters that are to be given up, where a replay would do something else."""

app = with_actions("dlq")


@app.default
def count_them(*, source: From = "dlq", which: Which = WHICH, common: Common = COMMON) -> int:
    """Count dead letters by cause, destination and age.

    An action lists, shows, exports, settles or ends them.

    The board, if it answers, says how many of them are open, come back by themselves, are solved or
    were given up.

    example:
      stream-app dlq --older-than 2h
      stream-app dlq show leads.dlq/0/17

    Args:
        source: which topic
    """
    settings = common.settings()
    wanted = which.checked(settings, source)
    with reading("counting dead letters") as progress:
        tally = on_kafka(settings, "dlq", inspect.count(settings, source, wanted, progress))
    states, silence = _states(common, source) if wanted == Filter() and tally.count else (None, "")
    common.show(_document(tally) | {"states": states}, *_tally_parts(source, tally, states))
    if silence and not common.json:
        say(f"how many of them are open is not known: {silence}")
    return OK


def _states(common: Common, source: LetterSource) -> tuple[DeadLetters | None, str]:
    """Return what the board says has become of the dead letters.

    None, and why, if it does not say so.
    """
    if source == "deferred":
        return None, ""
    try:
        states = find_dead_letters(common.settings("api"))
    except StreamAppError as error:
        return None, str(error)
    return (states.dlq if source == "dlq" else states.parked), ""


def _name(cause: Cause | CauseGroup) -> tuple[str, ...]:
    return cause.kind, cause.workspace, cause.destination, cause.reason, cause.http_status


def _document(tally: DeadLetterTally) -> dict[str, Any]:
    causes = [
        {
            **msgspec.to_builtins(group),
            "trend": group.trend,
            "texts": dict(group.texts.most_common(3)),
        }
        for group in tally.sorted()
    ]
    return {
        "dead_letters": tally.count,
        "suppressed": tally.suppressed,
        "ages": dict(tally.ages),
        "causes": causes,
    }


def _tally_parts(
    source: str,
    tally: DeadLetterTally,
    states: DeadLetters | None,
) -> Iterator[str | Table]:
    groups = tally.sorted()
    if groups:
        yield tally_table(
            groups[:_MAX_GROUPS],
            {_name(cause): cause.open for cause in states.causes} if states else {},
        )
    if len(groups) > _MAX_GROUPS:
        yield f"and {count(len(groups) - _MAX_GROUPS, 'more cause')}; --json has all of them"
    ages = ", ".join(f"{number:,} {name}" for name, number in tally.ages.most_common())
    yield f"{count(tally.count, 'dead letter')} in {source}" + (f" ({ages})" if ages else "")
    if tally.suppressed:
        yield f"{tally.suppressed:,} of them {_ON_THE_LIST}: never sent, and not exported"
    if states is not None:
        yield "of these " + ", ".join(
            f"{getattr(states, state):,} {state.replace('_', ' ')}" for state in STATES
        )


@app.command(name="list")
def list_them(
    *,
    source: From = "dlq",
    limit: Positive = 20,
    which: Which = WHICH,
    common: Common = COMMON,
) -> int:
    """List the newest dead letters, each with the record id that `show` takes.

    example:
      stream-app dlq list --reason http_503
      stream-app dlq list --import 2026-11-24-kfdwzp

    Args:
        source: which topic
        limit: at most N
    """
    settings = common.settings()
    wanted = which.checked(settings, source)
    with reading("reading dead letters") as progress:
        letters, matching = on_kafka(
            settings,
            "dlq",
            inspect.newest(settings, source, wanted, limit, progress),
        )
    more = f"; --limit {matching} shows all" if matching > len(letters) else ""
    shown = f"{len(letters):,} of {count(matching, 'dead letter')} in {source}{more}"
    common.show(
        {"dead_letters": letters, "matching": matching},
        *([list_table(letters)] if letters else []),
        shown,
    )
    return OK


@app.command(name="show")
def show_one(
    record_id: str,
    /,
    *,
    value: bool = False,
    leads: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    common: Common = COMMON,
) -> int:
    """Show one dead letter with its headers and history.

    One that is a whole batch, because the batch is too large once it is decompressed, has many
    leads. --leads writes them to a file, which `stream-app publish` takes.

    example:
      stream-app dlq show leads.dlq/0/17
      stream-app dlq show leads.dlq/0/17 --leads leads.jsonl

    Args:
        record_id: topic/partition/offset
        value: print its value too (personal data)
        leads: write the leads of a batch to this file (personal data), or - for stdout
    """
    settings = common.settings()
    inspect.parse_dead_letter_id(settings, record_id)
    if leads is not None:
        return _write_leads(common, settings, record_id, leads)
    with reading("reading its history") as progress:
        shown = on_kafka(settings, "dlq show", inspect.show(settings, record_id, progress))
    dead_letter = shown.dead_letter
    text = (dead_letter.value or b"").decode("utf-8", "backslashreplace")
    document: dict[str, Any] = {
        "record_id": dead_letter.record_id,
        "at_ms": dead_letter.timestamp_ms,
        "headers": shown.headers,
        "history": shown.history,
        "suppressed": shown.suppressed,
    }
    size = count(len(dead_letter.value or b""), "byte")
    lines = [f"{dead_letter.record_id}, written {iso(dead_letter.timestamp_ms)}, {size}"]
    lines += [f"  {name}: {header}" for name, header in shown.headers.items()]
    for event in shown.history:
        words = (
            f" ({event.reason}{': ' + event.text if event.text else ''})" if event.reason else ""
        )
        lines.append(f"  {iso(event.at_ms)} {event.seq} {event.status}{words}")
    if HEADERS["batch_first"] in shown.headers:
        many = count(int(shown.headers.get(HEADERS["batch_records"], "0")), "record")
        lines.append(
            f"its value is a batch of {many}: --leads FILE writes them to a file for "
            "stream-app publish",
        )
    if shown.suppressed:
        lines.append(f"it is {_ON_THE_LIST}: it is never sent, and its value is hidden")
    elif value:
        document["value"] = text
        lines.append(text)
    common.show(document, *lines)
    return OK


def _write_leads(common: Common, settings: Settings, record_id: str, path: Path) -> int:
    if common.json and str(path) == "-":
        raise SettingsError(
            ["--json reports on the output file; to write JSON Lines to stdout, leave out --json"],
        )
    with private_file(path) as out, reading("opening the batch") as progress:
        writing = inspect.export_batch(settings, record_id, out, progress)
        lines, left_out = on_kafka(settings, "dlq show", writing)
    if common.json:
        show_json({"records": lines, "suppressed": left_out, "file": str(path)})
    else:
        more = f", {left_out:,} left out: {_ON_THE_LIST}" if left_out else ""
        say(f"{count(lines, 'record')} of the batch written{more}; next: stream-app publish {path}")
    return OK if lines else NO


@app.command
def export(
    file: Path,
    /,
    *,
    source: From = "dlq",
    which: Which = WHICH,
    common: Common = COMMON,
) -> int:
    """Write dead letters with their leads (personal data) to a file, one JSON object per line.

    Correct `lead` in it, and publish the file.

    example:
      stream-app dlq export dead-letters.jsonl --reason no_identity
      stream-app dlq export dead-letters.jsonl --import 2026-11-24-kfdwzp
      stream-app publish dead-letters.jsonl

    Args:
        file: output file, or - for stdout
        source: which topic
    """
    settings = common.settings()
    if common.json and str(file) == "-":
        raise SettingsError(
            ["--json reports on the output file; to write JSON Lines to stdout, leave out --json"],
        )
    wanted = which.checked(settings, source)
    with private_file(file) as out, reading("exporting dead letters") as progress:
        lines, left_out = on_kafka(
            settings,
            "dlq export",
            inspect.export(settings, source, wanted, out, progress),
        )
    if common.json:
        show_json({"dead_letters": lines, "suppressed": left_out, "file": str(file)})
    else:
        say(
            f"{count(lines, 'dead letter')} exported"
            + (f", {left_out} left out: {_ON_THE_LIST}" if left_out else ""),
        )
    return OK if lines else NO


@app.command(name="give-up")
def give_up(
    *records: Annotated[str, Parameter(metavar="RECORD_ID")],
    source: Annotated[Literal["dlq", "parked"], Parameter(name="--from")] = "dlq",
    yes: bool = False,
    which: Which = WHICH,
    audit: Audit,
) -> int:
    """Give dead letters up: their leads, or the records that are no leads, end and are never sent.

    They are then no longer open, and no alert counts them. What was booked for a lead stays,
    because Clay may have charged for it. A lead that was given up can be published again, unless it
    may have reached Clay.

    example:
      stream-app dlq give-up --reason not_json --why "a broken export of October"
      stream-app dlq give-up leads.dlq/0/17 --why "left the company"
      stream-app dlq give-up --import 2026-11-24-kfdwzp --why "the wrong list"

    Args:
        records: topic/partition/offset of each, as `dlq list` shows them
        source: which topic
        yes: do not ask for confirmation
    """
    settings = audit.settings()
    for record_id in records:
        topic, _, _ = inspect.parse_dead_letter_id(settings, record_id)
        if topic != topic_of(settings, source):
            raise SettingsError(
                [f"{record_id}: is not on {topic_of(settings, source)}; --from says which topic"],
            )
    wanted = which.checked(settings, source)
    if not records and wanted == Filter():
        raise SettingsError(
            ["say which dead letters: their record ids, or options such as --reason"],
        )
    with reading("reading dead letters and rows") as progress:
        work = survey_given_up(settings, source, wanted, frozenset(records), progress)
        places, fates = on_kafka(settings, "dlq give-up", work)
    matching = sum(fates.values())
    audit.tell(count(matching, "dead letter matches", "dead letters match"))
    audit.tell(
        *(
            f"  {many:,} {_GIVEN_UP.get(end) or FATE_MEANING[end]}"
            for end, many in fates.most_common()
        ),
    )
    if not places:
        audit.show({"given_up": 0, "fates": fates, "answers": []}, "nothing to give up")
        return NO
    confirm(f"give up {count(len(places), 'dead letter')}, so that they are never sent", yes=yes)
    commands = give_up_commands(places, audit.name, audit.why, Clock().now_ms())
    answers = asyncio.run(submit_and_await(settings, commands))
    document = {"given_up": len(places), "fates": fates, "answers": list(answers.values())}
    audit.show(document, *(answer.text for answer in answers.values()))
    if len(answers) < len(commands):
        say("no replay process has answered yet: the command is carried out when one runs")
        return QUEUED
    return OK if all(answer.applied for answer in answers.values()) else NO


@app.command
def resolve(
    lead: str,
    /,
    *,
    workspace: str,
    destination: Annotated[str | None, Parameter(metavar="ALIAS")] = None,
    at_clay: bool = False,
    credits: OptionalWhole = None,
    actions: OptionalWhole = None,
    send: bool = False,
    give_up: bool = False,
    audit: Audit,
) -> int:
    """Settle a parked lead: it is at Clay and cost N, it is not and is sent, or it is given up.

    --at-clay also settles a lead that is booked at its ceiling, because Clay never said what it
    cost. What was booked stays after --give-up, because Clay may have charged for the lead all the
    same.

    example:
      stream-app dlq resolve crm-17 --workspace acme --at-clay --credits 4 --why "its row says so"
      stream-app dlq resolve crm-17 --workspace acme --send --why "no row in Clay"
      stream-app dlq resolve crm-17 --workspace acme --give-up --why "left the company"

    Args:
        lead: the lead id that `dlq list` and `books` show
        workspace: its workspace
        destination: its destination, if it has several
        at_clay: Clay has it, and it cost --credits, --actions or both
        send: Clay has no such row: return what was booked for it, and send it
        give_up: it is not to be sent any more
    """
    if at_clay + send + give_up != 1:
        raise SettingsError(["say one of --at-clay, --send and --give-up"])
    lead_id = plain_id(lead.strip())
    if send:
        return _return_and_send(audit, workspace, destination, lead_id)
    costs = {"credits": credits, "actions": actions} if at_clay else {"give_up": True}
    return lanes.order(
        audit,
        "resolve",
        workspace,
        {"lead_id": lead_id, "destination": destination or "", **costs},
    )


def _return_and_send(audit: Audit, workspace: str, destination: str | None, lead_id: str) -> int:
    """Return what was booked for a lead that Clay does not have, and send it.

    Return the exit code.
    """
    settings = audit.settings()
    aliases = (destination,) if destination else ()
    which = Which(lead=(lead_id,), workspace=(workspace,), destination=aliases)
    wanted = which.checked(settings, "parked")
    about = {"lead_id": lead_id, "destination": destination or "", "not_at_clay": True}
    # First of all: the lead may not fit into the budget before its earlier send is returned to it.
    returned = asyncio.run(lanes.sent(settings, audit, "resolve", workspace, about))
    code = lanes.exit_code([returned])
    if code != OK:
        lanes.show_sent(settings, audit, returned)
        say("the lead was not sent: run the same command again")
        return code
    audit.tell(*map(lanes.result_text, returned.received))
    sending = Redrive(
        config=audit.config,
        json=audit.json,
        uncertain=True,
        yes=True,
        why=audit.why,
        who=audit.who,
    )
    return on_kafka(settings, "replay redrive", select_and_order(settings, wanted, sending))


def tally_table(
    groups: Sequence[CauseGroup],
    is_open: Mapping[tuple[str, ...], int] = MappingProxyType({}),
) -> Table:
    """Build the table of dead letters by cause.

    `is_open`: how many of a cause are open, if that is known.
    """
    columns: dict[Column, Callable[[CauseGroup], object]] = {
        Column("dead letters", right=True): lambda group: f"{group.count:,}",
        Column("open", rank=1, right=True): lambda group: f"{is_open.get(_name(group), 0):,}",
        Column("reason"): lambda group: group.reason or "none given",
        Column("destination", rank=3): lambda group: group.destination or group.workspace,
        Column("disposition", rank=5): lambda group: group.kind,
        Column("last hour", rank=6): lambda group: f"{group.last_hour:,} ({group.trend})",
        Column("first", rank=7): lambda group: iso(group.first_ms),
        Column("last", rank=4): lambda group: iso(group.last_ms),
        Column("says", rank=2, prose=True): lambda group: next(
            (text for text, _ in group.texts.most_common(1)),
            "",
        ),
    }
    return table_of(
        groups,
        {column: cell for column, cell in columns.items() if is_open or column.title != "open"},
    )


def list_table(dead_letters: Sequence[inspect.Listed]) -> Table:
    """Build the table of single dead letters, each with the record id that `dlq show` takes."""
    return table_of(
        dead_letters,
        {
            Column("record"): lambda letter: letter.record_id,
            Column("reason"): lambda letter: letter.reason or "none given",
            Column("lead", rank=2): lambda letter: letter.lead_id,
            Column("destination", rank=3): lambda letter: letter.destination or letter.workspace,
            Column("disposition", rank=5): lambda letter: letter.kind,
            Column("written", rank=1): lambda letter: iso(letter.at_ms),
            Column("says", rank=4, prose=True): lambda letter: letter.text,
        },
    )
