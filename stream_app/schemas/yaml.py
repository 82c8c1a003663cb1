"""Writes plain values as YAML, because one document does not justify a YAML library at run time."""

from __future__ import annotations

import json
import re
from typing import Any

_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # not text in YAML 1.1


def to_yaml(value: Any, indent: int = 0) -> str:
    """Return block style for dicts and lists. Scalars are JSON, which YAML 1.2 includes."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_key(key)}:{_after(inner, indent)}" for key, inner in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{_after(inner, indent)}" for inner in value)
    return f"{pad}{_scalar(value)}\n"


def _after(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + to_yaml(value, indent + 1)
    return f" {_scalar(value)}\n"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _WORDS else _scalar(key)


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
