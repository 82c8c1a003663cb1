"""Fakes of Clay for a partition."""

import asyncio
import json

from stream_app.domain.model.outcome import Accepted, Outcome


class NoClay:
    """Is asked for nothing."""

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        return Accepted(200, 1)

    async def host_answers(self, destination: str) -> bool:
        return True


class SlowClay:
    """Takes everything, after a while, once it has given the `first` answers."""

    def __init__(self, takes_s: float = 1.0) -> None:
        self.bodies: list[bytes] = []
        self.first: list[Outcome] = []
        self._takes_s = takes_s

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self.bodies.append(body)
        await asyncio.sleep(self._takes_s)
        return self.first.pop(0) if self.first else Accepted(200, round(self._takes_s * 1000))

    async def host_answers(self, destination: str) -> bool:
        return True

    @property
    def lead_ids(self) -> list[str]:
        """Of the leads that were sent."""
        return [json.loads(body)["lead_id"] for body in self.bodies]
