"""The configuration as types: one frozen Struct per table of the TOML file, units in the names.

The tables that decide about leads are the policies of `domain` themselves. This module has those of
the processes.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from stream_app import __version__
from stream_app.clay import Egress
from stream_app.config.secret_files import Secrets, Stamp
from stream_app.domain.callback.run_webhook import RUN_PATH
from stream_app.domain.model.ranges import Range
from stream_app.domain.model.tokens import Keys
from stream_app.domain.model.topics import MAX_INPUT_BYTES, Retention, TopicNames, TopicPlan, plan
from stream_app.domain.plan import (
    CachePolicy,
    DeliveryPolicy,
    Destination,
    Plan,
    ReplayPolicy,
    Shares,
    Workspace,
)
from stream_app.domain.spans import Sampling, headers_of

_FreePort = Annotated[int, Range(0, 65_535)]
_Port = Annotated[int, Range(1, 65_535)]


class OAuth(msgspec.Struct, frozen=True):
    """Where the tokens for the mechanism OAUTHBEARER come from: an OAuth 2.0 endpoint, or AWS.

    Attributes:
        token_url: The token endpoint, for the client credentials grant.
        client_id: The id of this client.
        client_secret_env: The variable with the client's secret.
        scope: The scope to ask for. If absent, the endpoint's default.
        extensions: SASL extensions that the broker wants beside the token.
        aws_region: The region of Amazon MSK, in place of a token endpoint. The process's AWS
            credentials sign the tokens.
    """

    token_url: str | None = None
    client_id: str | None = None
    client_secret_env: str | None = None
    scope: str | None = None
    extensions: dict[str, str] = {}
    aws_region: str | None = None


class Security(msgspec.Struct, frozen=True):
    """How to authenticate to Kafka.

    Passwords are in the environment; this holds only the names of the variables.

    Attributes:
        protocol: The protocol of the connection. `PLAIN` and `OAUTHBEARER` need `SASL_SSL`, unless
            every host of `bootstrap` is loopback or a name without a dot.
        mechanism: The mechanism of SASL.
        username: The user, for all mechanisms but OAUTHBEARER.
        password_env: The variable with the user's password.
        ca_file: PEM file with the authority of the brokers' certificates. Absent: the system's
            authorities are trusted.
        cert_file: PEM file with the certificate of this client.
        key_file: PEM file with the key of this client.
        key_password_env: The variable with the password of `key_file`.
        oauth: Where the tokens for OAUTHBEARER come from.
    """

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    username: str | None = None
    password_env: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password_env: str | None = None
    oauth: OAuth = OAuth()


class Kafka(msgspec.Struct, frozen=True):
    """The Kafka cluster.

    Attributes:
        bootstrap: The brokers to connect to first, as host:port, several separated by commas.
        namespace: The prefix of every topic, group and transactional id.
        replication: The number of copies of every record.
        partitions: The number of partitions of every topic. It must never change while the system
            has data.
        session_timeout_s: A worker that sends no heartbeat for this long loses its partitions.
        rebalance_timeout_s: The time that a worker has to release its partitions.
        broker_wait_s: How long to wait for a broker that does not respond, and how long it may then
            take to show or create topics. A gateway goes on waiting after that, and holds
            callbacks.
    """

    bootstrap: str = "127.0.0.1:9092"
    namespace: str = ""
    partitions: Annotated[int, Range(1, 10_000)] = 32
    replication: Annotated[int, Range(1, 100)] = 3
    session_timeout_s: Annotated[float, Range(6, 1_800)] = 30.0
    rebalance_timeout_s: Annotated[float, Range(30, 3_600)] = 120.0
    broker_wait_s: Annotated[float, Range(1, 3_600)] = 60.0
    security: Security = Security()


class Redis(msgspec.Struct, frozen=True):
    """The Redis cache.

    Attributes:
        url_env: The environment variable with the URL (`rediss://user:password@host:6379/0`).
            Absent: the cache is in memory.
        ca_file: PEM file with the authority of the server's certificate. Absent: the system's
            authorities are trusted.
        timeout_s: How long a lead may wait for Redis.
    """

    url_env: str | None = None
    ca_file: str | None = None
    timeout_s: Annotated[float, Range(0.001, 5)] = 0.05


class EgressSettings(msgspec.Struct, frozen=True):
    """How the worker and `doctor` reach hosts outside (docs/network.md).

    The hosts are those of Clay's webhooks and of gateway.public_url.

    Attributes:
        keepalive_s: A connection to Clay that was idle for longer is not used again. Keep this
            below the server's own limit.
        ca_file: PEM file that replaces the authorities that the system trusts, for a network that
            inspects TLS.
        proxy_env: The environment variable with the URL of an HTTP proxy
            (`http://user:password@proxy.example.com:3128`).
    """

    keepalive_s: Annotated[float, Range(0.1, 3_600)] = 15.0
    ca_file: str | None = None
    proxy_env: str | None = None


class Http(msgspec.Struct, frozen=True):
    """The ports that the processes listen on.

    Attributes:
        host: The address of the operations ports.
        worker_port: /metrics, /healthz and /readyz of a worker. They name customers, so they are
            for operators only. With 0 a worker takes any free port, which the log names, so that
            several workers can run on one machine.
        replay_port: As `worker_port`, for the replay process.
        gateway_port: Callbacks, and /healthz for the proxy.
        gateway_ops_port: As `worker_port`, for the gateway.
        trace_port: As `worker_port`, for the trace process.
        board_port: The board's pages, the look-up API and /healthz.
        board_ops_port: As `worker_port`, for the board.
    """

    host: str = "127.0.0.1"
    worker_port: _FreePort = 9101
    replay_port: _FreePort = 9102
    gateway_port: _Port = 9103
    gateway_ops_port: _FreePort = 9104
    trace_port: _FreePort = 9105
    board_port: _Port = 9107
    board_ops_port: _FreePort = 9108


class Gateway(msgspec.Struct, frozen=True):
    """The gateway, which receives Clay's callbacks.

    Attributes:
        host: The address that it listens on.
        behind_proxy: True if a reverse proxy with TLS is in front of the gateway, and nothing else
            reaches it.
        public_url: The address at which Clay reaches the gateway, such as
            https://leads.example.com; `/callbacks/...` is appended. It may begin with http:// only
            for this machine and for names without a dot.
        token_keys_env: Names of the variables with the secrets of callback tokens: the first signs,
            all verify.
        max_body_bytes: The maximum size of a callback.
        read_timeout_s: The time in which a callback must arrive completely.
        hold_s: How long a callback waits for its answer while Kafka is away. The callback stays in
            memory after that.
    """

    host: str = "127.0.0.1"
    behind_proxy: bool = False
    public_url: str | None = None
    token_keys_env: tuple[str, ...] = ()
    max_body_bytes: Annotated[int, Range(1_024, MAX_INPUT_BYTES // 2)] = 262_144
    read_timeout_s: Annotated[float, Range(0.1, 60)] = 10.0
    hold_s: Annotated[float, Range(1, 90)] = 50.0


class Board(msgspec.Struct, frozen=True):
    """The board, and the look-up API (`GET /leads/...`).

    Attributes:
        host: The address that it listens on.
        behind_proxy: A reverse proxy with TLS is in front of it, and nothing else reaches it.
        url: The address at which people, `stream-app status` and `stream-app open` find the board.
            Absent: this machine, at http.board_port.
        token_env: Name of the variable with the reading token, which opens the board and is the
            bearer token of the look-up API. Without it the board makes a token of its own, which
            only the user who runs it can read, and listens on this machine only.
        operator_token_env: Name of the variable with the token of operators. Without it the board
            only reads.
        user_header: The header in which a proxy names the person who has logged in to it.
        user_header_secret_env: Name of the variable with the secret that the proxy sends with that
            header.
        read_model_path: The SQLite file of the read model. Absent: in the user's state folder.
        trace_url: The URL to which the board links a trace, with `{trace_id}` in it.
        banner: A word on each page, such as "production".
    """

    host: str = "127.0.0.1"
    behind_proxy: bool = False
    url: str | None = None
    token_env: str | None = None
    operator_token_env: str | None = None
    user_header: str | None = None
    user_header_secret_env: str | None = None
    read_model_path: str | None = None
    trace_url: str | None = None
    banner: Annotated[str, msgspec.Meta(max_length=30)] = ""


class Trace(Sampling, frozen=True):
    """Traces of leads (docs/traces.md).

    Attributes:
        endpoint: The OTLP receiver's URL for traces. Absent: there are no traces. With
            `headers_env` it needs https, unless the host is loopback or a name without a dot.
        headers_env: The variable with the receiver's headers, as `name=value`, several separated by
            commas.
        settle_s: The trace of a lead that has had no event for this long is sent as far as it has
            come.
    """

    endpoint: str | None = None
    headers_env: str | None = None
    settle_s: Annotated[float, Range(1, 604_800)] = 3_600.0


class Notify(msgspec.Struct, frozen=True):
    """Messages to people by webhook (docs/alerts.md).

    Attributes:
        url_env: The variable with the webhook's URL. Absent: there are no messages.
        format: The form of a message: Slack's, or plain JSON.
        interval_s: At most one message is sent in this time.
        watch_gateway: Ask gateway.public_url once a minute, and say if the gateway does not answer.
    """

    url_env: str | None = None
    format: Literal["slack", "json"] = "slack"
    interval_s: Annotated[float, Range(1, 86_400)] = 60.0
    watch_gateway: bool = False


class Privacy(msgspec.Struct, frozen=True):
    """How people and lead ids are hashed (docs/privacy.md).

    Attributes:
        pepper_env: The variable with the secret that keys the hashes. A namespace keeps the secret
            that it began with.
        hash_lead_ids: Replace every lead id by its hash. Ids that look like an address or URL are
            always hashed.
    """

    pepper_env: str | None = None
    hash_lead_ids: bool = False


class Settings(msgspec.Struct, frozen=True, dict=True):
    """The whole configuration. `workspaces` has exactly the workspaces that destinations name.

    Attributes:
        secrets_dir: A directory with a file for each secret, named as its variable. A file
            overrides the environment. Others must not be able to write there: `chmod o-w`, or a
            read-only mount.
        log_level: The lowest level of the lines that a process logs.
        delivery: Limits of the pipeline.
        workspace_defaults: What each workspace has where its own table does not say otherwise.
        secrets: Values of the environment variables that the file names:
            `settings.secrets[destination.token_env]`.
        path: The file.
        stamp: See `secret_files.stamp_of`.
    """

    secrets_dir: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    cache: CachePolicy = CachePolicy()
    topics: Retention = Retention()
    delivery: DeliveryPolicy = DeliveryPolicy()
    replay: ReplayPolicy = ReplayPolicy()
    shares: Shares = Shares()
    workspace_defaults: Workspace = Workspace("")
    workspaces: dict[str, Workspace] = {}
    destinations: dict[str, Destination] = {}
    egress: EgressSettings = EgressSettings()
    http: Http = Http()
    gateway: Gateway = Gateway()
    board: Board = Board()
    privacy: Privacy = Privacy()
    trace: Trace = Trace()
    notify: Notify = Notify()
    secrets: Secrets = Secrets({})
    path: Path | None = None
    stamp: Stamp = ()

    @cached_property
    def plan(self) -> Plan:
        """What the pipeline needs to know. A reload changes it, and not the settings."""
        keys_env = self.gateway.token_keys_env
        return Plan(
            topics=self.names,
            partitions=self.kafka.partitions,
            workspaces=dict(self.workspaces),
            destinations=dict(self.destinations),
            pins=self.pins,
            delivery=self.delivery,
            shares=self.shares,
            replay=self.replay,
            app=__version__,
            callback_keys=self.callback_keys
            if keys_env and all(name in self.secrets for name in keys_env)
            else None,
            cache=self.cache,
            traces=self.trace.endpoint is not None,
        )

    @property
    def names(self) -> TopicNames:
        return TopicNames(self.kafka.namespace)

    @property
    def pins(self) -> dict[str, int]:
        """Workspace -> partition, for pinned workspaces."""
        return {name: w.partition for name, w in self.workspaces.items() if w.partition is not None}

    @property
    def without_callbacks(self) -> set[str]:
        """The destinations whose leads are done when Clay has accepted them."""
        return {
            alias for alias, destination in self.destinations.items() if not destination.callbacks
        }

    @property
    def routines(self) -> dict[str, Destination]:
        """The destinations that are routines, by alias."""
        return {
            alias: destination
            for alias, destination in self.destinations.items()
            if destination.kind == "routine"
        }

    @property
    def callback_keys(self) -> Keys:
        """The keys of callback tokens, if the configuration was read with them.

        Raises ValueError if it names none.
        """
        return Keys([self.secrets[name] for name in self.gateway.token_keys_env])

    def callback_url(self, alias: str) -> str:
        """The callback URL of a destination's table.

        Raises ValueError if gateway.public_url is not set.

        That of a pinned workspace names its partition, for gateways that do not know the pin yet.
        """
        return self._public_url_of(alias)

    def run_webhook_url(self, alias: str) -> str:
        """Where the completion webhook of a destination's routine announces its runs.

        Raises ValueError if gateway.public_url is not set.
        """
        return self._public_url_of(alias, RUN_PATH)

    def _public_url_of(self, alias: str, step: str = "") -> str:
        if self.gateway.public_url is None:
            raise ValueError("gateway.public_url is not set")
        workspace = self.destinations[alias].workspace
        pin = self.pins.get(workspace)
        url = f"{self.gateway.public_url.rstrip('/')}/callbacks/{workspace}/{alias}{step}"
        return url if pin is None else f"{url}?partition={pin}"

    @property
    def board_url(self) -> str:
        """The URL of board and look-up API, without a trailing slash."""
        if self.board.url is not None:
            return self.board.url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.board.host, self.board.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http.board_port}"

    @property
    def board_token(self) -> str | None:
        """The token that reads the board, if the configuration was read with it."""
        return self.secrets.get(self.board.token_env)

    @property
    def board_rights(self) -> str:
        """The key of `rights_of` for the board: one with an operator token sends commands."""
        return "board" if self.board.operator_token_env is None else "board with operator_token_env"

    @property
    def operator_token(self) -> str | None:
        """The token of the board's operators, if the configuration was read with it."""
        return self.secrets.get(self.board.operator_token_env)

    @property
    def trace_headers(self) -> dict[str, str]:
        """The headers of the OTLP receiver, if the configuration was read with them."""
        headers = self.secrets.get(self.trace.headers_env)
        return {} if headers is None else headers_of(headers)

    def make_egress(self) -> Egress:
        """How a program that needs the proxy's URL reaches hosts outside. Raises SettingsError."""
        return Egress.of(self.egress.ca_file, self.secrets.get(self.egress.proxy_env))

    def home(self, workspace: str) -> int:
        return self.plan.home_of(workspace)

    @property
    def homes(self) -> dict[str, int]:
        """Workspace -> its home partition."""
        return {name: self.home(name) for name in self.workspaces}

    def topic_plan(self) -> list[TopicPlan]:
        """The topics that must exist, with their settings."""
        kafka = self.kafka
        return plan(
            self.names,
            kafka.partitions,
            kafka.replication,
            self.topics,
            self.replay.tiers_s,
        )

    def destination_of(self, workspace: str, asked: str | None) -> str | None:
        """The alias of a lead's destination.

        It is the requested one, else the workspace's default, else its only one; None if that
        workspace has no such destination.
        """
        mine = [destination.alias for destination in self.plan.destinations_of(workspace)]
        configured = self.workspaces.get(workspace)
        alias = asked or (configured.default_destination if configured else "")
        if not alias:
            return mine[0] if len(mine) == 1 else None
        return alias if alias in mine else None
