"""Reads the configuration: the tables of the file, then the secrets that they name.

All errors come together.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import asdict, replace

from stream_app.config import rules
from stream_app.config.gone import CHANGED, gone
from stream_app.config.model import Settings
from stream_app.config.secret_files import Secrets, stamp_of, with_files
from stream_app.config.variables import (
    Need,
    kept,
    key_problems,
    missing,
    namings_of,
    value_problems,
    webhook_problems,
)
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.model.addresses import setup_id, webhook_id, webhook_kind
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.pseudonyms import pseudonyms_of, use
from stream_app.domain.plan import (
    ROUTINE_DEFAULTS,
    ROUTINE_RATE,
    Destination,
    Workspace,
)

DEFAULT_PATH = Path("stream_app.toml")
_LANES: Final = frozenset({"workspace_defaults", "workspaces", "destinations"})


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    needs: tuple[Need, ...] = ("clay",),
) -> Settings:
    """Load the configuration.

    The default path is the file that STREAM_APP_CONFIG names, else stream_app.toml. From then on
    this process hashes people and lead ids as the file says (domain/lead/identity.py).

    The secrets of the parts in `needs` must be set. Those that a command can do without are kept
    wherever they are set.

    Raises:
        SettingsError: Lists every error of the file and of the environment.
    """
    path = path or Path(environ.get("STREAM_APP_CONFIG") or DEFAULT_PATH)
    reader = TableReader()
    before = stamp_of(path, None)
    settings = _read(reader, _parse(path))
    wanted = frozenset(needs)
    if "board" in wanted and settings.notify.url_env is not None:
        wanted |= {"notify"}  # the board sends the messages, through the proxy
    broken = [*rules.problems(settings), *(rules.uncapped(settings) if "clay" in wanted else ())]
    problems = [f"{path}: {line}" for line in (*reader.problems, *filter(reader.knows, broken))]
    stamp = stamp_of(path, settings.secrets_dir)
    unreadable = list[str]()
    namings = list(namings_of(settings))
    every = [name for naming in namings for name in naming.valid]
    environ = with_files(settings.secrets_dir, every, environ, unreadable)
    problems += unreadable
    if not unreadable and reader.knows("secrets_dir"):  # otherwise the secrets may exist
        problems += missing(settings, namings, wanted, environ)
    if "clay" in needs and reader.knows("allowed_hosts"):
        problems += webhook_problems(settings, environ)
    if "clay" in needs:
        problems += key_problems(settings, environ)
    problems += value_problems(settings, namings, wanted, environ)
    if problems:
        raise SettingsError(problems)
    secrets = Secrets(kept(namings, wanted, environ))
    privacy = settings.privacy
    pepper = environ[privacy.pepper_env] if privacy.pepper_env is not None else None
    use(pseudonyms_of(pepper, privacy.hash_lead_ids))
    if stamp_of(path, None) != before:  # it changed while it was read
        stamp = ()
    return replace(_resolved(settings, secrets), secrets=secrets, path=path, stamp=stamp)


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
        Workspace,
        document.get("workspace_defaults", {}),
        "workspace_defaults",
        {"name": "", "max_in_flight": settings.delivery.max_in_flight},
        without={
            "partition": "",
            "default_destination": "",
            "api_key_env": "a key is of one workspace; write it under [workspaces.NAME]",
        },
    )
    tables = document.get("destinations", {})
    inherited = asdict(defaults)
    with_routines = {**inherited, "rate": _rate_of_routines(document, defaults)}
    run_routines = _run_routines(tables)
    workspaces = reader.read_each(
        Workspace,
        document.get("workspaces", {}),
        "workspaces",
        "name",
        lambda name, _: with_routines if name in run_routines else inherited,
    )
    graces = {"uncertain_grace_s": settings.delivery.uncertain_grace_s}
    destinations = reader.read_each(
        Destination,
        tables,
        "destinations",
        "alias",
        lambda _, table: {**graces, **ROUTINE_DEFAULTS} if _has_routine(table) else graces,
    )
    return replace(
        settings,
        workspace_defaults=defaults,
        workspaces=workspaces,
        destinations=destinations,
    )


def _has_routine(table: object) -> bool:
    """Return True for the table of a destination that runs a routine."""
    return isinstance(table, dict) and "routine" in table


def _run_routines(tables: object) -> Collection[str]:
    """Return the workspaces whose destinations run routines, as the file names them."""
    of_file = tables.values() if isinstance(tables, dict) else ()
    named = [table.get("workspace") for table in of_file if _has_routine(table)]
    return {name for name in named if isinstance(name, str)}


def _rate_of_routines(document: dict[str, object], defaults: Workspace) -> RatePolicy:
    """Return the default rate of a workspace with routines.

    `[workspace_defaults.rate]` counts where the file has it.
    """
    table = document.get("workspace_defaults")
    rate = table.get("rate") if isinstance(table, dict) else None
    of_file = rate if isinstance(rate, dict) else {}
    return replace(
        defaults.rate,
        **{key: value for key, value in ROUTINE_RATE.items() if key not in of_file},
    )


def _resolved(settings: Settings, secrets: Secrets) -> Settings:
    """Fill in what workspaces and destinations have from other tables and from the secrets."""
    in_zone = cache(lambda budget, tz: replace(budget, tz=tz))
    workspaces = {
        name: replace(
            workspace,
            budget=in_zone(workspace.budget, workspace.time_zone),
            default_destination=settings.destination_of(name, None) or "",
        )
        for name, workspace in sorted(settings.workspaces.items())
    }
    destinations = {}
    for alias, destination in settings.destinations.items():
        if destination.routine is not None:
            destinations[alias] = _resolved_routine(settings, destination, secrets)
            continue
        urls = [secrets[name] for name in destination.webhooks_env if name in secrets]
        token = (
            [secrets[destination.token_env]]
            if destination.token_env and destination.token_env in secrets
            else []
        )
        destinations[alias] = replace(
            destination,
            webhook_ids=tuple(map(webhook_id, urls)),
            setup_id=setup_id(*urls, *token),
            callback_url=settings.callback_url(alias) if destination.callbacks else "",
            kind=webhook_kind(urls[0]) if urls else "table",
        )
    return replace(settings, workspaces=workspaces, destinations=destinations)


def _resolved_routine(
    settings: Settings,
    destination: Destination,
    secrets: Secrets,
) -> Destination:
    """Fill in what a destination with a routine has from its workspace's key."""
    workspace = settings.workspaces.get(destination.workspace)
    variable = workspace.api_key_env if workspace is not None else None
    key = [secrets[variable]] if variable is not None and variable in secrets else []
    routine = destination.routine or ""
    return replace(
        destination,
        webhook_ids=(routine,),
        setup_id=setup_id(routine, *key),
    )


