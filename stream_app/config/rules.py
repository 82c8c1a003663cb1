"""The rules of the configuration.

They are the ranges of values, what tables demand of each other, and names as a user types them.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, product
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from stream_app.config import routines
from stream_app.config.model import Board, Http, OAuth, Settings
from stream_app.config.variables import name_problems
from stream_app.domain.callback.body import RESERVED
from stream_app.domain.limits import budget
from stream_app.domain.model.addresses import is_local, is_loopback, is_loopback_url
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.ranges import outside
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import wait_days
from stream_app.domain.plan import MAX_YIELD_COLUMNS, DeliveryPolicy, Destination, Workspace

_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{0,32}")
# A lead's work ends this long before the rebalance timeout (docs/reference/faust.md).
_REBALANCE_MARGIN_S = 20.0
_RANGED: Final = (
    "kafka",
    "delivery",
    "shares",
    "replay",
    "http",
    "gateway",
    "redis",
    "egress",
    "trace",
    "notify",
)
_PORTS: Final = [key for key in Http.__struct_fields__ if key.endswith("_port")]
_LISTED: Final = 50
_MAX_COLUMN_CHARACTERS: Final = 100
_POLICIES: Final = (
    "breaker",
    "rate",
    "budget",
    "quota",
    "suspension",
    "flood_guard",
    "callback_health",
)
_IN_CLEAR: Final = {
    "PLAIN": ("password", "SASL_SSL or SCRAM"),
    "OAUTHBEARER": ("token", "SASL_SSL"),
}
_HINTS: Final = 10  # each costs a comparison with every name
_TOO_LONG: Final = "is longer than the longest delay tier; replay.tiers_s ends at "


def problems(settings: Settings) -> Iterator[str]:
    """Yield one line for each error."""
    for table in _RANGED:
        yield from (f"{table}.{line}" for line in outside(getattr(settings, table)))
    yield from _kafka(settings)
    yield from _delivery(settings)
    yield from _replay(settings)
    yield from _retention(settings)
    yield from _processes(settings)
    yield from _workspaces(settings)
    yield from routines.routine_problems(settings)
    yield from name_problems(settings)
    for alias, destination in settings.destinations.items():
        rules = (
            _destination(alias, destination),
            _grace(settings, destination),
            _callbacks(settings, destination),
        )
        yield from (f"destinations.{alias}{line}" for line in chain(*rules))


def uncapped(settings: Settings) -> Iterator[str]:
    """Yield one line for each workspace whose spending nobody has limited.

    A worker refuses to send for such a workspace: a loop of a producer would otherwise spend the
    credits of a month in an hour. What costs no credits may be limited in Actions alone. A budget
    in shadow refuses nothing.
    """
    cost_credits = {
        table.workspace for table in settings.destinations.values() if table.ceiling_credits
    }
    for name, workspace in settings.workspaces.items():
        policy = workspace.budget
        caps = budget.CREDIT_CAPS if name in cost_credits else budget.CAPS
        is_capped = not policy.shadow and any(getattr(policy, cap) is not None for cap in caps)
        if is_capped or policy.unlimited:
            continue
        why = "shadow = true only counts, so nothing limits" if policy.shadow else "nothing limits"
        yield (
            f"workspaces.{name}.budget: {why} what it spends; set {' or '.join(caps[:2])}, "
            "or unlimited = true if it may use up all that Clay has"
        )


def _kafka(settings: Settings) -> Iterator[str]:
    kafka = settings.kafka
    if problem := bootstrap_problem(kafka.bootstrap):
        yield f"kafka.bootstrap: {problem}"
    if not _NAMESPACE.fullmatch(kafka.namespace):
        yield "kafka.namespace: at most 32 of A-Z a-z 0-9 . _ -"
    security = kafka.security
    if security.protocol.startswith("SASL") and security.mechanism == "OAUTHBEARER":
        yield from (f"kafka.security.oauth{line}" for line in _oauth(security.oauth))
    elif security.protocol.startswith("SASL") and not (security.username and security.password_env):
        yield f"kafka.security: protocol {security.protocol} needs username and password_env"
    hosts = [place.strip().rpartition(":")[0].strip("[]") for place in kafka.bootstrap.split(",")]
    # SASL_PLAINTEXT encrypts nothing, which is harmless only within a network of containers.
    in_clear = security.protocol == "SASL_PLAINTEXT" and not all(map(is_local, hosts))
    if in_clear and security.mechanism in _IN_CLEAR:
        secret, instead = _IN_CLEAR[security.mechanism]
        place = f"kafka.security.mechanism: {security.mechanism}"
        yield f"{place} sends the {secret} in clear text to another host; use {instead}"
    if bool(security.cert_file) != bool(security.key_file):
        yield "kafka.security: cert_file and key_file must be set together"


def _oauth(oauth: OAuth) -> Iterator[str]:
    endpoint = (oauth.token_url, oauth.client_id, oauth.client_secret_env)
    if bool(oauth.aws_region) == any(endpoint) or not (oauth.aws_region or all(endpoint)):
        yield (
            ": OAUTHBEARER needs token_url, client_id and client_secret_env; "
            "or, for Amazon MSK, only aws_region"
        )
    elif oauth.token_url is not None and not _is_base(oauth.token_url):
        yield (
            ".token_url: must be like https://login.example.com/oauth2/token, "
            "without user, query or fragment"
        )
    elif (
        oauth.token_url is not None
        and oauth.token_url.startswith("http:")
        and not is_loopback_url(oauth.token_url)
    ):
        yield ".token_url: must begin with https, because the client's secret is sent there"


def bootstrap_problem(bootstrap: str) -> str | None:
    """Return what is wrong with the address of a Kafka cluster."""
    for place in bootstrap.split(","):
        host, _, port = place.strip().rpartition(":")
        if not (host and port.isdecimal() and 1 <= int(port) <= 65_535):
            return "must be host:port, several separated by commas"
    return None


def _delivery(settings: Settings) -> Iterator[str]:
    delivery = settings.delivery
    kafka = settings.kafka
    shares = settings.shares
    if delivery.connect_timeout_s >= delivery.request_timeout_s:
        yield (
            "delivery.connect_timeout_s: is part of a request, so it must be below "
            "delivery.request_timeout_s"
        )
    if delivery.retry_base_s > delivery.retry_cap_s:
        yield "delivery.retry_base_s: must not be above delivery.retry_cap_s"
    all_s = delivery.longest_s + delivery.commit_timeout_s
    if all_s > kafka.rebalance_timeout_s - _REBALANCE_MARGIN_S:
        yield (
            f"kafka.rebalance_timeout_s: must be {_REBALANCE_MARGIN_S:g} s above "
            f"delivery.max_request_start_age_s + request_timeout_s + commit_timeout_s = {all_s:g} "
            "s, or Kafka revokes partitions of a worker that is still finishing its leads"
        )
    if kafka.session_timeout_s > kafka.rebalance_timeout_s:
        yield "kafka.session_timeout_s: must not be above kafka.rebalance_timeout_s"
    yield from (f"delivery{line}" for line in _grace(settings, delivery))
    if shares.bulk + shares.retry >= 1:
        yield "shares: bulk + retry must stay below 1; hot leads use the rest"


def _grace(settings: Settings, table: DeliveryPolicy | Destination) -> Iterator[str]:
    """The rules of the grace period of uncertain sends.

    A destination may take the period of `[delivery]`.
    """
    grace_s = table.uncertain_grace_s
    delivery = settings.delivery
    tiers_s = settings.replay.tiers_s
    if table is not delivery and grace_s == delivery.uncertain_grace_s:
        return
    if grace_s <= delivery.longest_s:
        yield (
            ".uncertain_grace_s: must be above delivery.max_request_start_age_s "
            f"+ request_timeout_s = {delivery.longest_s:g} s, "
            "or a lead could be sent again while its first POST is in progress"
        )
    if tiers_s and grace_s > tiers_s[-1]:
        yield f".uncertain_grace_s = {grace_s:g}: {_TOO_LONG}{tiers_s[-1]}"


def _replay(settings: Settings) -> Iterator[str]:
    replay = settings.replay
    if replay.backoff_base_s > replay.backoff_cap_s:
        yield "replay.backoff_base_s: must not be above replay.backoff_cap_s"
    tiers_s = replay.tiers_s
    if not tiers_s or list(tiers_s) != sorted(set(tiers_s)) or tiers_s[0] < 1:
        yield "replay.tiers_s: must be whole seconds from 1 on, in ascending order"
        return
    if replay.backoff_cap_s > tiers_s[-1]:
        yield f"replay.backoff_cap_s = {replay.backoff_cap_s:g}: {_TOO_LONG}{tiers_s[-1]}"


def _retention(settings: Settings) -> Iterator[str]:
    yield from (f"topics.{line}" for line in settings.topics.problems())
    fresh_days = settings.delivery.freshness_days
    tiers_days = wait_days(settings.replay.tiers_s)
    old = "an older record could be read again after its row was deleted, and be paid twice"
    for kind in ("leads", "bulk", "dlq", "deferred"):
        days = getattr(settings.topics, f"{kind}_days")
        if days > fresh_days:
            yield (
                f"topics.{kind}_days = {days}: must not be above delivery.freshness_days = "
                f"{fresh_days}: {old}"
            )
    if tiers_days > fresh_days:
        yield (
            f"delivery.freshness_days = {fresh_days}: "
            f"delay tiers keep records for {tiers_days} days: {old}"
        )


def _processes(settings: Settings) -> Iterator[str]:
    http = settings.http
    gateway = settings.gateway
    notify = settings.notify
    trace = settings.trace
    ports = [port for name in _PORTS if (port := getattr(http, name))]
    if len(set(ports)) < len(ports):
        yield f"http: {', '.join(_PORTS[:-1])} and {_PORTS[-1]} must differ"
    yield from (f"cache.{line}" for line in settings.cache.problems())
    if trace.endpoint is not None and not _is_base(trace.endpoint):
        yield (
            "trace.endpoint: must be like http://127.0.0.1:4318/v1/traces, "
            "without user, query or fragment"
        )
    elif trace.endpoint is not None and trace.headers_env and not _is_private(trace.endpoint):
        yield (
            "trace.endpoint: must begin with https, "
            "because the headers of trace.headers_env are sent there"
        )
    if gateway.public_url is not None and not _is_base(gateway.public_url):
        yield (
            "gateway.public_url: must be like https://leads.example.com, "
            "without user, query or fragment"
        )
    elif gateway.public_url is not None and not _is_private(gateway.public_url):
        yield "gateway.public_url: must begin with https, because tokens and results are sent there"
    if not is_loopback(gateway.host) and not gateway.behind_proxy:
        yield (
            f"gateway.host = {gateway.host}: others reach it, and any of them could "
            "exhaust its memory; put a reverse proxy in front of it (deploy/nginx.conf) "
            "and set gateway.behind_proxy = true, or listen on 127.0.0.1"
        )
    yield from _board(settings.board)
    if notify.watch_gateway and (notify.url_env is None or gateway.public_url is None):
        yield (
            "notify.watch_gateway: needs gateway.public_url, which it asks, "
            "and notify.url_env, where it says so"
        )


def _board(board: Board) -> Iterator[str]:
    if board.url is not None and (not _is_base(board.url) or urlsplit(board.url).path.strip("/")):
        yield (
            "board.url: must be like https://board.example.com, without user, path, "
            "query or fragment: the pages are below /board, the look-up API is beside it"
        )
    elif board.url is not None and board.token_env is not None and not _is_private(board.url):
        yield "board.url: must begin with https, because the token is sent there"
    if board.behind_proxy and board.url is None:
        yield "board.url: is required with board.behind_proxy = true: links and cookies follow it"
    if not is_loopback(board.host) and not board.behind_proxy:
        yield (
            f"board.host = {board.host}: others reach it without TLS; put a reverse proxy in front "
            "of it and set board.behind_proxy = true, or listen on 127.0.0.1"
        )
    elif board.token_env is None and (board.behind_proxy or not is_loopback(board.host)):
        yield (
            "board.token_env: is required with board.behind_proxy = true, because the proxy would "
            "open the board to everyone; name an environment variable with a token"
        )
    if board.trace_url is not None and not _is_trace_url(board.trace_url):
        yield "board.trace_url: must be like https://tempo.example.com/trace/{trace_id}"
    if (board.user_header is None) != (board.user_header_secret_env is None):
        yield "board.user_header: needs board.user_header_secret_env, and the other way round"
    if board.user_header is not None and not _HEADER.fullmatch(board.user_header):
        yield "board.user_header: must be the name of a header, such as X-Auth-Request-Email"
    if board.read_model_path == "":
        yield "board.read_model_path: must be the path of a file; leave it out for the default"


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    plain = (
        parts.scheme in ("http", "https")
        and parts.hostname
        and parts.netloc.isascii()
        and not url.endswith("?")
    )
    return bool(plain) and not (parts.username or parts.query or parts.fragment)


def _is_private(url: str) -> bool:
    """True if what is sent there is encrypted, or stays on this machine or among its containers."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_local(parts.hostname or "")


