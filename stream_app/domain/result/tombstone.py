"""What says on `leads.enriched` that a lead's result is gone, and whose it was: a tombstone with hashes as headers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stream_app.domain.record import Headers, Record

PEOPLE_HEADER: Final = "people"


def tombstone(topic: str, workspace: str, destination: str, lead_id: str, people: Iterable[str]) -> Record:
    """Deletes a lead's result. `people`: all hashes that its person is known by, so that caches forget him too."""
    headers = ((PEOPLE_HEADER, ",".join(people).encode()),)
    return Record(topic, f"{workspace}/{destination}/{lead_id}".encode(), None, headers)


def seal(topic: str, workspace: str) -> Record:
    """A tombstone of no lead: it makes the broker start a new segment, so that those before it are compacted."""
    return Record(topic, f"{workspace}//".encode(), None)


def erased_by(key: bytes | None, headers: Headers) -> tuple[str, str, list[str]] | None:
    """Workspace, destination and people of a tombstone; None where it names nobody."""
    people = next((value for name, value in headers if name == PEOPLE_HEADER), b"").decode("utf-8", "replace")
    parts = (key or b"").decode("utf-8", "replace").split("/", 2)
    if len(parts) < 3 or not people:
        return None
    return parts[0], parts[1], people.split(",")
