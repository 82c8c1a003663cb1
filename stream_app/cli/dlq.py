"""`stream-app dlq`: counts dead letters by cause, shows one, exports them, and sends mended ones back."""

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
    from stream_app.replay.select import Mend, Sent

    Values = dict[tuple[int, int], bytes]

_ON_THE_LIST = "of people on the suppression list (erased, or they objected)"
_MOST_GROUPS = 30


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "dlq",
        run_count,
        says="Count dead letters by cause, destination and age; with an action: show, export or import them.",
        example="stream-app dlq --older-than 2h\n  stream-app dlq show leads.dlq/0/17",
    )
    add_filter_options(parser)
    parser.add_argument("--from", dest="source", choices=SOURCES, default="dlq", help="which topic (%(default)s)")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    lists = add_action(
        actions,
        "list",
        run_list,
        "List the newest letters one by one, each with the place that `show` takes.",
        "stream-app dlq list --reason http_503",
    )
    add_filter_options(lists, nested=True)
    lists.add_argument("--from", dest="source", choices=SOURCES, default=argparse.SUPPRESS, help="which topic")
    lists.add_argument("--limit", type=positive, default=20, metavar="N", help="no more than so many (%(default)s)")
    shows = add_action(
        actions, "show", run_show, "Show one letter with its headers and history.", "stream-app dlq show leads.dlq/0/17"
    )
    shows.add_argument("place", metavar="TOPIC/PARTITION/OFFSET")
    shows.add_argument("--value", action="store_true", help="its value too: it is personal data")
    exports = add_action(
        actions,
        "export",
        run_export,
        "Write letters to a file, one JSON object a line, values included: they are personal data.",
        "stream-app dlq export letters.jsonl --reason no_identity",
    )
    exports.add_argument("file", type=Path, metavar="FILE", help="to be written, or - for stdout")
    add_filter_options(exports, nested=True)
    exports.add_argument("--from", dest="source", choices=SOURCES, default=argparse.SUPPRESS, help="which topic")
    imports = add_action(
        actions,
        "import",
        run_import,
        "Send letters back as they were mended in an exported file, each once.",
        "stream-app dlq import letters.jsonl --yes",
    )
    imports.add_argument("file", type=Path, metavar="FILE", help="as `export` wrote it, `lead` mended")
    imports.add_argument("--uncertain", action="store_true", help="also those that may have reached Clay")
    imports.add_argument("--yes", action="store_true", help="do it without asking")
    add_over_budget(imports)


def run_count(args: argparse.Namespace) -> int:
    from stream_app.replay.inspect import count as count_letters
    from stream_app.replay.plan import check_filter

    settings = settings_of(args, clay=False)
    check_filter(settings, args.source, filter_of(args))
    with reading("counting letters") as progress:
        tally = on_kafka(settings, "dlq", count_letters(settings, args.source, filter_of(args), progress))
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
    return {"letters": tally.count, "suppressed": tally.suppressed, "ages": dict(tally.ages), "causes": causes}


def _show_tally(source: str, tally: Tally) -> None:
    from stream_app.cli.dead_letter_tables import tally_table
    from stream_app.cli.tables import show

    groups = tally.sorted()
    if groups:
        show(tally_table(groups[:_MOST_GROUPS]))
    if len(groups) > _MOST_GROUPS:
        tell(f"and {count(len(groups) - _MOST_GROUPS, 'more cause')}; --json has all of them")
    ages = ", ".join(f"{number:,} {name}" for name, number in tally.ages.most_common())
    tell(f"{count(tally.count, 'letter')} in {source}" + (f" ({ages})" if ages else ""))
    if tally.suppressed:
        tell(f"{tally.suppressed:,} of them {_ON_THE_LIST}: never sent, and not exported")


def run_list(args: argparse.Namespace) -> int:
    import msgspec

    from stream_app.replay.inspect import newest
    from stream_app.replay.plan import check_filter

    settings = settings_of(args, clay=False)
    check_filter(settings, args.source, filter_of(args))
    with reading("reading letters") as progress:
        found, matching = on_kafka(
            settings, "dlq", newest(settings, args.source, filter_of(args), args.limit, progress)
        )
    if args.json:
        tell_json({"letters": msgspec.to_builtins(found), "matching": matching})
        return OK
    if found:
        from stream_app.cli.dead_letter_tables import list_table
        from stream_app.cli.tables import show

        show(list_table(found))
    more = f"; --limit {matching} shows all" if matching > len(found) else ""
    tell(f"{len(found):,} of {count(matching, 'letter')} in {args.source}{more}")
    return OK


