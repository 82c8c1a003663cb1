"""`stream-app imports`: the leads of each publication, and where they are now."""

from __future__ import annotations

from typing import Final

from stream_app.cli.base import COMMON, NO, OK, Common, say, show, show_json
from stream_app.cli.options import Workspace, iso
from stream_app.cli.status import say_how_far
from stream_app.cli.tables import Column, Table, show_table
from stream_app.client.answers import FoundImport
from stream_app.client.lookup import find_imports
from stream_app.config import check_known
from stream_app.domain.books.columns import COLUMNS, meaning_of
from stream_app.domain.text import count

_BAR: Final = 30


def imports(import_id: str = "", /, *, workspace: Workspace = None, common: Common = COMMON) -> int:
    """Show the imports, newest first: how many leads were published, where they are, what they have cost.

    example:
      stream-app imports
      stream-app imports 2026-11-26-kfdwzp

    Args:
        import_id: show this one, with its leads by column of the books
        workspace: only of this workspace
    """
    settings = common.settings("api")
    check_known(settings, workspace=workspace)
    answer = find_imports(settings, import_id, workspace)
    if common.json:
        show_json(answer)
    elif import_id:
        for each in answer.imports:
            _show(each)
    elif answer.imports:
        show_table(_table(answer.imports))
    if not answer.imports:
        say(f"no lead of import {import_id} is known" if import_id else "no import is known")
    if answer.more:
        say("there are older imports: the board lists all of them (`stream-app board`)")
    say_how_far(answer)
    return OK if answer.imports or not import_id else NO


def _table(found: list[FoundImport]) -> Table:
    table = Table(
        Column("import"),
        Column("began", rank=1),
        Column("workspace", rank=2),
        Column("rows", rank=4, right=True),
        Column("refused", rank=3, right=True),
        Column("leads", right=True),
        Column("at rest", right=True),
        Column("credits", rank=1, right=True),
        Column("file", rank=5),
        Column("by", rank=6),
    )
    for each in found:
        rest = each.leads - each.moving
        share = f" {rest * 100 // each.leads} %" if each.leads else ""
        table.add(
            each.import_id,
            iso(each.first_ms)[:16],
            each.workspace,
            _number(each.rows),
            _number(each.refused),
            f"{each.leads:,}",
            f"{rest:,}{share}",
            f"{each.credits:,}",
            each.file,
            each.who,
        )
    return table


def _show(each: FoundImport) -> None:
    of = f" from {each.file}" if each.file else ""
    by = f" by {each.who}" if each.who else ""
    show(f"{each.import_id}: {each.workspace}, began {iso(each.first_ms)}{of}{by}")
    if each.rows is not None:
        rows, refused = count(each.rows, "row"), f"{each.refused or 0:,} refused"
        show(f"  {rows} in the file, {refused}; {count(each.published or 0, 'lead')} published to {each.workspace}")
    rest = each.leads - each.moving
    full = rest * _BAR // each.leads if each.leads else 0
    show(f"  [{'#' * full}{'.' * (_BAR - full)}] {rest:,} of {count(each.leads, 'lead')} at rest")
    for name in (*COLUMNS, "unknown"):
        if leads := each.columns.get(name):
            show(f"  {name.replace('_', ' ')}: {leads:,} ({meaning_of(name)})")
    show(f"  {count(each.credits, 'credit')} so far; last event {iso(each.last_ms)}")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
