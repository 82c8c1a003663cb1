"""Files that people publish on the board step by step: columns, cost, publication, progress.

The data of a file is in unnamed temporary files: it is gone when the process ends, whatever ends
it. One thread checks and publishes one file after the other.
"""

import asyncio
import csv
import io
import os
import secrets
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import IO, Final, Literal, TypeVar

import msgspec
from attrs import define, field

from stream_app.client.publish.leads import (
    CheckedLeads,
    Checker,
    PublishOptions,
    PublishSummary,
    Refusal,
    check_rows,
    no_room,
    quotes_of,
    send_batch,
)
from stream_app.client.publish.rows import first_cells, guess_columns, open_named_csv, read_titles
from stream_app.config import Settings
from stream_app.config.kafka_access import kafka_ready
from stream_app.domain.lead.read import label, new_import_id
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.text import for_spreadsheet
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.price import Quote, quote_lines
from stream_app.ops import logs as log

UPLOAD_KEPT_S: Final = 1_800.0
MAX_UPLOADS: Final = 8
MAX_COLUMNS: Final = 200
SHOWN_REJECTS: Final = 20
_SAMPLES: Final = 3
_SHOWN_CELL: Final = 40
_ITEMS_A_TURN: Final = 50
_REST_S: Final = 0.0005
_CHUNK_BYTES: Final = 65_536
_STOP_WITHIN_S: Final = 30.0

T = TypeVar("T")

State = Literal["columns", "checking", "checked", "sending", "stopped", "published", "failed"]

LastViews = Callable[[Collection[str], int], Mapping[str, LaneView]]
"""Returns the last published views of lanes as they are at a time (epoch ms), by workspace."""


