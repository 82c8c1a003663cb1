"""The changes of whole expressions and statements: one of each kind, and a file that stays as long
as it was.
"""

import ast
from textwrap import dedent
from typing import Final

import pytest

from tests.mutants.of_trees import KINDS, applied, changes

_TEXT: Final = dedent('''
    """A file."""
    from typing import Final

    MAX_CALLS: Final = 5


    def f(a: int, b: int, *, grace: int = 0) -> int:
        a = g(
            a,
            b,
            grace=grace,
        ).real
        new = 1
        if a and b:
            return f"{a and b}"
        while a:
            a -= 1
        return a * b
''')


def changed(kind: str) -> list[str]:
    """Return what the lines become that a change of this kind makes different, without space."""
    lines = []
    for change in changes(_TEXT, []):
        if change.kind != kind:
            continue
        now = applied(_TEXT, change)
        ast.parse(now)
        assert now.count("\n") == _TEXT.count("\n"), "functions are found by their lines"
        pairs = zip(_TEXT.splitlines(), now.splitlines(), strict=True)
        lines.append("".join(after.strip() for before, after in pairs if before != after))
    return lines


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("dropped keyword", ["a = (g(a, b)).real"]),
        ("dropped assignment", ["pass", "pass"]),
        ("swapped arguments", ["a = (g(b, a, grace=grace)).real"]),
        ("one more", ["return (a * b + 1)"]),
        ("and or", ["if (a or b):"]),
        ("negated condition", ["if (not (a and b)):", "while (not a):"]),
        ("dropped condition", ["if (False):", "if (True):", "while (False):"]),
        ("half a condition", ["if (b):", "if (a):"]),
        ("returns None", ["return None", "return None"]),
    ],
)
def test_each_kind_of_change_is_made_where_it_can_be(kind: str, lines: list[str]) -> None:
    assert changed(kind) == lines
    assert kind in KINDS


def test_nothing_is_changed_in_a_part_that_is_left_out() -> None:
    lines = _TEXT.splitlines()
    whole = ((1, 0), (len(lines) + 1, 0))
    assert changes(_TEXT, [whole]) == []
    assert {change.kind for change in changes(_TEXT, [])} == set(KINDS)


def test_a_check_that_never_fails_in_right_code_is_not_dropped() -> None:
    assert [change.text for change in changes("zip(a, b, strict=True)\n", [])] == [
        "zip(b, a, strict=True)",
    ]
