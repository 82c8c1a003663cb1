"""The configuration as types: one Struct a table of the TOML file, frozen, units in the names.

Ranges are checked by each Struct's `problems`; rules between tables stand in rules.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

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
    """How to speak to Kafka. Passwords stand in the environment: only the variable's name stands here.

    `ca_file`, `cert_file`, `key_file` are PEM files; without `ca_file` the system's authorities are trusted.
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
    """`bootstrap`: host:port, several with commas. `namespace` goes before every topic, group and
    transactional id.

    `partitions` never change under a running system. `session_timeout_s`: a worker that is silent for so
    long loses its partitions; `rebalance_timeout_s`: how long it may take to let go of them;
    `broker_wait_s`: how long to wait for a broker that does not answer before giving up.
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
    """`url_env`: the environment variable with the URL (`rediss://user:password@host:6379/0`); without it the cache is
    in memory.

    ca_file    PEM file with the authority of its certificate; absent: the system's are trusted.
    timeout_s  how long a lead may wait for it; then it goes on without.
    """

    url_env: str | None = None
    ca_file: str | None = None
    timeout_s: float = 0.05


class Line(msgspec.Struct, frozen=True):
    """How a lead goes through the line.

    max_in_flight   leads under way in one partition.
    max_attempts    refused POSTs of one lead before it is a dead letter.
    connect_timeout_s, request_timeout_s   one POST: to connect, and in all.
    retry_base_s, retry_cap_s              wait between a lead's attempts in place: doubles, full jitter.
    max_request_start_age_s                a POST starts within so long of its row's commit, or not at all.
    commit_timeout_s  one commit of a step.
    uncertain_grace_s how long a lead whose POST may or may not have arrived waits for its callback.
    patience_s        how long a lead waits for a lane that shares its partition, or degrades, before it is deferred.
    freshness_days    the same lead or person within so long is a duplicate (clay-facts: 30 to 90).
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
    """`tiers_s`: the waits there are, a topic each; a delay is made up of them. Backoff grows from base to cap.

    backoff_unreachable_base_s  the base of those for which there was no connection at all.
    max_replays, max_returns  how often a lead comes back: in one rewind epoch, and in all (more is a loop).
    rate_share  the part of its lane's rate at which a workspace's replays are brought back at most.
    """

    max_replays: int = 3
    max_returns: int = 30
    rate_share: float = 0.5
    backoff_base_s: float = 10.0
    backoff_unreachable_base_s: float = 30.0
    backoff_cap_s: float = 3_600.0
    tiers_s: tuple[int, ...] = (2, 10, 60, 600, 3_600)


class Shares(msgspec.Struct, frozen=True):
    """The part of a lane's rate that bulk and retried leads are sure of, 0 to 1; hot leads have the rest."""

    bulk: float = 0.1
    retry: float = 0.2


