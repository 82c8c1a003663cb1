"""A bench whose lane holds and whose leads are not to wait: they are served from a cache."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from stream_app.cache.filler import MemoryCache
from stream_app.domain.cached_results import (
    DAY_MS,
    CachedField,
    CacheEntry,
    company_slot,
    person_slot,
)
from stream_app.domain.dead_letter.replay import returning
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.lead.identity import company, people
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.messages import Scalar
from tests.simulation.schedule import Setup
from tests.support.narrow import present
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import now_ms

ADA: Final = "ada@acme.example"


def facts(fields: Any) -> dict[str, tuple[Scalar, str]]:
    return {"company_name": ("acme", "domain")} if "email" in fields else {}


class SlowCache(MemoryCache):
    """Takes a second."""

    async def find(self, slots: Sequence[str]) -> list[CacheEntry]:
        await asyncio.sleep(1)
        return await super().find(slots)


class DegradingBench(Bench):
    """Its workspace has a budget of 0 until `open_and_return`, and a cache."""

    def __init__(
        self,
        *,
        cache_first: bool = False,
        cache: MemoryCache | None = None,
        **of_workspace: Any,
    ) -> None:
        self.cache = MemoryCache() if cache is None else cache
        setup = Setup(callbacks=True, credits_per_day=0, hold="degrade")
        super().__init__(setup, clay_takes_s=0.0, cache=self.cache, local_facts=facts)
        self.change_workspaces(**of_workspace)
        main = self.plan.destinations["acme-main"]
        self.plan.destinations["acme-main"] = msgspec.structs.replace(main, cache_first=cache_first)

    async def remember(self, email: str, *, days: float, **fields: Scalar) -> None:
        """Have the cache know these fields of a person and of the company for so many days."""
        at_ms = now_ms() - int(days * DAY_MS)
        known = {name: CachedField(value, at_ms, "acme-main") for name, value in fields.items()}
        entry = CacheEntry(known)
        (person,) = people({"email": email})
        firm = company_slot("acme", company({"email": email}))
        await self.cache.add([(person_slot("acme", "acme-main", person), entry), (firm, entry)])

    async def lead(self, lead_id: str, email: str, **more: Any) -> list[str]:
        """Publish it; the statuses of its history some seconds later."""
        self.produce({"lead_id": lead_id, "fields": {"email": email}, **more})
        await asyncio.sleep(5)
        return self.history(lead_id)

    async def open_and_return(self) -> None:
        """The budget is back, and what was deferred too."""
        self.change_workspaces(budget=BudgetPolicy())
        await self.all_return()

    async def all_return(self) -> None:
        for copy in self.committed(self.plan.topics.deferred):
            back = present(returning(read_envelope(copy), copy.record_id))
            self.put(self.plan.topics.retry, copy.value, copy.key, back)
        await asyncio.sleep(5)

    async def enrich(self, lead_id: str, **fields: Scalar) -> None:
        """Have Clay call back with these fields, now and for nothing."""
        self.call_back(
            lead_id=lead_id,
            at_ms=now_ms(),
            fields=fields,
            credits=None,
            actions=None,
        )
        await asyncio.sleep(5)
