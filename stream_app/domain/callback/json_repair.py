"""Repairs JSON that a template broke by inserting unescaped text, if only one reading is possible.

A typical HTTP column has the body `{"title": "{{Title}}", "credits": {{Credits}}}`. A title with quotes or line breaks,
or an empty cell, breaks the JSON. In one flat object these faults are repaired:

- pairs of quotes within a text: `"they said "call me" twice"`. A single quote might be the end of the text.
- line breaks and other control characters within a text.
- a missing value, which becomes null: `"credits": ,`
- a comma after the last value.

Anything else is refused, because a wrong guess would become wrong data.
"""

from __future__ import annotations

import re
from typing import Final

_KEY: Final = re.compile(r'\s*+"([^"\\\x00-\x1f]{1,200}+)"\s*+:\s*+')
_BARE: Final = re.compile(r"(?:true|false|null|-?\d[\d.eE+-]*+)?(?=\s*+[,}])")
_QUOTE: Final = re.compile(r'\\.|"', re.DOTALL)
_ENDS_TEXT: Final = re.compile(r'"(?=\s*+(?:,\s*+"[^"\\\x00-\x1f]{1,200}+"\s*+:|,?+\s*+\}\s*+\Z))')
_LACKS_COMMA: Final = re.compile(r'"\s*+"[^"\\\x00-\x1f]{1,200}+"\s*+:')
_COMMA: Final = re.compile(r"\s*+(,?+)\s*+")
_END: Final = re.compile(r"\}\s*+\Z")
_OPENS: Final = re.compile(r"\s*+\{")
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def repair(text: str) -> str | None:
    """The text as good JSON, or None: it is no flat object, or could be read in two ways. Takes linear time."""
    opens = _OPENS.match(text)
    if opens is None:
        return None
    at, members = opens.end(), dict[str, str]()
    while True:
        key = _KEY.match(text, at)
        if key is None or key[1] in members:
            return None
        value = _value(text, key.end())
        if value is None:
            return None
        members[key[1]], at = value
        comma = _COMMA.match(text, at)
        at = comma.end() if comma else at
        if _END.match(text, at):
            return "{" + ",".join(f'"{name}":{member}' for name, member in members.items()) + "}"
        if not (comma and comma[1]):
            return None


def _value(text: str, at: int) -> tuple[str, int] | None:
    """Return the value that begins at this position as JSON, and the position of its end."""
    if text.startswith('"', at):
        end = _end_of_text(text, at + 1)
        return None if end is None else (f'"{_escaped(text[at + 1 : end])}"', end + 1)
    bare = _BARE.match(text, at)
    return None if bare is None else (bare[0] or "null", bare.end())


def _end_of_text(text: str, at: int) -> int | None:
    """Return the position of the closing quote: the first one before the next member or the end of the object."""
    within = 0
    for found in _QUOTE.finditer(text, at):
        if found[0] != '"':
            continue
        if _ENDS_TEXT.match(text, found.start()):
            return None if within % 2 else found.start()
        if _LACKS_COMMA.match(text, found.start()):
            return None
        within += 1
    return None


def _escaped(content: str) -> str:
    quoted = _QUOTE.sub(lambda found: '\\"' if found[0] == '"' else found[0], content)
    return _CONTROL.sub(lambda found: _ESCAPES.get(found[0], " "), quoted)
