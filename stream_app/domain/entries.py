"""What a person enters for a command, as options or in a form: made from its arguments, and checked by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, cast, get_args, get_type_hints

import msgspec
from msgspec import inspect

from stream_app.domain.commands import ARGUMENTS, CommandKind


class Entry(msgspec.Struct, frozen=True):
    """A value that a person enters.

    Attributes:
        name: The name of the option, and of the field in a form.
        keys: Its place in the arguments of the command.
        kind: Its type, with its limits.
        title: What it is, if its name does not say so.
        says: What it does, in words.
        number: `whole number` or `number`; '' if a number is no answer.
        limits: Of the number, in words that follow `answers`.
        words: What may be entered, besides a number, and what it stands for.
        required: The command needs it.
        default: What it is if nothing is entered; '' if nothing is changed then.
    """

    name: str
    keys: tuple[str, ...]
    kind: Any
    title: str = ""
    says: str = ""
    number: str = ""
    limits: str = ""
    words: Mapping[str, bool | str | None] = {}
    required: bool = False
    default: str = ""

    @property
    def label(self) -> str:
        """The label of a field."""
        return self.title or self.name.replace("_", " ").capitalize()

    @property
    def hint(self) -> str:
        """What stands beside a field: what the label does not say."""
        return (not self.title and self.says) or f"{self.answers}; empty: unchanged"

    @property
    def answers(self) -> str:
        """What may be entered, in words."""
        *some, last = [*([f"a {self.number}"] if self.number else []), *self.words] or ["a text"]
        return f"{', '.join(some)} or {last}" if some else last

    @property
    def is_flag(self) -> bool:
        """True if it is one of two words that mean yes and no."""
        return set(self.words.values()) == {True, False}

    def value(self, entered: str | bool) -> object:
        """Return what was entered, or a flag, as a value. Raises ValueError, which says what may be entered."""
        if isinstance(entered, bool):
            return entered
        text = entered.replace(",", "") if self.number == "whole number" else entered
        if (word := text.lower()) in self.words:
            return self.words[word]
        with suppress(msgspec.ValidationError):
            if (value := msgspec.convert(text, self.kind, strict=False)) is not None:  # of `null`, which is no word
                return cast(object, value)
        raise ValueError(f"{entered!r} is not {self.answers}{self.limits}")


@cache
def entries(kind: CommandKind) -> tuple[Entry, ...]:
    """Return what a person enters for a kind of command."""
    return tuple(_entries(kind))


def read_entries(kind: CommandKind, entered: Mapping[str, str | bool]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arguments of the command, and what is wrong with them, by entry."""
    args: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for entry in entries(kind):
        if (given := entered.get(entry.name, "")) == "":
            continue
        *outer, key = entry.keys
        try:
            (args.setdefault(outer[0], {}) if outer else args)[key] = entry.value(given)
        except ValueError as error:
            problems[entry.name] = str(error)
    return args, problems


def _entries(kind: CommandKind) -> Iterator[Entry]:
    hints = get_type_hints(ARGUMENTS[kind], include_extras=True)
    for field in cast(inspect.StructType, inspect.type_info(ARGUMENTS[kind])).fields:
        hint, key = hints[field.name], field.encode_name
        if isinstance(field.type, inspect.DictType):  # its keys are entries, and there None is a value: no limit
            names, value = get_args(hint)
            for name in get_args(names):
                yield _entry(Entry(name, (key, name), value, words={"none": None}), field.type.value_type)
        else:
            default = field.default if isinstance(field.default, str) else ""
            yield _entry(Entry(field.name, (key,), hint, required=field.required, default=default), field.type)


def _entry(entry: Entry, kind: inspect.Type) -> Entry:
    words, number, limits, about, yes_no = dict(entry.words), "", "", dict[str, Any](), ("on", "off")
    if isinstance(kind, inspect.Metadata):
        about, yes_no, kind = kind.extra_json_schema or {}, (kind.extra or {}).get("words", yes_no), kind.type
    for part in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        match part:
            case inspect.LiteralType():
                words |= {str(word): str(word) for word in part.values}
            case inspect.BoolType():
                words |= dict(zip(yes_no, (True, False), strict=True))
            case inspect.IntType() | inspect.FloatType():
                number = "whole number" if isinstance(part, inspect.IntType) else "number"
                limits = f", from {part.ge:,} to {part.le:,}"
    title, says = about.get("title", ""), about.get("description", "")
    return msgspec.structs.replace(entry, title=title, says=says, number=number, limits=limits, words=words)
