"""A recovery, broken on purpose: what a walk knows of its POST may be told once more, and no more than that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from unittest.mock import patch

import msgspec

from stream_app.core import lane_owner
from stream_app.core.case import Case
from stream_app.core.story import Posted
from stream_app.line import Line
from stream_app.ports import Walk
from tests.simulation.bases import bases
from tests.simulation.mutant import Patch, family, mutant
from tests.simulation.schedule import Fault, Schedule


@mutant("3", hunt=family("crowd", "lost"))
def under_way_counts_as_not_started() -> Patch:
    async def post(self: Line, walk: Walk, case: Case) -> Posted:
        posted = walk.posted
        assert posted is not None
        outcome = await self._clay.send(case.destination.alias, posted.entry.webhook_id, case.body)
        return msgspec.structs.replace(posted, outcome=outcome)

    return patch.object(Line, "_post", post)


def heard_and_given_up() -> Iterable[Schedule]:
    """A long Retry-After is heard, its step is lost, and a rebalance takes the lead away that could tell of it."""
    refused = next(base for base in bases() if base.name == "refused")
    limited = replace(refused, fates=("limited", "limited", "limited", "accepted", "accepted"))
    return [
        replace(limited, losses=((request, "refused"),), faults=(Fault(step, "rebalance"),))
        for request in range(14, 20)
        for step in range(70, 100)
    ]


@mutant("5", hunt=heard_and_given_up)
def retry_after_forgotten_with_memory() -> Patch:
    return patch(
        "stream_app.partition.lanes.take_over", lambda state, now_ms, heard=None: lane_owner.take_over(state, now_ms)
    )
