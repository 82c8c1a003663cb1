"""Reads the configuration: the file, then the secrets that it names. All errors are reported together."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from stream_app.config import rules
from stream_app.config.model import Settings
from stream_app.config.secret_files import Secrets, stamp_of, with_files
from stream_app.config.tables import TableReader, fields_of
from stream_app.config.variables import (
    EVERY_NEED,
    Need,
    kept,
    missing,
    namings_of,
    needed,
    value_problems,
    webhook_problems,
)
from stream_app.domain.model.addresses import setup_id, webhook_id
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.pseudonyms import pseudonyms_of, use
from stream_app.domain.plan import Destination, Workspace

DEFAULT_PATH = Path("stream_app.toml")
_LANES: Final = frozenset({"workspace_defaults", "workspaces", "destinations"})


def load_settings(path: Path | None, environ: Mapping[str, str], needs: tuple[Need, ...] = ("clay",)) -> Settings:
    """Load the configuration.

    The default path is the file that STREAM_APP_CONFIG names, else stream_app.toml. From then on this process hashes
    people and lead ids as the file says (domain/lead/identity.py).

    The secrets of the parts in `needs` must be set. Those that a command can do without are kept wherever they are set.

    Raises:
        SettingsError: Lists every error of the file and of the environment.
    """
    path = path or Path(environ.get("STREAM_APP_CONFIG") or DEFAULT_PATH)
    reader, before = TableReader(), stamp_of(path, None)
    settings = _read(reader, _parse(path))
    wanted = frozenset(needs)
    if "board" in wanted and settings.notify.url_env is not None:
        wanted |= {"notify"}  # the board sends the messages, through the proxy
    problems = [f"{path}: {line}" for line in (*reader.problems, *filter(reader.knows, rules.problems(settings)))]
    stamp, unreadable = stamp_of(path, settings.secrets_dir), list[str]()
    namings = list(namings_of(settings))
    every = (name for _, name in needed(namings, EVERY_NEED))
    environ = with_files(settings.secrets_dir, every, environ, unreadable)
    problems += unreadable
    if not unreadable and reader.knows("secrets_dir"):  # otherwise the secrets may exist
        problems += missing(settings, namings, wanted, environ)
    if "clay" in needs and reader.knows("allowed_hosts"):
        problems += webhook_problems(settings, environ)
    problems += value_problems(settings, namings, wanted, environ)
    if problems:
        raise SettingsError(problems)
    secrets = Secrets(kept(namings, wanted, environ))
    privacy = settings.privacy
    pepper = environ[privacy.pepper_env] if privacy.pepper_env is not None else None
    use(pseudonyms_of(pepper, privacy.hash_lead_ids))
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
    defaults = reader.read(
        *(Workspace, document.get("workspace_defaults", {}), "workspace_defaults"),
        {"name": "", "max_in_flight": settings.delivery.max_in_flight},
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
            workspace,
            budget=in_zone(workspace.budget, workspace.time_zone),
            default_destination=settings.destination_of(name, None) or "",
        )
        for name, workspace in sorted(settings.workspaces.items())
    }
    destinations = {}
    for alias, destination in settings.destinations.items():
        urls = [secrets[name] for name in destination.webhooks_env if name in secrets]
        token = [secrets[destination.token_env]] if destination.token_env and destination.token_env in secrets else []
        destinations[alias] = msgspec.structs.replace(
            destination,
            webhook_ids=tuple(map(webhook_id, urls)),
            setup_id=setup_id(*urls, *token),
            callback_url=settings.callback_url(alias) if destination.callbacks else "",
        )
    return msgspec.structs.replace(settings, workspaces=workspaces, destinations=destinations)
