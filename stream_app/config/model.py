"""The configuration as types: one frozen Struct per table of the TOML file, with units in the names.

Each Struct's `problems` checks its ranges. rules.py checks the rules between tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from stream_app.config.secret_files import Stamp
from stream_app.domain.callback.token import Keys
from stream_app.domain.lane.breaker import BreakerPolicy
from stream_app.domain.lane.budget import BudgetPolicy
from stream_app.domain.lane.callback_health import CallbackHealthPolicy
from stream_app.domain.lane.concurrency import ConcurrencyPolicy
from stream_app.domain.lane.flood_guard import FloodGuardPolicy
from stream_app.domain.lane.health import HealthPolicy, WindowPolicy
from stream_app.domain.lane.rate import RatePolicy
from stream_app.domain.lane.suspension import SuspensionPolicy
from stream_app.domain.lane.webhook_quota import QuotaPolicy
from stream_app.domain.lead.lead import home_partition
from stream_app.domain.result.cache_entry import CachePolicy
from stream_app.domain.topics import Retention, TopicNames, TopicPlan, plan


class Security(msgspec.Struct, frozen=True):
    """How to authenticate to Kafka. Passwords are in the environment; this holds only the names of the variables.

    `ca_file`, `cert_file` and `key_file` are PEM files. Without `ca_file` the system's authorities are trusted.
    """

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str | None = None
    password_env: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password_env: str | None = None


class Kafka(msgspec.Struct, frozen=True):
    """The Kafka cluster.

    Attributes:
        bootstrap: host:port, several separated by commas.
        namespace: Prefix of every topic, group and transactional id.
        partitions: Must never change while the system has data.
        session_timeout_s: A worker without a heartbeat for this long loses its partitions.
        rebalance_timeout_s: The time that a worker has to release its partitions.
        broker_wait_s: How long to wait for a broker that does not respond.
    """

    bootstrap: str = "127.0.0.1:9092"
    namespace: str = ""
    partitions: int = 8
    replication: int = 3
    session_timeout_s: float = 30.0
    rebalance_timeout_s: float = 120.0
    broker_wait_s: float = 60.0
    security: Security = Security()


class Redis(msgspec.Struct, frozen=True):
    """The Redis cache.

    Attributes:
        url_env: The environment variable with the URL (`rediss://user:password@host:6379/0`). Absent: the cache is in
            memory.
        ca_file: PEM file with the authority of the server's certificate. Absent: the system's authorities are trusted.
        timeout_s: How long a lead may wait for Redis.
    """

    url_env: str | None = None
    ca_file: str | None = None
    timeout_s: float = 0.05


class Line(msgspec.Struct, frozen=True):
    """The lead pipeline.

    Attributes:
        max_in_flight: Leads in progress in one partition.
        max_attempts: Refused POSTs of one lead before it becomes a dead letter.
        connect_timeout_s: Time of one POST to connect.
        request_timeout_s: Time of one POST in all.
        retry_base_s: First wait between attempts of a lead; it doubles, with full jitter.
        retry_cap_s: Longest wait between attempts.
        max_request_start_age_s: A POST starts within this time after the commit of its row, or not at all.
        commit_timeout_s: Time for one commit.
        uncertain_grace_s: How long a lead with an uncertain POST waits for its callback.
        patience_s: How long a lead waits for a lane that shares its partition, or degrades, before it is deferred.
        freshness_days: The same lead or person within this time is a duplicate (docs/reference/clay.md: 30 to 90).
    """

    max_in_flight: int = 100
    max_attempts: int = 4
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 30.0
    retry_base_s: float = 0.5
    retry_cap_s: float = 8.0
    max_request_start_age_s: float = 10.0
    commit_timeout_s: float = 15.0
    uncertain_grace_s: float = 600.0
    patience_s: float = 5.0
    freshness_days: int = 30


class Replay(msgspec.Struct, frozen=True):
    """Replays of dead letters and deferred leads.

    Attributes:
        max_replays: How often a lead is replayed in one rewind epoch.
        max_returns: How often a lead is replayed in all; more is a loop.
        rate_share: Share of its lane's rate that a workspace's replays may use.
        backoff_base_s: First backoff; it grows up to `backoff_cap_s`.
        backoff_unreachable_base_s: First backoff of leads for which no connection was possible.
        backoff_cap_s: Longest backoff.
        tiers_s: The delay tiers, one topic each. A delay is composed of them.
    """

    max_replays: int = 3
    max_returns: int = 30
    rate_share: float = 0.5
    backoff_base_s: float = 10.0
    backoff_unreachable_base_s: float = 30.0
    backoff_cap_s: float = 3_600.0
    tiers_s: tuple[int, ...] = (2, 10, 60, 600, 3_600)


class Shares(msgspec.Struct, frozen=True):
    """The shares of a lane's rate that are reserved for bulk and retried leads, 0 to 1. Hot leads use the rest."""

    bulk: float = 0.1
    retry: float = 0.2


