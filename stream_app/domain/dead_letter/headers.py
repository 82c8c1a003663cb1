"""What the headers of a dead letter mean, and its key, which shows no person.

The value is the raw bytes of the record that failed. `envelope.HEADERS` are written as text.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Final

from stream_app.domain.lead.identity import digest
from stream_app.domain.lead.read import shown_workspace

MEANING: Final[dict[str, str]] = {
    "stream-app-origin": "topic/partition/offset of the input record",
    "stream-app-origin-timestamp-ms": "when the broker appended the input record, epoch ms",
    "stream-app-origin-seq": "sequence number of the last event in leads.status when this was written",
    "stream-app-way": "why it comes back: rerouted, replayed, redriven, deferred, uncertain; not on a dead letter",
    "stream-app-lead-id": "the lead's id (a hash where the given one could hold personal data)",
    "stream-app-destination": "the destination's alias, never its URL",
    "stream-app-disposition": "poison (not replayed by itself), failed (replayed), policy (refused by configuration)",
    "stream-app-reason": "stable code, such as http_422 or not_json",
    "stream-app-reason-text": "the reason in words",
    "stream-app-http-status": "what Clay answered",
    "stream-app-answer-excerpt": "beginning of the answer, scrubbed",
    "stream-app-attempt": "failed POSTs in this replay",
    "stream-app-replay-count": "replays in this rewind epoch",
    "stream-app-rewind-epoch": "how often the replay group had been rewound",
    "stream-app-returns": "how often the lead has come back in all, over all epochs",
    "stream-app-hops": "re-publications to a home partition",
    "stream-app-cut-bytes": "how many bytes of the value are missing, because the topic takes no larger record",
    "stream-app-first-failure-ms": "epoch ms",
    "stream-app-last-failure-ms": "epoch ms",
    "stream-app-not-before-ms": "when it is due to come back, epoch ms",
    "stream-app-redriven-from": "topic/partition/offset of the dead letter that was sent back",
    "stream-app-dead-letter": "topic/partition/offset of the dead letter that the input record was before",
    "stream-app-trace-id": "W3C trace id",
    "stream-app-app-version": "the version that wrote it",
    "stream-app-format": "format of these headers; a process that does not know it stops instead of reading it wrong",
}
"""Header -> its meaning. A test keeps it complete."""

_HASHED_KEY: Final = re.compile(rb"key-[A-Za-z0-9_-]{22}")


UNKNOWN_WORKSPACE: Final = "unknown_workspace"
"""The reason of a dead letter whose workspace is not configured."""


def pseudonymous_key(key: bytes | None, workspaces: Container[str], reason: str = "") -> bytes | None:
    """Return the key of a dead letter: the name of a workspace stays, any other key is hashed.

    A producer may key its records by an e-mail address or a phone number. If the `reason` is that the workspace is not
    configured, its name stays, too, unless it looks like one. A second call changes nothing.
    """
    if not key or _HASHED_KEY.fullmatch(key):
        return key
    name = key.decode("utf-8", "surrogateescape")
    if name in workspaces or (reason == UNKNOWN_WORKSPACE and shown_workspace(name)):
        return key
    return f"key-{digest('key', name)}".encode()


class WorkspaceKeys:
    """Finds the workspace of a hashed key once that workspace is configured.

    A lead may name its workspace only by its record's key. If the workspace was unknown, the dead letter has the hash.
    """

    def __init__(self, workspaces: Iterable[str]) -> None:
        self._names = {f"key-{digest('key', name)}".encode(): name.encode() for name in workspaces}

    @property
    def hashed(self) -> list[str]:
        """The hashes of all names."""
        return [key.decode() for key in self._names]

    def restore(self, key: bytes | None) -> bytes | None:
        """Return the name of the configured workspace that this key is the hash of; else the key itself."""
        return self._names.get(key, key) if key else key


_PLACE: Final = re.compile(r"([A-Za-z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})", re.ASCII)


def parse_record_id(text: str) -> tuple[str, int, int] | None:
    """Return topic, partition and offset of `topic/partition/offset`; None if the text has another form."""
    found = _PLACE.fullmatch(text)
    return (found[1], int(found[2]), int(found[3])) if found else None


def read_number(text: str) -> int:
    """Return the number in a header; 0 if it is not a number or has more digits than any of ours."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
