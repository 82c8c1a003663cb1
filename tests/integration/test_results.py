"""Results from a real Kafka: the last one of each lead, alone and joined to the published file."""

import asyncio
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.board.publish import join_on_kafka
from stream_app.cli.main import main
from stream_app.client.results.export import Joined, ResultFilter
from stream_app.config import Settings
from stream_app.dev.kafka import Broker
from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.lead.identity import identify, person_key
from stream_app.domain.model.messages import Lead, Result, Scalar
from stream_app.kafka.connection import kafka_producer
from tests.support.config import one_way, settings_in
from tests.support.kafka import create_planned

AT_MS = 1_790_000_000_000
A_SECOND_LATER = "2026-09-21T14:13:21"
INPUT = b"""E-Mail;First Name;Note;lead_id
ada@example.com;Ada;"by her; id";crm-1
BOB@Example.com;Bob;by her mail;
carl@example.com;Carl;another row was sent;crm-3b
dora@example.com;Dora;no result;crm-4
;Noname;no identity;
"never closed;x;y
frank@example.com;Fr\xe4nk;not UTF-8;crm-6
gina@example.com;Gina;too;many;cells
"""


def person(email: str) -> str:
    known = identify(Lead({"email": email}))
    assert known is not None
    assert known.person is not None
    return known.person


Written = tuple[str, bytes, bytes | None]
"""Topic suffix, key and value of a record."""


def result(lead_id: str, version: int = 1, *, workspace: str = "w0", **more: Any) -> Written:
    fields: dict[str, Scalar] = more.pop("fields", {"Title": f"of {lead_id}", "E-Mail": "x"})
    values: dict[str, Any] = {"source": "clay", "at_ms": AT_MS, "age_s": 0, **more}
    stored = Result(
        lead_id,
        workspace,
        f"{workspace}-crm",
        version=version,
        fields=fields,
        **values,
    )
    return (
        "leads.enriched",
        f"{workspace}/{workspace}-crm/{lead_id}".encode(),
        msgspec.json.encode(stored),
    )


