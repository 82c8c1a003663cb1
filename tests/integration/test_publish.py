"""Publishing to real Kafka, at once or step by step: each row once, in the partition of its
workspace.
"""

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from stream_app.cli.main import main
from stream_app.client.publish import send
from stream_app.client.publish.leads import PublishOptions, Refusal, publish
from stream_app.config import Kafka, Settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import Broker
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.limits.meters import Meter
from stream_app.domain.model.messages import Lead
from stream_app.domain.plan import Destination, Workspace
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.connection import KafkaConnection
from tests.support.config import one_way, settings_in
from tests.support.kafka import create_planned, read_topic


def settings_for(bootstrap: str, namespace: str) -> Settings:
    return Settings(
        kafka=Kafka(
            bootstrap=bootstrap,
            namespace=namespace,
            partitions=3,
            replication=1,
        ),
        workspaces={"acme": Workspace("acme", partition=2), "beta": Workspace("beta", partition=0)},
        destinations={
            "people": Destination("people", "acme", webhooks_env=("A",)),
            "beta-people": Destination("beta-people", "beta", webhooks_env=("B",)),
        },
    )


async def records(settings: Settings, topic: str) -> list[Any]:
    return await read_topic(settings.kafka.bootstrap, topic, settings.kafka.partitions)


async def test_leads_and_mappings_reach_their_partition_in_order(
    kafka: Broker,
    namespace: str,
) -> None:
    settings = settings_for(kafka.bootstrap, namespace)
    await create_planned(settings)
    refused: list[Refusal] = []
    leads: list[Lead | dict[str, Any]] = [
        Lead(fields={"email": "jane@acme.example"}, workspace="acme", not_after_ms=5),
        {"email": "n/a", "workspace": "acme"},
        *(
            {"email": f"p{n}@beta.example", "workspace": "beta", "notes": "x" * 500}
            for n in range(3_000)
        ),
    ]
    summary = await publish(
        leads,
        settings,
        PublishOptions(import_id="b1"),
        on_refused=refused.append,
    )
    assert summary.rows == 3_002
    assert summary.ready == 3_001
    assert summary.published == 3_001
    assert summary.refused == 1
    assert [(row.line, row.reason) for row in refused] == [(2, "bad_email")]
    published = await records(settings, settings.names.leads)
    acme = [record for record in published if record.partition == 2]
    beta = [record for record in published if record.partition == 0]
    assert len(acme) + len(beta) == 3_001
    assert [record.key for record in acme] == [b"acme"]
    assert json.loads(acme[0].value) == {
        "fields": {"email": "jane@acme.example"},
        "workspace": "acme",
        "not_after_ms": 5,
        "import_id": "b1",
        "import_summary": {"rows": 3_002, "refused": 1, "leads": 1},
    }
    assert ["import_summary" in json.loads(record.value) for record in beta[:3]] == [
        True,
        False,
        False,
    ]
    emails = [json.loads(record.value)["fields"]["email"] for record in beta]
    assert emails == [f"p{n}@beta.example" for n in range(3_000)]


async def test_the_producer_is_idempotent_and_waits_for_all_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def producer(**options: Any) -> None:
        asked.update(options)
        raise StopAsyncIteration

    monkeypatch.setattr(send, "kafka_producer", producer)
    with pytest.raises(StopAsyncIteration):
        await send.Sender(KafkaConnection("127.0.0.1:9"), "leads", 20).__aenter__()
    assert asked["enable_idempotence"] is True
    assert asked["acks"] == "all"


