"""Templates of an HTTP column: `{{placeholders}}` for cells, filled as Clay fills them."""

from __future__ import annotations

import json
import re
from typing import Any

_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")


def placeholders(template: str) -> list[str]:
    """Return the names of a template's placeholders."""
    return _PLACEHOLDER.findall(template)


def fill(template: str, cells: dict[str, Any]) -> str:
    """Fill the template with each cell as text. An empty or unknown cell becomes ""."""
    return _PLACEHOLDER.sub(lambda match: as_text(cells.get(match[1])), template)


def as_text(value: object) -> str:
    """Return a cell as Clay's text in a body: null is "", numbers lose their type."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def body_text(template: dict[str, Any], cells: dict[str, Any], *, typed: bool, escape: bool) -> str:
    """Return a JSON body. With `escape` off, quotes and newlines in a cell stay unescaped, which may break it."""
    if not escape:
        return fill(json.dumps(template, ensure_ascii=False), cells)
    return json.dumps(_filled(template, cells, typed), ensure_ascii=False)


def _filled(template: Any, cells: dict[str, Any], typed: bool) -> Any:
    if isinstance(template, dict):
        return {key: _filled(value, cells, typed) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, cells, typed) for value in template]
    if not isinstance(template, str):
        return template
    whole = _PLACEHOLDER.fullmatch(template)
    if typed and whole:
        return cells.get(whole[1])
    return fill(template, cells)
