"""Exports hold personal data: they go nowhere but to the file that was named, and only its owner
reads it.
"""

import os
import resource
import stat
import sys
from pathlib import Path

import pytest

from stream_app.cli.files import private_file
from stream_app.domain.model.errors import SettingsError, StreamAppError


def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("out.csv", "out.csv.part"):
        (tmp_path / name).symlink_to(victim)
    with private_file(tmp_path / "out.csv") as file:
        file.write("secret")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / "out.csv").read_text() == "secret"


def test_a_planted_file_that_all_can_read_does_not_stay_readable(tmp_path: Path) -> None:
    for name in ("out.csv", "out.csv.part"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o666)
    before = os.umask(0)
    try:
        with private_file(tmp_path / "out.csv") as file:
            file.write("secret")
            [part] = tmp_path.glob(".out.csv.*.part")
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o600


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("older")
    with pytest.raises(UnicodeEncodeError), private_file(tmp_path / "out.csv") as file:
        file.write("half" * 10_000 + "\ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "out.csv"
    with pytest.raises(SettingsError, match=r"out\.csv: cannot be written"), private_file(path):
        pytest.fail("not reached")


def test_a_full_disk_is_said_on_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    (_, most) = resource.getrlimit(resource.RLIMIT_FSIZE)
    for path in (Path("/dev/full"), out):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, most))
        try:
            with (
                pytest.raises(StreamAppError, match=rf"^{path}: cannot be written: "),
                private_file(path) as file,
            ):
                file.write("x" * 100_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert not list(tmp_path.iterdir())


def test_a_terminal_gets_no_control_characters(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for terminal, seen in ((True, "a\ufffd31mb\n"), (False, "a\x9b31mb\n")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        with private_file(Path("-")) as file:
            file.write("a\x9b31mb\n")
        assert capsys.readouterr().out == seen


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with private_file(pipe) as file:
            file.write("through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
