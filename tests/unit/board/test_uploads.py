"""Files that are published step by step, without Kafka: columns, refused rows, and when they are
deleted.
"""

import asyncio
import csv
import io
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from stream_app.board import uploads
from stream_app.board.uploads import TooManyUploads, Upload, Uploads
from stream_app.client.publish.leads import Checker, PublishOptions, Ready, announced
from stream_app.client.publish.rows import open_csv
from stream_app.config import Settings, load_settings
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.messages import ImportSummary, Lead
from tests.support.config import one_way
from tests.support.kafka import until
from tests.support.pace import BUSY

NOW_MS = 1_790_000_000_000
ADA = b"E-Mail,Vorname,Notes\nada@example.com,Ada,fine\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "stream_app.toml"
    path.write_text(one_way(people="acme", firms="globex"))
    return load_settings(path, {}, ())


@pytest.fixture
async def kept(settings: Settings) -> AsyncIterator[Uploads]:
    with_them = Uploads(settings, lambda names, now_ms: {}, lambda: NOW_MS)
    yield with_them
    with_them.close()


async def add(kept: Uploads, raw: bytes) -> Upload:
    file = tempfile.TemporaryFile()  # noqa: SIM115 (its upload closes it)
    file.write(raw)
    return await kept.add(file, "leads.csv", len(raw), "kfdwzp", "jane")


async def checked(kept: Uploads, raw: bytes) -> Upload:
    upload = await add(kept, raw)
    kept.check(upload, upload.names, PublishOptions("acme", import_id=upload.import_id))
    return await settled(upload)


async def settled(upload: Upload) -> Upload:
    await until(lambda: upload.state not in ("checking", "sending"), 60)
    return upload


async def test_the_columns_are_guessed_as_the_command_does(kept: Uploads) -> None:
    upload = await add(kept, ADA)
    assert upload.titles == ["E-Mail", "Vorname", "Notes"]
    assert upload.names == open_csv(io.BytesIO(ADA), {}).names == ["email", "first_name", "Notes"]
    assert upload.import_id == "2026-09-21-kfdwzp"
    assert upload.file == "leads.csv"
    assert upload.state == "columns"
    assert (await add(kept, b"email,E-Mail,email\n")).names == ["email", "", ""], (
        "of one name the second is left out"
    )
    upload = await checked(kept, "\ufeffE-Mail;Name\r\nada@example.com;Ada, L\r\n".encode())
    assert upload.names == ["email", "full_name"], "semicolons of a spreadsheet"
    assert upload.summary.ready == 1, "semicolons of a spreadsheet"


async def test_the_leads_are_those_that_the_command_makes(
    kept: Uploads,
    settings: Settings,
) -> None:
    raw = ADA + 'b@example.com,Bo,naïve\nnot one,,\nc@example.com,<b>C</b>,"a\nb"\n'.encode()
    upload = await checked(kept, raw)
    options = PublishOptions("acme", import_id=upload.import_id)
    checker = Checker(settings, options)
    expected = [
        answer
        for row in open_csv(io.BytesIO(raw), {}).rows
        if isinstance(answer := checker.check(row), Ready)
    ]
    assert upload._batch is not None
    assert list(upload._batch) == expected
    assert upload.summary.rows == 4
    assert upload.summary.ready == 3
    assert upload.summary.refused == 1
    assert upload.share == 1


async def test_half_of_the_rows_are_refused_and_can_be_downloaded(kept: Uploads) -> None:
    raw = b"email,note\n" + b"".join(
        b"a%d@example.com,x\n=bad %d,y\n" % (n, n) for n in range(5_000)
    )
    upload = await checked(kept, raw)
    assert upload.summary.ready == 5_000
    assert upload.summary.refused == 5_000
    rows = list(csv.reader(io.StringIO(b"".join(upload.rejected_rows()).decode())))
    assert rows[0] == ["line", "reason", "text", "row"]
    assert len(rows) == 5_001
    assert rows[1][:2] == ["3", "bad_email"]
    assert rows[1][3] == "'=bad 0,y"
    assert len(upload.rejects) == uploads.SHOWN_REJECTS
    assert {reject.row for reject in upload.rejects} == {""}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "the file is empty"),
        ("email\n".encode("utf-16"), "the header is not UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00", "it is a spreadsheet, an archive or a document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "it is a spreadsheet, an archive or a document"),
        (b'{"email": "ada@example.com"}\n', "it is JSON, not CSV"),
        (b",".join(b"c%d" % n for n in range(201)), "the header has 201 columns"),
        (b'"never closed\n' + b"x\n" * 200, "the header cannot be read as CSV"),
    ],
)
async def test_a_file_that_is_no_csv_is_refused_in_words(
    kept: Uploads,
    raw: bytes,
    text: str,
) -> None:
    with pytest.raises(ValueError, match=text):
        await add(kept, raw)
    kept.make_room()


async def test_no_other_operator_sees_a_file(kept: Uploads) -> None:
    upload = await add(kept, ADA)
    assert kept.get(upload.id, "jane") is upload
    assert kept.get(upload.id, "sam") is None
    assert kept.get("x", "jane") is None


