"""Tombstones on `leads.enriched`: delete a lead's result and name its person in headers, as hashes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stream_app.domain.record import Headers, Record

PEOPLE_HEADER: Final = "people"


def tombstone(topic: str, workspace: str, destination: str, lead_id: str, people: Iterable[str]) -> Record:
    """Return a record that deletes a lead's result. It names `people`, the hashes of its person, for the caches."""
    headers = ((PEOPLE_HEADER, ",".join(people).encode()),)
    return Record(topic, f"{workspace}/{destination}/{lead_id}".encode(), None, headers)


def seal(topic: str, workspace: str) -> Record:
    """Return a tombstone of no lead. It makes the broker start a new segment, so that earlier ones are compacted."""
    return Record(topic, f"{workspace}//".encode(), None)


def erased_by(key: bytes | None, headers: Headers) -> tuple[str, str, list[str]] | None:
    """Return workspace, destination and people of a tombstone; None if it names no person."""
    people = next((value for name, value in headers if name == PEOPLE_HEADER), b"").decode("utf-8", "replace")
    parts = (key or b"").decode("utf-8", "replace").split("/", 2)
    if len(parts) < 3 or not people:
        return None
    return parts[0], parts[1], people.split(",")
