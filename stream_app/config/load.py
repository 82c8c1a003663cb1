"""Reads the configuration: the file, then the secrets that it names. All errors are reported together."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from stream_app.config import rules
from stream_app.config.model import Secrets, Settings, Tables, Workspace
from stream_app.config.secret_files import stamp_of, with_files
from stream_app.config.tables import TableReader
from stream_app.domain.errors import SettingsError
from stream_app.domain.hosts import is_local
from stream_app.domain.lead.pseudonyms import pseudonyms_of, use
from stream_app.domain.secret_strength import HOW_TO_MAKE, is_public, secret_problem
from stream_app.domain.webhook import proxy_problem, token_problem, webhook_problem

DEFAULT_PATH = Path("stream_app.toml")


def load_settings(
    path: Path | None, environ: Mapping[str, str], *, clay: bool = True, gateway: bool = False, api: bool = False
) -> Settings:
    """Load the configuration.

    The default path is the file that STREAM_APP_CONFIG names, else stream_app.toml. From then on this process hashes
    people and lead ids as the file says (domain/lead/pseudonyms.py).

    Args:
        path: The file; None for the default.
        environ: The environment variables.
        clay: Require the webhooks and tokens. Only a worker needs them.
        gateway: Require the keys and secrets of callbacks.
        api: Require the token of the look-up API. It is kept wherever it is set.

    Raises:
        SettingsError: Lists every error of the file and of the environment.
    """
    path = path or Path(environ.get("STREAM_APP_CONFIG") or DEFAULT_PATH)
    reader = TableReader()
    tables = _read(reader, _parse(path))
    found = [f"{path}: {line}" for line in (*reader.problems, *filter(reader.knows, rules.problems(tables)))]
    named = list(_named(tables, clay=clay, gateway=gateway, api=api))
    every = (name for _, name in _named(tables, clay=True, gateway=True, api=True))
    stamp, unreadable = stamp_of(path, tables.secrets_dir), list[str]()
    environ = with_files(tables.secrets_dir, every, environ, unreadable)
    found += unreadable
    if not unreadable and reader.knows("secrets_dir"):  # otherwise the secrets may exist
        found += _missing(named, environ, tables.secrets_dir)
    if clay and reader.knows("allowed_hosts"):
        found += _webhook_problems(tables, environ)
    found += [*_guessable(tables, environ), *_redis_problems(tables, environ)]
    if found:
        raise SettingsError(found)
    names = {name for _, name in named}
    if (token := tables.gateway.api_token_env) is not None and token in environ:
        names.add(token)
    shallow = {name: getattr(tables, name) for name in Tables.__struct_fields__}
    shallow["workspaces"] = {name: _in_its_zone(here) for name, here in sorted(tables.workspaces.items())}
    peppers = [environ[name] for name in tables.privacy.pepper_env]
    use(pseudonyms_of(peppers, tables.privacy.hash_lead_ids))
    return Settings(**shallow, secrets=Secrets({name: environ[name] for name in names}), path=path, stamp=stamp)


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


def _read(reader: TableReader, document: dict[str, object]) -> Tables:
    """Read the file's tables. Each workspace inherits from `[workspace_defaults]`, key by key."""
    rest = {name: table for name, table in document.items() if name != "workspaces"}
    tables = reader.read(Tables, rest)
    defaults = tables.workspace_defaults
    workspaces = reader.read_each(Workspace, document.get("workspaces", {}), "workspaces", defaults)
    return msgspec.structs.replace(tables, workspaces=workspaces)


def _in_its_zone(workspace: Workspace) -> Workspace:
    return msgspec.structs.replace(workspace, budget=msgspec.structs.replace(workspace.budget, tz=workspace.time_zone))


def _named(tables: Tables, *, clay: bool, gateway: bool, api: bool) -> Iterator[tuple[str, str]]:
    """(place in the file, environment variable) of each secret that is needed."""
    security = tables.kafka.security
    optional = [
        ("kafka.security.password_env", security.password_env),
        ("kafka.security.key_password_env", security.key_password_env),
        ("redis.url_env", tables.redis.url_env),
        *(("privacy.pepper_env", name) for name in tables.privacy.pepper_env),
    ]
    if api:
        optional.append(("gateway.api_token_env", tables.gateway.api_token_env))
    if clay:
        optional.append(("egress.proxy_env", tables.egress.proxy_env))
    if clay or gateway:
        optional += [("gateway.token_keys_env", name) for name in tables.gateway.token_keys_env]
    for alias, there in tables.destinations.items():
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


def _guessable(tables: Tables, environ: Mapping[str, str]) -> list[str]:
    """Find our secrets that are public or guessable, whether this process needs them or not."""
    names = [*tables.privacy.pepper_env, *tables.gateway.token_keys_env, tables.gateway.api_token_env or ""]
    for there in tables.destinations.values():
        names += there.callback_secrets_env
    found: list[str] = []
    seen: dict[str, str] = {}
    hosts = {host.partition(":")[0] for there in tables.destinations.values() for host in there.allowed_hosts}
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


def _redis_problems(tables: Tables, environ: Mapping[str, str]) -> list[str]:
    if not (url := environ.get(tables.redis.url_env or "")):
        return []
    from stream_app.cache.redis import redis_problem  # most commands do not need Redis

    problem = redis_problem(url)
    return [f"environment variable {tables.redis.url_env}: {problem}"] if problem else []


def _webhook_problems(tables: Tables, environ: Mapping[str, str]) -> list[str]:
    """Check the URLs of webhooks and proxy, and the tokens. The lines never repeat a value, which is a secret."""
    found = []
    if (url := environ.get(tables.egress.proxy_env or "")) and (problem := proxy_problem(url)):
        found.append(f"environment variable {tables.egress.proxy_env}: {problem}")
    seen: dict[str, str] = {}
    for there in tables.destinations.values():
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
