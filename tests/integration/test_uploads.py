"""Files that are published step by step, on a real Kafka."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from stream_app.cli.main import main
from stream_app.cli.options import login_name
from stream_app.client.publish import PublishOptions
from stream_app.client.uploads import Upload, Uploads
from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import Broker
from stream_app.kafka.readers import Reader
from tests.integration.test_publish import records
from tests.support.kafka import until

CSV = (
    "\ufeffE-Mail;Vorname;Notiz;Workspace\r\n"
    "ada@example.com;Ada;<b>bold</b>;acme\r\n"
    "not one;;;acme\r\n"
    "bo@example.com;Bo;=1+1;beta\r\n"
    'c@example.com;"C ""x""";"two\r\nlines";acme\r\n'
).encode()


def settings_in(folder: Path, kafka: Broker, namespace: str) -> Settings:
    (folder / "stream_app.toml").write_text(
        f"""
        [kafka]
        bootstrap = "{kafka.bootstrap}"
        namespace = "{namespace}"
        partitions = 2
        replication = 1
        [workspaces.acme]
        [workspaces.beta]
        [destinations.people]
        workspace = "acme"
        webhooks_env = ["NOT_SET"]
        callbacks = false
        [destinations.firms]
        workspace = "beta"
        webhooks_env = ["NOT_SET"]
        callbacks = false
        """
    )
    return load_settings(folder / "stream_app.toml", {}, ())


async def uploaded(uploads: Uploads, raw: bytes, workspace: str | None) -> Upload:
    source = tempfile.TemporaryFile()  # noqa: SIM115 (its upload closes it)
    source.write(raw)
    upload = await uploads.add(source, "leads.csv", len(raw), "kfdwzp", login_name())
    uploads.check(upload, upload.names, PublishOptions(workspace, import_id=upload.import_id))
    await until(lambda: upload.state != "checking", 60)
    assert upload.state == "checked", upload.problem
    return upload


def by_partition(found: list[Any]) -> dict[int, list[tuple[bytes, bytes]]]:
    return {number: [(each.key, each.value) for each in found if each.partition == number] for number in (0, 1)}


def test_the_leads_are_identical_to_those_of_the_command(
    kafka: Broker, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_in(tmp_path, kafka, namespace)
    assert main(["topics"]) == 0

    async def from_the_page() -> str:
        uploads = Uploads(settings, lambda _: {}, lambda: 1_790_000_000_000)
        upload = await uploaded(uploads, CSV, None)
        assert uploads.send(upload, upload.digest)
        await until(lambda: upload.state != "sending", 60)
        assert (upload.state, upload.published, upload.problem) == ("published", 3, "")
        uploads.close()
        return upload.import_id

    import_id = asyncio.run(from_the_page())
    of_the_page = asyncio.run(records(settings, settings.names.leads))
    Path("leads.csv").write_bytes(CSV)
    assert main(["publish", "leads.csv", "--import-id", import_id]) == 1
    both = by_partition(asyncio.run(records(settings, settings.names.leads)))
    assert sum(map(len, both.values())) == 6
    for number, leads in by_partition(of_the_page).items():
        assert both[number] == [*leads, *leads]


@pytest.mark.slow
def test_a_publication_that_is_stopped_counts_what_is_on_kafka(
    kafka: Broker, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_in(tmp_path, kafka, namespace)
    assert main(["topics"]) == 0
    raw = b"email\n" + b"".join(b"a%d@example.com\n" % number for number in range(150_000))

    acknowledged = Upload._acknowledged

    def stop_it(upload: Upload, partition: int, offset: int, leads: int) -> None:
        acknowledged(upload, partition, offset, leads)
        upload.stop()

    monkeypatch.setattr(Upload, "_acknowledged", stop_it)

    async def stopped() -> Upload:
        uploads = Uploads(settings, lambda _: {}, lambda: 1_790_000_000_000)
        upload = await uploaded(uploads, raw, "acme")
        assert uploads.send(upload, upload.digest)
        await until(lambda: upload.state != "sending", 60)
        await uploads.stop(upload)
        assert upload.state == "stopped", upload.problem
        uploads.close()
        return upload

    upload = asyncio.run(stopped())
    assert 0 < upload.published < upload.summary.ready == 150_000
    assert asyncio.run(_on_kafka(settings)) == upload.published


async def _on_kafka(settings: Settings) -> int:
    async with Reader(connection_of(settings)) as reader:
        ends = await reader.ends([TopicPartition(settings.names.leads, number) for number in range(2)])
    return sum(ends.values())
