"""Results from a real Kafka: the last one of each lead, alone and joined to the published file."""

import asyncio
import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.board.publish import join_on_kafka
from stream_app.client.results import Export, Joined, ResultFilter, export
from stream_app.dev.kafka import Broker
from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.lead.identity import identify, person_key
from stream_app.domain.model.messages import Lead, Result, Scalar
from stream_app.domain.model.records import Record
from stream_app.kafka.readers import Progress
from tests.e2e.pipeline import Pipeline

pytestmark = pytest.mark.timeout(150)

AT_MS = 1_790_000_000_000
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


def result(line: Pipeline, lead_id: str, version: int = 1, *, workspace: str = "w0", **more: Any) -> Record:
    fields: dict[str, Scalar] = more.pop("fields", {"Title": f"of {lead_id}", "E-Mail": "x"})
    values: dict[str, Any] = {"source": "clay", "at_ms": AT_MS, "age_s": 0, **more}
    stored = Result(
        lead_id=lead_id, workspace=workspace, destination=f"{workspace}-crm", version=version, fields=fields, **values
    )
    key = f"{workspace}/{workspace}-crm/{lead_id}".encode()
    home = line.settings.home(workspace)
    return Record(line.settings.names.enriched, key, msgspec.json.encode(stored), (), home)


def gone(record: Record) -> Record:
    return msgspec.structs.replace(record, value=None)


async def exported(
    line: Pipeline, wanted: ResultFilter | None = None, form: Any = "csv", join: Any = None
) -> tuple[Export, str]:
    @contextmanager
    def stage(what: str, unit: str) -> Iterator[Progress]:
        yield lambda done, total: None

    out = io.StringIO()
    done = await export(line.settings, wanted or ResultFilter(), out, form, join, stage, lambda text: None)
    return done, out.getvalue()


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


async def test_the_last_result_of_each_lead(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2, partitions=2) as line:
        unreadable = Record(line.settings.names.enriched, b"w0/w0-crm/odd", b'{"fields": 1}', (), 0)
        foreign = Record(line.settings.names.enriched, b"no-key-of-ours", b"{}", (), 0)
        await line.publish([result(line, "crm-1"), result(line, "crm-2"), result(line, "crm-3"), unreadable, foreign])
        newer = result(line, "crm-1", 2, at_ms=AT_MS + 5_000, source="cache", fields={"Title": "newer", "Extra": 1})
        await line.publish([newer, gone(result(line, "crm-2")), result(line, "other", workspace="w1")])
        done, text = await exported(line)
        assert (done.results, done.lines, done.unreadable) == (3, 3, 1)
        by_lead = {row["lead_id"]: row for row in rows(text)}
        assert sorted(by_lead) == ["crm-1", "crm-3", "other"]
        assert {name: by_lead["crm-1"][name] for name in ("Title", "Extra", "version", "source", "E-Mail")} == {
            "Title": "newer",
            "Extra": "1",
            "version": "2",
            "source": "cache",
            "E-Mail": "",
        }
        for wanted, ids in (
            (ResultFilter(workspace="w1"), ["other"]),
            (ResultFilter(destination="w0-crm"), ["crm-1", "crm-3"]),
            (ResultFilter(workspace="w1", destination="w0-crm"), []),
            (ResultFilter(since_ms=AT_MS + 1), ["crm-1"]),
        ):
            _, text = await exported(line, wanted, "jsonl")
            assert sorted(json.loads(row)["lead_id"] for row in text.splitlines()) == ids


async def test_joined_to_the_file_that_was_published(kafka: Broker, namespace: str, tmp_path: Path) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=1) as line:
        state = line.settings.names.state
        alias = person_key("w0", "w0-crm", person("carl@example.com"))
        other = person_key("w0", "w0-crm", person("dora@example.com"))
        sent = delivery_key("w0", "w0-crm", "crm-3a")
        await line.publish(
            [
                result(line, "crm-1"),
                result(line, f"p-{person('bob@example.com')}", fields={"Title": "by mail"}),
                result(line, "crm-3a", fields={"Title": "by person"}),
                result(line, "unrelated", fields={"A column that no row has": 1}),
                Record(state, alias, sent, (), 0),
                Record(state, other, sent, (), 0),
                Record(state, other, None, (), 0),
            ]
        )
        with await asyncio.to_thread(_file, tmp_path / "leads.csv") as file:
            join = Joined("leads.csv", file)
            done, text = await exported(line, join=join)
            of_board = io.StringIO()
            assert await join_on_kafka(line.settings, ResultFilter(), join, of_board) == done
            _, lines = await exported(line, form="jsonl", join=join)
            none, _ = await exported(line, ResultFilter(since_ms=AT_MS + 1), join=join)
        assert (done.lines, done.results, done.broken_count, done.broken) == (6, 3, 2, [7, 9])
        assert of_board.getvalue() == text, "the download on the page of the import is the same"
        joined = rows(text)
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
        first = json.loads(lines.splitlines()[0])
        assert (first["row"]["First Name"], first["result"]["fields"]["Title"]) == ("Ada", "of crm-1")
        assert json.loads(lines.splitlines()[3])["result"] is None
        assert (none.lines, none.results) == (6, 0)


async def test_at_the_command_line(kafka: Broker, namespace: str, tmp_path: Path) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=1) as line:
        out, leads = tmp_path / "out.csv", tmp_path / "leads.csv"
        await asyncio.to_thread(leads.write_bytes, INPUT)
        await asyncio.to_thread(out.write_text, "of yesterday")
        code, output = await line.run("results", "--map", "email=E-Mail")
        assert (code, "--map needs --join" in output) == (2, True), output
        code, output = await line.run("results", "--join", str(leads), "-o", str(leads))
        assert (code, "pass another name to -o" in output) == (2, True)
        code, output = await line.run("results", "--join", str(leads), "--map", "email=Mail", "-o", str(out))
        assert (code, "no such column" in output) == (2, True)
        assert await asyncio.to_thread(out.read_text) == "of yesterday"
        await line.publish([result(line, "crm-1")])
        output = await line.done("results", "--join", str(leads), "--map", "email=E-Mail", "-o", str(out))
        assert "1 result of 6 rows" in output
        assert "2 rows cannot be read and were left out, at the lines 7, 9" in output
        assert "of crm-1" in await asyncio.to_thread(out.read_text)
        assert out.stat().st_mode & 0o077 == 0
        assert sorted(os.listdir(tmp_path)) == ["leads.csv", "out.csv"]
        code, output = await line.ask("results", "--since", "2099-01-01", "-o", str(out))
        assert (code, output["results"]) == (1, 0)
        code, output = await line.ask("results")
        assert (code, "--format jsonl" in output["error"][0]) == (2, True)
        lines = tmp_path / "out.jsonl"
        code, output = await line.ask("results", "-o", str(lines))
        assert (code, output["file"]) == (0, str(lines))
        assert json.loads(await asyncio.to_thread(lines.read_text))["lead_id"] == "crm-1", "by its name, as `publish`"
        code, output = await line.run("results", "--format", "jsonl")
        assert (code, json.loads(output.splitlines()[0])["lead_id"]) == (0, "crm-1")


def _file(path: Path, content: bytes = INPUT) -> Any:
    path.write_bytes(content)
    return path.open("rb")
