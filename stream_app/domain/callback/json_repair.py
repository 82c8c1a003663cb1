"""Broken JSON from a template that was filled with text as it is: mended where only one reading makes sense.

Whoever builds an HTTP column writes `{"title": "{{Title}}", "credits": {{Credits}}}`; a title with quotes or line
breaks in it, or an empty cell, then breaks the JSON. Mended are, in one flat object:

- quotes within a text that come in pairs: `"they said "call me" twice"`. An odd one could be where the text ends.
- line breaks and other control characters within a text.
- nothing at all as a value, which becomes null: `"credits": ,`
- a comma after the last value.

All else stays broken: a wrong guess would become data that somebody trusts.
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


def mend(text: str) -> str | None:
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
    """The value that begins there as JSON, and where it ends."""
    if text.startswith('"', at):
        end = _end_of_text(text, at + 1)
        return None if end is None else (f'"{_escaped(text[at + 1 : end])}"', end + 1)
    bare = _BARE.match(text, at)
    return None if bare is None else (bare[0] or "null", bare.end())


def _end_of_text(text: str, at: int) -> int | None:
    """Where the quote is that ends it: the first that the next member, or the object's end, comes after."""
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
