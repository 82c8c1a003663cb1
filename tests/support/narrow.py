"""What a test expects of an answer that may be of several types."""

from typing import TypeVar

T = TypeVar("T")


def of_type(kind: type[T], value: object) -> T:
    assert isinstance(value, kind), value
    return value


def present(value: T | None) -> T:
    assert value is not None
    return value
