"""The operator's settings as frozen values: workspaces, destinations and limits.

They are as the configuration file has them.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.limits.budget import BudgetPolicy, Cost
from stream_app.domain.limits.callback_health import CallbackHealthPolicy
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.limits.suspension import FloodGuardPolicy, SuspensionPolicy
from stream_app.domain.limits.webhook_quota import LIFETIME, QuotaPolicy, WebhookLimits
from stream_app.domain.model.addresses import API_URL, DestinationKind
from stream_app.domain.model.numbers import MAX_AMOUNT, Real, TimeMs, Whole
from stream_app.domain.model.ranges import Policy, Range
from stream_app.domain.model.tokens import Keys
from stream_app.domain.model.topics import TopicNames, home_partition

MAX_PAYLOAD_BYTES: Final = 100_000  # the largest request that Clay accepts
MAX_YIELD_COLUMNS: Final = 10  # of a destination: each is counted, and watched, by itself
MAX_RETURNS: Final = 30  # replays over all epochs, after which the lead is parked as a loop
_NOTHING = object()


class Actor(msgspec.Struct, frozen=True):
    """An operator who gave an order, the reason, and the time in epoch ms."""

    who: str
    why: str
    at_ms: TimeMs


class Change(msgspec.Struct, frozen=True):
    """A key of a lane's policy that an operator changed at run time.

    Such a key is `budget.credits_per_day`.

    Attributes:
        was: The value in the configuration at that time. When the configuration has another value,
            the change ends.
        now: The value in force.
    """

    key: str
    was: Whole | Real | bool | None
    now: Whole | Real | bool | None
    by: Actor


def byline(by: Actor) -> str:
    """Return the operator, the time and the reason in words."""
    at = datetime.fromtimestamp(min(max(by.at_ms, 0), 253_370_764_800_000) / 1000, UTC)
    return f"by {by.who} at {at:%Y-%m-%d %H:%M:%S} UTC" + (f": {by.why}" if by.why else "")


class ReplayPolicy(msgspec.Struct, frozen=True):
    """When and how often failed leads are replayed.

    The backoff of replay n is `backoff_base_s * 4**(n-1)`, at most `backoff_cap_s`. Half of it is
    jitter.

    Attributes:
        max_replays: How often a lead is replayed within one epoch, before it is parked.
        rate_share: The share of a lane's configured rate that replays may use.
        backoff_base_s: The backoff of the first replay.
        backoff_unreachable_base_s: The same after a POST that found no connection, because such
            failures usually last longer.
        backoff_cap_s: The longest backoff.
        tiers_s: The delays of the delay tiers, the shortest first.
    """

    max_replays: Annotated[int, Range(0, 100)] = 3
    rate_share: Annotated[float, Range(0.01, 1)] = 0.5
    backoff_base_s: Annotated[float, Range(1, 86_400)] = 10.0
    backoff_unreachable_base_s: Annotated[float, Range(1, 86_400)] = 30.0
    backoff_cap_s: Annotated[float, Range(1, 604_800)] = 3600.0
    tiers_s: tuple[int, ...] = (2, 10, 60, 600, 3600)


class CachePolicy(Policy, frozen=True):
    """How old a cached result may be, and which of its fields people of a company share.

    Attributes:
        freshness_days: A result of at most this age is as good as a new one.
        stale_days: A result of at most this age is better than none while the lane is held.
        company_fields: Fields that are the same for all people of a company, besides those that
            begin with `company_`.
    """

    ORDERED: ClassVar = (("freshness_days", "stale_days"),)

    freshness_days: Annotated[float, Range(0.01, 365)] = 30.0
    stale_days: Annotated[float, Range(0.01, 3_650)] = 180.0
    company_fields: tuple[str, ...] = (
        "domain",
        "website",
        "industry",
        "employee_count",
        "headcount",
        "revenue",
        "funding",
        "founded_year",
        "headquarters",
    )

    def is_of_company(self, name: str) -> bool:
        """Return True if a field describes the company and not the person."""
        return name.startswith("company_") or name in self.company_fields


class Destination(msgspec.Struct, frozen=True, dict=True):
    """A Clay table, workflow or routine that receives leads, as its table in the configuration.

    The fields that are no keys of the table follow from its secrets.

    Attributes:
        alias: The name of the destination in the configuration.
        workspace: The Clay workspace that the table belongs to.
        webhook_ids: The pool of webhooks, in the order in which they are used. URLs and tokens stay
            in the Clay client.
        columns: Lead field -> Clay column. Empty: every field goes under its own name.
        webhooks_env: The variables with the URLs of the webhooks, which are secrets. They are used
            in this order.
        quota_lifetime: Submissions that each of these webhooks takes in its lifetime; 0 if there is
            no end, as with Clay's auto-delete. Absent: 50,000, and no end for a workflow.
        token_env: The variable with the `x-clay-webhook-auth` token.
        callbacks: Whether the table calls back. If not, `accepted` is final, and the estimate is
            booked as the cost. Not for a routine, whose results are asked for.
        callback_secrets_env: The variables with a secret that this table's callbacks send in the
            header `x-callback-secret`, for a table that cannot echo each lead's token. Several
            during a change.
        callback_deadline_s: An accepted lead without a callback is overdue after this time. So is
            that of a routine whose run has not finished, by default after 30 minutes.
        callback_grace_s: An overdue lead is parked after this further time. Its callback may still
            come. By default 20 hours for a routine, because Clay keeps the results of a run for
            about a day.
        estimate_credits: What one lead usually costs, in credits.
        estimate_actions: What one lead usually costs, in Actions.
        ceiling_credits: The most that one lead may cost, in credits. A budget reserves it before
            the POST.
        ceiling_actions: The most that one lead may cost, in Actions.
        uncertain: What happens when the grace of an uncertain lead has ended. `park`: a person
            decides. `resend`: it is sent again.
        uncertain_grace_s: How long to wait for the callback of an uncertain lead, which would show
            that the lead reached Clay.
        unavailable_is_refused: True if a 503 proves that Clay took nothing
            (docs/reference/clay.md). Not for a routine: nobody says that a 503 of the Public API
            took nothing.
        cache_first: Answer a lead from a fresh cached result of the same person instead of asking
            Clay.
        yield_: The columns of a result for which the leads are bought, such as `work_email`. The
            event of an answer says which of them have a value, and how often they have one is
            counted.
        yield_suspends: Hold the leads of this destination when Clay finds one of these columns much
            less often than before.
        allowed_hosts: Hosts that a webhook may name, or a routine's `api_url`. Hosts other than
            Clay's are for the simulator.
        setup_id: A hash that changes with its token and webhooks.
        callback_url: Where the table's HTTP column calls back. It is sent to Clay with each lead.
        kind: What it starts: rows of a table, runs of a workflow, or runs of a routine.
        routine: The id of a routine, `function:t_...` or `workflow:wf_...`, which is run through
            Clay's Public API in place of a webhook.
        poll_after_s: When the results of a routine's run are asked for, in seconds after the
            answer to its POST; after the last of them less and less often. Only for a routine.
        run_webhook: The id of the completion webhook that announces the end of each run, such as
            `wh_...`. Without it the results are found by asking alone. Only for a routine.
        run_webhook_secret_env: The variable with the secret that signs those announcements. Clay
            shows it once, when the completion webhook is made.
    """

    alias: str
    workspace: str
    webhook_ids: tuple[str, ...] = ()
    columns: dict[str, str] = {}
    webhooks_env: tuple[str, ...] = ()
    quota_lifetime: Annotated[int | None, Range(0, MAX_AMOUNT)] = None
    token_env: str | None = None
    callbacks: bool = True
    callback_secrets_env: tuple[str, ...] = ()
    callback_deadline_s: Annotated[float, Range(1, 2_592_000)] = 3_600.0
    callback_grace_s: Annotated[float, Range(1, 2_592_000)] = 86_400.0
    estimate_credits: Annotated[int, Range(0, 1_000_000)] = 6
    estimate_actions: Annotated[int, Range(0, 1_000_000)] = 1
    ceiling_credits: Annotated[int, Range(0, 1_000_000)] = 20
    ceiling_actions: Annotated[int, Range(0, 1_000_000)] = 5
    uncertain: Literal["park", "resend"] = "park"
    uncertain_grace_s: Annotated[float, Range(1, 604_800)] = 600.0
    unavailable_is_refused: bool = True
    cache_first: bool = False
    yield_: tuple[str, ...] = msgspec.field(default=(), name="yield")
    yield_suspends: bool = False
    allowed_hosts: tuple[str, ...] = ("api.clay.com",)
    setup_id: str = ""
    callback_url: str = ""
    kind: DestinationKind = "table"
    routine: str | None = None
    poll_after_s: tuple[float, ...] = (20.0, 60.0, 180.0, 600.0)
    run_webhook: str | None = None
    run_webhook_secret_env: str | None = None

    @property
    def calls_back(self) -> bool:
        """True if Clay calls the gateway with each result. Those of a routine are asked for."""
        return self.callbacks and self.routine is None

    @property
    def can_confirm(self) -> bool:
        """True if Clay may still show that it has a lead whose POST had no answer.

        A callback shows that, and so does the announcement of a routine's run.
        """
        return self.calls_back or self.run_webhook is not None

    @property
    def lifetime(self) -> int:
        """Submissions that each of its webhooks takes in its lifetime; 0 if there is no end."""
        if self.quota_lifetime is not None:
            return self.quota_lifetime
        return LIFETIME if self.kind == "table" else 0

    @cached_property
    def estimate(self) -> Cost:
        """The usual cost of one lead."""
        return Cost(self.estimate_credits, self.estimate_actions)

    @cached_property
    def ceiling(self) -> Cost:
        """The highest cost of one lead. This much is reserved for each lead."""
        return Cost(self.ceiling_credits, self.ceiling_actions)


class Workspace(msgspec.Struct, frozen=True, dict=True):
    """A Clay workspace and the policies of its lane, as its table in the configuration.

    Attributes:
        name: The name of the workspace.
        default_destination: The destination of leads that name none. Empty: each lead must name
            one.
        partition: The home of the workspace. Without it the hash of its name decides. Never change
            it for a workspace that has leads: its lane and its rows would stay behind, so the
            worker refuses to start.
        hold: What happens to a lead while its lane is held. `pause`: it waits on Kafka. `degrade`:
            the fallback answers it, or it is deferred. The fallback then also answers a hot lead
            whose POST was refused, provisionally.
        fallback: The sources of a fallback answer, in order: a fresh cached result, a stale one, or
            a provisional result from the lead's own fields.
        time_zone: The time zone in which the budget's days begin.
        breaker: When the circuit breaker opens and closes.
        suspension: When a suspended lane sends probes.
        rate: The token bucket.
        budget: The caps on credits and actions.
        quota: When a webhook is replaced by the next one of its pool.
        max_in_flight: The most POSTs in flight, which is `DeliveryPolicy.max_in_flight`.
        flood_guard: How many dead letters suspend the lane.
        callback_health: How many overdue leads without a callback suspend a destination.
        api_key_env: The variable with the workspace's key for Clay's Public API. A routine needs
            it. With webhooks it serves to compare Clay's balance with the books. A key belongs to
            one workspace of Clay.
        api_url: The address of that API. Another one than Clay's is for the simulator.
    """

    name: str
    default_destination: str = ""
    partition: int | None = None
    hold: Literal["pause", "degrade"] = "pause"
    fallback: tuple[Literal["cache", "stale", "local"], ...] = ("cache", "stale", "local")
    time_zone: str = "UTC"
    breaker: BreakerPolicy = BreakerPolicy()
    suspension: SuspensionPolicy = SuspensionPolicy()
    rate: RatePolicy = RatePolicy()
    budget: BudgetPolicy = BudgetPolicy()
    quota: QuotaPolicy = QuotaPolicy()
    max_in_flight: int = 100
    flood_guard: FloodGuardPolicy = FloodGuardPolicy()
    callback_health: CallbackHealthPolicy = CallbackHealthPolicy()
    api_key_env: str | None = None
    api_url: str = API_URL

    def limits(self, destination: Destination) -> WebhookLimits:
        """Return the limits of each webhook of a destination."""
        return self.quota.limits(destination.lifetime)

    @cached_property
    def unchanged(self) -> "InForce":
        """The policy in force as long as no operator has changed it."""
        return InForce(*msgspec.structs.astuple(self))


ROUTINE_GRACE_S: Final = 72_000.0  # Clay keeps the results of a run for about a day

ROUTINE_DEFAULTS: Final[Mapping[str, object]] = {
    "kind": "routine",
    "callback_deadline_s": 1_800.0,
    "callback_grace_s": ROUTINE_GRACE_S,
    "unavailable_is_refused": False,
}
"""What a destination with a routine has where the file does not say otherwise."""

ROUTINE_RATE: Final[Mapping[str, float]] = {"rate_per_s": 4.0, "burst": 5}
"""The rate of a workspace with routines where the file does not say otherwise.

