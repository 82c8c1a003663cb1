"""TOML tables into frozen Structs, finding every problem at once: unknown keys, wrong types, missing keys."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar, get_origin, get_type_hints

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


def read_table(kind: type[S], table: object, where: str, problems: list[str]) -> S | None:
    """A table as its Struct; None when anything in it is wrong, with a line for each in `problems`.

    where  the table's name as the file spells it, "" for the whole file.
    """
    if not isinstance(table, dict):
        problems.append(f"{where}: must be a table")
        return None
    before = len(problems)
    types = get_type_hints(kind)
    unknown = [key for key in table if key not in types]
    problems += [f"{_at(where, key)}: unknown key{_did_you_mean(key, list(types))}" for key in unknown]
    values = {}
    for field in msgspec.structs.fields(kind):
        if field.name in table:
            place = _at(where, field.name)
            values[field.name] = _read(types[field.name], table[field.name], place, problems)
        elif field.required:
            problems.append(f"{_at(where, field.name)}: missing")
    return kind(**values) if len(problems) == before else None


def _read(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return read_table(kind, value, where, problems)
    if get_origin(kind) is dict:
        inner = kind.__args__[1]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and isinstance(value, dict):
            return {name: read_table(inner, each, _at(where, name), problems) for name, each in value.items()}
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        problems.append(f"{where}: {str(exc).replace('`', '')}")
        return None


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _did_you_mean(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(known)}"
