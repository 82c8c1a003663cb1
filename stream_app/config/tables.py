"""Reads TOML tables into frozen Structs. Finds all errors: unknown keys, wrong types, missing keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from stream_app.config.gone import CHANGED, gone
from stream_app.config.model import Settings
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.plan import Destination, Workspace

S = TypeVar("S", bound=msgspec.Struct)

NOT_IN_THE_FILE: Final[Mapping[type, Mapping[str, str]]] = {
    BudgetPolicy: {"tz": "the workspace's time_zone sets it; remove it"},
    Destination: dict.fromkeys(("alias", "webhook_ids", "setup_id", "callback_url"), ""),
    Settings: dict.fromkeys(("secrets", "path", "stamp"), ""),
    Workspace: {"name": "", "max_in_flight": "delivery.max_in_flight sets it; remove it"},
}
"""Fields that are no keys, each with what sets it; empty for what a user would not expect."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class TableReader:
    """Reads what can be read, so that later rules can check it. `problems` has one line per error."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._unread: set[str] = set()

    def read(
        self,
        kind: type[S],
        table: object,
        where: str = "",
        values: Mapping[str, Any] = _NOTHING,
        without: Collection[str] = (),
    ) -> S:
        """Read a table as a Struct. An unreadable key gets its default, or an empty value if it has none.

        Args:
            kind: The Struct.
            table: The table's value.
            where: The table's name in the file, "" for the whole file.
            values: Fields with another default than the Struct's, and those that are no keys.
            without: Keys that this table does not have.
        """
        keys = {key: hint for key, hint in keys_of(kind).items() if key not in without} if without else keys_of(kind)
        read = dict(values)
        if not isinstance(table, dict):
            self._wrong(f"{where}: must be a table", *keys)
        else:
            for key in [key for key in table if key not in keys]:
                self._unknown(kind, key, keys, where)
            for key in [key for key in table if key in keys]:
                if (value := self._value(keys[key], table[key], where, key, values.get(key))) is not msgspec.UNSET:
                    read[key] = value
        for key in _required(kind):
            if key not in read:
                if isinstance(table, dict) and key not in table:
                    self._wrong(f"{_at(where, key)}: missing", key)
                read[key] = (get_origin(keys[key]) or keys[key])()
        return kind(**read)

    def knows(self, line: str) -> bool:
        """True if all keys that a rule's line mentions were read. Otherwise the rule would check a default."""
        return not self._unread or self._unread.isdisjoint(re.findall(r"\w+", line))

    def read_each(
        self, kind: type[S], tables: object, where: str, name: str, values: Mapping[str, Any]
    ) -> dict[str, S]:
        """Read a table of tables with `read`; field `name` gets each one's name. Returns `{}` if it is not one."""
        if not isinstance(tables, dict):
            self._wrong(f"{where}: must be a table", where)
            return {}
        return {key: self.read(kind, table, _at(where, key), {**values, name: key}) for key, table in tables.items()}

    def _value(self, kind: Any, value: object, where: str, key: str, base: msgspec.Struct | None) -> Any:
        """Return UNSET if the value cannot be read."""
        place = _at(where, key)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.read(kind, value, place, fields_of(base) if base is not None else _NOTHING)
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as exc:
            problem, words = CHANGED.get(place) or str(exc).replace("`", ""), _words(kind)
            self._wrong(f"{place}: {problem}" + (f"; there are: {', '.join(words)}" if words else ""), key)
            return msgspec.UNSET

    def _unknown(self, kind: type, key: str, keys: Mapping[str, Any], where: str) -> None:
        if advice := NOT_IN_THE_FILE.get(kind, _NOTHING).get(key) or gone(_at(where, key)):
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
    hints, hidden = get_type_hints(kind), NOT_IN_THE_FILE.get(kind, _NOTHING)
    return {key: hints[key] for key in kind.__struct_fields__ if key not in hidden}


def fields_of(table: msgspec.Struct) -> dict[str, Any]:
    """The fields of a Struct, as they are."""
    return {key: getattr(table, key) for key in table.__struct_fields__}


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
