"""Parses TOML or JSON into a checked script. Reports all problems, one line each."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from stream_app.dev.simulator.script import FAULTS, LISTENER, Fault, Latency, Script, Settings, Table

S = TypeVar("S", bound=Settings)


class ScriptError(Exception):
    """An invalid script. `problems` has one line each: where, what, and what would be right."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_script(path: Path) -> Script:
    """Read a script file (TOML, UTF-8). Raises ScriptError, also if the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScriptError([f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ScriptError(["cannot be read: it is not UTF-8"]) from error
    return parse_script(text)


def parse_script(text: str) -> Script:
    """Read a script's TOML text. Raises ScriptError with all problems."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScriptError([f"not TOML: {error}"]) from error
    table = raw.get("table")
    if isinstance(table, dict) and isinstance(raw.get("webhooks"), dict):
        raw["webhooks"] = {slug: over(table, mine) for slug, mine in raw["webhooks"].items()}
    return checked(Script, raw)


def over(table: dict[str, Any], mine: Any) -> Any:
    """Merge a webhook's settings over the default table's; `latency` and `callback` key by key."""
    if not isinstance(mine, dict):
        return mine
    merged = table | mine
    for part in ("latency", "callback"):
        if isinstance(table.get(part), dict) and isinstance(mine.get(part), dict):
            merged[part] = table[part] | mine[part]
    return merged


def checked(cls: type[S], raw: object, where: str = "") -> S:
    """Convert `raw` to a `cls`. Raises ScriptError with all problems; `where` prefixes their places."""
    problems: list[str] = []
    result = _struct(cls, raw, where, problems)
    if result is None or problems:
        raise ScriptError(problems)
    return result


def _struct(cls: type[S], raw: object, where: str, problems: list[str]) -> S | None:
    if not isinstance(raw, dict):
        problems.append(f"{where or 'the script'}: must be a table of settings, not {type(raw).__name__}")
        return None
    before = len(problems)
    types = get_type_hints(cls, include_extras=True)
    prefix = f"{where}." if where else ""
    problems.extend(
        f"{prefix}{key}: unknown; known here: {', '.join(sorted(types))}" for key in sorted(raw.keys() - types.keys())
    )
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(cls):
        if field.name in raw:
            values[field.name] = _value(types[field.name], raw[field.name], prefix + field.name, problems)
        elif field.required:
            problems.append(f"{prefix}{field.name}: missing")
    if len(problems) > before:
        return None
    built = cls(**values)
    problems.extend(f"{prefix}{problem}" for problem in _contradictions(built, raw))
    return built


def _value(kind: Any, raw: object, where: str, problems: list[str]) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if _is_settings(kind):
        return _struct(kind, raw, where, problems)
    if origin is tuple and _is_settings(args[0]) and isinstance(raw, list):
        return tuple(_struct(args[0], item, f"{where}[{n}]", problems) for n, item in enumerate(raw))
    if origin is dict and _is_settings(args[1]) and isinstance(raw, dict):
        return {key: _struct(args[1], item, f"{where}.{key}", problems) for key, item in raw.items()}
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{where}: {error}")
        return None


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _contradictions(built: Settings, raw: dict[str, Any]) -> Iterator[str]:
    if isinstance(built, Latency) and built.p95_s < built.median_s:
        yield f"p95_s: {built.p95_s} is under median_s ({built.median_s})"
    if isinstance(built, Table):
        names = [column.name for column in built.columns]
        yield from (f"columns: {name!r} is there twice" for name in set(names) if names.count(name) > 1)
    if isinstance(built, Fault):
        yield from _fault_contradictions(built, raw)


def _fault_contradictions(fault: Fault, raw: dict[str, Any]) -> Iterator[str]:
    if fault.kind not in FAULTS:
        yield f"kind: {fault.kind!r} is unknown; known are {', '.join(sorted(FAULTS))}"
        return
    parameters = set(FAULTS[fault.kind])
    places = set() if fault.kind in LISTENER else {"share", "workspace", "webhook"}
    for key in sorted(raw.keys() - parameters - places - {"kind", "at_s", "for_s"}):
        takes = ", ".join(sorted(parameters | places)) or "no parameters"
        yield f"{key}: does not belong to {fault.kind!r}, which takes {takes}"
    if fault.kind == "redirect" and fault.status is not None and fault.status >= 400:
        yield f"status: a redirect has 300 to 399, not {fault.status}"
