"""Mirrors the state of this worker's lanes in Redis (domain/lane/mirror.py), outside the path of a lead."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import msgspec

from stream_app.cache.redis import RedisLink
from stream_app.domain.lane.mirror import mirror_of, mirror_slot
from stream_app.domain.lane_messages import LaneView

TTL_S: Final = 30
REFRESH_S: Final = 10.0
_json: Final = msgspec.json.Encoder()


class RedisMirror:
    """Writes a lane when it changes, and all lanes every `refresh_s`. Entries expire 30 s after the worker stops."""

    def __init__(self, link: RedisLink, prefix: str, refresh_s: float = REFRESH_S) -> None:
        self._link = link
        self._prefix = prefix
        self._refresh_s = refresh_s
        self._views: dict[str, LaneView] = {}
        self._changed: set[str] = set()
        self._has_changes = asyncio.Event()

    def lane(self, view: LaneView) -> None:
        """Note the published state of a lane."""
        self._views[view.workspace] = view
        self._changed.add(view.workspace)
        self._has_changes.set()

    def lane_gone(self, workspace: str) -> None:
        """Stop mirroring a lane that another process took over. The entry expires if no process writes it."""
        self._views.pop(workspace, None)
        self._changed.discard(workspace)

    async def run(self) -> None:
        """Write changes until cancelled."""
        now_s = asyncio.get_running_loop().time
        refresh_at_s = now_s() + self._refresh_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(refresh_at_s):
                    await self._has_changes.wait()
            self._has_changes.clear()
            names, self._changed = self._changed, set()
            if now_s() >= refresh_at_s:
                names, refresh_at_s = set(self._views), now_s() + self._refresh_s
            values = {
                self._prefix + mirror_slot(name): _json.encode(mirror_of(self._views[name]))
                for name in sorted(names)
                if name in self._views
            }
            await self._link.write(values, TTL_S)
