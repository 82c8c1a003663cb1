"""Bounds on text and JSON from outside, checked in linear time before anything reads them.

Two things make a reader slow or unsafe that are small on the wire: a long run of combining marks,
which normalisation sorts in quadratic time, and brackets within brackets, on which a parser
recurses. Both have a bound here that no real text reaches. The cost is nothing for ASCII text, and
for JSON with few brackets.
"""

import re
import unicodedata
from itertools import accumulate
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

MAX_MARKS: Final = 30
"""The most combining marks in a row: those of stream-safe text (Unicode Standard Annex 15,
UAX15-D4).
"""

MAX_HEADERS: Final = 100
"""The most headers of a record. Ours have a quarter of that."""

MAX_HEADER_BYTES: Final = 16_384
"""The most bytes of the names and values of a record's headers together."""

MAX_KEY_BYTES: Final = 16_384
"""The most bytes of a producer's key. Ours is the name of a workspace."""

MAX_LEVELS: Final = 100  # the most levels of lists and objects within each other

UNREADABLE: Final = (ValueError, RecursionError)
"""What a decoder raises: msgspec's errors are ValueErrors, as is the one for text that is no UTF-8,
which is not one of msgspec's. A decoder without `check_depth` recurses on what is nested too deep.
"""

_FIRST_MARK: Final = "\u0300"  # every character below is at most one letter with two marks
_MARK = "\u0301"
_LETTER = "a"
_A_RUN: Final = _MARK * (MAX_MARKS + 1)
_UNIMPORTANT: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STRING: Final = re.compile(rb'"[^"]*+"?')  # one that never ends goes to the end
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed numbers: 1 and -1


class NestedTooDeep(ValueError):
    """JSON has more than `MAX_LEVELS` levels."""

    def __init__(self) -> None:
        super().__init__(f"it is nested too deep (more than {MAX_LEVELS} levels)")


def is_stream_safe(text: str) -> bool:
    """Return True if at most `MAX_MARKS` combining marks follow each other in decomposed text."""
    if text.isascii() or max(text) < _FIRST_MARK:
        return True
    marks = {
        ord(character): shape for character in set(text) if (shape := _shape(character)) != _LETTER
    }
    return not marks or _A_RUN not in text.translate(marks)


def stream_safe(text: str) -> str:
    """Return the text if it is safe to normalise, else without its combining marks."""
    if is_stream_safe(text):
        return text
    return text.translate(
        {ord(character): None for character in set(text) if _shape(character).startswith(_MARK)},
    )


def _shape(character: str) -> str:
    """Return the shape of a character's compatibility decomposition.

    It has one sign for every combining mark, and another one for everything else.
    """
    if not unicodedata.decomposition(character):
        return _MARK if unicodedata.combining(character) else _LETTER
    decomposed = unicodedata.normalize("NFKD", character)
    shape = "".join(_MARK if unicodedata.combining(char) else _LETTER for char in decomposed)
    return shape if _MARK in shape else _LETTER


def check_depth(raw: bytes) -> None:
    """Raise NestedTooDeep if the brackets outside strings have more than `MAX_LEVELS` levels."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_LEVELS:
        return
    marks = raw.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _UNIMPORTANT)
    # Two quotes beside each other are a string without brackets, or stand between two strings
    # without one.
    brackets = _STRING.sub(b"", marks.replace(b'""', b""))
    if max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0) > MAX_LEVELS:
        raise NestedTooDeep


def decode(decoder: msgspec.json.Decoder[T], raw: bytes | None) -> T:
    """Decode JSON from outside.

    Raises:
        NestedTooDeep: It has more than `MAX_LEVELS` levels.
        ValueError: It is not JSON, or not what the decoder expects.
    """
    check_depth(raw or b"")
    return decoder.decode(raw or b"")