@define(eq=False, repr=False)
class Upload:
    """One file and how far it is. Its thread writes; pages read.

    Attributes:
        id: Cannot be guessed: it is in the addresses of its pages.
        who: Who uploaded it; no other operator sees it.
        state: `columns`: the columns may be corrected; `checked`: the cost is known; `failed`: it
            can be published again.
        samples: The first cells of each column, shortened.
        names: The name of each column's cells; '' for a column that is left out.
        problem: Why it failed, or why the columns cannot be used.
        share: How much of the rows is checked, from 0 to 1.
        rejects: The first refused rows, without their data.
        published: Leads that are safe on Kafka.
        work: What its thread does, or did last.
    """

    _source: IO[bytes]
    titles: list[str]
    samples: list[list[str]]
    names: list[str]
    file: str
    size: int
    options: PublishOptions
    who: str
    id: str = field(init=False, factory=partial(secrets.token_urlsafe, 24))
    state: State = field(init=False, default="columns")
    problem: str = field(init=False, default="")
    share: float = field(init=False, default=0.0)
    summary: PublishSummary = field(init=False, factory=PublishSummary)
    quotes: list[Quote] = field(init=False, factory=list)
    rejects: list[Refusal] = field(init=False, factory=list)
    published: int = field(init=False, default=0)
    began_s: float = field(init=False, factory=time.monotonic)
    work: Future[None] | None = field(init=False, default=None)
    _batch: CheckedLeads | None = field(init=False, default=None)
    _rejected: IO[bytes] | None = field(init=False, default=None)
    _is_stopped: bool = field(init=False, default=False)

    @property
    def import_id(self) -> str:
        return self.options.import_id or ""

    @property
    def digest(self) -> str:
        """Changes with what a publication would send, and with what that is said to cost."""
        parts = [self.id, self.names, self.options, self.summary.ready, *quote_lines(self.quotes)]
        return blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()

    def stop(self) -> None:
        """End the work on it soon. What is on its way to Kafka still arrives."""
        self._is_stopped = True

    def close(self) -> None:
        """Delete all its data."""
        self.stop()
        self._forget()
        if self._rejected is not None:
            self._rejected.close()
            self._rejected = None

    def rejected_rows(self) -> Iterator[bytes]:
        """Yield the refused rows as CSV, in chunks.

        The columns are line, reason, text and the row itself, which is personal data.
        """
        if self._rejected is None:
            return
        file = os.dup(self._rejected.fileno())
        at = 0
        try:
            while chunk := os.pread(file, _CHUNK_BYTES, at):
                at += len(chunk)
                yield chunk
        finally:
            os.close(file)

    def check(self, settings: Settings, views: LastViews, now_ms: Callable[[], int]) -> State:
        """Check all rows, compute the cost, and return the state after that.

        It runs in the thread.
        """
        self._source.seek(0)
        sheet = open_named_csv(self._source, self.names)
        self._batch = CheckedLeads()
        self.rejects = []
        self.summary = PublishSummary()
        if self._rejected is not None:
            self._rejected.close()
        self._rejected = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        text = io.TextIOWrapper(self._rejected, "utf-8", newline="")
        table = csv.writer(text, lineterminator="\r\n")
        table.writerow(("line", "reason", "text", "row"))

        def refused(refusal: Refusal) -> None:
            if len(self.rejects) < SHOWN_REJECTS:
                self.rejects.append(Refusal(refusal.line, refusal.reason, refusal.text))
            table.writerow(
                (refusal.line, refusal.reason, refusal.text, for_spreadsheet(refusal.row)),
            )

        def progress(summary: PublishSummary) -> None:
            self.summary = summary
            self.share = self._source.tell() / self.size

        rows = self._until_stopped(sheet.rows)
        checker = Checker(settings, self.options)
        work = check_rows(rows, checker, self._batch.add, on_refused=refused, on_progress=progress)
        summary = asyncio.run(work)
        text.detach()  # writes all of it, and keeps the file open
        progress(summary)
        if self._is_stopped:
            self.close()
            return "failed"
        at_ms = now_ms()
        self.quotes = quotes_of(
            settings,
            self.summary,
            views(self.summary.workspaces, at_ms),
            at_ms,
        )
        return "checked"

    def send(self, settings: Settings) -> State:
        """Publish the checked leads, and return the state after that. It runs in the thread."""
        assert self._batch is not None  # made by check
        self.published = 0
        leads = self._until_stopped(self._batch)

        def acknowledged(_: int, __: int, number: int) -> None:
            self.published += number

        async def run() -> None:
            await kafka_ready(settings, "publish --bulk" if self.options.bulk else "publish")
            summaries = self.summary.import_summaries(self.file, self.who)
            await send_batch(leads, settings, self.options, acknowledged, summaries)

        asyncio.run(run())
        self._forget()
        return "stopped" if self._is_stopped else "published"

    def _until_stopped(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items with short rests, in which the event loop can run.

        The event loop of the process shares the interpreter with this thread.
        """
        for number, item in enumerate(items, 1):
            if self._is_stopped:
                return
            yield item
            if number % _ITEMS_A_TURN == 0:
                time.sleep(_REST_S)

    def _forget(self) -> None:
        self._source.close()
        if self._batch is not None:
            self._batch.close()


class CostChanged(StreamAppError):
    """The file would be published differently from what the page with the button said."""


class TooManyUploads(StreamAppError):
    """All the files that may be kept are being published."""


class Uploads:
    """The files of this process, and the thread that works on them."""

    def __init__(self, settings: Settings, views: LastViews, now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._views = views
        self._now_ms = now_ms
        self._uploads: dict[str, Upload] = {}
        self._thread = ThreadPoolExecutor(1, "publish")
        self._log = log.get("publish")

    async def add(self, source: IO[bytes], file: str, size: int, digest: str, who: str) -> Upload:
        """Keep a file, for 30 minutes at most. It is closed with the upload.

        The same file always has the same `digest`, of six characters: published twice on a day, it
        is one import.

        Raises:
            ValueError: It is not a CSV with a header.
            TooManyUploads: There are too many files already.
        """
        self.make_room()
        titles, samples = await asyncio.to_thread(_begin_of, source)
        self.make_room()  # other files may have come meanwhile
        options = PublishOptions(import_id=new_import_id(self._now_ms(), digest))
        upload = Upload(
            source,
            titles,
            samples,
            guess_columns(titles),
            label(file),
            size,
            options,
            who,
        )
        self._uploads[upload.id] = upload
        asyncio.get_running_loop().call_later(UPLOAD_KEPT_S + 1, self._sweep)
        return upload

    def make_room(self) -> None:
        """Raise TooManyUploads if no other file can be kept."""
        self._sweep()
        if len(self._uploads) >= MAX_UPLOADS:
            raise TooManyUploads(
                f"{MAX_UPLOADS} files are being published on this board: finish or discard one, "
                f"or wait {UPLOAD_KEPT_S / 60:.0f} minutes",
            )

    def get(self, upload_id: str, who: str) -> Upload | None:
        """Return a file of this person; None if it is not kept any more."""
        self._sweep()
        upload = self._uploads.get(upload_id)
        return upload if upload is not None and upload.who == who else None

    def check(self, upload: Upload, names: Sequence[str], options: PublishOptions) -> None:
        """Check the rows with these columns and options, unless it is published already."""
        if upload.state in ("columns", "checked"):
            upload.names = list(names)
            upload.options = options
            upload.problem = ""
            upload.share = 0.0
            upload.state = "checking"
            self._start(
                upload,
                lambda: upload.check(self._settings, self._views, self._now_ms),
                "columns",
            )

    def send(self, upload: Upload, digest: str) -> bool:
        """Publish a checked file.

        Returns False if that was begun already, or there is nothing to publish.

        Raises CostChanged if `digest`, which the button carries, is not that of the upload.
        """
        if digest != upload.digest:
            raise CostChanged(
                "This button publishes nothing any more: columns, workspace or options of "
                "the file were changed after its page was shown, perhaps in another tab. "
                "Open the page of the file again, and look at its cost",
            )
        if upload.state not in ("checked", "failed") or not upload.summary.ready:
            return False
        upload.problem = ""
        upload.state = "sending"
        self._start(upload, lambda: upload.send(self._settings), "failed")
        return True

    async def settled(self, upload: Upload, within_s: float) -> None:
        """Wait until the work on a file is done, or the time is over."""
        if upload.work is not None:
            await asyncio.wait([asyncio.wrap_future(upload.work)], timeout=within_s)

    async def stop(self, upload: Upload) -> None:
        """Stop the publication, and wait until it has stopped."""
        upload.stop()
        await self.settled(upload, _STOP_WITHIN_S)

    def discard(self, upload: Upload) -> None:
        """Delete a file. One that is being published must be stopped first."""
        if upload.state == "sending":
            return
        self._uploads.pop(upload.id, None)
        if upload.state == "checking":
            upload.stop()  # its thread closes it
        else:
            upload.close()

    def close(self) -> None:
        """End all work, and delete all files."""
        for upload in self._uploads.values():
            upload.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)
        for upload in self._uploads.values():
            upload.close()
        self._uploads.clear()

    def _start(self, upload: Upload, work: Callable[[], State], failed: State) -> None:
        def run() -> None:
            try:
                upload.state = work()
            except (StreamAppError, ValueError) as error:
                upload.problem = str(error)
                upload.state = failed
            except OSError as error:
                upload.problem = no_room(error)
                upload.state = failed
            except Exception as error:  # noqa: BLE001 - a bug here must not end the thread; the text reports it
                name = type(error).__name__
                where = traceback.extract_tb(error.__traceback__)[-1]
                # The error's own text may hold personal data.
                self._log.error("upload_failed", error=name, at=f"{where.filename}:{where.lineno}")
                upload.problem = f"a bug ({name}): the log of the board says where"
                upload.state = failed

        upload.work = self._thread.submit(run)

    def _sweep(self) -> None:
        """Delete the files that are too old. One that is being published is kept until it is."""
        for upload in [
            kept
            for kept in self._uploads.values()
            if time.monotonic() - kept.began_s > UPLOAD_KEPT_S
        ]:
            self.discard(upload)


def _begin_of(source: IO[bytes]) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the columns, and the first cells of each. Raises ValueError."""
    source.seek(0)
    titles = read_titles(source)
    if not titles:
        raise ValueError("the file is empty")
    if titles[0].lstrip().startswith(("{", "[")):
        raise ValueError(
            "it is JSON, not CSV; publish JSON Lines with `stream-app publish leads.jsonl`",
        )
    if len(titles) > MAX_COLUMNS:
        raise ValueError(
            f"the header has {len(titles)} columns, and this page shows {MAX_COLUMNS}; use "
            "`stream-app publish`",
        )
    source.seek(0)
    samples = first_cells(source, _SAMPLES) or [[] for _ in titles]
    return titles, [[cell[:_SHOWN_CELL] for cell in cells if cell] for cells in samples]