Clay takes 300 requests a minute for all endpoints of its Public API together, and other tools of
the workspace may share them (docs/reference/clay.md).
"""


class InForce(Workspace, frozen=True):
    """The policy of a lane that applies now: the configured one with what operators have changed.

    Rules take this type, so that none of them decides by what is only configured.
    """


def in_force(configured: Workspace, changes: tuple[Change, ...]) -> InForce:
    """Return the policy with the live changes of an operator applied.

    `Lane.in_force` is for those that have a lane.

    A change stays in force as long as the configuration has the value that it replaced. An edit of
    the configuration overrides it.
    """
    if not changes:
        return configured.unchanged
    tables: dict[str, dict[str, int | float | bool | None]] = {}
    for change in changes:
        table, _, key = change.key.partition(".")
        if getattr(getattr(configured, table, None), key, _NOTHING) == change.was:
            tables.setdefault(table, {})[key] = change.now
    changed = {
        table: msgspec.structs.replace(getattr(configured, table), **values)
        for table, values in tables.items()
    }
    return msgspec.structs.replace(configured.unchanged, **changed)


class DeliveryPolicy(msgspec.Struct, frozen=True):
    """Limits of the pipeline, for all lanes.

    Attributes:
        max_in_flight: The most POSTs in flight, for each lane and for each partition.
        max_attempts: A lead becomes a dead letter when this many of its POSTs were refused.
        connect_timeout_s: The time in which a POST must have its connection.
        request_timeout_s: The time that one POST may take in all.
        retry_base_s: The base of the full-jitter backoff between those attempts.
        retry_cap_s: The longest backoff between those attempts.
        max_request_start_age_s: A POST that would start later than this after its lane granted it
            is not started.
        commit_timeout_s: The time that one commit may take.
        uncertain_grace_s: The `uncertain_grace_s` of destinations that do not set it.
        patience_s: How long a lead waits for a lane that shares its partition, or degrades, before
            it is deferred.
        max_waiting: How many leads wait for their lanes in memory, in a partition that workspaces
            share.
        freshness_days: How long a paid lead or person is protected from being bought again
            (docs/reference/clay.md).
    """

    max_in_flight: Annotated[int, Range(1, 10_000)] = 100
    max_attempts: Annotated[int, Range(1, 100)] = 4
    connect_timeout_s: Annotated[float, Range(0.1, 300)] = 5.0
    request_timeout_s: Annotated[float, Range(0.1, 600)] = 30.0
    retry_base_s: Annotated[float, Range(0.01, 60)] = 0.5
    retry_cap_s: Annotated[float, Range(0.01, 600)] = 8.0
    max_request_start_age_s: Annotated[float, Range(0.1, 600)] = 10.0
    commit_timeout_s: Annotated[float, Range(1, 600)] = 15.0
    uncertain_grace_s: Annotated[float, Range(1, 604_800)] = 600.0
    patience_s: Annotated[float, Range(0.1, 3_600)] = 5.0
    max_waiting: Annotated[int, Range(1, 100_000)] = 500
    freshness_days: Annotated[int, Range(1, 365)] = 30

    @property
    def longest_s(self) -> float:
        """The longest time from a row's commit to the end of its POST."""
        return self.max_request_start_age_s + self.request_timeout_s


