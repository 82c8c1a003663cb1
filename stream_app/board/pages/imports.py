"""Imports: the leads of each publication, and where they are now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from stream_app.board.site import Moment, Site
from stream_app.client.answers import FoundImport
from stream_app.domain.books.columns import COLUMNS, MOVING, meaning_of

ROWS: Final = 50
_COLOURS: Final = {
    "enriched": "enriched",
    "accepted_final": "enriched",
    "served_from_cache": "cache",
    "served_locally": "cache",
    "rejected": "refused",
    "duplicate": "nodata",
    "parked": "failed",
    "held": "held",
    "under_way": "moving",
    "waiting": "track",
}
"""CSS class of each column."""


class Part(msgspec.Struct, frozen=True):
    """The leads of an import in one column. `x` and `width`: of its part of the bar, in percent."""

    column: str
    meaning: str
    colour: str
    leads: int
    x: float
    width: float


class ImportRow(msgspec.Struct, frozen=True):
    """An import. `at_rest`: leads that have ended or are parked; `share`: they in percent.

    `groups`: the title, the id on the page, the number of leads and the parts of those at rest, and of the others.
    """

    found: FoundImport
    parts: list[Part]
    at_rest: int
    share: int
    groups: list[tuple[str, str, int, list[Part]]]


class ImportsPage(msgspec.Struct, frozen=True):
    """What the page shows. `after`: the last one of this page if there are more."""

    rows: list[ImportRow]
    workspace: str
    after: tuple[int, int] | None


class ImportPage(msgspec.Struct, frozen=True):
    """What the page shows. `row`: None if no lead of the import is known."""

    workspace: str
    import_id: str
    row: ImportRow | None


def imports_of(
    site: Site, moment: Moment, workspace: str, import_id: str, after: tuple[int, int] | None
) -> tuple[str, Callable[[], ImportsPage | ImportPage]]:
    """Return the template and what makes the page: of one import if both names are given, else of the list."""
    if workspace and import_id:
        return "import", partial(import_page, site, moment, workspace, import_id)
    return "imports", partial(imports_page, site, moment, workspace, after)


def imports_page(site: Site, moment: Moment, workspace: str, after: tuple[int, int] | None) -> ImportsPage:
    """Return the list, of one workspace or ('') of all. `after`: the last one of the page before."""
    found, more = site.queries.imports(workspace, "", after, ROWS)
    return ImportsPage([row_of(each) for each in found], workspace, more)


def import_page(site: Site, moment: Moment, workspace: str, import_id: str) -> ImportPage:
    """Return the page of one import."""
    found, _ = site.queries.imports(workspace, import_id, None, 1)
    return ImportPage(workspace, import_id, row_of(found[0]) if found else None)


def row_of(found: FoundImport) -> ImportRow:
    """Return an import with its bar."""
    parts: list[Part] = []
    x = 0.0
    for name in (*COLUMNS, *sorted(set(found.columns) - set(COLUMNS))):
        if leads := found.columns.get(name, 0):
            width = leads / found.leads * 100
            meaning = meaning_of(name)
            parts.append(Part(name, meaning, _COLOURS.get(name, "nodata"), leads, round(x, 2), round(width, 2)))
            x += width
    at_rest = found.leads - found.moving
    resting = [part for part in parts if part.column not in MOVING]
    moving = [part for part in parts if part.column in MOVING]
    groups = [("At rest", "at-rest", at_rest, resting), ("Not at rest", "moving", found.moving, moving)]
    return ImportRow(found, parts, at_rest, at_rest * 100 // found.leads if found.leads else 0, groups)
