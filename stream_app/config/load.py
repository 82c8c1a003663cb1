"""Reads the configuration: the file, then the secrets that it names. All errors are reported together."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from stream_app.config import rules
from stream_app.config.model import Secrets, Settings
from stream_app.config.secret_files import stamp_of, with_files
from stream_app.config.tables import TableReader, fields_of
from stream_app.domain.errors import SettingsError
from stream_app.domain.hosts import is_local
from stream_app.domain.lane.concurrency import ConcurrencyPolicy
from stream_app.domain.lead.pseudonyms import pseudonyms_of, use
from stream_app.domain.policy import Destination, Workspace
from stream_app.domain.secret_strength import HOW_TO_MAKE, is_public, secret_problem
from stream_app.domain.trace import headers_of
from stream_app.domain.webhook import (
    messages_problem,
    proxy_problem,
    setup_id,
    token_problem,
    webhook_id,
    webhook_problem,
)

DEFAULT_PATH = Path("stream_app.toml")
_LANES: Final = frozenset({"workspace_defaults", "workspaces", "destinations"})


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    clay: bool = True,
    gateway: bool = False,
    api: bool = False,
    trace: bool = False,
    notify: bool = False,
) -> Settings:
    """Load the configuration.

    The default path is the file that STREAM_APP_CONFIG names, else stream_app.toml. From then on this process hashes
    people and lead ids as the file says (domain/lead/pseudonyms.py).

    Args:
        path: The file; None for the default.
        environ: The environment variables.
        clay: Require the webhooks and tokens. Only a worker needs them.
        gateway: Require the keys and secrets of callbacks.
        api: Require the token of the look-up API. It is kept wherever it is set; so are this process's name and the
            headers of the OTLP receiver.
        trace: Require the headers of the OTLP receiver.
        notify: Require the URL for messages.

    Raises:
        SettingsError: Lists every error of the file and of the environment.
    """
    path = path or Path(environ.get("STREAM_APP_CONFIG") or DEFAULT_PATH)
    reader, before = TableReader(), stamp_of(path, None)
    settings = _read(reader, _parse(path))
    found = [f"{path}: {line}" for line in (*reader.problems, *filter(reader.knows, rules.problems(settings)))]
    named = list(_named(settings, clay=clay, gateway=gateway, api=api, trace=trace, notify=notify))
    every = (name for _, name in _named(settings, clay=True, gateway=True, api=True, trace=True, notify=True))
    stamp, unreadable = stamp_of(path, settings.secrets_dir), list[str]()
    environ = with_files(settings.secrets_dir, every, environ, unreadable)
    found += unreadable
    if not unreadable and reader.knows("secrets_dir"):  # otherwise the secrets may exist
        found += _missing(named, environ, settings.secrets_dir)
    if clay and reader.knows("allowed_hosts"):
        found += _webhook_problems(settings, environ)
    found += [*_guessable(settings, environ), *_redis_problems(settings, environ), *_header_problems(settings, environ)]
    found += _proxy_and_message_problems(settings, environ, proxy=clay or notify)
    if found:
        raise SettingsError(found)
    names = {name for _, name in named}
    optional = (settings.gateway.api_token_env, settings.kafka.instance_env, settings.trace.headers_env)
    names |= {name for name in optional if name is not None and name in environ}
    secrets = Secrets({name: environ[name] for name in names})
    peppers = [environ[name] for name in settings.privacy.pepper_env]
    use(pseudonyms_of(peppers, settings.privacy.hash_lead_ids))
    if stamp_of(path, None) != before:  # it changed while it was read
        stamp = ()
    return msgspec.structs.replace(_resolved(settings, secrets), secrets=secrets, path=path, stamp=stamp)


def _parse(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "name one with --config or STREAM_APP_CONFIG; the README has an example"
        raise SettingsError([f"{path}: there is no such file; {hint}"]) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError([f"{path}: cannot be read: {exc}"]) from exc
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError([f"{path}: is not TOML: {exc}"]) from exc


def _read(reader: TableReader, document: dict[str, object]) -> Settings:
    """Read the file's settings. Each workspace inherits from `[workspace_defaults]`, key by key."""
    simple = {key: value for key, value in document.items() if key not in _LANES}
    settings = reader.read(Settings, simple)
    most = settings.delivery.max_in_flight
    concurrency = ConcurrencyPolicy(least=min(ConcurrencyPolicy().least, most), most=most)
    defaults = reader.read(
        *(Workspace, document.get("workspace_defaults", {}), "workspace_defaults"),
        {"name": "", "concurrency": concurrency},
        without=("partition", "default_destination"),
    )
    workspaces = reader.read_each(Workspace, document.get("workspaces", {}), "workspaces", "name", fields_of(defaults))
    graces = {"uncertain_grace_s": settings.delivery.uncertain_grace_s}
    destinations = reader.read_each(Destination, document.get("destinations", {}), "destinations", "alias", graces)
    return msgspec.structs.replace(
        settings, workspace_defaults=defaults, workspaces=workspaces, destinations=destinations
    )