class WorkspaceDefaults(msgspec.Struct, frozen=True):
    """The policies of a lane. `[workspace_defaults]` sets them for each workspace whose table does not.

    Attributes:
        hold: `pause`: held leads stay in Kafka. `degrade`: they get what `fallback` allows, or are deferred.
        fallback: The fallbacks that are allowed.
        time_zone: Where the budget's days begin.
        concurrency: Its `most` is line.max_in_flight.
    """

    hold: Literal["pause", "degrade"] = "pause"
    fallback: tuple[Literal["cache", "stale", "local"], ...] = ("cache", "stale", "local")
    time_zone: str = "UTC"
    breaker: BreakerPolicy = BreakerPolicy()
    window: WindowPolicy = WindowPolicy()
    health: HealthPolicy = HealthPolicy()
    rate: RatePolicy = RatePolicy()
    budget: BudgetPolicy = BudgetPolicy()
    quota: QuotaPolicy = QuotaPolicy()
    suspension: SuspensionPolicy = SuspensionPolicy()
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy()
    flood_guard: FloodGuardPolicy = FloodGuardPolicy()
    callback_health: CallbackHealthPolicy = CallbackHealthPolicy()


class Workspace(WorkspaceDefaults, frozen=True):
    """A Clay workspace: the policies of its lane, and its own settings.

    Attributes:
        partition: Pins the workspace to a partition. Absent: the hash of its name decides.
        default_destination: For leads that name no destination.
    """

    partition: int | None = None
    default_destination: str | None = None


class Destination(msgspec.Struct, frozen=True):
    """A Clay table: where leads are POSTed to, and what one costs.

    Attributes:
        webhooks_env: Names of the environment variables with the webhook URLs (secrets), used in this order.
        token_env: Name of the variable with the `x-clay-webhook-auth` token.
        columns: Lead field -> Clay column. Empty: every field under its own name.
        callbacks: False: the table sends no callbacks, and `accepted` is final.
        callback_secrets_env: Names of the variables with a secret that this table's callbacks send in the header
            `x-callback-secret`, for a table that cannot echo each lead's token. Several during a change.
        estimate_credits: What one lead usually costs; so `estimate_actions`.
        ceiling_credits: The most that one lead costs; so `ceiling_actions`. A budget reserves the ceiling or waits.
        callback_deadline_s: A lead that Clay accepted is overdue after this time without a callback.
        callback_grace_s: It is parked after this further time. Its callback may still come.
        uncertain: After the grace period of an uncertain POST: park the lead for a human, or send it again.
        uncertain_grace_s: How long an uncertain lead waits for its callback. Absent: line.uncertain_grace_s.
        unavailable_is_refused: True if a 503 proves that Clay took nothing (docs/reference/clay.md).
        cache_first: A fresh result of the same person answers a lead without a call to Clay, at no cost.
        allowed_hosts: Hosts that a webhook may name. Hosts other than Clay's are for the simulator.
    """

    workspace: str
    webhooks_env: tuple[str, ...]
    token_env: str | None = None
    columns: dict[str, str] = {}
    callbacks: bool = True
    callback_deadline_s: float = 3_600.0
    callback_grace_s: float = 86_400.0
    callback_secrets_env: tuple[str, ...] = ()
    estimate_credits: int = 6
    estimate_actions: int = 1
    ceiling_credits: int = 20
    ceiling_actions: int = 5
    uncertain: Literal["park", "resend"] = "park"
    uncertain_grace_s: float | None = None
    unavailable_is_refused: bool = True
    cache_first: bool = False
    allowed_hosts: tuple[str, ...] = ("api.clay.com",)


class Egress(msgspec.Struct, frozen=True):
    """How the worker and `doctor` reach hosts outside: Clay's webhooks and gateway.public_url (docs/network.md).

    Attributes:
        keepalive_s: Idle time after which a connection to Clay is closed. Keep it below the server's own limit.
        ca_file: PEM file that replaces the public authorities, for a network that inspects TLS.
        proxy_env: The environment variable with the URL of an HTTP proxy
            (`http://user:password@proxy.example.com:3128`).
    """

    keepalive_s: float = 15.0
    ca_file: str | None = None
    proxy_env: str | None = None


class Http(msgspec.Struct, frozen=True):
    """The addresses that the processes listen on.

    Attributes:
        host: The host.
        worker_port: /metrics, /healthz and /readyz. They name customers, so they are for operators only. 0: any free
            port, which the log names, so that several workers run on one machine.
        replay_port: The same for replay.
        gateway_port: Callbacks, the look-up API and /healthz.
        gateway_ops_port: As `worker_port`, for the gateway.
    """

    host: str = "127.0.0.1"
    worker_port: int = 9101
    replay_port: int = 9102
    gateway_port: int = 9103
    gateway_ops_port: int = 9104


