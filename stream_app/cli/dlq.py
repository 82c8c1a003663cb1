"""`stream-app dlq`: count, list, show, export and import dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from stream_app.cli.base import COMMON, NO, OK, Common, confirm, on_kafka, say, show, show_json, with_actions
from stream_app.cli.files import private_file
from stream_app.cli.options import SOURCES, WHICH, Positive, Which, iso
from stream_app.cli.progress import reading
from stream_app.cli.sending import affordable, send_back, show_prices
from stream_app.cli.tables import Column, Table, show_table
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter, Group, Source, Tally
from stream_app.domain.dead_letter.pricing import PricedPlan
from stream_app.domain.errors import SettingsError, StreamAppError
from stream_app.domain.record import ConsumedRecord
from stream_app.domain.text import count
from stream_app.replay import inspect
from stream_app.replay.edit import Edit, check, sendable
from stream_app.replay.order import ordered_replays
from stream_app.replay.plan import Chosen, survey, topic_of
from stream_app.replay.send import Redriver, Sent

From = Annotated[Source, Parameter(name="--from")]
Values = dict[tuple[int, int], bytes]

_ON_THE_LIST: Final = "of people on the suppression list (erased, or they objected)"
_MOST_GROUPS: Final = 30

app = with_actions("dlq")


@app.default
def count_them(*, source: From = "dlq", which: Which = WHICH, common: Common = COMMON) -> int:
    """Count dead letters by cause, destination and age. An action lists, shows, exports or imports them.

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
    if common.json:
        show_json(_document(tally))
    else:
        _show_tally(source, tally)
    return OK


def _document(tally: Tally) -> dict[str, Any]:
    causes = [
        {**msgspec.to_builtins(group), "trend": group.trend, "texts": dict(group.texts.most_common(3))}
        for group in tally.sorted()
    ]
    return {"dead_letters": tally.count, "suppressed": tally.suppressed, "ages": dict(tally.ages), "causes": causes}


def _show_tally(source: str, tally: Tally) -> None:
    groups = tally.sorted()
    if groups:
        show_table(tally_table(groups[:_MOST_GROUPS]))
    if len(groups) > _MOST_GROUPS:
        show(f"and {count(len(groups) - _MOST_GROUPS, 'more cause')}; --json has all of them")
    ages = ", ".join(f"{number:,} {name}" for name, number in tally.ages.most_common())
    show(f"{count(tally.count, 'dead letter')} in {source}" + (f" ({ages})" if ages else ""))
    if tally.suppressed:
        show(f"{tally.suppressed:,} of them {_ON_THE_LIST}: never sent, and not exported")


@app.command(name="list")
def list_them(*, source: From = "dlq", limit: Positive = 20, which: Which = WHICH, common: Common = COMMON) -> int:
    """List the newest dead letters, each with the record id that `show` takes.

    example:
      stream-app dlq list --reason http_503

    Args:
        source: which topic
        limit: at most N
    """
    settings = common.settings()
    wanted = which.checked(settings, source)
    with reading("reading dead letters") as progress:
        work = inspect.newest(settings, source, wanted, limit, progress)
        found, matching = on_kafka(settings, "dlq", work)
    if common.json:
        show_json({"dead_letters": found, "matching": matching})
        return OK
    if found:
        show_table(list_table(found))
    more = f"; --limit {matching} shows all" if matching > len(found) else ""
    show(f"{len(found):,} of {count(matching, 'dead letter')} in {source}{more}")
    return OK


@app.command(name="show")
def show_one(record_id: str, /, *, value: bool = False, common: Common = COMMON) -> int:
    """Show one dead letter with its headers and history.

    example:
      stream-app dlq show leads.dlq/0/17

    Args:
        record_id: topic/partition/offset
        value: print its value too (personal data)
    """
    settings = common.settings()
    inspect.parse_dead_letter_id(settings, record_id)
    with reading("reading its history") as progress:
        found = on_kafka(settings, "dlq show", inspect.show(settings, record_id, progress))
    dead_letter = found.dead_letter
    text = (dead_letter.value or b"").decode("utf-8", "backslashreplace")
    if common.json:
        document: dict[str, Any] = {
            "record_id": dead_letter.record_id,
            "at_ms": dead_letter.timestamp_ms,
            "headers": found.headers,
            "history": found.history,
            "suppressed": found.suppressed,
        }
        show_json(document | ({"value": text} if value and not found.suppressed else {}))
        return OK
    size = count(len(dead_letter.value or b""), "byte")
    show(f"{dead_letter.record_id}, written {iso(dead_letter.timestamp_ms)}, {size}")
    for name, header in found.headers.items():
        show(f"  {name}: {header}")
    for event in found.history:
        words = f" ({event.reason}{': ' + event.text if event.text else ''})" if event.reason else ""
        show(f"  {iso(event.at_ms)} {event.seq} {event.status}{words}")
    if found.suppressed:
        show(f"it is {_ON_THE_LIST}: it is never sent, and its value is hidden")
    elif value:
        show(text)
    return OK