def test_the_command_reports_every_error_in_a_csv(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_in(
        tmp_path,
        kafka.bootstrap,
        namespace,
        one_way(people="acme"),
        partitions=2,
    )
    assert main(["topics"]) == 0
    Path("leads.csv").write_bytes(
        b"E-Mail,notes\n"
        b"a@acme.example,fine\n"
        b'b@acme.example,"broken"quote\n'
        b"c@acme.example,caf\xe9\n"
        b"d@acme.example," + b"x" * 1_000_000 + b"\n"
        b"not an address,\n"
        b"e@acme.example,fine\n",
    )
    capsys.readouterr()
    assert main(["publish", "leads.csv", "--bulk", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"] == 6
    assert answer["published"] == 2
    assert answer["refused"] == 4
    assert answer["rejected_file"] == "leads.csv.rejected.jsonl"
    published = asyncio.run(records(settings, settings.names.bulk))
    assert [(record.key, json.loads(record.value)["fields"]["email"]) for record in published] == [
        (b"acme", "a@acme.example"),
        (b"acme", "e@acme.example"),
    ]
    assert asyncio.run(records(settings, settings.names.leads)) == []
    refused = [
        json.loads(line) for line in Path("leads.csv.rejected.jsonl").read_text().splitlines()
    ]
    assert [(row["line"], row["reason"]) for row in refused] == [
        (3, "bad_csv"),
        (4, "not_utf8"),
        (5, "bad_csv"),
        (6, "bad_email"),
    ]
    assert [row["row"][:22] for row in refused] == [
        'b@acme.example,"broken',
        "c@acme.example,caf\ufffd",
        "d@acme.example,xxxxxxx",
        "not an address,",
    ]
    assert Path("leads.csv.rejected.jsonl").stat().st_mode & 0o077 == 0, "it has personal data"
    Path("leads.csv").write_bytes(b"email\na@acme.example\n")
    assert main(["publish", "leads.csv"]) == 0
    assert not Path("leads.csv.rejected.jsonl").exists()


def test_many_credits_need_a_confirmation_that_shows_the_rest(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    budget = "[workspaces.acme.budget]\ncredits_per_day = 6000\n"
    settings = settings_in(
        tmp_path,
        kafka.bootstrap,
        namespace,
        one_way(people="acme") + budget,
        partitions=2,
    )
    assert main(["topics"]) == 0
    meter = Meter("2026-11-26", 4_000_000_000_000, 6_000, 4_880)
    view = LaneView("acme", 0, 1, "closed", "healthy", 100.0, 4.0, meters={"credits_day": meter})
    asyncio.run(tell_lane(settings, view))
    rows = "".join(f"p{n}@acme.example,\n" for n in range(199)) + "ada@acme.example,crm 1\n"
    Path("leads.csv").write_text("email,lead_id\n" + rows)
    capsys.readouterr()

    assert main(["publish", "leads.csv", "--out", "ids.csv"]) == 2
    output = capsys.readouterr()
    assert (
        "acme: 1,120 credits of today are left; about 50 s at the lane's rate"
        in output.out.splitlines()
    )
    assert "pass --yes to publish 200 leads for about 1,200 credits" in output.err
    assert asyncio.run(records(settings, settings.names.leads)) == []
    assert not Path("ids.csv").exists()

    assert main(["publish", "leads.csv", "--out", "ids.csv", "--yes"]) == 0
    assert len(asyncio.run(records(settings, settings.names.leads))) == 200
    with Path("ids.csv").open(newline="") as file:
        ids = list(csv.DictReader(file))
    assert len(ids) == 200
    assert ids[0]["lead_id"].startswith("p-")
    assert ids[-1]["line"] == "201"
    assert ids[-1]["given_id"] == "crm 1"
    assert ids[-1]["destination"] == "people"
    assert ids[-1]["lead_id"] == plain_id("crm 1")
    assert Path("ids.csv").stat().st_mode & 0o077 == 0, "an id may be personal data"

    Path("leads.csv").write_text("email\n" + "".join(f"q{n}@acme.example\n" for n in range(166)))
    assert main(["publish", "leads.csv"]) == 0, "996 credits are not asked for"


async def tell_lane(settings: Settings, view: LaneView) -> None:
    async with AIOKafkaProducer(**connection_of(settings).settings()) as producer:
        home = settings.home(view.workspace)
        value = msgspec.json.encode(view)
        await producer.send_and_wait(
            settings.names.lanes,
            value,
            view.workspace.encode(),
            partition=home,
        )
