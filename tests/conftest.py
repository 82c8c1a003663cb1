"""Fixtures for all tests: one real Kafka and one real Redis a run, and a prefix of its own for each
test.
"""

import gc
import os
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import pytest

from stream_app.dev.kafka import Broker, LocalKafka, kafka_for
from stream_app.dev.process import StartError
from stream_app.domain.model.pseudonyms import Pseudonyms, current, use
from tests.support import class_archive
from tests.support.local_redis import LocalRedis
from tests.support.pace import BUSY
from tests.support.programs import PROGRAMS
from tests.support.proxy import ProxiedKafka
from tests.support.shared_kafka import SharedKafka, kafka_at

# Tests start hundreds of Python processes. Without byte code each would compile the package again,
# for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LocalKafka.class_archive = class_archive.PATH

# while the tests are collected: of thousands of objects that stay, it looks at all again and again
gc.disable()

# A test's time limit is pytest-timeout's: how long one example takes is a matter of who else uses
# the machine.
hypothesis.settings.register_profile("here", deadline=None, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile("here")

_TIME_LIMIT_S = 120  # of a test without a marker
_SLOWEST_FIRST = ("chaos", "simulation", "e2e", "board", "integration", "upstream")
_SHARED = pytest.StashKey[SharedKafka]()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """One real broker for the run. A test that kills, freezes or restarts one takes `broker`."""
    shared = getattr(request.config, "workerinput", {}).get("kafka")
    try:
        if shared is not None:
            yield kafka_at(shared)
        else:
            with kafka_for(_progress(request.config)) as broker:
                yield broker
    except StartError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def _own_broker() -> Iterator[ProxiedKafka]:
    try:
        with ProxiedKafka() as own:
            yield own
    except StartError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def broker(_own_broker: ProxiedKafka) -> ProxiedKafka:
    """A broker that tests of one process of pytest may break, one after the other.

    It runs when a test begins.
    """
    _own_broker.thaw()
    if not _own_broker.runs:
        _own_broker.restart()
    return _own_broker


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-programs",
        action="store_true",
        help="end with an error where a program of the tests is missing, instead of leaving its "
        "tests out",
    )
    parser.addoption(
        "--clay-recording",
        type=Path,
        help="a file of `stream-app doctor --record`, with which the simulator is compared",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the processes of pytest-xdist inherit it
        folder = TemporaryDirectory(prefix="stream-app-tests-state-")
        config.add_cleanup(folder.cleanup)
        # What processes keep, such as the board's read model, would otherwise lie among the user's
        # own.
        os.environ["XDG_STATE_HOME"] = folder.name
        os.environ.pop("STATE_DIRECTORY", None)  # which goes before it
        # A command of a test would otherwise reach the user's system: its leads cost credits.
        os.environ.pop("STREAM_APP_CONFIG", None)
    if not config.getoption("--all-programs"):
        return
    missing = [
        program.reason for program in PROGRAMS if program.is_everywhere and program.find() is None
    ]
    if missing:
        raise pytest.UsageError("; ".join(missing))


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that asks for the browser needs one."""
    if "browser" in getattr(item, "fixturenames", ()):
        item.add_marker("browser")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each worker of pytest-xdist where to ask for the broker."""
    stash = node.config.stash
    if _SHARED not in stash:
        stash[_SHARED] = SharedKafka(_progress(node.config))
    node.workerinput["kafka"] = stash[_SHARED].address


@pytest.hookimpl(trylast=True)  # only the tests that will run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow files first, by time limit and folder, so that the processes of a run end at
    about the same time.

    A marker's limit is for a machine that does nothing else.
    """
    limits: dict[Path, float] = defaultdict(float)
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit_s = marker.args[0] if marker else _TIME_LIMIT_S
        limits[item.path] = max(limits[item.path], limit_s)
        item.add_marker(pytest.mark.timeout(limit_s * BUSY), append=False)
    ranks = {name: rank for rank, name in enumerate(_SLOWEST_FIRST)}
    tests = Path(__file__).parent
    for program in PROGRAMS:
        needy = [item for item in items if item.get_closest_marker(program.mark)]
        if needy and program.find() is None:
            for item in needy:
                item.add_marker(pytest.mark.skip(reason=program.reason))
    order = {
        path: (-limit, ranks.get(path.relative_to(tests).parts[0], len(ranks)))
        for path, limit in limits.items()
    }
    items.sort(key=lambda item: order[item.path])


def pytest_collection_finish() -> None:
    """Thousands of tests and their modules stay to the end: the garbage collector never looks at
    them.
    """
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out, and what brings each program that they need."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())]
    for program in PROGRAMS:
        left_out = sum(program.reason in text for text in skipped)
        if left_out:
            these = "1 test was" if left_out == 1 else f"{left_out} tests were"
            terminalreporter.write_line(f"{these} left out, because {program.reason}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The broker ends with the run."""
    if _SHARED in config.stash:
        config.stash[_SHARED].close()


def _progress(config: pytest.Config) -> Callable[[str], None]:
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)

    return tell


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of one real Redis for the run: "redis://host:port/0"."""
    try:
        with LocalRedis() as local:
            yield local.url
    except StartError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def namespace() -> str:
    """A prefix for the topics, groups and Redis keys of one test, for example "t3f9a1c."."""
    return f"t{uuid.uuid4().hex[:6]}."


@pytest.fixture(autouse=True)
def _no_pepper() -> Iterator[None]:
    """Hashes are made without a pepper again after each test."""
    yield
    if current() != Pseudonyms():
        use(Pseudonyms())
