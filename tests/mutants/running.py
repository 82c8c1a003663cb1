"""Run the fast tests on mutants: one run says which tests reach which line, then each mutant gets
its own in a fork.
"""

import gc
import importlib
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

import coverage
import hypothesis
import pytest

from tests.mutants.drawing import ROOT, TARGETS, Mutant

# In processes of their own most schedules of the simulation would run on the code as it is.
FOLDERS: Final = (
    *("tests/unit", "tests/partition", "tests/board", "tests/simulation/test_found.py"),
    "tests/simulation/test_account_histories.py",
    "tests/simulation/test_simulation.py::test_without_a_fault_all_is_well",
    "tests/repository/test_site.py::test_the_reference_is_generated",
    *(
        f"tests/integration/test_{name}.py"
        for name in ("backlog", "closed_books", "look", "publish", "results", "messages")
    ),
    *(
        f"tests/integration/test_{name}.py"
        for name in ("checks", "planner", "round_trip", "access")
    ),
)
"""The last ones are of the client, which works on Kafka: they share the broker of the run."""
# They judge what an import makes, wherever else it is used: fields, defaults, what may change.
OF_IMPORTS: Final = (
    *("tests/unit/test_frozen.py", "tests/unit/schemas", "tests/unit/gateway/test_bounds.py"),
    "tests/repository/test_site.py::test_the_reference_is_generated",
)
# it compares the read model's account as a whole
_OF_ACCOUNT: Final = ("tests/simulation/test_account_histories.py",)
# the library that renders the chart is Go, which hangs in a fork
_NOT_IN_A_FORK: Final = "tests/unit/deploy"
_NOT_FAST: Final = {"_own_broker", "browser", "redis_url"}
_LIBRARIES: Final = (
    "aiohttp",
    "aiokafka",
    "cyclopts",
    "faust",
    "hypothesis.strategies",
    "httpx",
    "jinja2",
    "redis",
)
AT_ONCE: Final = 2
BOUND_S: Final = 60
Tests = dict[str, float]
"""Tests by how many seconds they take, in the order in which they are run: the quickest first."""


class Reach:
    """Which tests reach a line, and how long they take.

    Read at once: coverage.py deletes what a fork looks at.
    """

    def __init__(self, work: Path) -> None:
        self._seconds: Tests = json.loads((work / "seconds.json").read_text())
        data = coverage.CoverageData(str(work / "coverage"))
        data.read()
        self._reached = {file: data.contexts_by_lineno(file) for file in data.measured_files()}
        self.unreliable: set[str] = set()

    def of(self, mutant: Mutant) -> tuple[Tests, bool]:
        """The tests that can notice it, and whether its line runs when the module is imported."""
        reached = self._reached.get(str(ROOT / mutant.path), {})
        names = {name for line in mutant.lines for name in reached.get(line, ())}
        at_import = "" in names
        if at_import:  # what it makes is used in other lines
            names = {name for contexts in reached.values() for name in contexts}
            names |= {name for name in self._seconds if name.startswith(OF_IMPORTS)}
        names = (names & self._seconds.keys()) - self.unreliable
        # Others are too many to be run before those that judge it within the bound.
        first = (
            OF_IMPORTS
            if at_import
            else _OF_ACCOUNT
            if mutant.path.endswith("read_model/account.py")
            else ()
        )
        in_order = sorted(names, key=lambda name: (not name.startswith(first), self._seconds[name]))
        return {name: self._seconds[name] for name in in_order}, at_import


class _Fast:
    """A pytest plugin that keeps tests without a Redis, Chromium or further broker of their own."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        def is_fast(item: Any) -> bool:
            fixtures = item._fixtureinfo.name2fixturedefs
            return all(
                fixtures[name][-1].scope == "function" for name in _NOT_FAST & fixtures.keys()
            )

        items[:] = filter(is_fast, items)


class _Measured(_Fast):
    """Notes the tests that pass, how long each takes, and the lines that it runs."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._seconds = defaultdict[str, float](float)
        self._not_passed: set[str] = set()
        include = [
            str(ROOT / name / "*") if not name.endswith(".py") else str(ROOT / name)
            for name in TARGETS
        ]
        self._coverage = coverage.Coverage(
            str(work / "coverage"),
            include=include,
            config_file=False,
        )
        self._coverage.start()
        self._tracer = sys.gettrace()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        sys.settrace(self._tracer)  # a test may have set its own
        yield
        self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._seconds[report.nodeid] += report.duration
        if not report.passed:
            self._not_passed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        self._coverage.save()
        passed = {
            name: seconds for name, seconds in self._seconds.items() if name not in self._not_passed
        }
        (self._work / "seconds.json").write_text(json.dumps(passed))