def _is_trace_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    names_a_host = parts.scheme in ("http", "https") and parts.hostname and "{" not in parts.netloc
    return bool(names_a_host) and "{trace_id}" in url


def _callbacks(settings: Settings, destination: Destination) -> Iterator[str]:
    if not destination.callbacks:
        return
    waits_days = (destination.callback_deadline_s + destination.callback_grace_s) / 86_400
    waits = count(round(waits_days, 2), "day")
    for kind in ("leads", "bulk"):
        if getattr(settings.topics, f"{kind}_days") <= waits_days:
            yield (
                f".callback_grace_s: with callback_deadline_s it is {waits}; "
                f"topics.{kind}_days must be above that, or the record of a parked lead expires"
            )
    if not destination.calls_back:
        return
    if settings.gateway.public_url is None:
        yield (
            ".callbacks: Clay has no address to call back: set gateway.public_url, "
            "or callbacks = false if this table sends no callbacks"
        )
    if not (settings.gateway.token_keys_env or destination.callback_secrets_env):
        yield (
            ".callbacks: nothing authenticates a callback: set gateway.token_keys_env, or "
            "callback_secrets_env if the table cannot echo a token"
        )


def _destination(alias: str, destination: Destination) -> Iterator[str]:
    if not _NAME.fullmatch(alias):
        yield ": an alias is 1 to 64 of A-Z a-z 0-9 . _ -"
    if not _NAME.fullmatch(destination.workspace):
        yield ".workspace: 1 to 64 of A-Z a-z 0-9 . _ -"
    if not destination.webhooks_env and destination.routine is None:
        yield ".webhooks_env: must name at least one environment variable, or set routine"
    yield from (f".{line}" for line in outside(destination))
    for meter in ("credits", "actions"):
        if getattr(destination, f"estimate_{meter}") > getattr(destination, f"ceiling_{meter}"):
            yield (
                f".estimate_{meter}: must not be above ceiling_{meter}, "
                "the most that one lead costs"
            )
    columns = list(destination.columns.values())
    if not all(columns) or len(set(columns)) < len(columns):
        yield ".columns: each field needs its own column"
    yield from _yield(destination)
    if not destination.allowed_hosts:
        yield ".allowed_hosts: must name at least one host"


