"""Public names of the package: one name for one thing."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.domain.lane.holds import REASONS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "stream_app"
FOLDERS = ("stream_app", "tests", "benchmarks", "docs", "deploy", "examples")
SEVERAL = """
K Meter Refusal S T answered app begin begun body_of build_app cancel causes clay_setup clock
command_row count current decode define_agents digest due_ms duration end ended explain export find
gateway_answers given_up headers_of host_checked in_words is_at_rest iso kind_of lead_id_of
list_them load_settings log main names_of number of opened permit plan publish read_books
reconfigured refusal release_probe remains run show skip slots_of spans_of status submit topic_of
unreadable wait_for_import words
"""
"""Names with several definitions. The list may only shrink: qualify the name of a new thing."""
OTHER_WORD_FOR_A_BOUND = re.compile(
    r"_*(?:MOST|LONGEST|LARGEST|BIGGEST|GREATEST|HIGHEST|WIDEST"
    r"|LEAST|SHORTEST|FEWEST|LOWEST|NARROWEST)(?:_[A-Z0-9_]*)?",
)
"""Constants that are a bound begin with MAX or MIN, the words of the field."""


def public_names(tree: ast.Module) -> set[str]:
    """Return the classes, functions, types and constants that a module defines for others."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case _:
                pass
    return {name for name in names if not name.startswith("_")}


def test_no_public_name_is_defined_twice_but_those_that_are_listed() -> None:
    modules = Counter[str]()
    for path in PACKAGE.rglob("*.py"):
        modules.update(public_names(ast.parse(path.read_text(encoding="utf-8"))))
    several = {name for name, count in modules.items() if count > 1}
    listed = set(SEVERAL.split())
    assert several - listed == set(), "name the new thing by what it is, in one word more"
    assert listed - several == set(), "these have one definition now: take them off the list"


def defined_in(path: Path) -> set[str]:
    """Return every name that a module defines, also inside its classes."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case (
                ast.ClassDef(name=name)
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.Name(id=name, ctx=ast.Store())
            ):
                names.add(name)
            case _:
                pass
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_bounds_are_called_max_or_min(folder: str) -> None:
    others = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in sorted(defined_in(path))
        if OTHER_WORD_FOR_A_BOUND.fullmatch(name)
    ]
    assert others == [], "name it MAX_ or MIN_ with its unit, or with what is counted"


@pytest.mark.parametrize(
    ("name", "is_refused"),
    [
        ("MOST", True),
        ("_MOST_ROWS", True),
        ("LONGEST_PAUSE_S", True),
        ("_LEAST_MS", True),
        ("MAX_ROWS", False),
        ("MOSTLY_IDLE", False),
        ("most_rows", False),
    ],
)
def test_which_names_say_a_bound_with_another_word(name: str, is_refused: bool) -> None:
    assert bool(OTHER_WORD_FOR_A_BOUND.fullmatch(name)) is is_refused


def literal_codes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the codes of holds, each with its line, that a program compares as literal text."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=comparators):
                sides = (left, *comparators)
            case _:
                continue
        if any(
            isinstance(side, ast.Attribute) and side.attr in {"reason", "holds", "code"}
            for side in sides
        ):
            for part in (part for side in sides for part in ast.walk(side)):
                match part:
                    case ast.Constant(value=str(text)) if text in REASONS:
                        yield node.lineno, text
                    case _:
                        pass


def test_codes_of_holds_are_compared_by_their_constants() -> None:
    """A code that is misspelt in a literal is equal to none, and no tool notices it."""
    literal = [
        f"{path.relative_to(ROOT)}:{line}: {code}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, code in literal_codes(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert literal == []


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ('held.reason in ("rate", "rate_limited")', ["rate", "rate_limited"]),
        ('"paused" != finding.code', ["paused"]),
        ("held.reason in (RATE, RATE_LIMITED)", []),
        ('view.bound_by == "rate"', []),
        ('held.reason == "none of ours"', []),
    ],
)
def test_which_codes_are_literal(line: str, codes: list[str]) -> None:
    assert [code for _, code in literal_codes(ast.parse(line))] == codes


def test_classes_that_a_text_names_by_their_module_are_in_it() -> None:
    """Such as `ports.Cache`, wherever its module lies."""
    modules: dict[str, set[str]] = {}
    texts = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in texts:
        modules.setdefault(path.stem, set()).update(defined_in(path))
    referred = [
        (path, *name)
        for path in texts
        for name in re.findall(
            r"`(?:[a-z_]+\.)*([a-z_]+)\.([A-Z]\w+)`",
            path.read_text(encoding="utf-8"),
        )
    ]
    assert len(referred) > 5
    wrong = [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path, module, name in referred
        if module in modules and name not in modules[module]
    ]
    assert wrong == []
