"""Audit: which commands operators gave, why, and what became of them."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.board.read_model.board_query import Order
from stream_app.board.site import Moment, Site

ROWS: Final = 50


class AuditPage(msgspec.Struct, frozen=True):
    """What the page shows. `after`: the last one of this page if there are more."""

    orders: list[Order]
    workspace: str
    id: str
    after: tuple[int, int, int] | None


def audit_page(
    site: Site, moment: Moment, workspace: str, command: str, after: tuple[int, int, int] | None
) -> AuditPage:
    """Return the page: the commands of a workspace ('' for all) after one of them, or the one with this id."""
    if command:
        return AuditPage(site.queries.answers(command), "", command, None)
    found = site.queries.audit(workspace, after, ROWS + 1)
    return AuditPage(found[:ROWS], workspace, "", found[ROWS - 1].place if len(found) > ROWS else None)
