"""Says on the first lead of an import what its publisher counted, so that its progress can be followed."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from stream_app.domain.lead.imports import label, new_import_id
from stream_app.domain.lead.lead import MAX_LEAD_BYTES
from stream_app.domain.messages import ImportSummary
from stream_app.ops.clock import SystemClock
from stream_app.publishing.check import Ready

_ALPHABET: Final = "bcdfghjkmnpqrstvwxz"  # no words


def any_import_id() -> str:
    """Return a new name for an import."""
    return new_import_id(SystemClock().now_ms(), "".join(secrets.choice(_ALPHABET) for _ in range(6)))


def summaries_of(leads: Mapping[str, int], rows: int, refused: int, file: str, who: str) -> dict[str, ImportSummary]:
    """Return the summary of each workspace."""
    return {name: ImportSummary(rows, refused, number, label(file), label(who)) for name, number in leads.items()}


def announced(leads: Iterable[Ready], summaries: Mapping[str, ImportSummary]) -> Iterator[Ready]:
    """Yield the leads, with the summary of their import on the first one of each workspace that has room for it."""
    left = dict(summaries)
    for lead in leads:
        if lead.workspace in left:
            document = msgspec.json.decode(lead.value) | {"import_summary": left[lead.workspace]}
            value = msgspec.json.encode(document)
            if len(value) <= MAX_LEAD_BYTES:
                del left[lead.workspace]
                yield msgspec.structs.replace(lead, value=value)
                continue
        yield lead
