"""Changes of whole expressions and statements, which an operator or a number alone does not make.

Each is one that an author may well make: a keyword that is left out of a call, an assignment that
is left out, two arguments in the wrong order, one too many, a condition that is turned round or
that always or never holds, one half of a condition, and a function that returns nothing. A change
keeps the number of lines, because the functions of a changed file are candidates by their lines.
"""

import ast
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

KINDS: Final = (
    "dropped keyword",
    "dropped assignment",
    "swapped arguments",
    "one more",
    "and or",
    "negated condition",
    "dropped condition",
    "half a condition",
    "returns None",
)
# Their functions look at the kind of an argument only, so that two of one kind change nothing when
# swapped.
_OF_ONE_KIND: Final = frozenset({"isinstance", "issubclass", "cast", "TypeVar", "NewType"})
# What a class or a type checker is told, and what a text or a library's option looks like: no
# behaviour of ours.
_NO_CALLS: Final = frozenset(
    {"field", "Meta", "Struct", "defstruct", "define", "dataclass", "TypeVar", "NewType"},
)


class Change(NamedTuple):
    """One change: `begin` to `end` (line from 1, column in bytes) becomes `text`."""

    kind: str
    begin: tuple[int, int]
    end: tuple[int, int]
    text: str
    is_expression: bool


def changes(
    source: str,
    left_out: Iterable[tuple[tuple[int, int], tuple[int, int]]],
) -> list[Change]:
    """Return all changes of a file whose text does not lie in a part that is left out."""
    tree = ast.parse(source)
    inside = set(_in_texts(tree))
    candidates = [
        change for node in ast.walk(tree) if node not in inside for change in _of_node(node)
    ]
    candidates += [change for function in _functions(tree) for change in _of_function(function)]
    parts = list(left_out)
    return [
        change
        for change in dict.fromkeys(candidates)
        if not any(first <= change.begin and change.end <= last for first, last in parts)
    ]


def applied(source: str, change: Change) -> str:
    """Return the file with the change."""
    lines = source.encode().splitlines(keepends=True)
    (first, begin) = change.begin
    (last, end) = change.end
    head = lines[first - 1][:begin]
    tail = lines[last - 1][end:]
    text = change.text.encode()
    padding = b"\n" * (last - first)
    # Within parentheses an expression may have as many lines as before; a statement is followed by
    # empty ones.
    now = b"(" + text + padding + b")" if change.is_expression else text + padding
    return b"".join([*lines[: first - 1], head, now, tail, *lines[last:]]).decode()


def _in_texts(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes within f-strings, whose place Python 3.11 does not know, and within
    annotations.
    """
    for node in ast.walk(tree):
        roots: list[ast.AST | None] = []
        if isinstance(node, ast.JoinedStr):
            roots = [node]
        elif isinstance(node, ast.arg | ast.AnnAssign):
            roots = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            roots = [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            roots = [
                *node.decorator_list,
                *node.bases,
                *(keyword.value for keyword in node.keywords),
            ]
        for root in roots:
            if root is not None:
                yield from ast.walk(root)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _expression(kind: str, node: ast.expr, now: ast.expr) -> Change:
    return _replaced(kind, node, ast.unparse(now), is_expression=True)


def _replaced(
    kind: str,
    node: ast.expr | ast.stmt,
    text: str,
    *,
    is_expression: bool = False,
) -> Change:
    assert node.end_lineno is not None, "it was parsed"
    assert node.end_col_offset is not None, "it was parsed"
    return Change(
        kind,
        (node.lineno, node.col_offset),
        (node.end_lineno, node.end_col_offset),
        text,
        is_expression,
    )


def _of_node(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Call():
            yield from _of_call(node)
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield _expression("and or", node, ast.BoolOp(other, node.values))
            for left in range(len(node.values)):
                kept = [value for place, value in enumerate(node.values) if place != left]
                half = kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)
                yield _expression("half a condition", node, half)
        case ast.If() | ast.While() | ast.IfExp():
            yield from _of_condition(node.test, is_loop=isinstance(node, ast.While))
        case ast.comprehension():
            for test in node.ifs:
                yield from _of_condition(test, is_loop=False)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult()) if not _is_text(node):
            yield _expression("one more", node, ast.BinOp(node, ast.Add(), ast.Constant(1)))


def _of_call(node: ast.Call) -> Iterator[Change]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in _NO_CALLS:
        return
    for keyword in node.keywords:
        if keyword.arg not in (None, "strict"):  # a check that never fails in right code
            kept = [other for other in node.keywords if other is not keyword]
            yield _expression("dropped keyword", node, ast.Call(node.func, node.args, kept))
    if name in _OF_ONE_KIND:
        return
    for place, (one, other) in enumerate(zip(node.args, node.args[1:], strict=False)):
        is_plain = not isinstance(one, ast.Starred) and not isinstance(other, ast.Starred)
        if is_plain and ast.dump(one) != ast.dump(other):
            swapped = [*node.args[:place], other, one, *node.args[place + 2 :]]
            yield _expression(
                "swapped arguments",
                node,
                ast.Call(node.func, swapped, node.keywords),
            )


def _of_condition(test: ast.expr, *, is_loop: bool) -> Iterator[Change]:
    if isinstance(test, ast.Constant):
        return
    yield _expression("negated condition", test, ast.UnaryOp(ast.Not(), test))
    yield _expression("dropped condition", test, ast.Constant(False))
    if not is_loop:  # it would never end
        yield _expression("dropped condition", test, ast.Constant(True))


def _of_function(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Change]:
    arguments = function.args
    known = {
        argument.arg
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    }
    for statement in _statements(function):
        match statement:
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield _replaced("returns None", statement, "return None")
            case ast.Assign(targets=[target]):
                # One whose name has no value before would only raise an error.
                if (
                    isinstance(target, ast.Attribute | ast.Subscript)
                    or getattr(target, "id", "") in known
                ):
                    yield _replaced("dropped assignment", statement, "pass")
            case ast.AugAssign():
                yield _replaced("dropped assignment", statement, "pass")
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                known.add(node.id)


def _statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.stmt]:
    """Yield the statements of a function in their order, without those of functions in it."""
    waiting: list[ast.stmt] = list(function.body)
    while waiting:
        statement = waiting.pop(0)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        yield statement
        inner = [
            child
            for child in ast.iter_child_nodes(statement)
            if isinstance(child, ast.stmt | ast.ExceptHandler)
        ]
        waiting = [*_flat(inner), *waiting]


def _flat(nodes: list[ast.stmt | ast.ExceptHandler]) -> Iterator[ast.stmt]:
    for node in nodes:
        if isinstance(node, ast.ExceptHandler):
            yield from node.body
        else:
            yield node


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _is_text(node: ast.BinOp) -> bool:
    """Return True if one side is a text, a list or a tuple, to which no number can be added."""
    return any(
        isinstance(side, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp | ast.Dict)
        or (isinstance(side, ast.Constant) and not isinstance(side.value, int | float))
        for side in ast.walk(node)
    )
