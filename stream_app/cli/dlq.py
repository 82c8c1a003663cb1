"""`stream-app dlq`: count, list, show, export and import dead letters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stream_app.cli.base import (
    NO,
    OK,
    Subparsers,
    command,
    on_kafka,
    say,
    settings_of,
    tell,
    tell_json,
)
from stream_app.cli.dead_letter_options import (
    SOURCES,
    add_action,
    add_filter_options,
    confirm,
    filter_of,
    iso,
    positive,
    reading,
)
from stream_app.cli.files import private_file
from stream_app.cli.price import add_over_budget, affordable, show_prices
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.domain.dead_letter.causes import Tally
    from stream_app.domain.dead_letter.pricing import PricedPlan
    from stream_app.domain.record import ConsumedRecord
    from stream_app.replay.inspect import EditedRecord, Shown
    from stream_app.replay.plan import Chosen, Source
    from stream_app.replay.select import Edit, Sent

    Values = dict[tuple[int, int], bytes]

_ON_THE_LIST = "of people on the suppression list (erased, or they objected)"
_MOST_GROUPS = 30


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "dlq",
        run_count,
        says="Count dead letters by cause, destination and age. An action lists, shows, exports or imports them.",
        example="stream-app dlq --older-than 2h\n  stream-app dlq show leads.dlq/0/17",
    )
    add_filter_options(parser)
    parser.add_argument("--from", dest="source", choices=SOURCES, default="dlq", help="which topic (%(default)s)")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    lists = add_action(
        actions,
        "list",
        run_list,
        "List the newest dead letters, each with the place that `show` takes.",
        "stream-app dlq list --reason http_503",
    )
    add_filter_options(lists, nested=True)
    lists.add_argument("--from", dest="source", choices=SOURCES, default=argparse.SUPPRESS, help="which topic")
    lists.add_argument("--limit", type=positive, default=20, metavar="N", help="at most N (%(default)s)")
    shows = add_action(
        actions,
        "show",
        run_show,
        "Show one dead letter with its headers and history.",
        "stream-app dlq show leads.dlq/0/17",
    )
    shows.add_argument("place", metavar="TOPIC/PARTITION/OFFSET")
    shows.add_argument("--value", action="store_true", help="print its value too (personal data)")
    exports = add_action(
        actions,
        "export",
        run_export,
        "Write dead letters with their values (personal data) to a file, one JSON object per line.",
        "stream-app dlq export dead-letters.jsonl --reason no_identity",
    )
    exports.add_argument("file", type=Path, metavar="FILE", help="output file, or - for stdout")
    add_filter_options(exports, nested=True)
    exports.add_argument("--from", dest="source", choices=SOURCES, default=argparse.SUPPRESS, help="which topic")
    imports = add_action(
        actions,
        "import",
        run_import,
        "Send edited dead letters of an exported file back, each one once.",
        "stream-app dlq import dead-letters.jsonl --yes",
    )
    imports.add_argument("file", type=Path, metavar="FILE", help="a file from `export` with edited `lead` values")
    imports.add_argument(
        "--uncertain", action="store_true", help="include leads that may have reached Clay: they may be paid for twice"
    )
    imports.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add_over_budget(imports)


def run_count(args: argparse.Namespace) -> int:
    from stream_app.replay.inspect import count as count_dead_letters
    from stream_app.replay.plan import check_filter

    settings = settings_of(args, clay=False)
    check_filter(settings, args.source, filter_of(args))
    with reading("counting dead letters") as progress:
        tally = on_kafka(settings, "dlq", count_dead_letters(settings, args.source, filter_of(args), progress))
    if args.json:
        tell_json(_tally(tally))
    else:
        _show_tally(args.source, tally)
    return OK


def _tally(tally: Tally) -> dict[str, object]:
    import msgspec

    causes = [
        {**msgspec.to_builtins(group), "trend": group.trend, "texts": dict(group.texts.most_common(3))}
        for group in tally.sorted()
    ]
    return {"dead_letters": tally.count, "suppressed": tally.suppressed, "ages": dict(tally.ages), "causes": causes}


def _show_tally(source: str, tally: Tally) -> None:
    from stream_app.cli.dead_letter_tables import tally_table
    from stream_app.cli.tables import show

    groups = tally.sorted()
    if groups:
        show(tally_table(groups[:_MOST_GROUPS]))
    if len(groups) > _MOST_GROUPS:
        tell(f"and {count(len(groups) - _MOST_GROUPS, 'more cause')}; --json has all of them")
    ages = ", ".join(f"{number:,} {name}" for name, number in tally.ages.most_common())
    tell(f"{count(tally.count, 'dead letter')} in {source}" + (f" ({ages})" if ages else ""))
    if tally.suppressed:
        tell(f"{tally.suppressed:,} of them {_ON_THE_LIST}: never sent, and not exported")


def run_list(args: argparse.Namespace) -> int:
    import msgspec

    from stream_app.replay.inspect import newest
    from stream_app.replay.plan import check_filter

    settings = settings_of(args, clay=False)
    check_filter(settings, args.source, filter_of(args))
    with reading("reading dead letters") as progress:
        found, matching = on_kafka(
            settings, "dlq", newest(settings, args.source, filter_of(args), args.limit, progress)
        )
    if args.json:
        tell_json({"dead_letters": msgspec.to_builtins(found), "matching": matching})
        return OK
    if found:
        from stream_app.cli.dead_letter_tables import list_table
        from stream_app.cli.tables import show

        show(list_table(found))
    more = f"; --limit {matching} shows all" if matching > len(found) else ""
    tell(f"{len(found):,} of {count(matching, 'dead letter')} in {args.source}{more}")
    return OK


def run_show(args: argparse.Namespace) -> int:
    from stream_app.replay.inspect import parse_dead_letter_id, show

    settings = settings_of(args, clay=False)
    parse_dead_letter_id(settings, args.record_id)
    with reading("reading its history") as progress:
        shown = on_kafka(settings, "dlq show", show(settings, args.record_id, progress))
    if args.json:
        tell_json(_document(shown, value=args.value))
        return OK
    dead_letter = shown.dead_letter
    tell(
        f"{dead_letter.record_id}, written {iso(dead_letter.timestamp_ms)}, "
        f"{count(len(dead_letter.value or b''), 'byte')}"
    )
    for name, value in shown.headers.items():
        tell(f"  {name}: {value}")
    for event in shown.history:
        words = f" ({event.reason}{': ' + event.text if event.text else ''})" if event.reason else ""
        tell(f"  {iso(event.at_ms)} {event.seq} {event.status}{words}")
    if shown.suppressed:
        tell(f"it is {_ON_THE_LIST}: it is never sent, and its value is hidden")
    elif args.value:
        tell((dead_letter.value or b"").decode("utf-8", "backslashreplace"))
    return OK


def _document(shown: Shown, *, value: bool) -> dict[str, object]:
    import msgspec

    dead_letter = shown.dead_letter
    document: dict[str, object] = {
        "record_id": dead_letter.record_id,
        "at_ms": dead_letter.timestamp_ms,
        "headers": shown.headers,
        "history": msgspec.to_builtins(shown.history),
        "suppressed": shown.suppressed,
    }
    if value and not shown.suppressed:
        document["value"] = (dead_letter.value or b"").decode("utf-8", "backslashreplace")
    return document


def run_export(args: argparse.Namespace) -> int:
    from stream_app.domain.errors import SettingsError
    from stream_app.replay.inspect import export
    from stream_app.replay.plan import check_filter

    settings = settings_of(args, clay=False)
    if args.json and str(args.file) == "-":
        raise SettingsError(["--json reports on the output file; to write JSON Lines to stdout, leave out --json"])
    check_filter(settings, args.source, filter_of(args))
    with private_file(args.file) as file, reading("exporting dead letters") as progress:
        work = export(settings, args.source, filter_of(args), file, progress)
        lines, left_out = on_kafka(settings, "dlq export", work)
    if args.json:
        tell_json({"dead_letters": lines, "suppressed": left_out, "file": str(args.file)})
    else:
        say(f"{count(lines, 'dead letter')} exported" + (f", {left_out} left out: {_ON_THE_LIST}" if left_out else ""))
    return OK if lines else NO


def run_import(args: argparse.Namespace) -> int:
    from stream_app.replay.inspect import read_export

    settings = settings_of(args, clay=False)
    edited = list(read_export(settings, args.file))
    return on_kafka(settings, "dlq import", _import(args, settings, edited))


async def _import(args: argparse.Namespace, settings: Settings, edited: list[EditedRecord]) -> int:
    from stream_app.domain.dead_letter.headers import WorkspaceKeys
    from stream_app.replay.plan import reader_of, topic_of
    from stream_app.replay.select import Operator, Sent, dead_letters_at

    values: dict[Source, Values] = {source: _values(edited, topic_of(settings, source)) for source in SOURCES}
    async with Operator(settings) as operator:
        plans: dict[Source, tuple[PricedPlan, Chosen]] = {}
        for source in (each for each in SOURCES if values[each]):
            plans[source] = await _planned(args, settings, source, values[source])
        go = sum(plan.go for plan, _ in plans.values())
        never = sum(plan.fates["suppressed"] for plan, _ in plans.values())
        if not args.json:
            for plan, _ in plans.values():
                show_prices(plan)
        if not affordable(args, [price for plan, _ in plans.values() for price in plan.prices]):
            return NO
        if go and not args.yes:
            confirm(f"send {count(go, 'dead letter')} back")
        total = Sent()
        for source, (plan, chosen) in plans.items():
            with reading("sending back") as progress:
                async with reader_of(settings, progress) as reader:
                    dead_letters = dead_letters_at(
                        reader, topic_of(settings, source), chosen, WorkspaceKeys(settings.workspaces)
                    )
                    sent = await operator.send(
                        dead_letters, plan.paces, lambda _: None, _edit_of(settings, values[source])
                    )
            total.dead_letters += sent.dead_letters
            total.refused.update(sent.refused)
    return _imported(args, total, sum(map(len, values.values())) - go - never, never)


async def _planned(
    args: argparse.Namespace, settings: Settings, source: Source, values: Values
) -> tuple[PricedPlan, Chosen]:
    from stream_app.domain.dead_letter.causes import Filter
    from stream_app.replay.plan import survey

    with reading("reading dead letters and rows") as progress:
        return await survey(settings, source, Filter(), progress, uncertain=args.uncertain, values=values)


def _values(edited: list[EditedRecord], topic: str) -> Values:
    return {(each.partition, each.offset): each.value for each in edited if each.topic == topic}


def _edit_of(settings: Settings, values: Values) -> Edit:
    from stream_app.replay.edit import check, sendable

    check_lead = sendable(settings)

    def edit(dead_letter: ConsumedRecord, same_lead: bool) -> bytes:
        value = values[dead_letter.partition, dead_letter.offset]
        check(value, dead_letter, check_lead, same_lead=same_lead)
        return value

    return edit


def _imported(args: argparse.Namespace, sent: Sent, kept: int, never: int) -> int:
    if args.json:
        tell_json({"sent": sent.dead_letters, "refused": sent.refused, "need_no_sending": kept, "suppressed": never})
    else:
        for record_id, why in sent.refused.items():
            say(f"{record_id} was not sent: {why}")
        tell(
            f"{count(sent.dead_letters, 'dead letter was', 'dead letters were')} sent back, "
            f"{len(sent.refused)} refused, {kept} no longer need sending or are no longer kept"
            + (f", {never} {_ON_THE_LIST}" if never else "")
        )
    return NO if sent.refused or not sent.dead_letters else OK
