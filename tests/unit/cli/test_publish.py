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
from stream_app.cli.publish import as_json, show_wait
from stream_app.client.send import PublishedLeads
from stream_app.domain.model.messages import Status, StatusEvent
from tests.support.pace import BUSY

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from stream_app.cli.main import main; sys.exit(main(sys.argv[1:]))",
    "publish",
    "-",
    "--dry-run",
]


CONFIG = """
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
def publish(folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Publish:
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


@pytest.mark.parametrize("lines", [b'{"email":"a@acme.example"}\n', b'{"email":"a@acme.example"}\n{"notes":"x"}\n'])
def test_a_dry_run_changes_nothing_and_says_what_it_refuses(folder: Path, publish: Publish, lines: bytes) -> None:
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
    assert errors[0].startswith(f"lines {lines}: no_identity: No identity"), "one line for what is alike"
    assert errors[1:] == ["and 4 more"]


def test_a_csv_whose_rows_cannot_name_their_workspace_is_one_line(folder: Path, publish: Publish) -> None:
    assert publish(b"email\na@acme.example\n", "--format", "csv").returncode == 0, "there is only one"
    with (folder / "stream_app.toml").open("a") as config:
        config.write('[workspaces.globex]\n[destinations.q]\nworkspace = "globex"\n')
        config.write('webhooks_env = ["X"]\ncallbacks = false\n')
    done = publish(b"email\n" + b"a@acme.example\n" * 30, "--format", "csv")
    assert done.returncode == 2
    assert done.stderr == b"-: no row names its workspace: pass --workspace, one of acme, globex\n"
    assert publish(b"email\na@acme.example\n", "--format", "csv", "--workspace", "acme").returncode == 0
    assert publish(b"email,workspace\na@acme.example,acme\n", "--format", "csv").returncode == 0


def test_a_column_full_of_addresses_with_an_unknown_name_is_hinted_at(publish: Publish) -> None:
    """Without it all rows are refused, as nothing says who they are."""
    rows = b"Kontakt Mail,Notes\n" + b"a@acme.example,x@y\nb@acme.example,\nnone,\n"
    done = publish(rows, "--format", "csv")
    assert b"the column Kontakt Mail holds e-mail addresses: add --map email='Kontakt Mail'\n" in done.stderr
    mapped = publish(rows, "--format", "csv", "--map", "email=Kontakt Mail")
    assert b"holds e-mail addresses" not in mapped.stderr


@pytest.mark.parametrize(("lines", "hinted"), [(b"email\na@acme.example\n", True), (b"no\n{}\n", False), (b"", False)])
def test_a_csv_that_is_taken_for_json_lines(publish: Publish, lines: bytes, hinted: bool) -> None:
    done = publish(lines)
    assert (b"if it is CSV, say --format csv" in done.stderr) is hinted
    assert b"--format csv" not in publish(lines, "--format", "jsonl").stderr


def test_ctrl_c_while_it_waits_for_a_line(folder: Path) -> None:
    process = subprocess.Popen(COMMAND, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        process.stdin.write(b"not json\n" * 20_000)  # more than the pipe holds: it reads when this is written
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60 * BUSY) == 130
        assert process.stderr.read() == b"interrupted\n"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stderr.close()


@pytest.mark.parametrize(
    ("typed", "wait_s", "program"),
    [
        ("leads.csv", None, "publish"),
        ("leads.csv --wait", 600, "publish --wait"),
        ("leads.csv --wait 1.5 --bulk", 1.5, "publish --bulk --wait"),
        ("--bulk leads.csv", None, "publish --bulk"),
        ("--wait leads.csv", 600, "publish --wait"),
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


@pytest.mark.parametrize("typed", ["--wait=leads.csv x.csv", "leads.csv --wait 0", "leads.csv --wait nan"])
def test_a_bad_number_of_seconds_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", *typed.split()]) == 2
    assert "is no number of seconds above 0" in capsys.readouterr().err


def test_a_dry_run_has_nothing_to_wait_for_and_writes_no_ids(folder: Path, publish: Publish) -> None:
    done = publish(b"email\na@acme.example\n", "--format", "csv", "--wait")
    assert (done.returncode, b"--wait: a dry run publishes nothing" in done.stderr) == (2, True)
    done = publish(b"email\na@acme.example\n", "--format", "csv", "--out", "ids.csv")
    assert (done.returncode, done.stdout) == (2, b"")
    assert not (folder / "ids.csv").exists()


def test_a_dry_run_shows_the_cost(publish: Publish) -> None:
    done = publish(b"email\n" + b"".join(b"p%d@acme.example\n" % n for n in range(1_200)), "--format", "csv")
    assert done.returncode == 0, done.stderr
    first, second, third, last = done.stdout.decode().splitlines()
    assert first.startswith("acme/people: 1,200 leads at about 6 credits each: about 7,200 credits and 1,200 actions, ")
    assert second == "acme: the budget is 6,000 credits of today; about 2 min at the lane's rate"
    assert third == "acme: the credits of today do not suffice: the rest of the leads waits on Kafka"
    assert last == "1,200 rows: 1,200 would be published, 0 refused"


def test_unsent_columns_are_listed(publish: Publish) -> None:
    rows = b"E-Mail,Vorname,Emial,Notes,\na@acme.example,Ada,x,y,z\n"
    done = publish(rows, "--format", "csv", "--json")
    kept = "no usual name, so it stays a field of its own"
    assert done.stderr.decode().splitlines()[:5] == [
        "columns: E-Mail -> email, Vorname -> first_name",
        "left out, since the header has no title there: column 5",
        f"Emial: {kept}; is it email? Then name it so, or use --map",
        f"Notes: {kept}",
        "not sent to Clay, since destinations.people.columns does not name it: first_name, Emial, Notes",
    ]
    answer = json.loads(done.stdout)
    assert answer["columns"]["Vorname"] == "first_name"
    assert (answer["quotes"][0]["workspace"], answer["quotes"][0]["parts"][0]["credits"]) == ("acme", 6)
    first, *_ = publish(b'{"email": "a@acme.example", "Vorname": "Ada"}\n').stderr.decode().splitlines()
    assert first == f"Vorname: {kept}; is it first_name? Then name it so"


def test_a_changed_id_is_reported(publish: Publish) -> None:
    rows = b"email,lead_id\na@acme.example,a@acme.example\nb@acme.example,b-1\n"
    lines = publish(rows, "--format", "csv").stderr.decode().splitlines()
    (line,) = [line for line in lines if line.startswith("line ")]
    assert line.startswith("line 2: the lead id cannot be used as it stands; the lead has the id h-")


def test_where_the_leads_are(capsys: pytest.CaptureFixture[str]) -> None:
    leads = PublishedLeads("leads", ())
    leads.add(0, 0, 5)
    statuses: list[Status] = ["enriched", "enriched", "accepted", "parked"]
    for at, status in enumerate(statuses):
        leads.apply(StatusEvent("x", "lead", status, 1, 0, f"leads/0/{at}"))
    assert as_json(leads) == {
        "at_rest": 3,
        "under_way": 2,
        "statuses": {"enriched": 2, "parked": 1},
        "statuses_under_way": {"accepted": 1},
        "no_event": 1,
    }
    show_wait(leads)
    assert capsys.readouterr().out.splitlines() == [
        "enriched: 2",
        "parked: 1",
        "accepted: 1, still under way",
        "not read by a worker yet: 1",
        "5 leads: 3 at rest, 2 under way; `stream-app explain` shows why lanes wait",
    ]
