"""What the operator decided, frozen: destinations, workspaces, how the line behaves. Built once from the settings."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from stream_app.domain.callback.token import Keys
from stream_app.domain.dead_letter.replay import ReplayPolicy
from stream_app.domain.lane.breaker import BreakerPolicy
from stream_app.domain.lane.budget import BudgetPolicy, Cost
from stream_app.domain.lane.callback_health import CallbackHealthPolicy
from stream_app.domain.lane.concurrency import ConcurrencyPolicy
from stream_app.domain.lane.flood_guard import FloodGuardPolicy
from stream_app.domain.lane.health import HealthPolicy, WindowPolicy
from stream_app.domain.lane.rate import RatePolicy
from stream_app.domain.lane.suspension import SuspensionPolicy
from stream_app.domain.lane.webhook_quota import QuotaPolicy
from stream_app.domain.messages import Change
from stream_app.domain.result.cache_entry import CachePolicy
from stream_app.domain.topics import TopicNames

MAX_PAYLOAD_BYTES: Final = 100_000
"""What Clay takes in one request."""

_NOTHING = object()


class Destination(msgspec.Struct, frozen=True):
    """A Clay table that leads go to. It names its webhooks by id only: URLs and tokens are the client's.

    columns     lead field -> Clay column; empty: every field under its own name.
    callbacks   False: nothing ever comes back, so `accepted` is final and the estimate is booked as its cost.
    estimate    what one lead usually costs; `ceiling` what it may cost at most: so much is reserved for each.
    uncertain   what becomes of a send that may have reached Clay once its grace is over.
    uncertain_grace_s  how long a callback may still show that it did.
    callback_url  where the table's HTTP column calls back; it goes to Clay with each lead.
    cache_first whether a fresh result of the same person answers a lead before Clay is asked.
    callback_deadline_s, callback_grace_s  an accepted lead is overdue after the one, and parked after the other.
    token_name  where its token comes from, for people; `setup_id` changes with its token and webhooks.
    """

    alias: str
    workspace: str
    webhook_ids: tuple[str, ...]
    columns: dict[str, str] = {}
    callbacks: bool = True
    estimate: Cost = Cost(credits=6, actions=1)
    ceiling: Cost = Cost(credits=20, actions=5)
    uncertain: Literal["park", "resend"] = "park"
    uncertain_grace_s: float = 600.0
    token_name: str = ""
    setup_id: str = ""
    callback_url: str = ""
    cache_first: bool = False
    callback_deadline_s: float = 3_600.0
    callback_grace_s: float = 86_400.0


class Workspace(msgspec.Struct, frozen=True):
    """A Clay workspace and the policies of its lane.

    hold      what a lead does that the lane cannot take now: it waits in Kafka (pause), or (degrade) it is answered
              otherwise or deferred.
    fallback  what it may be answered with then: a fresh result, an old one, provisionally what its own fields say.
    """

    name: str
    default_destination: str
    hold: Literal["pause", "degrade"] = "pause"
    fallback: tuple[Literal["cache", "stale", "local"], ...] = ("cache", "stale", "local")
    breaker: BreakerPolicy = BreakerPolicy()
    window: WindowPolicy = WindowPolicy()
    health: HealthPolicy = HealthPolicy()
    stop: SuspensionPolicy = SuspensionPolicy()
    rate: RatePolicy = RatePolicy()
    budget: BudgetPolicy = BudgetPolicy()
    quota: QuotaPolicy = QuotaPolicy()
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy()
    flood: FloodGuardPolicy = FloodGuardPolicy()
    silence: CallbackHealthPolicy = CallbackHealthPolicy()


def in_force(policy: Workspace, changes: tuple[Change, ...]) -> Workspace:
    """The policy with what an operator changed live.

    A change holds while the configuration says what it said then: whoever edits the file afterwards has the last word.
    """
    if not changes:
        return policy
    tables: dict[str, dict[str, int | float | bool | None]] = {}
    for change in changes:
        table, _, key = change.key.partition(".")
        if getattr(getattr(policy, table, None), key, _NOTHING) == change.was:
            tables.setdefault(table, {})[key] = change.now
    return msgspec.structs.replace(
        policy,
        **{table: msgspec.structs.replace(getattr(policy, table), **values) for table, values in tables.items()},
    )


class LinePolicy(msgspec.Struct, frozen=True):
    """How the line behaves, for all lanes.

    max_in_flight   POSTs under way a partition. max_attempts: POSTs that Clay refused before a dead letter.
    retry_base_s, retry_cap_s  full-jitter backoff between those attempts.
    start_within_s  a POST that has not started this long after its row was committed is not started any more.
    patience_s      how long a lead waits for a lane that shares its partition before it is deferred.
    max_lead_bytes, max_payload_bytes, max_letter_bytes  of a record, of what Clay is sent, of a dead letter's value.
    retry_share, bulk_share  share of a lane's sends that retries and bulk get while hot leads wait.
    """

    max_in_flight: int = 100
    max_attempts: int = 6
    retry_base_s: float = 0.5
    retry_cap_s: float = 30.0
    start_within_s: float = 10.0
    patience_s: float = 5.0
    freshness_days: float = 30.0
    retry_share: float = 0.2
    bulk_share: float = 0.1
    max_lead_bytes: int = 102_400
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
    max_letter_bytes: int = 1_048_588


class Plan(msgspec.Struct, frozen=True):
    """Everything that the line needs to know.

    An operator may have workspaces and destinations exchanged while it runs (config/reload.py); nothing else.
    app goes into headers; callback_keys sign the tokens that leads carry to Clay, None where no table echoes one.
    """

    topics: TopicNames
    partitions: int
    workspaces: dict[str, Workspace]
    destinations: dict[str, Destination]
    pins: dict[str, int] = {}
    line: LinePolicy = LinePolicy()
    replay: ReplayPolicy = ReplayPolicy()
    app: str = ""
    callback_keys: Keys | None = None
    cache: CachePolicy = CachePolicy()

    def destination(self, workspace: str, alias: str) -> Destination | None:
        """None where the workspace has none of that name (any more); another one may."""
        there = self.destinations.get(alias)
        return there if there is not None and there.workspace == workspace else None

    def destinations_of(self, workspace: str) -> list[Destination]:
        """In the order of the configuration."""
        return [there for there in self.destinations.values() if there.workspace == workspace]
