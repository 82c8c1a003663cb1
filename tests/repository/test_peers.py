"""The servers that systems of `benchmarks.peers` need beside their programs: installed by npm, started, measured."""

import io
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks import line
from benchmarks.peers import server, systems
from benchmarks.peers.__main__ import candidates
from stream_app.dev.process import ChildProcesses, StartError

_RESTATE = next(system for system in systems.SYSTEMS if system.server)
_NPM = """
import pathlib, sys
prefix = pathlib.Path(sys.argv[sys.argv.index("--prefix") + 1])
binary = prefix / "node_modules/@restatedev/restate-server-{platform}/bin/restate-server"
binary.parent.mkdir(parents=True)
binary.touch()
with open(__file__ + ".calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
"""
_SERVER = """
import http.server, pathlib, sys, tomllib
config = tomllib.loads(pathlib.Path(sys.argv[sys.argv.index("--config-file") + 1]).read_text())
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer((config["bind-ip"], config["admin"]["bind-port"]), Answer).serve_forever()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a program of this text on the PATH, which has nothing else. The cache of systems is empty."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(name: str, text: str) -> Path:
        path = tmp_path / "bin" / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return put


@pytest.mark.usefixtures("program")
def test_without_npm_a_system_with_a_server_is_left_out_in_one_line_and_the_others_are_not() -> None:
    out = io.StringIO()
    chosen = candidates([_RESTATE.name, systems.OURS], Console(file=out, width=500))
    assert [candidate.system.name for candidate in chosen] == [systems.OURS]
    assert out.getvalue() == (
        "left out: Restate needs npm on the PATH, which brings its server (@restatedev/restate-server@1.7.12): install"
        " Node.js, or leave it out\n"
    )


def test_npm_installs_the_server_of_a_system_once(program: Callable[[str, str], Path]) -> None:
    npm = program("npm", _NPM.replace("{platform}", "some-cpu"))
    announced: list[str] = []
    paths = {systems.server(_RESTATE, announced.append) for _ in range(2)}
    assert [Path(path).name for path in paths] == ["restate-server"]
    calls = npm.with_name("npm.calls").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].endswith(_RESTATE.server)
    assert announced == ["installing the server of Restate ..."]


def test_a_server_without_a_binary_for_this_machine_is_an_error(program: Callable[[str, str], Path]) -> None:
    program("npm", "")
    with pytest.raises(StartError, match="no binary for this machine"):
        systems.server(_RESTATE, lambda _: None)


def test_a_system_without_a_server_needs_no_npm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    ours = next(system for system in systems.SYSTEMS if system.name == systems.OURS)
    assert systems.server(ours, lambda _: None) == ""


@pytest.fixture
def children() -> Iterator[ChildProcesses]:
    started = ChildProcesses("peers-test")
    yield started
    started.close()


def test_the_server_has_ports_and_data_of_its_own_and_ends_with_its_run(
    children: ChildProcesses, program: Callable[[str, str], Path]
) -> None:
    binary = str(program("restate-server", _SERVER))
    process, settings = server.start(children, binary, "127.0.0.1:9092", 100)
    config = tomllib.loads((children.directory / "restate.toml").read_text())
    admin = config["admin"]["bind-port"]
    ports = {config["bind-port"], admin, config["ingress"]["bind-port"], int(settings["PORT"])}
    assert len(ports) == 4
    assert settings["SERVER"] == f"http://127.0.0.1:{admin}"
    assert Path(config["base-dir"]).is_relative_to(children.directory)
    assert config["ingress"]["kafka-clusters"] == [{"name": "kafka", "brokers": ["127.0.0.1:9092"]}]
    assert config["worker"]["invoker"]["concurrent-invocations-limit"] * config["default-num-partitions"] == 100
    children.close()
    process.wait(10)
    assert not children.directory.exists()


def test_a_server_that_ends_at_its_start_is_an_error_with_its_last_words(
    children: ChildProcesses, program: Callable[[str, str], Path]
) -> None:
    binary = str(program("restate-server", "raise SystemExit('no such option')"))
    with pytest.raises(StartError, match=r"the Restate server exited during its start .*no such option"):
        server.start(children, binary, "127.0.0.1:9092", 100)


def test_what_a_server_uses_is_counted_with_its_program() -> None:
    argv = [sys.executable, "-c", "print(flush=True); input()"]
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        numbers = count(1)
        measured = line.measure(processes[0], lambda: next(numbers), 10, processes[1:])
        sizes = [psutil.Process(process.pid).memory_info().rss / 2**20 for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert measured["rss_mb_at_100_percent"] == pytest.approx(sum(sizes), rel=0.1)
