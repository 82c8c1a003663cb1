"""Reads TOML tables into frozen Structs. Finds all errors: unknown keys, wrong types, missing keys."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


class TableReader:
    """Reads what can be read, so that later rules can check it. `problems` has one line per error."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._unread: set[str] = set()

    def read(self, kind: type[S], table: object, where: str = "", base: msgspec.Struct | None = None) -> S:
        """Read a table as a Struct. An unreadable key gets its default, or an empty value if it has none.

        Args:
            kind: The Struct.
            table: The table's value.
            where: The table's name in the file, "" for the whole file.
            base: Holds the default of each field, instead of the Struct's own.
        """
        types = get_type_hints(kind)
        if not isinstance(table, dict):
            self._wrong(f"{where}: must be a table", *types)
            return kind(**{field.name: _empty(types[field.name]) for field in _required(kind)})
        for key in table:
            if key not in types:
                near = difflib.get_close_matches(key, types, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(types)}"
                self._wrong(f"{_at(where, key)}: unknown key; {hint}", *near)
        values = {} if base is None else {name: getattr(base, name) for name in base.__struct_fields__}
        for name in types:
            if name in table:
                read = self._value(types[name], table[name], where, name, values.get(name))
                if read is not msgspec.UNSET or name not in values:
                    values[name] = read
        for field in _required(kind):
            if field.name not in table:
                self._wrong(f"{_at(where, field.name)}: missing", field.name)
            if values.get(field.name, msgspec.UNSET) is msgspec.UNSET:
                values[field.name] = _empty(types[field.name])
        return kind(**{name: value for name, value in values.items() if value is not msgspec.UNSET})

    def knows(self, line: str) -> bool:
        """True if all keys that a rule's line mentions were read. Otherwise the rule would check a default."""
        return self._unread.isdisjoint(re.findall(r"\w+", line))

    def read_each(self, kind: type[S], tables: object, where: str, base: msgspec.Struct | None = None) -> dict[str, S]:
        """Read a table of tables with `read`. Returns `{}` if it is not one."""
        if not isinstance(tables, dict):
            self._wrong(f"{where}: must be a table", where)
            return {}
        return {name: self.read(kind, each, _at(where, name), base) for name, each in tables.items()}

    def _value(self, kind: Any, value: object, where: str, key: str, base: Any) -> Any:
        """Return UNSET if the value cannot be read."""
        place = _at(where, key)
        if _is_struct(kind):
            return self.read(kind, value, place, base)
        if get_origin(kind) is dict and _is_struct(kind.__args__[1]):
            return self.read_each(kind.__args__[1], value, place)
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as exc:
            said, words = str(exc).replace("`", ""), _words(kind)
            self._wrong(f"{place}: {said}" + (f"; there are: {', '.join(words)}" if words else ""), key)
            return msgspec.UNSET

    def _wrong(self, line: str, *unread: str) -> None:
        self.problems.append(line)
        self._unread.update(unread)


def _words(kind: Any) -> list[str]:
    """The words that a value may consist of. Empty if any text is allowed."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for each in get_args(kind) for word in _words(each)]


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _required(kind: type[msgspec.Struct]) -> list[msgspec.structs.FieldInfo]:
    return [field for field in msgspec.structs.fields(kind) if field.required]


def _empty(kind: Any) -> Any:
    return (get_origin(kind) or kind)()


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
