"""How the Python text is laid out, beyond what ruff checks: one statement a line."""

import ast
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import same_program

ROOT = Path(__file__).parents[2]
FOLDERS = ("stream_app", "tests", "benchmarks", "docs", "deploy", "examples")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def several_at_once(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that do several things at once.

    They assign several values, or one value to several targets, star a literal tuple in a call, or
    import several modules. A swap reads what it assigns, so that it cannot be taken apart.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            starred = [part.value for part in node.args if isinstance(part, ast.Starred)]
            if any(isinstance(value, ast.Tuple | ast.List) for value in starred):
                yield node.lineno
        elif isinstance(node, ast.Assign):
            apart = same_program.taken_apart(node)
            is_chain = len(node.targets) > 1
            if is_chain or len(apart) > 1 or chooses_several(node) or repeats_for_several(node):
                yield node.lineno
        elif isinstance(node, ast.Import) and len(node.names) > 1:
            yield node.lineno


def chooses_several(node: ast.Assign) -> bool:
    """Return whether several values are assigned together by a condition, which is an `if`."""
    match node:
        case ast.Assign(
            targets=[ast.Tuple()],
            value=ast.IfExp(body=ast.Tuple(), orelse=ast.Tuple()),
        ):
            return True
    return False


def repeats_for_several(node: ast.Assign) -> bool:
    """Return whether several names get what a comprehension makes of as many written values."""
    match node:
        case ast.Assign(
            targets=[ast.Tuple()],
            value=ast.GeneratorExp(generators=[loop]) | ast.ListComp(generators=[loop]),
        ):
            return isinstance(loop.iter, ast.Tuple | ast.List | ast.Constant)
    return False


def programs_in(text: str) -> Iterator[tuple[int, ast.Module]]:
    """Yield the Python programs of a document, each with the number of lines before it."""
    for block in re.finditer(r"^( *)```python\n(.*?)^\1```", text, re.M | re.S):
        yield text.count("\n", 0, block.start(2)), ast.parse(textwrap.dedent(block[2]))


def programs_within(tree: ast.Module) -> Iterator[tuple[int, ast.Module]]:
    """Yield the programs that a module has as texts, each with the number of lines before it."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if re.match(r"\n(import|from) \w+", text):
                with suppress(SyntaxError):  # a template, which is filled in later
                    yield node.lineno - 1, ast.parse(text)
            case _:
                pass


def several_facts(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that assert several facts at once: a failure would hide which one failed."""
    for node in ast.walk(tree):
        match node:
            case ast.Assert(
                test=ast.Compare(
                    left=ast.Tuple(elts=[_, _, *_]),
                    ops=[ast.Eq()],
                    comparators=[ast.Tuple(elts=[_, _, *_]) | ast.IfExp(body=ast.Tuple())],
                ),
            ):
                yield node.lineno
            case _:
                pass


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_line_has_one_statement(folder: str) -> None:
    packed = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == folder
        for line in several_at_once(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert packed == []


def test_so_has_each_line_of_the_programs_in_documents_and_tests() -> None:
    programs = [
        (path, *program)
        for path in DOCUMENTS
        for program in programs_in(path.read_text(encoding="utf-8"))
    ]
    within = [
        (path, *program)
        for path in FILES
        for program in programs_within(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(programs) > 20
    assert len(within) > 4
    packed = [
        f"{path.relative_to(ROOT)}:{before + line}"
        for path, before, tree in (*programs, *within)
        for line in several_at_once(tree)
    ]
    assert packed == []


def test_each_assertion_is_about_one_fact() -> None:
    packed = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line in several_facts(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert packed == []


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("assert (a, b) == (1, 2)", [1]),
        ("assert (a, b) == (*pair, 1)", [1]),
        ("assert (a, b) == ((1, 2) if c else (3, 4))", [1]),
        ("assert (a, b) == pair", []),
        ("assert (a, b) in pairs", []),
        ("assert (a,) == (1,)", []),
    ],
)
def test_a_tuple_that_is_one_value_stays(line: str, lines: list[int]) -> None:
    assert list(several_facts(ast.parse(line))) == lines


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("a, b = 1, 2", [1]),
        ("a, b = b, a", []),
        ("self.a, b = b, self.a", []),
        ("a, b = pair", []),
        ("a, b = (1, 2) if c else (3, 4)", [1]),
        ("a, b = pair if c else (3, 4)", []),
        ("a, b = (f(part) for part in (1, 2))", [1]),
        ("a, b = (f(part) for part in parts)", []),
        ("a = b = 0", [1]),
        ("rows[key] = row = f()", [1]),
        ("pair = a, b = f()", [1]),
        ("call(*(a, b), c=1)", [1]),
        ("call(*pair)", []),
        ("import a, b", [1]),
    ],
)
def test_swaps_and_true_unpacking_stay(line: str, lines: list[int]) -> None:
    assert list(several_at_once(ast.parse(line))) == lines


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("a, b = f(), g()", "a = f()\nb = g()", True),
        ("a, b = f(), g()", "b = g()\na = f()", False),
        ("a, b = b, a", "a = b\nb = a", False),
        ("assert (a, b) == (1, None)", "assert a == 1\nassert b is None", True),
        ("assert (a, b) == (1, 2)", "assert a == 1", False),
        ("f(*(a, b), c=1)", "f(\n    a,\n    b,\n    c=1,\n)", True),
        ('"""Doc."""\nx = "ab"', 'x = "a" "b"', True),
        ("x = 1", "x = 2", False),
    ],
)
def test_the_check_of_layout_commits_sees_a_changed_program(old: str, new: str, same: bool) -> None:
    assert (same_program.program(old) == same_program.program(new)) is same


def test_no_helper_is_imported_from_a_test_module() -> None:
    """What several tests use lies beside them, or in tests/support."""
    imported = [
        f"{path.relative_to(ROOT)}: {node.module}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        if node.module and node.module.startswith("tests.")
        if node.module.rpartition(".")[2].startswith("test_")
    ]
    assert imported == []