class Shares(msgspec.Struct, frozen=True):
    """The shares of a lane's sends that bulk and retried leads get while hot leads wait.

    Attributes:
        bulk: The share of bulk leads.
        retry: The share of leads that came back.
    """

    bulk: Annotated[float, Range(0.01, 0.9)] = 0.1
    retry: Annotated[float, Range(0.01, 0.9)] = 0.2


class Sizes(msgspec.Struct, frozen=True):
    """Limits in bytes of an input record, a request to Clay, and the value of a dead letter."""

    lead: int = 102_400
    payload: int = MAX_PAYLOAD_BYTES
    dead_letter: int = 1_048_588


class Plan(msgspec.Struct, frozen=True, dict=True):
    """The whole configuration of the pipeline.

    An operator may replace workspaces and destinations while the worker runs (config/reload.py).
    Nothing else changes. No look-up takes longer with more workspaces. `dict=True` is for the
    indexes behind that.
    """

    topics: TopicNames  # the names on Kafka
    partitions: int  # the number of partitions, the same for all topics
    workspaces: dict[str, Workspace]  # by name
    destinations: dict[str, Destination]  # by alias
    pins: dict[str, int] = {}  # workspace -> the partition that the configuration assigns to it
    delivery: DeliveryPolicy = DeliveryPolicy()  # limits of the pipeline
    shares: Shares = Shares()  # the shares of a lane's sends
    replay: ReplayPolicy = ReplayPolicy()  # when dead letters and deferred leads come back
    app: str = ""  # the version that is written into headers and events
    # The keys that sign callback tokens; None if no table echoes a token.
    callback_keys: Keys | None = None
    cache: CachePolicy = CachePolicy()  # how long cached results count
    sizes: Sizes = Sizes()  # limits of records and requests
    traces: bool = False  # each row for Clay carries the lead's `traceparent`

    def destination(self, workspace: str, alias: str) -> Destination | None:
        """Return the destination, or None if the workspace does not have it.

        Another workspace may.
        """
        destination = self.destinations.get(alias)
        return (
            destination if destination is not None and destination.workspace == workspace else None
        )

    def destinations_of(self, workspace: str) -> list[Destination]:
        """Return the destinations of a workspace in the order of the configuration."""
        known = map(self.destinations.get, self._aliases.get(workspace, ()))
        return [
            destination
            for destination in known
            if destination is not None and destination.workspace == workspace
        ]

    def home_of(self, workspace: str) -> int:
        """Return the home partition of a workspace, configured or not."""
        home = self._homes.get(workspace)
        return home_partition(workspace, self.partitions, self.pins) if home is None else home

    def residents(self, partition: int) -> Collection[str]:
        """Return the workspaces whose home is this partition, in the order of the configuration."""
        return self._residents.get(partition, {}).keys()

    def put_workspace(self, workspace: Workspace, pin: int | None) -> None:
        """Add a workspace, or replace its policies.

        The pin counts for a new one only: a running one stays.
        """
        name = workspace.name
        if name not in self.workspaces and pin is not None:
            self.pins[name] = pin
        # Before the change, because they are computed when they are first used.
        homes = self._homes
        residents = self._residents
        self.workspaces[name] = workspace
        home = self.home_of(name)
        homes[name] = home
        residents.setdefault(home, {})[name] = None

    def put_destination(self, destination: Destination) -> None:
        """Add a destination, or replace it. It stays with its workspace."""
        alias = destination.alias
        # Before the change, because they are computed when they are first used.
        aliases = self._aliases
        routines = self.routines
        aliases.setdefault(destination.workspace, {})[alias] = None
        self.destinations[alias] = destination
        if destination.kind == "routine":
            routines.add(alias)
        else:
            routines.discard(alias)

    @cached_property
    def routines(self) -> set[str]:
        """The aliases of the destinations that are routines."""
        return {
            alias
            for alias, destination in self.destinations.items()
            if destination.kind == "routine"
        }

    @cached_property
    def _homes(self) -> dict[str, int]:
        return {name: home_partition(name, self.partitions, self.pins) for name in self.workspaces}

    @cached_property
    def _residents(self) -> dict[int, dict[str, None]]:
        residents: dict[int, dict[str, None]] = {}
        for name, home in self._homes.items():
            residents.setdefault(home, {})[name] = None
        return residents

    @cached_property
    def _aliases(self) -> dict[str, dict[str, None]]:
        """The aliases of each workspace's destinations."""
        aliases: dict[str, dict[str, None]] = {}
        for alias, destination in self.destinations.items():
            aliases.setdefault(destination.workspace, {})[alias] = None
        return aliases