class Collected(_Fast):
    """Does `work` instead of running all tests, and runs those that it asks for."""

    def __init__(self, work: Callable[["Collected"], None]) -> None:
        self._work = work
        self._items: dict[str, Any] = {}
        self._failed: list[str] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        self._work(self)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._failed += [report.nodeid] * report.failed

    def failures(self, tests: Tests, bound_s: float, most: int) -> list[str]:
        """The tests that fail, up to `most` of them."""
        until_s = time.monotonic() + bound_s
        items = [self._items[name] for name in tests if name in self._items]
        for item, following in zip(items, [*items[1:], None], strict=False):
            if len(self._failed) >= most or time.monotonic() > until_s:
                break
            item.add_marker(pytest.mark.timeout(15 + 20 * tests[item.nodeid]), append=False)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return self._failed


def run_pytest(args: Sequence[str], plugin: object) -> None:
    """With the same examples of Hypothesis in every run."""
    hypothesis.settings.register_profile(
        "mutants",
        deadline=None,
        max_examples=50,
        derandomize=True,
        database=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )
    plain = (
        "-q",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--hypothesis-profile=mutants",
    )
    chosen = ("-m", "not slow and not long", f"--ignore={_NOT_IN_A_FORK}")
    pytest.main([*plain, *chosen, *args], [plugin])


def measure(work: Path) -> str:
    """Write to `work` which tests reach which lines."""
    run_pytest(FOLDERS, _Measured(work))
    return ""


def warm() -> None:
    """Import what takes longer than our own code, before the first fork."""
    for name in _LIBRARIES:
        importlib.import_module(name)


def in_forks(tasks: Sequence[Callable[[], str]], limit_s: float) -> Iterator[tuple[int, str]]:
    """What each returns, as they end; "hung" if it had to be killed."""
    waiting = list(enumerate(tasks))[::-1]
    running = dict[int, tuple[int, int, float]]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            index, task = waiting.pop()
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                _tell(task, write)
            os.close(write)
            running[pid] = index, read, time.monotonic() + limit_s
        time.sleep(0.02)
        for pid, (index, read, until_s) in list(running.items()):
            overdue = time.monotonic() > until_s
            if overdue:
                os.kill(pid, signal.SIGKILL)
            if os.waitpid(pid, 0 if overdue else os.WNOHANG)[0]:
                with os.fdopen(read) as answer:
                    yield index, "hung" if overdue else answer.read()
                del running[pid]


def _tell(task: Callable[[], str], write: int) -> None:
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        with os.fdopen(write, "w") as answer:
            answer.write(task())
    finally:
        os._exit(0)


def functions() -> dict[str, list[FunctionType]]:
    """Every function by its file."""
    gc.unfreeze()  # only then are they listed
    by_file = defaultdict[str, list[FunctionType]](list)
    for function in gc.get_objects():
        if isinstance(function, FunctionType):
            by_file[function.__code__.co_filename].append(function)
    gc.freeze()
    return by_file


def change_functions(mutant: Mutant, by_file: dict[str, list[FunctionType]]) -> None:
    """Give the functions of the mutant's file its code, so that nothing is imported again.

    A file that is first imported by a test, as those of some commands are, is imported with it.
    """
    change_import(mutant)
    path = str(ROOT / mutant.path)
    codes = dict(_codes(compile(mutant.source, path, "exec", dont_inherit=True)))
    for function in by_file[path]:
        function.__code__ = codes.get(_name(function.__code__), function.__code__)


def _codes(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    yield _name(code), code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def _name(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def change_import(mutant: Mutant) -> None:
    """Have the mutant's file imported with the change."""
    path = str(ROOT / mutant.path)
    get_code = SourceFileLoader.get_code

    def changed(loader: Any, fullname: str) -> CodeType | None:
        if loader.path == path:
            return compile(mutant.source, path, "exec", dont_inherit=True)
        return get_code(loader, fullname)

    SourceFileLoader.get_code = changed  # type: ignore[assignment, method-assign]  # a patch
