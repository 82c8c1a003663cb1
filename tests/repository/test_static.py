"""Rules for the source code: style, types, layers and imports."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import stream_app
from tests.support.narrow import present
from tests.support.pace import BUSY

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "stream_app"

CORE_MAY_IMPORT = {
    "__future__",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "collections.abc",
    "contextlib",
    "datetime",
    "email.utils",
    "fractions",
    "functools",
    "hashlib",
    "hmac",
    "html",
    "ipaddress",
    "itertools",
    "math",
    "msgspec",
    "msgspec.structs",
    "operator",
    "re",
    "textwrap",
    "typing",
    "unicodedata",
    "urllib.parse",
    "zoneinfo",
    "importlib.resources",  # the data file lead/free_mail.txt
}
OPTIONAL = {"aws_msk_iam_sasl_signer": "msk", "yaml": "dev"}
"""Modules of an optional extra. They are imported in a function that reports the missing extra."""

VAGUE = {"each", "found", "here", "said", "there"}
"""Names that say nothing of what they stand for."""

POSSESSIVE = re.compile(r"(?<!\\)\)([*+?]|\{[0-9,]+\})\+|\(\?>")
CORE_MAY_NOT_CALL = re.compile(r"(open|print|input|(date|datetime)\.(now|utcnow|today))\(")


@pytest.mark.timeout(400)  # mypy without its cache, on a machine that does other things
@pytest.mark.parametrize(
    "command",
    [
        ("-m", "ruff", "check"),
        ("-m", "ruff", "format", "--check"),
        # One argument a line where a call does not fit. The formatter warns of it, so it is apart.
        ("-m", "ruff", "check", "--select", "COM812"),
        ("-m", "mypy"),
        ("-c", "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"),
    ],
    ids=["ruff check", "ruff format", "ruff commas", "mypy", "lint-imports"],
)
def test_a_tool_finds_nothing(command: tuple[str, ...]) -> None:
    argv = [sys.executable, *command]
    ran = subprocess.run(
        argv,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380 * BUSY,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_group_of_a_pattern_is_possessive() -> None:
    """Python 3.11.0 to 3.11.4 match such groups wrong:
    https://github.com/python/cpython/issues/106052.
    """
    texts = [
        node.args[0].value
        for path in PACKAGE.rglob("*.py")
        for node in nodes_of(path)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "re.compile"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert len(texts) > 40
    assert [text for text in texts if POSSESSIVE.search(str(text))] == []


def test_the_core_is_pure() -> None:
    """No I/O, no clock, no randomness: it imports what is on the list, and asks no clock."""
    core = PACKAGE / "domain"
    assert {
        name for name in names_in(core) if not name.startswith("stream_app.domain")
    } <= CORE_MAY_IMPORT
    for path in core.rglob("*.py"):
        calls = (ast.unparse(node) for node in nodes_of(path) if isinstance(node, ast.Call))
        assert [call for call in calls if CORE_MAY_NOT_CALL.match(call)] == [], path.name


def test_the_simulator_knows_nothing_of_the_rest() -> None:
    """Tests compare the rest against it."""
    ours = {
        name for name in names_in(PACKAGE / "dev" / "simulator") if name.startswith("stream_app")
    }
    assert {name for name in ours if not name.startswith("stream_app.dev.simulator")} == set()


def test_no_object_shows_what_it_keeps() -> None:
    """The representation that attrs writes by default would bring leads and tokens into logs."""
    for path in PACKAGE.rglob("*.py"):
        classes = (node for node in nodes_of(path) if isinstance(node, ast.ClassDef))
        decorators = [
            ast.unparse(decorator) for node in classes for decorator in node.decorator_list
        ]
        assert [
            text for text in decorators if text.startswith("define") and "repr=False" not in text
        ] == [], path.name


def test_every_import_is_a_dependency_of_the_package() -> None:
    """`pip install .[local]` is the README's first command: no module may need what only `dev`
    brings.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked_for = [
        *project["dependencies"],
        *(line for extra in ("worker", "gateway", "board", "local") for line in extras[extra]),
    ]
    brings = {canonicalize_name(Requirement(line).name) for line in asked_for}
    foreign = (
        {name.partition(".")[0] for name in names_in(PACKAGE)}
        - sys.stdlib_module_names
        - {"stream_app"}
    )
    assert OPTIONAL.keys() <= foreign
    assert set(OPTIONAL.values()) <= extras.keys()
    foreign -= OPTIONAL.keys()
    from_where = packages_distributions()
    assert {
        name
        for name in foreign
        if brings.isdisjoint(map(canonicalize_name, from_where.get(name, [])))
    } == set()


@pytest.mark.parametrize(
    "folder",
    ["benchmarks", "deploy", "docs", "examples", "stream_app", "tests"],
)
def test_every_name_says_what_it_stands_for(folder: str) -> None:
    """A reader has to look for what `found` or `each` is; `problems` and `lead` say it."""
    for path in (ROOT / folder).rglob("*.py"):
        vague = [
            f"{line}: {name}" for line, name in names_given_in(path) if name.strip("_") in VAGUE
        ]
        assert vague == [], path.relative_to(ROOT)


def names_given_in(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each name that is assigned, a parameter, imported or defined, with its line."""
    for node in nodes_of(path):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
                | ast.arg(arg=name)
            ):
                yield node.lineno, name
            case (
                ast.alias(asname=str(name))
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
            ):
                yield node.lineno, name
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield node.lineno, name


def names_in(folder: Path) -> Iterator[str]:
    """Yield each module that is imported in a folder, also in functions, except optional ones."""
    for path in folder.rglob("*.py"):
        nodes = nodes_of(path)
        tries = [
            node
            for node in nodes
            if isinstance(node, ast.Try) and "except ImportError" in ast.unparse(node)
        ]
        optional = {inner for node in tries for inner in ast.walk(node)}
        for node in nodes:
            if isinstance(node, ast.Import) and node not in optional:
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node not in optional:
                assert node.module is not None, f"{path}: a relative import"
                yield node.module


def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_one_version_everywhere() -> None:
    chart = yaml.safe_load((ROOT / "deploy" / "chart" / "Chart.yaml").read_text())
    newest = present(re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE))
    assert {version("stream-app"), chart["version"], chart["appVersion"], newest[1]} == {
        stream_app.__version__,
    }