async def test_a_file_is_deleted_after_its_time(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload = await checked(kept, ADA)
    source = upload._source
    monkeypatch.setattr(uploads, "KEPT_S", -1.0)
    assert kept.get(upload.id, "jane") is None
    assert source.closed
    assert list(upload.rejected_rows()) == []


async def test_there_are_never_too_many_files(kept: Uploads) -> None:
    for _ in range(uploads.MOST_UPLOADS):
        await add(kept, ADA)
    with pytest.raises(TooManyUploads, match="8 files are being published on this board"):
        await add(kept, ADA)


async def test_a_header_of_50_000_columns_is_refused_before_it_is_compared(kept: Uploads) -> None:
    header = b",".join(b"email%d" % (number % 25_000) for number in range(50_000))
    began = time.process_time()
    with pytest.raises(ValueError, match="the header has 50000 columns, and this page shows 200"):
        await add(kept, header + b"\n")
    assert time.process_time() - began < 1, "comparing them all took 25 s"


async def test_a_failed_publication_can_be_repeated(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Any] = []
    clicked = threading.Event()

    async def fails(
        batch: Any,
        settings: Settings,
        options: PublishOptions,
        acknowledged: Any,
        summaries: Any,
    ) -> int:
        sent.append([lead.value for lead in announced(batch, summaries)])
        if len(sent) == 1:
            await asyncio.to_thread(clicked.wait, 30 * BUSY)
            raise BrokerUnavailable("Kafka accepted 0 records, then no more")
        acknowledged(0, 0, 1)
        return 1

    monkeypatch.setattr(uploads, "send_batch", fails)
    monkeypatch.setattr(uploads, "kafka_ready", AsyncMock())
    upload = await checked(kept, ADA)
    assert kept.send(upload, upload.digest)
    assert not kept.send(upload, upload.digest), "a second click"
    clicked.set()
    await settled(upload)
    assert upload.state == "failed"
    assert upload.problem == "Kafka accepted 0 records, then no more"
    with pytest.raises(uploads.CostChanged, match="Open the page of the file again"):
        kept.send(upload, "what another tab showed")
    assert kept.send(upload, upload.digest)
    await settled(upload)
    assert upload.state == "published"  # type: ignore[comparison-overlap]  # it was sent again
    assert upload.published == 1
    assert upload._source.closed is True
    assert sent[0] == sent[1], "the same leads with the same import"
    lead = msgspec.json.decode(sent[1][0], type=Lead)
    assert lead.import_id == upload.import_id
    assert lead.import_summary == ImportSummary(1, 0, 1, "leads.csv", "jane")
    assert not kept.send(upload, upload.digest)


async def test_a_publication_that_is_stopped_says_so_and_is_not_discarded_before(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = threading.Event()

    async def never_ends(batch: Any, *_: Any) -> int:
        begun.set()
        while [lead async for lead in _records(batch)]:
            pass
        return 0

    async def _records(batch: Any) -> AsyncIterator[Any]:
        for lead in batch:
            yield lead
            await asyncio.to_thread(stopping.wait, 30 * BUSY)

    stopping = threading.Event()
    monkeypatch.setattr(uploads, "send_batch", never_ends)
    monkeypatch.setattr(uploads, "kafka_ready", AsyncMock())
    upload = await checked(kept, ADA + b"eve@example.com,Eve,x\n")
    assert upload.summary.ready == 2
    assert kept.send(upload, upload.digest)
    assert await asyncio.to_thread(begun.wait, 30 * BUSY)
    kept.discard(upload)
    assert kept.get(upload.id, "jane") is upload, "its thread still reads the file"
    await kept.settled(upload, 0.01)
    assert upload.state == "sending", "a wait ends with its time"
    stop = asyncio.create_task(kept.stop(upload))
    await asyncio.sleep(0)
    stopping.set()
    await stop
    assert upload.state == "stopped"  # type: ignore[comparison-overlap]  # it was sending before
    source = upload._source
    kept.discard(upload)
    assert kept.get(upload.id, "jane") is None
    assert source.closed


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left"), "No space left"),
        (ValueError("the header changed"), "the header changed"),
        (KeyError("ada@example.com"), "a bug (KeyError): the log of the board says where"),
    ],
)
async def test_a_check_that_fails_gives_the_columns_back(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    says: str,
) -> None:
    """Also after a bug the next file is worked on, and no personal data is told."""

    async def fails(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(uploads, "check_rows", fails)
        upload = await checked(kept, ADA)
    assert upload.state == "columns"
    assert says in upload.problem
    assert "ada@example.com" not in upload.problem
    logged = "".join(capsys.readouterr())
    assert ("upload_failed" in logged) is isinstance(error, KeyError)
    assert "ada@example.com" not in logged
    kept.check(upload, upload.names, PublishOptions("acme", import_id=upload.import_id))
    await settled(upload)
    assert upload.state == "checked"  # type: ignore[comparison-overlap]  # it was checked again
    assert upload.problem == ""
    assert upload.share == 1


async def test_the_button_knows_all_that_its_page_has_shown(kept: Uploads) -> None:
    """Whatever the page says of a publication, the button of another page does not publish it."""
    upload = await checked(kept, ADA)
    digests = {upload.digest}
    shown = upload.names, upload.options
    for names, options in (
        ([*upload.names[:-1], ""], upload.options),
        (upload.names, PublishOptions("globex", import_id=upload.import_id)),
        (upload.names, PublishOptions("acme", import_id="another")),
    ):
        kept.check(upload, names, options)
        await settled(upload)
        digests.add(upload.digest)
    assert len(digests) == 4
    kept.check(upload, *shown)
    await settled(upload)
    assert upload.digest in digests, "the same file, columns and options"
    assert re.fullmatch("[0-9a-f]{32}", upload.digest)
    other = await checked(kept, ADA)
    assert other.digest not in digests, "another upload of the same file"
