"""Compares what the system shows on Kafka with the ledger of the simulated Clay.

The ledger is independent of the system.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.delivery.state_machine import delivery_key, item_id
from stream_app.domain.model.messages import RESEND_ORDERED, Status, StatusEvent
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.readers import Reader
from stream_app.tasks import cancel

ANSWERED: Final[frozenset[Status]] = frozenset({"enriched", "partial", "no_data", "enrich_error"})
"""Clay has called back about the lead."""
AT_REST: Final[frozenset[Status]] = ANSWERED | {
    "rejected_invalid",
    "suppressed",
    "duplicate",
    "expired",
    "parked",
    "replaced",
    "confirmed",
}
"""The final states of a record."""
_OF_CALLBACKS: Final[frozenset[Status]] = frozenset({"callback_duplicate", "callback_unmatched"})
"""Statuses of a callback's own record."""

_event: Final = msgspec.json.Decoder(StatusEvent)
_view: Final = msgspec.json.Decoder(LaneView)


class DemoState:
    """Everything seen so far.

    Attributes:
        published: How many records the demo has put on `leads`.
        steps: How many events have each status.
        lead_of_item: The lead of each item of a routine's run, by the item's id.
        replays: How many dead letters came back. The event `replayed` tells of deferred leads, too.
    """

    def __init__(self) -> None:
        self.published = 0
        self.replays = 0
        self.following: asyncio.Task[None] | None = None
        self.lanes: dict[str, LaneView] = {}
        self.steps: Counter[Status] = Counter()
        self.lead_of_item: dict[str, str] = {}
        self._last: dict[str, StatusEvent] = {}
        self._parked: set[str] = set()
        self._credits: Counter[str] = Counter()

    def check(self) -> None:
        """Raise the error that ended the reading of Kafka, if any."""
        if self.following is not None and self.following.done():
            self.following.result()

    def on_event(self, event: StatusEvent) -> None:
        self.steps[event.status] += 1
        if event.status == "sending":
            key = delivery_key(event.workspace, event.destination, event.lead_id)
            self.lead_of_item[item_id(key)] = event.lead_id
        self.replays += event.status == "replayed" and event.reason in (
            "replayed",
            "redriven",
            RESEND_ORDERED,
        )
        self._credits[event.lead_id] += event.credits or 0
        if event.status == "parked":
            self._parked.add(event.lead_id)
        if event.status not in _OF_CALLBACKS:
            self._last[event.origin] = event

    def on_lane(self, view: LaneView) -> None:
        self.lanes[view.workspace] = view

    @property
    def status_counts(self) -> Counter[Status]:
        """The number of records by their last status."""
        return Counter(event.status for event in self._last.values())

    @property
    def untaken(self) -> int:
        """How many records no worker has taken, at least.

        Those of others, with `demo --keep`, are known once taken.
        """
        return max(0, self.published - len(self._last))

    @property
    def at_rest(self) -> bool:
        """True if every published record has a final status."""
        counts = self.status_counts
        return self.published > 0 and sum(counts[status] for status in AT_REST) >= self.published

    @property
    def answered(self) -> dict[str, int]:
        """Ids of the leads that Clay has called back about, with the credits booked for each."""
        ids = (event.lead_id for event in self._last.values() if event.status in ANSWERED)
        return {lead_id: self._credits[lead_id] for lead_id in ids}

    @property
    def parked(self) -> set[str]:
        """Ids of the leads that wait for a human, or about which one has decided."""
        return self._parked - self.answered.keys()


@asynccontextmanager
async def followed(settings: Settings) -> AsyncIterator[DemoState]:
    """Yield the state, which follows Kafka until the block ends."""
    state = DemoState()
    names = settings.names
    topics = (names.status, names.lanes)
    partitions = range(settings.kafka.partitions)
    async with Reader(connection_of(settings), fetch_max_wait_ms=100) as reader:
        starts = await reader.begins(
            [TopicPartition(topic, number) for topic in topics for number in partitions],
        )
        state.following = asyncio.create_task(_follow(reader, starts, state, names.status))
        try:
            yield state
        finally:
            await cancel([state.following])


async def _follow(
    reader: Reader,
    starts: Mapping[TopicPartition, int],
    state: DemoState,
    status: str,
) -> None:
    async for polled in reader.follow(starts, wait_ms=200):
        for tp, records in polled.items():
            for record in records:
                if tp.topic == status:
                    state.on_event(_event.decode(record.value))
                else:
                    state.on_lane(_view.decode(record.value))


_REFUSALS: Final = {
    "request": frozenset({"422", "429", "503"}),
    "run": frozenset({"422", "429"}),
}
"""Answers that prove that Clay did not take the lead (docs/reference/clay.md): of a webhook, and of
a routine.
"""
_SIGNS: Final = {"charge": 1, "refund": -1}


class Comparison(msgspec.Struct, frozen=True):
    """The comparison. Leads appear by their ids.

    Attributes:
        posts: Requests that Clay received.
        accepted: Leads that Clay took.
        doubles: Leads that were POSTed again although an earlier POST was not refused.
        missing: Leads that count as answered but that Clay never received.
        unknown: Leads that Clay took and that are neither answered nor parked.
        uncertain: Leads that were parked as uncertain and that did reach Clay.
        charged: Credits that Clay charged for the answered leads.
        booked: Credits that the system booked for them.
    """

    posts: int
    accepted: int
    doubles: list[str]
    missing: list[str]
    unknown: list[str]
    uncertain: int
    charged: int
    booked: int

    @property
    def agrees(self) -> bool:
        """True if Clay took every answered lead once, at the booked price, and no other lead."""
        return not (self.doubles or self.missing or self.unknown) and self.charged == self.booked


def compare(
    ledger: Iterable[Mapping[str, Any]],
    answered: Mapping[str, int],
    parked: Collection[str],
    lead_of_item: Mapping[str, str] = {},
) -> Comparison:
    """Compare the ledger with the system.

    Args:
        ledger: Its lines, in order.
        answered: The leads that Clay has called back about, with the credits booked for each.
        parked: The leads that wait for a human, or about which one has decided.
        lead_of_item: The lead of each item of a run, by the item's id, which the ledger has.
    """
    posts = 0
    charged = 0
    maybe_at_clay: set[str] = set()
    at_clay: set[str] = set()
    doubles: set[str] = set()
    for line in ledger:
        name = str(line.get("lead_id"))
        lead = lead_of_item.get(name, name)
        if line["kind"] in _SIGNS and lead in answered:
            charged += _SIGNS[line["kind"]] * line.get("credits", 0)
        if line["kind"] not in _REFUSALS:
            continue
        posts += 1
        if lead in maybe_at_clay:
            doubles.add(lead)
        if line["accepted"]:
            at_clay.add(lead)
        if str(line["status"]) not in _REFUSALS[line["kind"]]:
            maybe_at_clay.add(lead)
    return Comparison(
        posts=posts,
        accepted=len(at_clay),
        doubles=sorted(doubles),
        missing=sorted(answered.keys() - at_clay),
        unknown=sorted(at_clay - answered.keys() - set(parked)),
        uncertain=len(at_clay & set(parked)),
        charged=charged,
        booked=sum(answered.values()),
    )
