"""The life of a file that is published on the board: room, checks, publications, its end."""

import asyncio
import io
import re
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from stream_app.board import uploads
from stream_app.board.uploads import TooManyUploads, Upload, Uploads
from stream_app.client.publish.leads import PublishOptions, announced
from stream_app.config import Settings
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.messages import ImportSummary, Lead
from tests.support.pace import BUSY
from tests.support.uploads import ADA, NOW_MS, Views, add, checked, settled


async def test_no_other_operator_sees_a_file(kept: Uploads) -> None:
    upload = await add(kept, ADA)
    assert kept.get(upload.id, "jane") is upload
    assert kept.get(upload.id, "sam") is None
    assert kept.get("x", "jane") is None


async def test_there_are_never_too_many_files(kept: Uploads) -> None:
    for _ in range(uploads.MAX_UPLOADS):
        await add(kept, ADA)
    with pytest.raises(TooManyUploads, match="8 files are being published on this board"):
        await add(kept, ADA)


async def test_files_that_come_at_one_time_are_never_too_many(kept: Uploads) -> None:
    """The room is looked for again when the header was read, since others came meanwhile."""
    many = await asyncio.gather(*(add(kept, ADA) for _ in range(11)), return_exceptions=True)
    assert sum(isinstance(upload, Upload) for upload in many) == uploads.MAX_UPLOADS == 8
    assert {str(error) for error in many if isinstance(error, TooManyUploads)} == {
        "8 files are being published on this board: finish or discard one, or wait 30 minutes",
    }
    unread = io.BytesIO(ADA)
    unread.seek(5)
    with pytest.raises(TooManyUploads):
        await kept.add(unread, "leads.csv", 9, "kfdwzp", "jane")
    assert unread.tell() == 5, "a file without room is not read"


