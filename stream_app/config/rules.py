"""The rules of the configuration: the range of each value, and the rules between tables, with reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from stream_app.config import lanes
from stream_app.config.model import Destination, Tables
from stream_app.domain import topics
from stream_app.domain.hosts import is_local, is_loopback
from stream_app.domain.lane.bounds import out_of_range
from stream_app.domain.result import cache_entry as cached
from stream_app.domain.topics import MAX_INPUT_BYTES

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{0,32}")
_REBALANCE_MARGIN_S = 20.0  # a lead's work ends this long before the rebalance timeout (docs/reference/faust.md)


def problems(tables: Tables) -> list[str]:
    """Return one line for each error."""
    found = [*_kafka(tables), *_line(tables), *_replay(tables), *_retention(tables), *_http(tables)]
    found += [*_gateway(tables), *_cache(tables), *_egress(tables), *_privacy(tables)]
    found += lanes.problems(tables)
    for alias, destination in tables.destinations.items():
        found += [f"destinations.{alias}{line}" for line in _destination(alias, destination)]
        found += [f"destinations.{alias}{line}" for line in _callbacks(tables, destination)]
    return found


def _under(table: str, lines: list[str]) -> list[str]:
    return [f"{table}.{line}" for line in lines]


def _kafka(tables: Tables) -> Iterator[str]:
    kafka = tables.kafka
    yield from _under(
        "kafka",
        out_of_range(
            kafka,
            partitions=(1, 10_000),
            replication=(1, 100),
            session_timeout_s=(6, 1_800),
            rebalance_timeout_s=(30, 3_600),
            broker_wait_s=(1, 3_600),
        ),
    )
    if problem := bootstrap_problem(kafka.bootstrap):
        yield f"kafka.bootstrap: {problem}"
    if not _NAMESPACE.fullmatch(kafka.namespace):
        yield "kafka.namespace: at most 32 of A-Z a-z 0-9 . _ -"
    security = kafka.security
    if security.protocol.startswith("SASL") and not (security.username and security.password_env):
        yield f"kafka.security: protocol {security.protocol} needs username and password_env"
    if security.protocol == "SASL_PLAINTEXT" and security.mechanism == "PLAIN" and not _all_local(kafka.bootstrap):
        yield "kafka.security.mechanism: PLAIN sends the password in clear text to another host; use SASL_SSL or SCRAM"
    if bool(security.cert_file) != bool(security.key_file):
        yield "kafka.security: cert_file and key_file must be set together"
    for key in ("password_env", "key_password_env"):
        yield from _env_name(f"kafka.security.{key}", getattr(security, key))
    yield from _env_name("redis.url_env", tables.redis.url_env)


def _all_local(bootstrap: str) -> bool:
    """True if every host is this machine or a name of a container network."""
    return all(is_local(place.strip().rpartition(":")[0].strip("[]")) for place in bootstrap.split(","))


def bootstrap_problem(bootstrap: str) -> str | None:
    """Return what is wrong with the address of a Kafka cluster."""
    for place in bootstrap.split(","):
        host, _, port = place.strip().rpartition(":")
        if not (host and port.isdecimal() and 1 <= int(port) <= 65_535):
            return "must be host:port, several separated by commas"
    return None


def _line(tables: Tables) -> Iterator[str]:
    line, kafka = tables.line, tables.kafka
    yield from _under(
        "line",
        out_of_range(
            line,
            max_in_flight=(1, 10_000),
            max_attempts=(1, 100),
            connect_timeout_s=(0.1, 300),
            request_timeout_s=(0.1, 600),
            retry_base_s=(0.01, 60),
            retry_cap_s=(0.01, 600),
            max_request_start_age_s=(0.1, 600),
            commit_timeout_s=(1, 600),
            uncertain_grace_s=(1, 604_800),
            patience_s=(0.1, 3_600),
            freshness_days=(1, 365),
        ),
    )
    if line.connect_timeout_s >= line.request_timeout_s:
        yield "line.connect_timeout_s: is part of a request, so it must be below line.request_timeout_s"
    if line.retry_base_s > line.retry_cap_s:
        yield "line.retry_base_s: must not be above line.retry_cap_s"
    longest_s = line.max_request_start_age_s + line.request_timeout_s
    if longest_s + line.commit_timeout_s > kafka.rebalance_timeout_s - _REBALANCE_MARGIN_S:
        yield (
            f"kafka.rebalance_timeout_s: must be {_REBALANCE_MARGIN_S:g} s above the line's "
            "max_request_start_age_s + request_timeout_s + commit_timeout_s = "
            f"{longest_s + line.commit_timeout_s:g} s, or Kafka revokes partitions of a worker that is "
            "still finishing its leads"
        )
    if kafka.session_timeout_s > kafka.rebalance_timeout_s:
        yield "kafka.session_timeout_s: must not be above kafka.rebalance_timeout_s"
    for place, grace_s in _graces(tables):
        if grace_s <= longest_s:
            yield (
                f"{place}: must be above line.max_request_start_age_s + request_timeout_s = "
                f"{longest_s:g} s, or a lead could be sent again while its first POST is in progress"
            )
    yield from _under("shares", out_of_range(tables.shares, bulk=(0.01, 0.9), retry=(0.01, 0.9)))
    if tables.shares.bulk + tables.shares.retry >= 1:
        yield "shares: bulk + retry must stay below 1; hot leads use the rest"


def _graces(tables: Tables) -> Iterator[tuple[str, float]]:
    """Each grace period of uncertain sends, with the place of its setting."""
    yield "line.uncertain_grace_s", tables.line.uncertain_grace_s
    for alias, destination in tables.destinations.items():
        if destination.uncertain_grace_s is not None:
            yield f"destinations.{alias}.uncertain_grace_s", destination.uncertain_grace_s


def _replay(tables: Tables) -> Iterator[str]:
    replay = tables.replay
    yield from _under(
        "replay",
        out_of_range(
            replay,
            max_replays=(0, 100),
            max_returns=(1, 1_000),
            rate_share=(0.01, 1),
            backoff_base_s=(1, 86_400),
            backoff_unreachable_base_s=(1, 86_400),
            backoff_cap_s=(1, 604_800),
        ),
    )
    if replay.backoff_base_s > replay.backoff_cap_s:
        yield "replay.backoff_base_s: must not be above replay.backoff_cap_s"
    tiers_s = replay.tiers_s
    if not tiers_s or list(tiers_s) != sorted(set(tiers_s)) or tiers_s[0] < 1:
        yield "replay.tiers_s: must be whole seconds from 1 on, in ascending order"
        return
    for place, wanted_s in (
        ("replay.backoff_cap_s", replay.backoff_cap_s),
        *_graces(tables),
    ):
        if wanted_s > tiers_s[-1]:
            yield f"{place} = {wanted_s:g}: is longer than the longest delay tier; replay.tiers_s ends at {tiers_s[-1]}"
    if tables.topics.wait_days * 86_400 < 2 * tiers_s[-1]:
        yield "topics.wait_days: must be at least twice the longest delay tier, or waiting leads expire"


def _retention(tables: Tables) -> Iterator[str]:
    yield from _under("topics", topics.problems(tables.topics))
    for kind in ("leads", "retry", "bulk", "dlq", "wait", "deferred"):
        days = getattr(tables.topics, f"{kind}_days")
        if days > tables.line.freshness_days:
            yield (
                f"topics.{kind}_days = {days}: must not be above line.freshness_days = "
                f"{tables.line.freshness_days}: an older record could be read again after its row was deleted, "
                "and be paid twice"
            )


def _http(tables: Tables) -> Iterator[str]:
    http = tables.http
    free, named = (0, 65_535), (1, 65_535)
    ranges = {"worker_port": free, "replay_port": free, "gateway_port": named, "gateway_ops_port": free}
    yield from _under("http", out_of_range(http, **ranges))
    ports = [port for name in ranges if (port := getattr(http, name))]
    if len(set(ports)) < len(ports):
        yield "http: worker_port, replay_port, gateway_port and gateway_ops_port must differ"


def _cache(tables: Tables) -> Iterator[str]:
    yield from _under("redis", out_of_range(tables.redis, timeout_s=(0.001, 5)))
    yield from _under("cache", cached.problems(tables.cache))


def _egress(tables: Tables) -> Iterator[str]:
    yield from _under("egress", out_of_range(tables.egress, keepalive_s=(0.1, 3_600)))
    yield from _env_name("egress.proxy_env", tables.egress.proxy_env)


def _privacy(tables: Tables) -> Iterator[str]:
    yield from _env_names("privacy.pepper_env", tables.privacy.pepper_env)


def _gateway(tables: Tables) -> Iterator[str]:
    gateway = tables.gateway
    yield from _under(
        "gateway", out_of_range(gateway, max_body_bytes=(1_024, MAX_INPUT_BYTES // 2), read_timeout_s=(0.1, 60))
    )
    if gateway.public_url is not None and not _is_base(gateway.public_url):
        yield "gateway.public_url: must be like https://leads.example.com, without user, query or fragment"
    elif gateway.public_url is not None and gateway.api_token_env is None and not _is_loopback(gateway.public_url):
        yield (
            "gateway.api_token_env: is required with a public_url: a proxy in front of the gateway would open the "
            "look-up API to everyone; name an environment variable with a token"
        )
    yield from _env_names("gateway.token_keys_env", gateway.token_keys_env)
    yield from _env_name("gateway.api_token_env", gateway.api_token_env)
    if gateway.api_url is not None and not _is_base(gateway.api_url):
        yield "gateway.api_url: must be like http://gateway.internal:9103, without user, query or fragment"
    if gateway.read_model_path == "":
        yield "gateway.read_model_path: must be the path of a file; leave it out for the default"


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    plain = parts.scheme in ("http", "https") and parts.hostname and parts.netloc.isascii() and not url.endswith("?")
    return bool(plain) and not (parts.username or parts.query or parts.fragment)


def _is_loopback(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


def _callbacks(tables: Tables, destination: Destination) -> Iterator[str]:
    yield from _env_names(".callback_secrets_env", destination.callback_secrets_env)
    if not destination.callbacks:
        return
    waits_days = (destination.callback_deadline_s + destination.callback_grace_s) / 86_400
    for kind in ("leads", "bulk"):
        if getattr(tables.topics, f"{kind}_days") <= waits_days:
            yield (
                f".callback_grace_s: with callback_deadline_s it is {waits_days:.3g} days; topics.{kind}_days must be "
                "above that, or the record of a parked lead expires"
            )
    gateway = tables.gateway
    if gateway.public_url is None:
        yield (
            ".callbacks: Clay has no address to call back: set gateway.public_url, or callbacks = false if this "
            "table sends no callbacks"
        )
    if not (gateway.token_keys_env or destination.callback_secrets_env):
        yield (
            ".callbacks: nothing authenticates a callback: set gateway.token_keys_env, or "
            "callback_secrets_env if the table cannot echo a token"
        )


def _destination(alias: str, destination: Destination) -> Iterator[str]:
    if not _NAME.fullmatch(alias):
        yield ": an alias is 1 to 64 of A-Z a-z 0-9 . _ -"
    if not _NAME.fullmatch(destination.workspace):
        yield ".workspace: 1 to 64 of A-Z a-z 0-9 . _ -"
    if not destination.webhooks_env:
        yield ".webhooks_env: must name at least one environment variable"
    yield from _env_names(".webhooks_env", destination.webhooks_env)
    yield from _env_name(".token_env", destination.token_env)
    own = {} if destination.uncertain_grace_s is None else {"uncertain_grace_s": (1, 604_800)}
    for problem in out_of_range(
        destination,
        **own,
        estimate_credits=(0, 1_000_000),
        estimate_actions=(0, 1_000_000),
        ceiling_credits=(0, 1_000_000),
        ceiling_actions=(0, 1_000_000),
        callback_deadline_s=(1, 2_592_000),
        callback_grace_s=(1, 2_592_000),
    ):
        yield f".{problem}"
    for meter in ("credits", "actions"):
        if getattr(destination, f"estimate_{meter}") > getattr(destination, f"ceiling_{meter}"):
            yield f".estimate_{meter}: must not be above ceiling_{meter}, the most that one lead costs"
    columns = list(destination.columns.values())
    if not all(columns) or len(set(columns)) < len(columns):
        yield ".columns: each field needs its own column"
    if not destination.allowed_hosts:
        yield ".allowed_hosts: must name at least one host"


def _env_names(where: str, names: tuple[str, ...]) -> Iterator[str]:
    if len(set(names)) < len(names):
        yield f"{where}: must name each environment variable once"
    for name in names:
        yield from _env_name(where, name)


def _env_name(where: str, name: str | None) -> Iterator[str]:
    """Check the name of a variable. The line does not repeat the value, which could be the secret itself."""
    if name is not None and not is_env_name(name):
        yield f"{where}: must be the name of an environment variable, never the secret itself"


def is_env_name(name: str) -> bool:
    """True if it is a valid name of an environment variable."""
    return _ENV_NAME.fullmatch(name) is not None
