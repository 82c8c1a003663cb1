"""The script that CI runs: what it runs, and that it fails when any part of it fails.

Python, pip, uv and pytest are stand-ins here, which write down how they are called.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stream_app.dev.process import free_port
from tests.support import neighbour
from tests.support.pace import BUSY

ROOT = Path(__file__).parents[2]
MARK = "pytest.mark" + ".long"  # in two parts, so that this file has none
PROGRAM = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >> "{log}"
case "$name $*" in
"python3 -m venv "*)
    mkdir -p "$3/bin"
    for each in pip python pytest uv; do ln -s "{program}" "$3/bin/$each"; done ;;
esac
case "$name $*" in
{fails}) exit 1 ;;
esac
"""


def run(tmp_path: Path, fails: str, *options: str) -> tuple[int, list[str]]:
    """Run the script with these options where the calls that match the shell pattern `fails` fail.

    Return its exit code and the programs that it called.
    """
    programs = tmp_path / "programs"
    log = tmp_path / "log"
    programs.mkdir(parents=True)
    program = programs / "python3"
    program.write_text(PROGRAM.format(log=log, program=program, fails=fails))
    program.chmod(0o755)
    (programs / "sleep").symlink_to("/bin/true")  # the pause before a second installation
    for name in ("apt-get", "chromium", "nginx", "promtool", "docker"):
        (programs / name).symlink_to(program)
    (programs / "unshare").symlink_to("/bin/false")  # nothing is hidden from stand-ins
    done = subprocess.run(
        [ROOT / ".ci" / "run", *options],
        env=os.environ | {"PATH": f"{programs}:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60 * BUSY,
        check=False,
    )
    sys.stdout.write(done.stdout)
    return done.returncode, log.read_text().splitlines()


def test_the_long_run_has_the_folder_of_each_long_test(tmp_path: Path) -> None:
    code, calls = run(tmp_path, "nothing", "--long")
    assert code == 0
    [call] = [call for call in calls if call.startswith("pytest -m long")]
    files = (
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if MARK in path.read_text(encoding="utf-8")
    )
    assert {"/".join(path.relative_to(ROOT).parts[:2]) for path in files} == set(call.split()[3:])


@pytest.mark.parametrize(
    ("options", "fails"),
    [
        ((), '"pytest -n 0"*'),
        ((), '"python -m tests.support.neighbour pytest -n 8"*'),
        ((), '"pytest -n 4"*'),
        ((), "*hatchling*"),
        ((), "pip*"),
        (("--long",), '"pytest -m long"*'),
        (("--long",), "*thorough*"),
        (("--long",), "*tests.simulation*"),
        (("--mutants",), "*tests.mutants*"),
        (("--mutants",), "*tests.simulation.account*"),
        (("--long",), "pip*"),
        (("--containers",), "*tests/containers*"),
        (("--containers",), '"docker info"'),
        (("--containers",), '"docker compose"*'),
        (("--containers",), '"docker buildx"*'),
        (("--containers",), "pip*"),
    ],
)
def test_it_fails_when_a_stage_fails(tmp_path: Path, options: tuple[str, ...], fails: str) -> None:
    assert run(tmp_path, fails, *options)[0] == 1


def test_a_bare_machine_has_no_program_that_tests_could_find(tmp_path: Path) -> None:
    program = tmp_path / "promtool"
    program.write_text("#!/bin/sh\necho found")
    program.chmod(0o755)
    load = 'import ctypes; ctypes.CDLL("libatomic.so.1")'
    ask: list[str | Path] = [
        ROOT / ".ci" / "bare",
        "sh",
        "-c",
        f"promtool || echo hidden; {sys.executable} -c '{load}' || echo small; ls /dev/null",
    ]
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ask,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60 * BUSY,
        check=False,
    )
    printed = done.stdout.splitlines()
    is_allowed = not printed[0].startswith("this machine allows no mount namespace")
    assert ("hidden" in printed) is is_allowed
    assert "small" in printed or not is_allowed, "it has no library that a small image lacks"
    assert ("found" in printed) is not is_allowed
    assert os.access(program, os.X_OK), "it is hidden from the command alone"


def test_a_test_that_asks_a_default_port_fails_the_run(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """On a port of its own, because a run of CI holds the default ones around this test."""
    assert neighbour.default_ports()[9105] == "http.trace_port"
    assert neighbour.default_ports()[9092] == "kafka.bootstrap"
    port = free_port()
    monkeypatch.setattr(neighbour, "default_ports", lambda: {port: "http.trace_port"})
    asks = (
        f"import socket; socket.create_connection(('127.0.0.1', {port})).sendall(b'GET /metrics')"
    )
    assert neighbour.main([sys.executable, "-c", "pass"]) == 0
    assert capfd.readouterr().err == ""
    assert neighbour.main([sys.executable, "-c", asks]) == 1
    assert f"{port} (http.trace_port): b'GET /metrics'" in capfd.readouterr().err


def test_a_question_that_waits_while_the_run_ends_is_counted() -> None:
    """The neighbour still listens to an earlier one, which says nothing."""
    port = free_port()
    listening = neighbour.Neighbour({port: "http.trace_port"})
    with (
        socket.create_connection(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port)) as waiting,
    ):
        waiting.sendall(b"GET /metrics")
        listening.close()
    assert listening.asked == [
        f"{port} (http.trace_port): b''",
        f"{port} (http.trace_port): b'GET /metrics'",
    ]


def test_a_test_that_writes_into_the_users_folder_fails_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In a home of its own, because a run of CI looks at the real one around this test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(neighbour, "default_ports", dict)
    kept = tmp_path / ".local" / "state" / "stream-app" / "board-9107.sqlite"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert neighbour.main(["true"]) == 0
    own = kept.with_name("board-18107.sqlite")
    assert neighbour.main(["touch", str(own)]) == 1
    assert f"a test wrote into a folder of the user: {own}\n" in capfd.readouterr().err
    assert neighbour.main(["true"]) == 0, "it is there already"


def test_no_run_but_their_own_starts_the_containers(tmp_path: Path) -> None:
    """A machine without Docker passes the others; this one fails there, and does not skip."""
    code, calls = run(tmp_path / "own", "nothing", "--containers")
    assert code == 0
    assert [call for call in calls if call.startswith("pytest")] == [
        "pytest -n 0 -raP -m containers tests/containers",
    ]
    for name, options in (("all", ()), ("long", ("--long",))):
        _, calls = run(tmp_path / name, "nothing", *options)
        assert not [call for call in calls if call.startswith("docker")]
        marked = [call for call in calls if call.startswith("pytest") and " -m " in call]
        assert marked, "the others take what pyproject.toml says"
        assert all("not containers" in call or "-m long" in call for call in marked)