def _yield(destination: Destination) -> Iterator[str]:
    columns = destination.yield_
    if len(columns) > MAX_YIELD_COLUMNS:
        yield f".yield: has {len(columns)} columns; name the {MAX_YIELD_COLUMNS} that count most"
    if len(set(columns)) < len(columns):
        yield ".yield: names a column twice"
    for name in columns:
        if name in RESERVED or name.startswith("_"):
            yield f".yield: {name} is no result of a callback (docs/callbacks.md)"
        elif not (
            name.isprintable() and 0 < len(name.strip()) == len(name) <= _MAX_COLUMN_CHARACTERS
        ):
            yield (
                f".yield: the name of a column has 1 to {_MAX_COLUMN_CHARACTERS} printable "
                "characters, as the callback names it, without a space at its ends"
            )
    if destination.yield_suspends and not columns:
        yield ".yield_suspends: names no column whose yield may fall: set yield, too"
    if columns and not destination.callbacks:
        yield ".yield: no callback says what was found, because callbacks = false; remove one"


def _workspaces(settings: Settings) -> Iterator[str]:
    """Yield one line for each error in `[workspaces.*]`.

    An error of `[workspace_defaults]` appears once.
    """
    defaults = settings.workspace_defaults
    inherited = list(_policies(settings, defaults, None))
    for name, workspace in settings.workspaces.items():
        own = (line for line in _policies(settings, workspace, defaults) if line not in inherited)
        for line in chain(
            _place(settings, name, workspace),
            _never(settings, name, workspace),
            _quota(settings, name, workspace),
            own,
        ):
            yield f"workspaces.{name}{line}"
    if settings.workspaces:
        yield from (f"workspace_defaults{line}" for line in inherited)
    if defaults.budget.unlimited:
        yield (
            "workspace_defaults.budget.unlimited: would let a new workspace spend without a limit "
            "that nobody chose; write it under [workspaces.NAME.budget]"
        )
    yield from _strangers(settings)


