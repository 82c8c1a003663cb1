"""What is mutated, and how: cosmic-ray's operators, and changes of whole expressions and
statements, in turn.
"""

import ast
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Final

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutants.of_trees import KINDS, Change, applied, changes

ROOT: Final = Path(__file__).parents[2]
_CORE: Final = (
    "domain",
    "partition",
    "kafka/takeover/steps.py",
    "clay",
    "cache",
    "board/read_model",
)
_EDGE: Final = (
    "client",
    "gateway",
    "board/pages",
    "board/charts.py",
    "board/formats.py",
    "board/site.py",
    "board/uploads.py",
)
PARTS: Final = {
    part: tuple(f"stream_app/{name}" for name in names)
    for part, names in (("core", _CORE), ("edge", _EDGE))
}
"""What is mutated: the core decides and keeps; the edge asks, shows and takes in."""
TARGETS: Final = tuple(target for targets in PARTS.values() for target in targets)
# The first two need arguments. Equal values are often one object, and which are is up to the
# interpreter.
_NO_OPERATORS: Final = ("Variable", "NoOp", "Operator_Eq_Is", "Operator_NotEq_IsNot")
# of "open" and "closed" means nothing
_ORDER: Final = re.compile("ComparisonOperator.*_(Lt|Gt)E?$")
# what most operators look at
_KINDS: Final = {"BinaryOperator": "operator", "ComparisonOperator": "comparison"}
# How a class lies in memory, what only its constructor or a type checker looks at, and checks that
# never fail.
_NO_KEYWORDS: Final = ("covariant", "eq", "gc", "init", "kw_only", "slots", "strict")
_NO_PLACE: Final = {
    "name",
    "string",
    "newline",
    "endmarker",
    "fstring_start",
    "fstring_string",
    "fstring_end",
}
_NO_TOKEN: Final = set("()[]{},:.=@;") | {"->", ":="}
_Part = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change at `line` of a file, whose statement has the `lines`."""

    path: str
    line: int
    lines: range
    operator: str
    before: str
    after: str
    source: str

    @property
    def part(self) -> str:
        """The part of the program that it is in: a key of `PARTS`."""
        return next(part for part, targets in PARTS.items() if self.path.startswith(targets))

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by when other changes have moved its line."""
        return self.path, self.before, self.after

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.before}  ->  {self.after}"


def draw(seed: int, count: int) -> list[Mutant]:
    """So many mutants: one of cosmic-ray's operators and one change of an expression or a statement
    in turn.

    Each part of the program has as many as it has places. A place is known by its text, so that a
    seed draws the same mutants when other lines have changed.
    """
    of_tokens = _of_tokens(seed)
    of_trees = _of_trees(seed)
    in_turn = (mutant for pair in zip(of_tokens, of_trees, strict=False) for mutant in pair)
    return list(islice(in_turn, count))


def _of_trees(seed: int) -> Iterator[Mutant]:
    """Yield changes of all kinds in turn, each drawn evenly among those of its kind."""
    lots: dict[str, list[tuple[float, str, Change]]] = {kind: [] for kind in KINDS}
    seen = Counter[str]()
    for path in _files():
        source = (ROOT / path).read_text()
        lines = source.splitlines()
        for change in changes(source, _no_target(ast.parse(source))):
            place = (
                f"{seed} {Path(path).name} {lines[change.begin[0] - 1].strip()} {change.kind} "
                f"{change.text}"
            )
            seen[place] += 1
            lots[change.kind].append(
                (random.Random(f"{place} {seen[place]}").random(), path, change),
            )
    for of_kind in lots.values():
        of_kind.sort(key=lambda lot: lot[0])
    for in_turn in zip_longest(*lots.values()):
        for lot in filter(None, in_turn):
            yield _tree_mutant(*lot[1:])


def _tree_mutant(path: str, change: Change) -> Mutant:
    source = (ROOT / path).read_text()
    changed = applied(source, change)
    number, before, after = _difference(source, changed)
    lines = _statement(ast.parse(source), change.begin[0])
    return Mutant(path, number, lines, change.kind, before, after, changed)