async def test_a_file_is_deleted_after_its_time(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload = await checked(kept, ADA)
    source = upload._source
    monkeypatch.setattr(uploads, "UPLOAD_KEPT_S", -1.0)
    assert kept.get(upload.id, "jane") is None
    assert source.closed
    assert list(upload.rejected_rows()) == []


async def test_a_file_is_deleted_when_its_time_is_over_and_no_page_asks_for_it(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later: list[tuple[float, Any]] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda *call: later.append(call))
    file = io.BytesIO(ADA)
    monkeypatch.setattr(asyncio, "to_thread", AsyncMock(return_value=(["email"], [[]])))
    upload = await kept.add(file, "leads.csv", len(ADA), "kfdwzp", "jane")
    ((delay_s, sweep),) = later
    assert delay_s == uploads.UPLOAD_KEPT_S + 1 == 1_801
    upload.began_s = 1_000.0  # a whole second, so that no rounding makes the age too great
    now_s = upload.began_s + uploads.UPLOAD_KEPT_S
    monkeypatch.setattr(uploads, "time", SimpleNamespace(monotonic=lambda: now_s))
    sweep()
    assert not file.closed
    now_s += 0.001
    sweep()
    assert file.closed


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


async def test_a_full_folder_is_told_with_what_to_do(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads, "check_rows", full)
    upload = await checked(kept, ADA)
    assert upload.problem == (
        "the temporary folder has no room for the leads (No space left on device): "
        "set TMPDIR to a larger one"
    )


async def test_a_bug_is_logged_with_its_place(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged: list[tuple[str, dict[str, Any]]] = []
    log = SimpleNamespace(error=lambda event, **more: logged.append((event, more)))
    monkeypatch.setattr(kept, "_log", log)

    def broken(*_: object, **__: object) -> None:
        raise KeyError("ada@example.com")

    monkeypatch.setattr(uploads, "check_rows", broken)
    upload = await checked(kept, ADA)
    assert upload.problem == "a bug (KeyError): the log of the board says where"
    line = broken.__code__.co_firstlineno + 1
    assert logged == [("upload_failed", {"error": "KeyError", "at": f"{__file__}:{line}"})]


def long_rest(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make the next rest of a thread that works on a file last as long as the test wants.

    Returns:
        What is set when the thread rests, and what the test sets to end the rest.
    """
    resting = threading.Event()
    goes_on = threading.Event()

    def rest(_: float) -> None:
        resting.set()
        assert goes_on.wait(30 * BUSY)

    monkeypatch.setattr(
        uploads,
        "time",
        SimpleNamespace(sleep=rest, monotonic=time.monotonic),
    )
    return resting, goes_on


async def test_a_file_that_is_discarded_while_it_is_checked_is_deleted_by_its_thread(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resting, discarded = long_rest(monkeypatch)
    upload = await add(kept, b"email\n" + b"ada@example.com\n" * 60 + b"no\n")
    kept.check(upload, upload.names, PublishOptions("acme"))
    assert await asyncio.to_thread(resting.wait, 30 * BUSY)
    kept.discard(upload)
    assert kept.get(upload.id, "jane") is None
    assert not upload._source.closed, "its thread still reads it"
    discarded.set()
    await settled(upload)
    assert upload.state == "failed"
    assert upload.summary.rows == 50, "the rows behind are not read"
    assert upload._source.closed
    assert upload._rejected is None


async def test_the_page_has_its_turn_while_a_file_is_worked_on(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread would hold the interpreter, so it rests twice in 100 rows, and tells its share."""
    raw = b"email\n" + b"ada@example.com\n" * 1_120
    rests: list[tuple[float, int, float]] = []
    upload = await add(kept, raw)

    def rest(seconds: float) -> None:
        rests.append((seconds, upload.summary.rows, upload.share))

    monkeypatch.setattr(
        uploads,
        "time",
        SimpleNamespace(sleep=rest, monotonic=time.monotonic),
    )
    kept.check(upload, upload.names, PublishOptions("acme"))
    await settled(upload)
    assert upload.summary.ready == 1_120
    assert [seconds for seconds, _, _ in rests] == [uploads._REST_S] * 22
    # A row is read before the one before it is counted.
    read = {500: 6 + 16 * 500, 1_000: 6 + 16 * 1_000}
    assert {(rows, share) for _, rows, share in rests[10:]} == {
        (rows, read[rows // 500 * 500] / len(raw)) for rows in {rows for _, rows, _ in rests[10:]}
    }
    rests.clear()
    Publisher(monkeypatch)
    assert kept.send(upload, upload.digest)
    await settled(upload)
    assert len(rests) == 22
    assert upload.published == 1_120


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


async def test_a_file_without_a_valid_row_is_not_published(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = Publisher(monkeypatch)
    upload = await checked(kept, b"email\nno\n")
    assert upload.state == "checked"
    assert not kept.send(upload, upload.digest)
    upload = await add(kept, ADA)
    assert not kept.send(upload, upload.digest), "its cost was not shown"
    assert publisher.options == []


TWO = ADA + b"bob@example.com,Bob,\n"


class Publisher:
    """Stands in for what sends leads: acknowledges one, then fails as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: int = 0) -> None:
        self.fails = fails
        self.programs: list[str] = []
        self.options: list[PublishOptions] = []
        monkeypatch.setattr(uploads, "send_batch", self._send)
        monkeypatch.setattr(uploads, "kafka_ready", self._ready)

    async def _ready(self, settings: Settings, program: str) -> None:
        self.programs.append(program)

    async def _send(
        self,
        batch: Any,
        settings: Settings,
        options: PublishOptions,
        acknowledged: Any,
        summaries: Any,
    ) -> int:
        self.options.append(options)
        leads = list(batch)
        acknowledged(0, 0, 1)
        if self.fails:
            self.fails -= 1
            raise BrokerUnavailable("Kafka is away")
        acknowledged(0, 1, len(leads) - 1)
        return len(leads)


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


async def test_a_publication_that_is_repeated_counts_its_leads_from_the_beginning(
    kept: Uploads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = Publisher(monkeypatch, fails=1)
    upload = await add(kept, TWO)
    options = PublishOptions("acme", import_id="may", bulk=True)
    kept.check(upload, upload.names, options)
    await settled(upload)
    assert kept.send(upload, upload.digest)
    await settled(upload)
    assert upload.state == "failed"
    assert upload.published == 1
    assert upload.problem == "Kafka is away"
    kept.check(upload, ["email", "", ""], PublishOptions("globex"))
    assert upload.state == "failed"
    assert upload.options == options
    assert kept.send(upload, upload.digest)
    assert upload.problem == ""
    await settled(upload)
    assert upload.state == "published"  # type: ignore[comparison-overlap]  # it was sent again
    assert upload.published == 2
    assert publisher.programs == ["publish --bulk"] * 2
    assert publisher.options == [options] * 2
    assert upload._batch is not None
    with pytest.raises(ValueError, match="closed"):
        list(upload._batch)
    kept.check(upload, upload.names, options)
    assert upload.state == "published"
    upload = await checked(kept, TWO)
    assert kept.send(upload, upload.digest)
    await settled(upload)
    assert publisher.programs[2:] == ["publish"]


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


async def test_the_end_of_the_board_waits_for_its_thread_and_deletes_all(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Uploads(settings, Views(), lambda: NOW_MS)
    resting, goes_on = long_rest(monkeypatch)
    long = b"email\n" + b"ada@example.com\n" * 5_000
    first = await add(kept, long)
    second = await add(kept, long)
    for upload in (first, second):
        kept.check(upload, upload.names, PublishOptions("acme"))
    assert await asyncio.to_thread(resting.wait, 30 * BUSY)
    threading.Timer(0.05, goes_on.set).start()
    kept.close()
    assert first.summary.rows == 50, "the rows behind are not read"
    assert second.summary.rows == 0, "its work was not begun"
    assert first._source.closed
    assert second._source.closed
    assert kept.get(first.id, "jane") is None