def _strangers(settings: Settings) -> Iterator[str]:
    """Workspaces of destinations that have no table, and tables that no destination names.

    Either may be a misspelt name, and then the policies of the table, such as its budget, would not
    apply.
    """
    workspaces = settings.workspaces
    named = {destination.workspace for destination in settings.destinations.values()}
    suggested = set[str]()
    idle = workspaces.keys() - named
    hints = 0

    def near(name: str, others: Iterable[str]) -> list[str]:
        nonlocal hints
        hints += 1
        return difflib.get_close_matches(name, others, n=1) if hints <= _HINTS else []

    for alias, destination in settings.destinations.items():
        if destination.workspace not in workspaces:
            close = near(destination.workspace, idle)
            suggested.update(close)
            hint = f"did you mean {close[0]}?" if close else "add it, with a budget"
            place = f"destinations.{alias}.workspace = {destination.workspace}"
            yield f"{place}: there is no [workspaces.{destination.workspace}]; {hint}"
    for name in workspaces:
        if name in idle - suggested:
            close = near(name, named)
            hint = f"did you mean {close[0]}?" if close else "remove it, or add its destination"
            yield (
                f"workspaces.{name}: no destination names this workspace, "
                f"so the table has no effect; {hint}"
            )


def _place(settings: Settings, name: str, workspace: Workspace) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield ": a workspace's name is 1 to 64 of A-Z a-z 0-9 . _ -"
    pin = workspace.partition
    partitions = settings.kafka.partitions
    if pin is not None and not 0 <= pin < partitions:
        yield (
            f".partition = {pin}: must be from 0 to {partitions - 1} "
            f"(kafka.partitions = {partitions})"
        )
    if default := workspace.default_destination:
        destination = settings.destinations.get(default)
        if destination is None:
            yield f".default_destination = {default}: there is no [destinations.{default}]"
        elif destination.workspace != name:
            yield (
                f".default_destination = {default}: it belongs to workspace {destination.workspace}"
            )


