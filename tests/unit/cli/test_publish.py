"""`stream-app publish`: stdin to its end, `--wait`, and how far a file has come."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from stream_app.cli.main import main, parse
from tests.support.narrow import present
from tests.support.pace import BUSY

CONFIG = """
[kafka]
bootstrap = "127.0.0.1:1"
[workspaces.acme.budget]
credits_per_day = 6000
[destinations.people]
workspace = "acme"
webhooks_env = ["X"]
callbacks = false
columns = { email = "Work Email" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stream_app.toml").write_text(CONFIG)
    return tmp_path


class Done(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


Publish = Callable[..., Done]


@pytest.fixture
def publish(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Publish:
    """Run the command in this process, with these bytes as its stdin."""
    monkeypatch.chdir(folder)

    def run(lines: bytes, *more: str) -> Done:
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(lines)
        with os.fdopen(reading) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            return Done(main(["publish", "-", "--dry-run", *more]), *capfdbinary.readouterr())

    return run


@pytest.mark.parametrize(
    "lines",
    [b'{"email":"a@acme.example"}\n', b'{"email":"a@acme.example"}\n{"notes":"x"}\n'],
)
def test_a_dry_run_changes_nothing_and_says_what_it_refuses(
    folder: Path,
    publish: Publish,
    lines: bytes,
) -> None:
    """Seen: it removed the file with the rows that had been refused before."""
    rejected = folder / "stdin.rejected.jsonl"
    rejected.write_text("of yesterday")
    done = publish(lines, "--json")
    refused = lines.count(b"notes")
    assert done.returncode == refused
    assert json.loads(done.stdout)["rejected_file"] is None
    assert rejected.read_text() == "of yesterday"
    assert done.stderr.startswith(b"line 2: no_identity: ") is bool(refused)


def test_of_many_refused_rows_it_says_the_first_ones(publish: Publish) -> None:
    errors = publish(b'{"notes":"x"}\n' * 23 + b"{").stderr.decode().splitlines()
    lines = ", ".join(map(str, range(1, 21)))
    assert errors[0].startswith(f"lines {lines}: no_identity: No identity"), (
        "one line for what is alike"
    )
    assert errors[1:] == ["and 4 more"]


def test_a_csv_whose_rows_cannot_name_their_workspace_is_one_line(
    folder: Path,
    publish: Publish,
) -> None:
    assert publish(b"email\na@acme.example\n", "--format", "csv").returncode == 0, (
        "there is only one"
    )
    with (folder / "stream_app.toml").open("a") as config:
        config.write('[workspaces.globex]\n[destinations.q]\nworkspace = "globex"\n')
        config.write('webhooks_env = ["X"]\ncallbacks = false\n')
    done = publish(b"email\n" + b"a@acme.example\n" * 30, "--format", "csv")
    assert done.returncode == 2
    assert done.stderr == b"-: no row names its workspace: pass --workspace, one of acme, globex\n"
    assert (
        publish(b"email\na@acme.example\n", "--format", "csv", "--workspace", "acme").returncode
        == 0
    )
    assert publish(b"email,workspace\na@acme.example,acme\n", "--format", "csv").returncode == 0


def test_a_column_full_of_addresses_with_an_unknown_name_is_hinted_at(publish: Publish) -> None:
    """Without it all rows are refused, as nothing says who they are."""
    rows = b"Kontakt Mail,Notes\n" + b"a@acme.example,x@y\nb@acme.example,\nnone,\n"
    done = publish(rows, "--format", "csv")
    assert (
        b"the column Kontakt Mail holds e-mail addresses: add --map email='Kontakt Mail'\n"
        in done.stderr
    )
    mapped = publish(rows, "--format", "csv", "--map", "email=Kontakt Mail")
    assert b"holds e-mail addresses" not in mapped.stderr


def test_ctrl_c_while_it_waits_for_a_line(folder: Path) -> None:
    argv = [sys.executable, "-m", "stream_app", "publish", "-", "--dry-run"]
    with subprocess.Popen(
        argv,
        cwd=folder,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            # more than the pipe holds, so it reads by then
            present(process.stdin).write(b"not json\n" * 20_000)
            present(process.stdin).flush()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60 * BUSY) == 130
            assert present(process.stderr).read() == b"interrupted\n"
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("typed", "wait_s", "program"),
    [
        ("leads.csv", None, "publish"),
        ("leads.csv --wait", 600, "publish --wait"),
        ("--bulk leads.csv", None, "publish --bulk"),
        ("--wait 1.5 leads.csv", 1.5, "publish --wait"),
        ("--wait --bulk leads.csv", 600, "publish --bulk --wait"),
    ],
)
def test_the_seconds(typed: str, wait_s: float | None, program: str) -> None:
    _, arguments = parse(["publish", *typed.split()])
    arguments.apply_defaults()
    options = arguments.arguments["options"]
    assert options.wait_s == wait_s
    assert options.program == program


@pytest.mark.parametrize(
    "typed",
    ["--wait=leads.csv x.csv", "leads.csv --wait 0", "leads.csv --wait nan"],
)
def test_a_bad_number_of_seconds_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", *typed.split()]) == 2
    assert "is no number of seconds above 0" in capsys.readouterr().err


def test_a_dry_run_has_nothing_to_wait_for_and_writes_no_ids(
    folder: Path,
    publish: Publish,
) -> None:
    done = publish(b"email\na@acme.example\n", "--format", "csv", "--wait")
    assert done.returncode == 2
    assert b"--wait: a dry run publishes nothing" in done.stderr
    done = publish(b"email\na@acme.example\n", "--format", "csv", "--out", "ids.csv")
    assert done.returncode == 2
    assert done.stdout == b""
    assert not (folder / "ids.csv").exists()


def test_a_dry_run_shows_the_cost(publish: Publish) -> None:
    done = publish(
        b"email\n" + b"".join(b"p%d@acme.example\n" % n for n in range(1_200)),
        "--format",
        "csv",
    )
    assert done.returncode == 0, done.stderr
    first, second, third, last = done.stdout.decode().splitlines()
    assert first.startswith(
        "acme/people: 1,200 leads at about 6 credits each: about 7,200 credits and 1,200 actions, ",
    )
    assert second == (
        "acme: its lane was not asked, and the configuration gives it 6,000 credits of "
        "today; about 2 min at the "
        "lane's rate"
    )
    assert (
        b"what the lanes have left is not known, so the budget is that of the configuration: "
        in done.stderr
    )
    assert (
        third == "acme: the credits of today do not suffice: the rest of the leads waits on Kafka"
    )
    assert last == "1,200 rows: 1,200 would be published, 0 refused"


def test_unsent_columns_are_listed(publish: Publish) -> None:
    rows = b"E-Mail,Vorname,Emial,Notes,\na@acme.example,Ada,x,y,z\n"
    done = publish(rows, "--format", "csv", "--json")
    assert done.stderr.decode().splitlines()[:5] == [
        "columns: E-Mail -> email, Vorname -> first_name",
        "left out, since the header has no title there: column 5",
        (
            "Emial: no usual name, so it stays a field of its own; is it email? Then name it so, "
            "or use --map"
        ),
        "Notes: no usual name, so it stays a field of its own",
        (
            "not sent to Clay, since destinations.people.columns does not name it: first_name, "
            "Emial, Notes"
        ),
    ]
    answer = json.loads(done.stdout)
    assert answer["quotes"][0]["workspace"] == "acme"
    assert answer["quotes"][0]["parts"][0]["credits"] == 6