class Command:
    """`stream-app results` in a configuration with the workspaces w0 and w1."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.settings = settings
        self.file = folder / "out.csv"
        self._config = str(folder / "stream_app.toml")
        self._capsys = capsys

    def write(self, *records: Written) -> None:
        async def sent() -> None:
            async with kafka_producer(bootstrap_servers=self.settings.kafka.bootstrap) as producer:
                for topic, key, value in records:
                    await producer.send_and_wait(
                        self.settings.kafka.namespace + topic,
                        value,
                        key,
                        0,
                    )

        asyncio.run(sent())

    def run(self, *argv: str) -> tuple[int, str]:
        """Return the exit code and the output."""
        code = main(["results", *argv, "--config", self._config])
        return code, "".join(self._capsys.readouterr())

    def rows(self, *argv: str) -> tuple[str, list[dict[str, str]]]:
        """Return what it says, and the rows of its file."""
        code, output = self.run(*argv, "-o", str(self.file))
        assert code == 0, output
        return output, list(csv.DictReader(io.StringIO(self.file.read_text())))


@pytest.fixture
def command(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    lanes = one_way(**{"w0-crm": "w0", "w1-crm": "w1"})
    settings = settings_in(tmp_path, kafka.bootstrap, namespace, lanes)
    asyncio.run(create_planned(settings))
    return Command(settings, tmp_path, capsys)


def test_the_last_result_of_each_lead(command: Command) -> None:
    unreadable = ("leads.enriched", b"w0/w0-crm/odd", b'{"fields": 1}')
    foreign = ("leads.enriched", b"no-key-of-ours", b"{}")
    command.write(result("crm-1"), result("crm-2"), result("crm-3"), unreadable, foreign)
    newer = result(
        "crm-1",
        2,
        at_ms=AT_MS + 5_000,
        source="cache",
        fields={"Title": "newer", "Extra": 1},
    )
    command.write(newer, (*result("crm-2")[:2], None), result("other", workspace="w1"))
    report, rows = command.rows()
    assert "3 results" in report
    assert "1 result cannot be read by this version" in report
    by_lead = {row["lead_id"]: row for row in rows}
    assert sorted(by_lead) == ["crm-1", "crm-3", "other"]
    assert {
        name: by_lead["crm-1"][name] for name in ("Title", "Extra", "version", "source", "E-Mail")
    } == {
        "Title": "newer",
        "Extra": "1",
        "version": "2",
        "source": "cache",
        "E-Mail": "",
    }
    for wanted, ids in (
        (["--workspace", "w1"], ["other"]),
        (["--destination", "w0-crm"], ["crm-1", "crm-3"]),
        (["--since", A_SECOND_LATER], ["crm-1"]),
    ):
        _, rows = command.rows(*wanted)
        assert sorted(row["lead_id"] for row in rows) == ids
    code, output = command.run(
        "--workspace",
        "w1",
        "--destination",
        "w0-crm",
        "--json",
        "-o",
        str(command.file),
    )
    assert code == 1
    assert json.loads(output)["results"] == 0


def test_where_there_is_no_result_it_says_what_to_do(command: Command, tmp_path: Path) -> None:
    """As right after `publish`."""
    leads = tmp_path / "leads.csv"
    leads.write_bytes(INPUT)
    for argv, words in (
        ([], "0 results yet: "),
        (["--join", str(leads), "--workspace", "w0"], "0 results of 6 rows yet: "),
    ):
        code, output = command.run(*argv, "-o", str(command.file))
        (line,) = [line for line in output.splitlines() if words in line]
        assert code == 1
        assert "stream-app imports" in line
        assert "stream-app explain" in line
    command.write(result("crm-1"))
    assert " yet" not in command.rows()[0]


def test_joined_to_the_file_that_was_published(command: Command, tmp_path: Path) -> None:
    leads = tmp_path / "leads.csv"
    leads.write_bytes(INPUT)
    alias = person_key("w0", "w0-crm", person("carl@example.com"))
    other = person_key("w0", "w0-crm", person("dora@example.com"))
    sent = delivery_key("w0", "w0-crm", "crm-3a")
    command.write(
        result("crm-1"),
        result(f"p-{person('bob@example.com')}", fields={"Title": "by mail"}),
        result("crm-3a", fields={"Title": "by person"}),
        result("unrelated", fields={"A column that no row has": 1}),
        ("stream-app-state", alias, sent),
        ("stream-app-state", other, sent),
        ("stream-app-state", other, None),
    )
    joining = ("--join", str(leads), "--map", "email=E-Mail", "--workspace", "w0")
    report, joined = command.rows(*joining)
    assert "3 results of 6 rows" in report
    assert "left out 2 rows that cannot be read: line 7, 9" in report
    of_board = io.StringIO()
    with leads.open("rb") as file:
        done = asyncio.run(
            join_on_kafka(command.settings, ResultFilter("w0"), Joined("", file), of_board),
        )
    assert done.lines == 6
    assert done.results == 3
    assert done.broken_count == 2
    assert done.broken == [7, 9]
    assert list(csv.DictReader(io.StringIO(of_board.getvalue()))) == joined, (
        "the download on the import's page is the same"
    )
    assert list(joined[0])[:5] == ["E-Mail", "First Name", "Note", "lead_id", "result_lead_id"]
    assert "result_E-Mail" in joined[0]
    assert "A column that no row has" not in joined[0]
    assert [(row["First Name"], row["result_lead_id"][:6], row["Title"]) for row in joined] == [
        ("Ada", "crm-1", "of crm-1"),
        ("Bob", f"p-{person('bob@example.com')}"[:6], "by mail"),
        ("Carl", "crm-3a", "by person"),
        ("Dora", "", ""),
        ("Noname", "", ""),
        ("Fr\ufffdnk", "", ""),
    ]
    assert joined[0]["Note"] == "by her; id"
    assert joined[1]["E-Mail"] == "BOB@Example.com", "as it stands in the file"
    lines = tmp_path / "out.jsonl"
    assert command.run(*joining, "-o", str(lines))[0] == 0
    first, *others = map(json.loads, lines.read_text().splitlines())
    assert first["row"]["First Name"] == "Ada"
    assert first["result"]["fields"]["Title"] == "of crm-1"
    assert others[2]["result"] is None
    code, output = command.run(*joining, "--since", "2099-01-01", "--json", "-o", str(lines))
    assert code == 1
    assert json.loads(output)["lines"] == 6
    assert json.loads(output)["results"] == 0


def test_a_wrong_command_leaves_the_file_and_a_right_one_hides_it_from_others(
    command: Command,
    tmp_path: Path,
) -> None:
    leads = tmp_path / "leads.csv"
    leads.write_bytes(INPUT)
    command.file.write_text("of yesterday")
    for argv, why in (
        (("--join", str(leads), "-o", str(leads)), "pass another name to -o"),
        (("--join", str(leads), "--map", "email=Mail", "-o", str(command.file)), "no such column"),
    ):
        code, output = command.run(*argv)
        assert code == 2, output
        assert why in output, output
    assert command.file.read_text() == "of yesterday"
    command.write(result("crm-1"))
    command.rows()
    assert command.file.stat().st_mode & 0o077 == 0
    assert sorted(os.listdir(tmp_path)) == ["leads.csv", "out.csv", "stream_app.toml"]