def _policies(settings: Settings, workspace: Workspace, checked: Workspace | None) -> Iterator[str]:
    """The errors of a workspace's policies.

    Errors in policies that it shares with a workspace that was checked are left out.
    """

    def is_new(table: str) -> bool:
        return checked is None or getattr(workspace, table) is not getattr(checked, table)

    if is_new("time_zone"):
        try:
            ZoneInfo(workspace.time_zone)
        except (OSError, ValueError, KeyError):
            yield (
                f".time_zone = {workspace.time_zone!r}: no such time zone; "
                "use a name like 'Europe/Berlin'"
            )
    for table in _POLICIES:
        if is_new(table):
            yield from (f".{table}.{line}" for line in getattr(workspace, table).problems())
    longest_s = settings.delivery.longest_s
    for table in ("breaker", "suspension"):
        if is_new(table) and getattr(workspace, table).probe_lease_s <= longest_s:
            yield (
                f".{table}.probe_lease_s: must be above delivery.max_request_start_age_s + "
                f"request_timeout_s = {longest_s:g} s, or a probe in progress counts as lost"
            )


def _never(settings: Settings, name: str, workspace: Workspace) -> Iterator[str]:
    """Contradictions by which no lead could ever be sent."""
    rules = workspace.budget
    caps = [(key, cap) for key in budget.CAPS if (cap := getattr(rules, key)) is not None]
    if not caps or rules.shadow or rules.problems():
        return
    for destination, (key, cap) in product(settings.plan.destinations_of(name), caps):
        ceiling = f"ceiling_{key.partition('_')[0]}"
        bulk = budget.bulk_part(cap, rules.hot_share)
        most = getattr(destination, ceiling)
        place = f"destinations.{destination.alias}.{ceiling} = {most}"
        if most > cap:
            yield f".budget.{key} = {cap}: below {place}: no lead could be sent"
        elif most > bulk:
            left = f"leaves bulk {bulk} of {key}, less than {place}: no bulk lead could be sent"
            yield f".budget.hot_share = {rules.hot_share:g}: {left}"