def run_show(args: argparse.Namespace) -> int:
    from stream_app.replay.inspect import place_of, show

    settings = settings_of(args, clay=False)
    place_of(settings, args.place)
    with reading("looking for its history") as progress:
        shown = on_kafka(settings, "dlq show", show(settings, args.place, progress))
    if args.json:
        tell_json(_letter(shown, value=args.value))
        return OK
    letter = shown.letter
    tell(f"{letter.place}, written {iso(letter.timestamp_ms)}, {count(len(letter.value or b''), 'byte')}")
    for name, value in shown.headers.items():
        tell(f"  {name}: {value}")
    for event in shown.history:
        words = f" ({event.reason}{': ' + event.text if event.text else ''})" if event.reason else ""
        tell(f"  {iso(event.at_ms)} {event.seq} {event.status}{words}")
    if shown.suppressed:
        tell(f"it is {_ON_THE_LIST}: it is never sent, and its value is not shown")
    elif args.value:
        tell((letter.value or b"").decode("utf-8", "backslashreplace"))
    return OK


def _letter(shown: Shown, *, value: bool) -> dict[str, object]:
    import msgspec

    letter = shown.letter
    document: dict[str, object] = {
        "place": letter.place,
        "at_ms": letter.timestamp_ms,
        "headers": shown.headers,
        "history": msgspec.to_builtins(shown.history),
        "suppressed": shown.suppressed,
    }
    if value and not shown.suppressed:
        document["value"] = (letter.value or b"").decode("utf-8", "backslashreplace")
    return document


def run_export(args: argparse.Namespace) -> int:
    from stream_app.domain.errors import SettingsError
    from stream_app.replay.inspect import export
    from stream_app.replay.plan import check_filter

    settings = settings_of(args, clay=False)
    if args.json and str(args.file) == "-":
        raise SettingsError(["--json tells of the file that is written; letters on stdout are JSON Lines without it"])
    check_filter(settings, args.source, filter_of(args))
    with private_file(args.file) as file, reading("exporting letters") as progress:
        work = export(settings, args.source, filter_of(args), file, progress)
        lines, left_out = on_kafka(settings, "dlq export", work)
    if args.json:
        tell_json({"letters": lines, "suppressed": left_out, "file": str(args.file)})
    else:
        say(f"{count(lines, 'letter')} exported" + (f", {left_out} left out: {_ON_THE_LIST}" if left_out else ""))
    return OK if lines else NO


def run_import(args: argparse.Namespace) -> int:
    from stream_app.replay.inspect import read_export

    settings = settings_of(args, clay=False)
    mended = list(read_export(settings, args.file))
    return on_kafka(settings, "dlq import", _import(args, settings, mended))


async def _import(args: argparse.Namespace, settings: Settings, mended: list[EditedRecord]) -> int:
    from stream_app.domain.dead_letter.headers import WorkspaceKeys
    from stream_app.replay.plan import reader_of, topic_of
    from stream_app.replay.select import Operator, Sent, letters_at

    values: dict[Source, Values] = {source: _values(mended, topic_of(settings, source)) for source in SOURCES}
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
            confirm(f"send {count(go, 'letter')} back")
        total = Sent()
        for source, (plan, chosen) in plans.items():
            with reading("sending back") as progress:
                async with reader_of(settings, progress) as reader:
                    letters = letters_at(reader, topic_of(settings, source), chosen, WorkspaceKeys(settings.workspaces))
                    sent = await operator.send(letters, plan.paces, lambda _: None, _mend(settings, values[source]))
            total.letters += sent.letters
            total.refused.update(sent.refused)
    return _imported(args, total, sum(map(len, values.values())) - go - never, never)


async def _planned(
    args: argparse.Namespace, settings: Settings, source: Source, values: Values
) -> tuple[PricedPlan, Chosen]:
    from stream_app.domain.dead_letter.causes import Filter
    from stream_app.replay.plan import survey

    with reading("reading letters and rows") as progress:
        return await survey(settings, source, Filter(), progress, uncertain=args.uncertain, mended=values)


def _values(mended: list[EditedRecord], topic: str) -> Values:
    return {(each.partition, each.offset): each.value for each in mended if each.topic == topic}


def _mend(settings: Settings, values: Values) -> Mend:
    from stream_app.replay.edit import check, sendable

    why_not = sendable(settings)

    def mend(letter: ConsumedRecord, same_lead: bool) -> bytes:
        value = values[letter.partition, letter.offset]
        check(value, letter, why_not, same_lead=same_lead)
        return value

    return mend


def _imported(args: argparse.Namespace, sent: Sent, kept: int, never: int) -> int:
    if args.json:
        tell_json({"sent": sent.letters, "refused": sent.refused, "need_no_sending": kept, "suppressed": never})
    else:
        for place, why in sent.refused.items():
            say(f"{place} did not go: {why}")
        tell(
            f"{count(sent.letters, 'letter was', 'letters were')} sent back, {len(sent.refused)} refused, "
            f"{kept} no longer to be sent or not kept" + (f", {never} {_ON_THE_LIST}" if never else "")
        )
    return NO if sent.refused or not sent.letters else OK
