"""Shows that two commits hold the same program: `python -m tests.support.same_program OLD NEW`.

It compares the syntax trees of every Python file without docstrings, after it has taken apart what
a change of layout may take apart: parallel assignments, tuples that a call stars, assertions that
compare two tuples. Exit code 1, with a line for each file that differs.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def taken_apart(node: ast.Assign) -> list[ast.Assign]:
    """Return the assignments of a parallel one; itself if it is none, or reads what it assigns."""
    target = node.targets[0]
    value = node.value
    if len(node.targets) > 1:
        return [node]
    if not (isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)):
        return [node]
    if any(isinstance(element, ast.Starred) for element in (*target.elts, *value.elts)):
        return [node]
    pairs = list(zip(target.elts, value.elts, strict=True))
    names = [ast.unparse(name) for name, _ in pairs]
    for number, (_, part) in enumerate(pairs):
        read = {ast.unparse(inner) for inner in ast.walk(part) if isinstance(inner, ast.expr)}
        if read.intersection(names[:number]):
            return [node]
    return [ast.Assign([name], part) for name, part in pairs]


_OPPOSITES = {
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


class _Apart(ast.NodeTransformer):
    """Writes each statement as if it had been written alone."""

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.AST]:
        self.generic_visit(node)
        apart = taken_apart(node)
        return node if len(apart) == 1 else [self.visit(one) for one in apart]

    def visit_Assert(self, node: ast.Assert) -> ast.AST | list[ast.AST]:
        self.generic_visit(node)
        test = node.test
        if not (
            isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq) and len(test.ops) == 1
        ):
            return node
        left = test.left
        right = test.comparators[0]
        if not (isinstance(left, ast.Tuple) and isinstance(right, ast.Tuple)):
            return self._compared(left, right, node.msg)
        if len(left.elts) != len(right.elts):
            return node
        pairs = zip(left.elts, right.elts, strict=True)
        return [self.visit(self._compared(one, other, node.msg)) for one, other in pairs]

    @staticmethod
    def _compared(one: ast.expr, other: ast.expr, text: ast.expr | None) -> ast.Assert:
        """Return the assertion that two values are equal, as one writes it for a truth value."""
        if isinstance(one, ast.Compare) and isinstance(other, ast.Constant) and other.value is True:
            return ast.Assert(one, text)
        is_denied = isinstance(other, ast.Constant) and other.value is False
        if is_denied and isinstance(one, ast.Compare) and len(one.ops) == 1:
            opposite = _OPPOSITES.get(type(one.ops[0]))
            if opposite is not None:
                return ast.Assert(ast.Compare(one.left, [opposite()], one.comparators), text)
        return ast.Assert(ast.Compare(one, [ast.Eq()], [other]), text)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        other = node.comparators[0]
        is_none = isinstance(other, ast.Constant) and other.value is None
        is_truth = isinstance(other, ast.Constant) and isinstance(other.value, bool)
        is_type = isinstance(node.left, ast.Call) and ast.unparse(node.left.func) == "type"
        if (is_none or is_truth or is_type) and isinstance(node.ops[0], ast.Is):
            node.ops = [ast.Eq()]
        if is_none and isinstance(node.ops[0], ast.IsNot):
            node.ops = [ast.NotEq()]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        arguments: list[ast.expr] = []
        for argument in node.args:
            if isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Tuple):
                arguments += argument.value.elts
            else:
                arguments.append(argument)
        node.args = arguments
        return node


def _without_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                kept = [statement for statement in value if not _is_text(statement)]
                setattr(node, field, kept or [ast.Pass()])


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def program(source: str) -> str:
    """Return what a file does, whatever its layout is."""
    tree = ast.parse(source)
    _without_docstrings(tree)
    return ast.dump(_Apart().visit(tree))


def _git(*argv: str) -> str:
    return subprocess.run(
        ["git", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def differing(old: str, new: str) -> Iterator[str]:
    """Yield the Python files whose programs differ between two commits."""
    files = {
        commit: {
            name
            for name in _git("ls-tree", "-r", "--name-only", commit).splitlines()
            if name.endswith(".py")
        }
        for commit in (old, new)
    }
    for name in sorted(files[old] | files[new]):
        if name not in files[old] or name not in files[new]:
            yield f"{name}: is in one commit only"
        elif program(_git("show", f"{old}:{name}")) != program(_git("show", f"{new}:{name}")):
            yield f"{name}: differs"


def main(argv: Sequence[str]) -> int:
    """Print what differs, and return the exit code."""
    lines = list(differing(*argv))
    sys.stdout.write("".join(f"{line}\n" for line in lines) or "the programs are the same\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
