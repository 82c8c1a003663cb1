"""Imports: the leads that one publication sends under one name."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from stream_app.domain.messages import ImportSummary, Lead

LONGEST_ID: Final = 200
_LONGEST_WORD: Final = 80
_EMAIL: Final = re.compile(r"\S*@\S*")
_NUMBER: Final = re.compile(r"\+?\d{7,}")
_NONE: Final = ("", None)


def new_import_id(now_ms: int, suffix: str) -> str:
    """Return the name of an import without one: its date (UTC), and a suffix that makes it unique."""
    return f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m-%d}-{suffix}"


def is_shown(import_id: str) -> bool:
    """True if events may hold this name. They hold no text that may be an e-mail address."""
    return 0 < len(import_id) <= LONGEST_ID and "@" not in import_id


def import_of(lead: Lead) -> tuple[str, ImportSummary | None]:
    """Return the import of a lead, as its first event shows it: the name and what the publisher counted."""
    if not lead.import_id or not is_shown(lead.import_id):
        return _NONE
    found = lead.import_summary
    if found is None:
        return lead.import_id, None
    return lead.import_id, ImportSummary(found.rows, found.refused, found.leads, label(found.file), label(found.who))


def label(text: str) -> str:
    """Return a name for people, without what looks like an e-mail address or a phone number."""
    line = " ".join(text[: 4 * _LONGEST_WORD].split())
    return _NUMBER.sub("[number]", _EMAIL.sub("[email]", line))[:_LONGEST_WORD]
