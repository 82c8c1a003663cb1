"""The operator's settings as frozen values: destinations, workspaces and pipeline limits. Built once at start."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
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
from stream_app.domain.lead.lead import home_partition
from stream_app.domain.messages import Change
from stream_app.domain.result.cache_entry import CachePolicy
from stream_app.domain.topics import TopicNames

MAX_PAYLOAD_BYTES: Final = 100_000
"""The largest request that Clay accepts."""

_NOTHING = object()


class Destination(msgspec.Struct, frozen=True):
    """A Clay table that receives leads. It names its webhooks by id only: URLs and tokens stay in the Clay client.

    Attributes:
        alias: The name of the destination in the configuration.
        workspace: The Clay workspace that the table belongs to.
        webhook_ids: The pool of webhooks, in the order in which they are used.
        columns: Lead field -> Clay column. Empty: every field goes under its own name.
        callbacks: False: no callback ever comes. Then `accepted` is final, and the estimate is booked as the cost.
        estimate: The usual cost of one lead.
        ceiling: The highest cost of one lead. This much is reserved for each lead.
        uncertain: What to do with a send that may have reached Clay when its grace has ended.
        uncertain_grace_s: How long to wait for a callback that shows that an uncertain send reached Clay.
        token_name: Where its token comes from, for people.
        setup_id: A hash that changes with its token and webhooks.
        callback_url: Where the table's HTTP column calls back. It is sent to Clay with each lead.
        cache_first: Answer a lead from a fresh cached result of the same person instead of asking Clay.
        callback_deadline_s: An accepted lead without a callback is overdue after this time.
        callback_grace_s: An overdue lead is parked after this further time.
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

    Attributes:
        name: The name of the workspace.
        default_destination: The destination of leads that name none.
        hold: What happens to a lead while its lane is held. `pause`: it waits in Kafka. `degrade`: the fallback answers
            it, or it is deferred.
        fallback: The sources of a fallback answer, in order: a fresh cached result, a stale one, or a provisional
            result from the lead's own fields.
        breaker: When the circuit breaker opens and closes.
        window: The sliding window that the breaker and the flood guard judge.
        health: The sliding window that is shown to people.
        suspension: When a suspended lane sends probes.
        rate: The token bucket.
        budget: The caps on credits and actions.
        quota: When a webhook is replaced by the next one of its pool.
        concurrency: How many POSTs may be in flight.
        flood_guard: How many dead letters suspend the lane.
        callback_health: How many overdue leads without a callback suspend a destination.
    """

    name: str
    default_destination: str
    hold: Literal["pause", "degrade"] = "pause"
    fallback: tuple[Literal["cache", "stale", "local"], ...] = ("cache", "stale", "local")
    breaker: BreakerPolicy = BreakerPolicy()
    window: WindowPolicy = WindowPolicy()
    health: HealthPolicy = HealthPolicy()
    suspension: SuspensionPolicy = SuspensionPolicy()
    rate: RatePolicy = RatePolicy()
    budget: BudgetPolicy = BudgetPolicy()
    quota: QuotaPolicy = QuotaPolicy()
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy()
    flood_guard: FloodGuardPolicy = FloodGuardPolicy()
    callback_health: CallbackHealthPolicy = CallbackHealthPolicy()


def in_force(policy: Workspace, changes: tuple[Change, ...]) -> Workspace:
    """Return the policy with the live changes of an operator applied.

    A change stays in force as long as the configuration has the value that it replaced. An edit of the configuration
    overrides it.
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
    """Limits of the pipeline, for all lanes.

    Attributes:
        max_in_flight: POSTs in flight per partition.
        max_attempts: POSTs that Clay may refuse before the lead becomes a dead letter.
        retry_base_s: Base of the full-jitter backoff between those attempts.
        retry_cap_s: Longest backoff between those attempts.
        start_within_s: A POST that has not started this long after its row was committed is cancelled.
        patience_s: How long a lead waits for a lane that shares its partition before it is deferred.
        freshness_days: How long a paid lead is protected from being bought again.
        retry_share: The share of a lane's sends that retries get while hot leads wait.
        bulk_share: The share of a lane's sends that bulk leads get while hot leads wait.
        max_lead_bytes: The largest input record.
        max_payload_bytes: The largest request to Clay.
        max_dead_letter_bytes: The largest value of a dead letter.
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
    max_dead_letter_bytes: int = 1_048_588


class Plan(msgspec.Struct, frozen=True, dict=True):
    """The whole configuration of the pipeline.

    An operator may replace workspaces and destinations while the worker runs (config/reload.py). Nothing else changes.
    No look-up takes longer with more workspaces. `dict=True` is for the indexes behind that.

    Attributes:
        topics: The names on Kafka.
        partitions: The number of partitions, the same for all topics.
        workspaces: By name.
        destinations: By alias.
        pins: Workspace -> the partition that the configuration assigns to it.
        line: Limits of the pipeline.
        replay: When dead letters and deferred leads come back.
        app: The version that is written into headers and events.
        callback_keys: The keys that sign callback tokens; None if no table echoes a token.
        cache: How long cached results count.
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
        """Return the destination, or None if the workspace does not have it. Another workspace may."""
        there = self.destinations.get(alias)
        return there if there is not None and there.workspace == workspace else None

    def destinations_of(self, workspace: str) -> list[Destination]:
        """Return the destinations of a workspace in the order of the configuration."""
        known = map(self.destinations.get, self._aliases.get(workspace, ()))
        return [there for there in known if there is not None and there.workspace == workspace]

    def home_of(self, workspace: str) -> int:
        """Return the home partition of a workspace, configured or not."""
        home = self._homes.get(workspace)
        return home_partition(workspace, self.partitions, self.pins) if home is None else home

    def residents(self, partition: int) -> Collection[str]:
        """Return the workspaces whose home is this partition, in the order of the configuration."""
        return self._residents.get(partition, {}).keys()

    def put_workspace(self, workspace: Workspace, pin: int | None) -> None:
        """Add a workspace, or replace its policies. The pin counts for a new one only: a running one stays."""
        name = workspace.name
        if name not in self.workspaces and pin is not None:
            self.pins[name] = pin
        homes, residents = self._homes, self._residents  # before the change: they are computed when first used
        self.workspaces[name] = workspace
        homes[name] = home = self.home_of(name)
        residents.setdefault(home, {})[name] = None

    def put_destination(self, destination: Destination) -> None:
        """Add a destination, or replace it. It stays with its workspace."""
        self._aliases.setdefault(destination.workspace, {})[destination.alias] = None
        self.destinations[destination.alias] = destination

    @cached_property
    def _homes(self) -> dict[str, int]:
        return {name: home_partition(name, self.partitions, self.pins) for name in self.workspaces}

    @cached_property
    def _residents(self) -> dict[int, dict[str, None]]:
        found: dict[int, dict[str, None]] = {}
        for name, home in self._homes.items():
            found.setdefault(home, {})[name] = None
        return found

    @cached_property
    def _aliases(self) -> dict[str, dict[str, None]]:
        """The aliases of each workspace's destinations."""
        found: dict[str, dict[str, None]] = {}
        for alias, there in self.destinations.items():
            found.setdefault(there.workspace, {})[alias] = None
        return found