class Gateway(msgspec.Struct, frozen=True):
    """The gateway: callbacks and the look-up API (`GET /leads/...`).

    Attributes:
        public_url: How Clay reaches the gateway, such as https://leads.example.com; `/callbacks/...` is appended.
        token_keys_env: Names of the variables with the secrets of callback tokens: the first signs, all verify.
        max_body_bytes: Maximum size of a callback.
        read_timeout_s: Time for a callback to arrive completely.
        api_token_env: Name of the variable with the bearer token of the look-up API. Without it the API answers only
            requests to a loopback address, and public_url must be one.
        api_url: Where `stream-app status` finds the API. Absent: this machine, at http.gateway_port.
        read_model_path: The SQLite file of the read model, one per gateway. Absent: in the user's state folder.
    """

    public_url: str | None = None
    token_keys_env: tuple[str, ...] = ()
    max_body_bytes: int = 262_144
    read_timeout_s: float = 10.0
    api_token_env: str | None = None
    api_url: str | None = None
    read_model_path: str | None = None


class Privacy(msgspec.Struct, frozen=True):
    """How people and lead ids are hashed (docs/privacy.md).

    Attributes:
        pepper_env: Names of the variables with the secrets that key the hashes: the first hashes, all are looked up.
        hash_lead_ids: Replace every lead id by its hash. Ids that look like an address or URL are always hashed.
    """

    pepper_env: tuple[str, ...] = ()
    hash_lead_ids: bool = False


class Secrets:
    """Values of environment variables by name. They never appear in a representation."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)} hidden)"


class Tables(msgspec.Struct, frozen=True):
    """The tables of the file. `secrets_dir`: a directory with secrets as files (see config/secret_files.py)."""

    secrets_dir: str | None = None
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    cache: CachePolicy = CachePolicy()
    topics: Retention = Retention()
    line: Line = Line()
    replay: Replay = Replay()
    shares: Shares = Shares()
    workspace_defaults: WorkspaceDefaults = WorkspaceDefaults()
    workspaces: dict[str, Workspace] = {}
    destinations: dict[str, Destination] = {}
    egress: Egress = Egress()
    http: Http = Http()
    gateway: Gateway = Gateway()
    privacy: Privacy = Privacy()


class Settings(Tables, frozen=True):
    """The whole configuration. `workspaces` has exactly the workspaces that destinations name.

    Attributes:
        secrets: Values of the environment variables that the file names: `settings.secrets[destination.token_env]`.
        path: The file.
        stamp: See `secret_files.stamp_of`.
    """

    secrets: Secrets = Secrets({})
    path: Path | None = None
    stamp: Stamp = ()

    @property
    def names(self) -> TopicNames:
        """All names on Kafka."""
        return TopicNames(self.kafka.namespace)

    @property
    def pins(self) -> dict[str, int]:
        """Workspace -> partition, for pinned workspaces."""
        return {name: w.partition for name, w in self.workspaces.items() if w.partition is not None}

    @property
    def callback_keys(self) -> Keys:
        """The keys of callback tokens, if the configuration was read with them. Raises ValueError if it names none."""
        return Keys([self.secrets[name] for name in self.gateway.token_keys_env])

    def callback_url(self, alias: str) -> str:
        """The callback URL of a destination's table. Raises ValueError if gateway.public_url is not set."""
        if self.gateway.public_url is None:
            raise ValueError("gateway.public_url is not set")
        return f"{self.gateway.public_url.rstrip('/')}/callbacks/{self.destinations[alias].workspace}/{alias}"

    @property
    def api_url(self) -> str:
        """The URL of the look-up API, without a trailing slash."""
        if self.gateway.api_url is not None:
            return self.gateway.api_url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.http.host, self.http.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http.gateway_port}"

    @property
    def api_token(self) -> str | None:
        """The bearer token of the look-up API, if the configuration was read with it."""
        name = self.gateway.api_token_env
        return None if name is None else self.secrets[name]

    def home(self, workspace: str) -> int:
        """The home partition of a workspace."""
        return home_partition(workspace, self.kafka.partitions, self.pins)

    def topic_plan(self) -> list[TopicPlan]:
        """The topics that must exist, with their settings."""
        kafka = self.kafka
        return plan(self.names, kafka.partitions, kafka.replication, self.topics, self.replay.tiers_s)

    def destination_of(self, workspace: str, asked: str | None) -> str | None:
        """The destination of a lead: the requested one, else the workspace's default, else its only one.

        Returns:
            The alias, or None if that workspace has no such destination.
        """
        mine = [alias for alias, there in self.destinations.items() if there.workspace == workspace]
        here = self.workspaces.get(workspace)
        alias = asked or (here.default_destination if here else None)
        if alias is None:
            return mine[0] if len(mine) == 1 else None
        return alias if alias in mine else None
