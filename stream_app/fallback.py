"""What a lead may be answered with when it is not Clay that answers: what is remembered, or what its own fields say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stream_app.core.cached import Entry


class Cache(Protocol):
    """Entries by key (core/cached.py). Nothing here raises or takes long, and anything may be gone at any time."""

    async def find(self, slots: Sequence[str]) -> list[Entry]:
        """One entry for each key, empty where nothing is known or could be learned in time."""

    async def add(self, changes: Sequence[tuple[str, Entry]]) -> bool:
        """Merge entries into what is there. False: not all of it was kept."""

    async def forget(self, slots: Sequence[str]) -> bool:
        """Delete these. False: they may still be there."""

    async def filled_to(self, partition: int) -> int | None:
        """The offset of `leads.enriched` before which all is in here; 0: none is (any more). None: nobody can say."""

    async def set_filled_to(self, partition: int, offset: int) -> bool:
        """False: not kept."""