def _difference(source: str, changed: str) -> tuple[int, str, str]:
    """Return the first line that differs, before and after."""
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    number, (before, after) = next(
        (n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1]
    )
    return number, before.strip(), after.strip()


def _of_tokens(seed: int) -> Iterator[Mutant]:
    """Yield mutants at places that are drawn evenly, although a comparison has six where a loop has
    one.
    """
    lots = list[tuple[float, str, int, Any, int]]()
    seen = Counter[str]()
    for path in _files():
        lines = (ROOT / path).read_text().splitlines()
        for line, column, choices in _places(path):
            text = lines[line - 1]
            place = (
                f"{seed} {Path(path).name} {text.strip()} {column - len(text) + len(text.lstrip())}"
            )
            seen[place] += 1
            rng = random.Random(f"{place} {seen[place]}")
            lots.append((rng.random(), path, line, *rng.choice(choices)))
    yield from filter(None, (_mutant(*lot[1:]) for lot in sorted(lots, key=lambda lot: lot[0])))


def _files() -> Iterator[str]:
    for target in TARGETS:
        path = ROOT / target
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield str(file.relative_to(ROOT))


def _places(path: str) -> Iterator[tuple[int, int, list[tuple[Any, int]]]]:
    """Where the file can be changed, with the operators and their occurrences that change it."""
    source = (ROOT / path).read_text()
    no_target = list(_no_target(ast.parse(source)))
    names = list(_comparisons_of_names(ast.parse(source)))
    nodes = [node for node in ast_nodes(get_ast(source)) if _may_change(node)]
    places: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
    for name in operator_names():
        if any(part in name for part in _NO_OPERATORS):
            continue
        operator = get_operator(name)()
        kind = next((kind for part, kind in _KINDS.items() if part in name), "")
        candidates = [node for node in nodes if kind in ("", node.type)]
        positions = (
            position for node in candidates for position in operator.mutation_positions(node)
        )
        left_out = no_target + names * bool(_ORDER.search(name))
        for occurrence, (start, end) in enumerate(positions):
            if not any(first <= start and end <= last for first, last in left_out):
                places[(start, end)].append((operator, occurrence))
    return ((*start, choices) for (start, _), choices in sorted(places.items()))


def _may_change(node: Any) -> bool:
    return node.type not in _NO_PLACE and getattr(node, "value", "") not in _NO_TOKEN


def _comparisons_of_names(tree: ast.AST) -> Iterator[_Part]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(
            isinstance(getattr(part, "value", 0), str) for part in node.comparators
        ):
            yield _part(node)


def _part(node: Any) -> _Part:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _no_target(tree: ast.AST) -> Iterator[_Part]:
    """Annotations, protocols, `__repr__`, and keywords that change nothing in right code."""
    for node in ast.walk(tree):
        part: Any = None
        if isinstance(node, ast.arg | ast.AnnAssign):
            part = node.annotation
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            part = node if node.name == "__repr__" else node.returns
        elif (isinstance(node, ast.keyword) and node.arg in _NO_KEYWORDS) or (
            isinstance(node, ast.ClassDef)
            and any(getattr(base, "id", "") == "Protocol" for base in node.bases)
        ):
            part = node
        if part is not None:
            yield _part(part)


def _mutant(path: str, line: int, operator: Any, occurrence: int) -> Mutant | None:
    source = (ROOT / path).read_text()
    try:
        changed = str(mutate_code(source, operator, occurrence))
        ast.parse(changed)
    except (SyntaxError, AttributeError):  # the second: an exception that is named with its module
        return None
    number, before, after = _difference(source, changed)
    lines = _statement(ast.parse(source), line)
    return Mutant(path, number, lines, type(operator).__name__, before, after, changed)


def _statement(tree: ast.AST, line: int) -> range:
    """The lines of the smallest statement at this line; of a compound one, the lines before its
    body.
    """
    ranges = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1 if body else node.end_lineno or 0)
            first = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])])
            if first <= line <= last:
                ranges.append(range(first, last + 1))
    return min(ranges, key=len, default=range(line, line + 1))