def _resolved(settings: Settings, secrets: Secrets) -> Settings:
    """Fill in what workspaces and destinations have from other tables and from the secrets."""
    in_zone = cache(lambda budget, tz: msgspec.structs.replace(budget, tz=tz))
    workspaces = {
        name: msgspec.structs.replace(
            here,
            budget=in_zone(here.budget, here.time_zone),
            default_destination=settings.destination_of(name, None) or "",
        )
        for name, here in sorted(settings.workspaces.items())
    }
    destinations = {}
    for alias, there in settings.destinations.items():
        urls = [secrets[name] for name in there.webhooks_env if name in secrets]
        token = [secrets[there.token_env]] if there.token_env and there.token_env in secrets else []
        destinations[alias] = msgspec.structs.replace(
            there,
            webhook_ids=tuple(map(webhook_id, urls)),
            setup_id=setup_id(*urls, *token),
            callback_url=settings.callback_url(alias) if there.callbacks else "",
        )
    return msgspec.structs.replace(settings, workspaces=workspaces, destinations=destinations)


def _named(
    settings: Settings, *, clay: bool, gateway: bool, api: bool, trace: bool, notify: bool
) -> Iterator[tuple[str, str]]:
    """(place in the file, environment variable) of each secret that is needed."""
    security = settings.kafka.security
    optional = [
        ("kafka.security.password_env", security.password_env),
        ("kafka.security.key_password_env", security.key_password_env),
        ("kafka.security.oauth.client_secret_env", security.oauth.client_secret_env),
        ("redis.url_env", settings.redis.url_env),
        *(("privacy.pepper_env", name) for name in settings.privacy.pepper_env),
    ]
    if api:
        optional.append(("gateway.api_token_env", settings.gateway.api_token_env))
    if gateway:
        optional.append(("gateway.operator_token_env", settings.gateway.operator_token_env))
        optional.append(("gateway.user_header_secret_env", settings.gateway.user_header_secret_env))
    if trace:
        optional.append(("trace.headers_env", settings.trace.headers_env))
    if notify:
        optional.append(("notify.url_env", settings.notify.url_env))
    if clay or notify:
        optional.append(("egress.proxy_env", settings.egress.proxy_env))
    if clay or gateway:
        optional += [("gateway.token_keys_env", name) for name in settings.gateway.token_keys_env]
    for alias, there in settings.destinations.items():
        if clay:
            optional += [(f"destinations.{alias}.webhooks_env", name) for name in there.webhooks_env]
            optional.append((f"destinations.{alias}.token_env", there.token_env))
        if gateway:
            optional += [(f"destinations.{alias}.callback_secrets_env", name) for name in there.callback_secrets_env]
    for place, name in optional:
        if name is not None and rules.is_env_name(name):  # an invalid name could be the secret itself
            yield place, name


def _missing(named: list[tuple[str, str]], environ: Mapping[str, str], directory: str | None) -> list[str]:
    where = f", and {directory} has no such file" if directory else ""
    return [
        f"environment variable {name} is not set{where}; {place} names it"
        for place, name in named
        if not environ.get(name)
    ]


def _guessable(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Find our secrets that are public or guessable, whether this process needs them or not."""
    gateway = settings.gateway
    names = [*settings.privacy.pepper_env, *gateway.token_keys_env, gateway.api_token_env or ""]
    names += [gateway.operator_token_env or "", gateway.user_header_secret_env or ""]
    for there in settings.destinations.values():
        names += there.callback_secrets_env
    found: list[str] = []
    seen: dict[str, str] = {}
    hosts = {host.partition(":")[0] for there in settings.destinations.values() for host in there.allowed_hosts}
    simulated = all(map(is_local, hosts))
    for name in dict.fromkeys(names):
        if not (secret := environ.get(name)):
            continue
        problem = secret_problem(secret)
        if problem is None and is_public(secret) and not simulated:
            problem = f"is an example from this project's files, which are public; {HOW_TO_MAKE}"
        if problem is None and seen.setdefault(secret, name) != name:
            problem = f"is the same as {seen[secret]}; {HOW_TO_MAKE}"
        if problem is not None:
            found.append(f"environment variable {name}: {problem}")
    return found


def _redis_problems(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    if not (url := environ.get(settings.redis.url_env or "")):
        return []
    from stream_app.cache.redis import redis_problem  # most commands do not need Redis

    problem = redis_problem(url)
    return [f"environment variable {settings.redis.url_env}: {problem}"] if problem else []


def _header_problems(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    if not (text := environ.get(settings.trace.headers_env or "")):
        return []
    try:
        headers_of(text)
    except ValueError as error:
        return [f"environment variable {settings.trace.headers_env}: {error}"]
    return []


def _proxy_and_message_problems(settings: Settings, environ: Mapping[str, str], *, proxy: bool) -> list[str]:
    found = []
    if proxy and (url := environ.get(settings.egress.proxy_env or "")) and (problem := proxy_problem(url)):
        found.append(f"environment variable {settings.egress.proxy_env}: {problem}")
    if (url := environ.get(settings.notify.url_env or "")) and (problem := messages_problem(url)):
        found.append(f"environment variable {settings.notify.url_env}: {problem}")
    return found


def _webhook_problems(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Check the URLs of webhooks, and the tokens. The lines never repeat a value, which is a secret."""
    found = []
    seen: dict[str, str] = {}
    for there in settings.destinations.values():
        for name in there.webhooks_env:
            if not (url := environ.get(name)):
                continue
            if problem := webhook_problem(url, there.allowed_hosts):
                found.append(f"environment variable {name}: {problem}")
            if seen.setdefault(url, name) != name:
                found.append(f"environment variable {name}: is the same webhook as {seen[url]}; remove one")
        if there.token_env and (token := environ.get(there.token_env)) and (problem := token_problem(token)):
            found.append(f"environment variable {there.token_env}: {problem}")
    return found