S = TypeVar("S", bound=msgspec.Struct)

NOT_IN_THE_FILE: Final[Mapping[type, Mapping[str, str]]] = {
    BudgetPolicy: {"tz": "the workspace's time_zone sets it; remove it"},
    Destination: dict.fromkeys(
        ("alias", "webhook_ids", "setup_id", "callback_url", "kind"),
        "",
    ),
    Settings: dict.fromkeys(("secrets", "path", "stamp"), ""),
    Workspace: {
        "name": "",
        "max_in_flight": "delivery.max_in_flight sets it; remove it",
    },
}
"""Fields that are no keys, each with what sets it; empty for what a user would not expect."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class TableReader:
    """Reads what can be read, so that later rules can check it.

    `problems` has one line per error.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._unread: set[str] = set()

    def read(
        self,
        kind: type[S],
        table: object,
        where: str = "",
        values: Mapping[str, Any] = _NOTHING,
        without: Mapping[str, str] = _NOTHING,
    ) -> S:
        """Read a table as a Struct.

        An unreadable key gets its default, or an empty value if it has none.

        Args:
            kind: The Struct.
            table: The table's value.
            where: The table's name in the file, "" for the whole file.
            values: Fields with another default than the Struct's, and those that are no keys.
            without: Keys that this table does not have, each with what to do instead; empty for
                what a user would not expect.
        """
        keys = (
            {key: hint for key, hint in keys_of(kind).items() if key not in without}
            if without
            else keys_of(kind)
        )
        read = dict(values)
        if not isinstance(table, dict):
            self._wrong(f"{where}: must be a table", *keys)
        else:
            for key in [key for key in table if key not in keys]:
                self._unknown(kind, key, keys, where, without.get(key, ""))
            for key in [key for key in table if key in keys]:
                if (
                    value := self._value(keys[key], table[key], where, key, values.get(key))
                ) is not msgspec.UNSET:
                    read[field_of(kind, key)] = value
        for key in _required(kind):
            if key not in read:
                if isinstance(table, dict) and key not in table:
                    self._wrong(f"{_at(where, key)}: missing", key)
                read[key] = (get_origin(keys[key]) or keys[key])()
        return kind(**read)

    def knows(self, line: str) -> bool:
        """True if all keys that a rule's line mentions were read.

        Otherwise the rule would check a default.
        """
        return not self._unread or self._unread.isdisjoint(re.findall(r"\w+", line))

    def read_each(
        self,
        kind: type[S],
        tables: object,
        where: str,
        name: str,
        values_of: Callable[[str, object], Mapping[str, Any]],
    ) -> dict[str, S]:
        """Read a table of tables with `read`; field `name` gets each one's name.

        `values_of` returns the `values` of a table, from its name and what the file has there.
        Returns `{}` if it is not one.
        """
        if not isinstance(tables, dict):
            self._wrong(f"{where}: must be a table", where)
            return {}
        return {
            key: self.read(kind, table, _at(where, key), {**values_of(key, table), name: key})
            for key, table in tables.items()
        }

    def _value(
        self,
        kind: Any,
        value: object,
        where: str,
        key: str,
        base: msgspec.Struct | None,
    ) -> Any:
        """Return UNSET if the value cannot be read."""
        place = _at(where, key)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.read(kind, value, place, asdict(base) if base is not None else _NOTHING)
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as exc:
            problem = CHANGED.get(place) or str(exc).replace("`", "")
            words = _words(kind)
            self._wrong(
                f"{place}: {problem}" + (f"; there are: {', '.join(words)}" if words else ""),
                key,
            )
            return msgspec.UNSET

    def _unknown(
        self,
        kind: type,
        key: str,
        keys: Mapping[str, Any],
        where: str,
        instead: str,
    ) -> None:
        hidden = NOT_IN_THE_FILE.get(kind, _NOTHING)
        if advice := instead or hidden.get(key) or gone(_at(where, key)):
            self._wrong(f"{_at(where, key)}: {advice}")
            return
        near = difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(keys)}"
        self._wrong(f"{_at(where, key)}: unknown key; {hint}", *near)

    def _wrong(self, line: str, *unread: str) -> None:
        self.problems.append(line)
        self._unread.update(unread)


@cache
def keys_of(kind: type[msgspec.Struct]) -> Mapping[str, Any]:
    """The keys of a table, each with its type."""
    hints = get_type_hints(kind)
    hidden = NOT_IN_THE_FILE.get(kind, _NOTHING)
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    return {key: hints[field] for key, field in names if field not in hidden}


def field_of(kind: type[msgspec.Struct], key: str) -> str:
    """Return the field that a key sets. It has another name where the key is a word of Python."""
    return kind.__struct_fields__[kind.__struct_encode_fields__.index(key)]


@cache
def _required(kind: type[msgspec.Struct]) -> Collection[str]:
    return [field.name for field in msgspec.structs.fields(kind) if field.required]


def _words(kind: Any) -> list[str]:
    """The words that a value may consist of. Empty if any text is allowed."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for part in get_args(kind) for word in _words(part)]


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