class WorkspaceDefaults(msgspec.Struct, frozen=True):
    """The policies of a lane. `[workspace_defaults]` sets them for each workspace whose table does not.

    `hold`: held leads stay in Kafka (pause), or (degrade) are answered with what `fallback` allows, or deferred.
    `time_zone` is where the budget's days begin. `concurrency.most` is line.max_in_flight.
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
    stop: SuspensionPolicy = SuspensionPolicy()
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy()
    flood: FloodGuardPolicy = FloodGuardPolicy()
    silence: CallbackHealthPolicy = CallbackHealthPolicy()


class Workspace(WorkspaceDefaults, frozen=True):
    """A Clay workspace: its lane's policies, and what no other workspace shares.

    `partition` pins it; absent: the key's hash. `default_destination`: where a lead goes that names none.
    """

    partition: int | None = None
    default_destination: str | None = None


class Destination(msgspec.Struct, frozen=True):
    """A Clay table: where leads are POSTed to, and what one costs.

    webhooks_env   names of environment variables that hold webhook URLs (they are secrets), used in this
                   order.
    token_env      name of the variable with the `x-clay-webhook-auth` token.
    columns        lead field -> Clay column; empty: every field under its own name.
    callbacks      false: nothing comes back, `accepted` is final.
    callback_secrets_env  names of the variables with a secret that this table's callbacks send in the header
                   `x-callback-secret`, for a table that cannot echo each lead's token; several while it is changed.
    estimate_*, ceiling_*  what one lead usually costs, and the most: a budget has room for the ceiling or
                           waits.
    callback_deadline_s  a lead that Clay took is overdue after so long without a callback.
    callback_grace_s     and so long after that it is parked: its callback may still come, but nobody counts on it.
    uncertain      a POST that may have arrived, unanswered after its grace: park it for a human, or send
                   it again.
    uncertain_grace_s  how long it waits for its callback; absent: line.uncertain_grace_s.
    unavailable_is_refused  a 503 took nothing (clay-facts).
    cache_first    a fresh result of the same person answers a lead before Clay is asked, and nothing is paid.
    allowed_hosts  hosts that a webhook may name; another than Clay's is for the simulator.
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

    keepalive_s  a connection to Clay that was idle for longer is not used again; keep it below the server's own limit.
    ca_file      PEM file with the authorities to trust, in place of the public ones: for a network that inspects TLS.
    proxy_env    the environment variable with the URL of an HTTP proxy (`http://user:password@proxy.example.com:3128`).
    """

    keepalive_s: float = 15.0
    ca_file: str | None = None
    proxy_env: str | None = None


class Http(msgspec.Struct, frozen=True):
    """Where each process listens.

    worker_port, replay_port, gateway_ops_port  /metrics, /healthz and /readyz, which name customers: for operators
                 only. 0: any free port, which the log names, so that several run on one machine.
    gateway_port callbacks, the look-up API and /healthz.
    """

    host: str = "127.0.0.1"
    worker_port: int = 9101
    replay_port: int = 9102
    gateway_port: int = 9103
    gateway_ops_port: int = 9104


class Gateway(msgspec.Struct, frozen=True):
    """What the gateway takes from Clay, and where Clay finds it; the look-up API (`GET /leads/...`).

    public_url      how Clay reaches the gateway, e.g. https://leads.example.com; `/callbacks/...` is put behind it.
    token_keys_env  names of the variables with the secrets of callback tokens: the first signs, all verify.
    max_body_bytes, read_timeout_s  one callback: its size, and the time until it has come in whole.
    api_token_env   name of the variable with the bearer token of the look-up API. Without it the API answers only
                    requests to a loopback address, and public_url must be one.
    api_url         where `stream-app status` finds the API; absent: on this machine, at http.gateway_port.
    read_model_path the SQLite file of the read model, one for each gateway; absent: in the user's state folder.
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

    pepper_env      names of the variables with the secrets that key the hashes: the first hashes, all are looked up.
    hash_lead_ids   whether every lead id is replaced by its hash. Ids that look like an address or URL always are.
    """

    pepper_env: tuple[str, ...] = ()
    hash_lead_ids: bool = False


class Secrets:
    """Values of environment variables by name; they never show."""

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
    """The whole configuration. `workspaces` has an entry for each workspace that a destination names, and no other.

    secrets  values of the environment variables that the file names:
             `settings.secrets[destination.token_env]`.
    """

    secrets: Secrets = Secrets({})

    @property
    def names(self) -> TopicNames:
        """All names on Kafka."""
        return TopicNames(self.kafka.namespace)

    @property
    def pins(self) -> dict[str, int]:
        """Workspace -> partition, for those that are pinned."""
        return {name: w.partition for name, w in self.workspaces.items() if w.partition is not None}

    @property
    def callback_keys(self) -> Keys:
        """The keys of callback tokens, where the configuration was read with them. Raises ValueError: it names none."""
        return Keys([self.secrets[name] for name in self.gateway.token_keys_env])

    def callback_url(self, alias: str) -> str:
        """Where the table of a destination calls back. Raises ValueError when nothing is said about it."""
        if self.gateway.public_url is None:
            raise ValueError("gateway.public_url is not set")
        return f"{self.gateway.public_url.rstrip('/')}/callbacks/{self.destinations[alias].workspace}/{alias}"

    @property
    def api_url(self) -> str:
        """Where the look-up API is, without a slash at its end."""
        if self.gateway.api_url is not None:
            return self.gateway.api_url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.http.host, self.http.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http.gateway_port}"

    @property
    def api_token(self) -> str | None:
        """The bearer token of the look-up API, where the configuration was read with it."""
        name = self.gateway.api_token_env
        return None if name is None else self.secrets[name]

    def home(self, workspace: str) -> int:
        """The partition that a workspace lives in."""
        return home_partition(workspace, self.kafka.partitions, self.pins)

    def topic_plan(self) -> list[TopicPlan]:
        """All topics as they are to be."""
        kafka = self.kafka
        return plan(self.names, kafka.partitions, kafka.replication, self.topics, self.replay.tiers_s)

    def destination_of(self, workspace: str, asked: str | None) -> str | None:
        """The alias that a lead goes to: the one it asks for, else the workspace's default, else its only
        one.

        None: there is no such destination in that workspace.
        """
        mine = [alias for alias, there in self.destinations.items() if there.workspace == workspace]
        here = self.workspaces.get(workspace)
        alias = asked or (here.default_destination if here else None)
        if alias is None:
            return mine[0] if len(mine) == 1 else None
        return alias if alias in mine else None
