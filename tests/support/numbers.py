"""Whole documents of every message type, and numbers in them that no message of ours has.

Other programs, and other versions of this one, may write to our topics, too.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

NUMBERS: Final = (
    2**63,  # more than SQLite, and most other readers, can store
    -(2**63) - 1,
    2**64,  # more than msgspec can write
    10**30,
    2**63 - 1,  # two of them add up to more
    2**62,  # as a time: of no calendar
    10**15,
    -(10**15),
    1.5,  # as a whole number: of no partition
    1e300,
)
Place = tuple[str | int, ...]
"""Where a number is in a document: names of members, and positions in lists."""


def document(kind: type, texts: dict[str, str], now_ms: int) -> Any:
    """Return a document of this type that has every member, as JSON would have it.

    Args:
        kind: A message type.
        texts: The text of each member that needs one; others have their own name.
        now_ms: The time of each member that is one, epoch ms.
    """
    return _document(inspect.type_info(kind), "", texts, now_ms)


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where a document has numbers."""
    members = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, member in members:
        yield from places(member, (*place, name))
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield place


def with_number(value: Any, place: Place, number: float) -> Any:
    """Return a copy of the document with another number in this place."""
    if not place:
        return number
    copy = value.copy()
    copy[place[0]] = with_number(value[place[0]], place[1:], number)
    return copy


def encode(value: Any) -> bytes:
    """Return the document as JSON with whole numbers of any size, which msgspec refuses."""
    numbers: list[str] = []

    def marked(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: marked(member) for name, member in part.items()}
        if isinstance(part, list):
            return [marked(member) for member in part]
        if isinstance(part, int) and not isinstance(part, bool):
            numbers.append(str(part))
            return f"\0{len(numbers) - 1}\0"
        return part

    pieces = msgspec.json.encode(marked(value)).split(b'"\\u0000')
    text = pieces[0]
    for piece in pieces[1:]:
        index, _, rest = piece.partition(b'\\u0000"')
        text += numbers[int(index)].encode() + rest
    return text


def _document(kind: inspect.Type, name: str, texts: dict[str, str], now_ms: int) -> Any:
    match kind:
        case inspect.Metadata():
            return _document(kind.type, name, texts, now_ms)
        case inspect.StructType():
            members = {
                field.encode_name: _document(field.type, field.encode_name, texts, now_ms)
                for field in kind.fields
            }
            return list(members.values()) if kind.array_like else members
        case inspect.UnionType():
            return _document(kind.types[0], name, texts, now_ms)
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.DictType():
            key = str(_document(kind.key_type, name, texts, now_ms))
            return {key: _document(kind.value_type, name, texts, now_ms)}
        case (
            inspect.ListType()
            | inspect.SetType()
            | inspect.FrozenSetType()
            | inspect.VarTupleType()
        ):
            return [_document(kind.item_type, name, texts, now_ms)]
        case inspect.TupleType():
            return [_document(item, name, texts, now_ms) for item in kind.item_types]
        case inspect.IntType() | inspect.FloatType():
            return now_ms if name.endswith("_ms") else 1
        case inspect.BoolType():
            return True
        case inspect.NoneType() | inspect.AnyType() | inspect.RawType():
            return None
        case inspect.StrType():
            return texts.get(name, name)
    raise AssertionError(f"{name}: no document has a {kind}")