def _quota(settings: Settings, name: str, workspace: Workspace) -> Iterator[str]:
    """Submissions that no webhook of the workspace takes, or a warning that comes too late."""
    policy = workspace.quota
    if policy.problems():
        return
    for destination in settings.plan.destinations_of(name):
        lifetime = destination.lifetime
        limits = policy.limits(lifetime)
        for key in ("warn_at", "rotate_at"):
            if lifetime and getattr(limits, key) > lifetime:
                yield (
                    f".quota.{key} = {getattr(limits, key)}: must not be above the lifetime of the "
                    f"webhooks of destinations.{destination.alias} (quota_lifetime = {lifetime})"
                )
                return
        if limits.warn_at > limits.rotate_at:
            yield (
                f".quota.warn_at = {limits.warn_at}: must not be above rotate_at, which is "
                f"{limits.rotate_at} for destinations.{destination.alias}"
            )
            return


def unknown(
    settings: Settings,
    workspaces: Iterable[str],
    destinations: Iterable[str],
) -> list[str]:
    """Return one line for each unknown name, with the names that exist."""
    return [
        f"there is no {word} {name} in the configuration; {_hint(name, known)}"
        for word, asked, known in (
            ("workspace", workspaces, settings.workspaces),
            ("destination", destinations, settings.destinations),
        )
        for name in sorted(asked)
        if name not in known
    ]


def _hint(name: str, known: Collection[str]) -> str:
    if len(known) <= _LISTED:
        return f"there are: {', '.join(known) or 'none'}"
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {len(known):,} others"


def check_known(
    settings: Settings,
    *,
    workspace: str | None = None,
    destination: str | None = None,
) -> None:
    """Raise SettingsError for an unknown name."""
    asked = ([name] if name is not None else [] for name in (workspace, destination))
    if strangers := unknown(settings, *asked):
        raise SettingsError(strangers)