@app.command
def export(file: Path, /, *, source: From = "dlq", which: Which = WHICH, common: Common = COMMON) -> int:
    """Write dead letters with their values (personal data) to a file, one JSON object per line.

    example:
      stream-app dlq export dead-letters.jsonl --reason no_identity

    Args:
        file: output file, or - for stdout
        source: which topic
    """
    settings = common.settings()
    if common.json and str(file) == "-":
        raise SettingsError(["--json reports on the output file; to write JSON Lines to stdout, leave out --json"])
    wanted = which.checked(settings, source)
    with private_file(file) as out, reading("exporting dead letters") as progress:
        work = inspect.export(settings, source, wanted, out, progress)
        lines, left_out = on_kafka(settings, "dlq export", work)
    if common.json:
        show_json({"dead_letters": lines, "suppressed": left_out, "file": str(file)})
    else:
        say(f"{count(lines, 'dead letter')} exported" + (f", {left_out} left out: {_ON_THE_LIST}" if left_out else ""))
    return OK if lines else NO


@app.command(name="import")
def import_them(
    file: Path,
    /,
    *,
    uncertain: bool = False,
    yes: bool = False,
    over_budget: bool = False,
    common: Common = COMMON,
) -> int:
    """Send edited dead letters of an exported file back, each one once.

    example:
      stream-app dlq import dead-letters.jsonl --yes

    Args:
        file: a file from `export` with edited `lead` values
        uncertain: include leads that may have reached Clay: they may be paid for twice
        yes: do not ask for confirmation
        over_budget: send even if it costs more than the budget has left
    """
    settings = common.settings()
    edited: dict[Source, Values] = {source: {} for source in SOURCES}
    topics = {topic_of(settings, source): source for source in SOURCES}
    for each in inspect.read_export(settings, file):
        edited[topics[each.topic]][each.partition, each.offset] = each.value

    async def work() -> int:
        running = (await ordered_replays(settings)).running
        if running is not None:
            raise StreamAppError(
                f"replay {running.id} of {running.who} is running: wait for its end, or stop it with "
                f"`stream-app replay stop {running.id}`"
            )
        async with Redriver(settings) as redriver:
            plans = {
                source: await _planned(settings, source, values, uncertain=uncertain)
                for source, values in edited.items()
                if values
            }
            go = sum(plan.go for plan, _ in plans.values())
            suppressed = sum(plan.fates["suppressed"] for plan, _ in plans.values())
            if not common.json:
                for plan, _ in plans.values():
                    show_prices(plan)
            prices = [price for plan, _ in plans.values() for price in plan.prices]
            if not affordable(prices, over_budget=over_budget, as_json=common.json):
                return NO
            confirm(f"send {count(go, 'dead letter')} back", yes=yes or not go)
            total = Sent()
            for source, (plan, chosen) in plans.items():
                edit = _edit_of(settings, edited[source])
                sent = await send_back(settings, source, redriver, chosen, plan.paces, edit)
                total.dead_letters += sent.dead_letters
                total.refused.update(sent.refused)
        kept = sum(map(len, edited.values())) - go - suppressed
        return _imported(total, kept, suppressed, as_json=common.json)

    return on_kafka(settings, "dlq import", work())


async def _planned(settings: Settings, source: Source, values: Values, *, uncertain: bool) -> tuple[PricedPlan, Chosen]:
    with reading("reading dead letters and rows") as progress:
        return await survey(settings, source, Filter(), progress, uncertain=uncertain, values=values)


def _edit_of(settings: Settings, values: Values) -> Edit:
    check_lead = sendable(settings)

    def edit(dead_letter: ConsumedRecord, same_lead: bool) -> bytes:
        value = values[dead_letter.partition, dead_letter.offset]
        check(value, dead_letter, check_lead, same_lead=same_lead)
        return value

    return edit


def _imported(sent: Sent, kept: int, suppressed: int, *, as_json: bool) -> int:
    if as_json:
        show_json(
            {"sent": sent.dead_letters, "refused": sent.refused, "need_no_sending": kept, "suppressed": suppressed}
        )
    else:
        for record_id, why in sent.refused.items():
            say(f"{record_id} was not sent: {why}")
        show(
            f"{count(sent.dead_letters, 'dead letter was', 'dead letters were')} sent back, "
            f"{len(sent.refused)} refused, {kept} no longer need sending or are no longer kept"
            + (f", {suppressed} {_ON_THE_LIST}" if suppressed else "")
        )
    return NO if sent.refused or not sent.dead_letters else OK


def tally_table(groups: Sequence[Group]) -> Table:
    """Build the table of dead letters by cause."""
    table = Table(
        Column("dead letters", right=True),
        Column("reason"),
        Column("destination", rank=1),
        Column("disposition", rank=4),
        Column("last hour", rank=5),
        Column("first", rank=6),
        Column("last", rank=2),
        Column("says", rank=3, prose=True),
    )
    for group in groups:
        said = group.texts.most_common(1)
        table.add(
            f"{group.count:,}",
            group.reason or "none given",
            group.destination or group.workspace,
            group.kind,
            f"{group.last_hour:,} ({group.trend})",
            iso(group.first_ms),
            iso(group.last_ms),
            said[0][0] if said else "",
        )
    return table


def list_table(dead_letters: Sequence[inspect.Listed]) -> Table:
    """Build the table of single dead letters, each with the record id that `dlq show` takes."""
    table = Table(
        Column("record"),
        Column("reason"),
        Column("lead", rank=2),
        Column("destination", rank=3),
        Column("disposition", rank=5),
        Column("written", rank=1),
        Column("says", rank=4, prose=True),
    )
    for each in dead_letters:
        where = each.destination or each.workspace
        reason = each.reason or "none given"
        table.add(each.record_id, reason, each.lead_id, where, each.kind, iso(each.at_ms), each.text)
    return table
