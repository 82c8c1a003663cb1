"""Publish a file: upload, columns, cost, publication.

Each step is a form that works without JavaScript.
"""

import asyncio
import io
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import IO, Final

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from stream_app.board.access import PATH, AccessRefused
from stream_app.board.page import PAGE_HEADERS, PageHandler, PageMaker, followed_at
from stream_app.board.requests import MAX_FILE_BYTES, FileReceiver, read_form, word
from stream_app.board.site import Moment, PageData, Site
from stream_app.board.uploads import (
    MAX_COLUMNS,
    CostChanged,
    State,
    TooManyUploads,
    Upload,
    Uploads,
)
from stream_app.client.lanes.commands import Send, new_command
from stream_app.client.publish.leads import PublishOptions, column_lines, no_workspace
from stream_app.client.publish.rows import USUAL_FIELDS
from stream_app.client.results.export import Export, Joined, ResultFilter, export, no_stage
from stream_app.config import Settings
from stream_app.domain.model.errors import BrokerUnavailable, SettingsError, StreamAppError
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.text import count
from stream_app.domain.views.price import quote_lines
from stream_app.ops import logs as log

KEEP: Final = "="
"""The choice that keeps a column's own title."""
_OF_THE_LEAD: Final = ("lead_id", "workspace", "destination", "not_after_ms", "source")
FIELDS: Final = (*dict.fromkeys(USUAL_FIELDS.values()), *_OF_THE_LEAD)
"""The names that a column may be given."""
_STEP: Final[dict[State, int]] = {"columns": 1, "checking": 1, "checked": 2}
_log: Final = log.get("board")


def upload_page(site: Site, upload: Upload) -> PageData:
    """Return the page of a file.

    Only the person who uploaded the file sees it, because it has cells of the first rows.
    """
    settings = site.settings
    summary = upload.summary
    state = upload.state
    known = state not in ("columns", "checking")
    notes = (
        list(column_lines(settings, upload.titles, upload.names, summary, "choose it above"))
        if known
        else []
    )
    credits_ = sum(quote.credits for quote in upload.quotes)
    share = upload.published / summary.ready if known and summary.ready else upload.share
    return {
        "upload": upload,
        "summary": summary,
        "state": state,
        "step": _STEP.get(state, 3),
        "columns": [
            # The chosen name is one of `FIELDS`, or `KEEP`, or '' if the column is left out.
            {
                "title": title,
                "chosen": name if name in FIELDS or not name else KEEP,
                "samples": samples,
            }
            for title, name, samples in zip(
                upload.titles,
                upload.names,
                upload.samples,
                strict=True,
            )
        ],
        "fields": FIELDS,  # what a column may be called
        # The workspaces that may be chosen, with their destinations.
        "workspaces": {
            name: sorted(destination.alias for destination in settings.plan.destinations_of(name))
            for name in sorted(settings.workspaces)
        },
        "share": int(share * 100),  # how much is checked or published, in percent
        # The cost in words, as `stream-app publish` prints it.
        "lines": list(quote_lines(upload.quotes)) if known else [],
        "notes": notes,  # how the columns are read, in words
        "button": f"Publish {count(summary.ready, 'lead')} for about {count(credits_, 'credit')}",
        # The publication that the page describes. The button sends it.
        "digest": upload.digest if known else "",
        "going": sorted(summary.workspaces) if known else [],
    }


def names_of(upload: Upload, form: Mapping[str, str]) -> list[str]:
    """Return the names that a form gives to the columns; others stay.

    Raises ValueError if one cannot be chosen.
    """
    names = list(upload.names)
    for number, title in enumerate(upload.titles):
        chosen = form.get(f"column-{number}")
        if chosen is None:
            continue
        if chosen not in (*FIELDS, KEEP, ""):
            raise ValueError(f"a column cannot be called {chosen[:40]}: choose one of the list")
        names[number] = title.strip() if chosen == KEEP else chosen
    return names


_MAX_FILE_MB: Final = MAX_FILE_BYTES // 2**20
_FORM_BYTES: Final = 65_536
_MAX_WHY_CHARACTERS: Final = 200
_AT_ONCE_S: Final = 1.0
"""How long a request waits for quick work. Its page then needs no refresh."""

Join = Callable[[ResultFilter, Joined, IO[str]], Awaitable[Export]]
"""Writes the rows of a file with their results."""


async def join_on_kafka(
    settings: Settings,
    wanted: ResultFilter,
    file: Joined,
    out: IO[str],
) -> Export:
    """Write them as `stream-app results --join` does.

    It reads all results, in a thread beside the pages.
    """
    work = export(settings, wanted, out, "csv", file, no_stage, lambda _: None)
    return await asyncio.to_thread(asyncio.run, work)


class Publishing(msgspec.Struct, frozen=True):
    """What publishing needs.

    Attributes:
        uploads: This board's files.
        send: Sends the commands that cancel an import.
        join: Joins results to the rows of a file.
    """

    uploads: Uploads
    send: Send
    join: Join


class PublishActions:
    """The handlers.

    Each publication, and each download of refused rows or of results, is logged.
    """

    def __init__(self, maker: PageMaker, publishing: Publishing) -> None:
        self._maker = maker
        self._uploads = publishing.uploads
        self._command = publishing.send
        self._join = publishing.join
        self._joining = asyncio.Semaphore(1)
        self._receiver = FileReceiver()

    def routes(self) -> list[tuple[str, str, PageHandler]]:
        """Return method, path below /board and handler of each page."""
        one = "/publish/{upload}"
        return [
            ("GET", "/publish", self._first),
            ("POST", "/publish", self._receive),
            ("GET", one, self._show),
            ("GET", f"{one}/rejected.csv", self._download),
            ("POST", f"{one}/columns", self._check),
            ("POST", f"{one}/send", self._send),
            ("POST", f"{one}/stop", self._stop),
            ("POST", f"{one}/discard", self._discard),
            ("POST", "/imports/act/results", self._results),
        ]

    def close(self) -> None:
        """End all publications, and delete the files."""
        self._uploads.close()

    async def _receive(self, request: Request, moment: Moment) -> Response:
        try:
            self._uploads.make_room()
            received = await self._receiver.receive(request, "file")
            file = received.file
            who = moment.visitor.who
            try:
                upload = await self._uploads.add(
                    file,
                    received.name,
                    received.size,
                    received.digest,
                    who,
                )
            except BaseException:
                received.file.close()
                raise
        except (TooManyUploads, ValueError) as error:
            return await self._first(request, moment, f"The file was not taken: {error}", 422)
        except AccessRefused as refused:
            return await self._first(request, moment, str(refused), refused.status)
        return _to(upload)

    async def _first(
        self,
        request: Request,
        moment: Moment,
        problem: str = "",
        status: int = 200,
    ) -> Response:
        """Return the page that asks for a file. `problem`: why the last one was refused."""
        page: PageData = {"most_mb": _MAX_FILE_MB, "problem": problem}
        return await self._maker.page(
            request,
            moment,
            "publish",
            "Publish",
            lambda: page,
            live=False,
            status=status,
        )

    async def _show(self, request: Request, moment: Moment) -> Response:
        upload = self._upload(request, moment)
        make = partial(upload_page, self._maker.site, upload)
        live = upload.state in ("checking", "sending")
        return await self._maker.page(
            request,
            moment,
            "upload",
            "Publish",
            make,
            current="publish",
            live=live,
            shared=False,
        )

    async def _check(self, request: Request, moment: Moment) -> Response:
        upload = self._upload(request, moment)
        form = await read_form(request, _FORM_BYTES, MAX_COLUMNS + 10)
        workspace = form.get("workspace", "")
        destination = form.get("destination", "")
        settings = self._maker.site.settings
        if workspace not in ("", *settings.workspaces) or destination not in (
            "",
            *settings.destinations,
        ):
            raise AccessRefused(
                422,
                "unknown_workspace",
                "The configuration has no such workspace or destination",
            )
        options = PublishOptions(
            workspace or None,
            destination or None,
            upload.import_id,
            "bulk" in form,
        )
        try:
            names = names_of(upload, form)
        except ValueError as error:
            raise AccessRefused(422, "bad_column", str(error)) from None
        if no_workspace(settings, names, workspace):
            raise AccessRefused(
                422,
                "no_workspace",
                "No column names the workspace of a row: choose one for all rows",
            )
        self._uploads.check(upload, names, options)
        await self._uploads.settled(upload, _AT_ONCE_S)
        return _to(upload)

    async def _send(self, request: Request, moment: Moment) -> Response:
        upload = self._upload(request, moment)
        form = await read_form(request)
        why = _why(form)
        try:
            begun = self._uploads.send(upload, form.get("digest", ""))
        except CostChanged as error:
            raise AccessRefused(409, "cost_changed", str(error)) from None
        if begun:
            await self._uploads.settled(upload, _AT_ONCE_S)
            about = {
                "import_id": upload.import_id,
                "leads": upload.summary.ready,
                "bulk": upload.options.bulk,
            }
            _log.info("import_published", who=moment.visitor.who, why=why, **about)
        return _to(upload)

    async def _stop(self, request: Request, moment: Moment) -> Response:
        upload = self._upload(request, moment)
        why = _why(await read_form(request))
        if upload.state != "sending":
            return _to(upload)
        await self._uploads.stop(upload)
        commands = []
        args = {"import_id": upload.import_id}
        for workspace in sorted(upload.summary.workspaces):
            commands.append(f"c-{uuid.uuid4().hex}")
            try:
                who = moment.visitor.who
                settings = self._maker.site.settings
                await self._command(
                    new_command(settings, commands[-1], "cancel_import", workspace, args, who, why),
                )
            except BrokerUnavailable as error:
                upload.problem = (
                    f"The publication is stopped. {error}. The page of the import cancels it, too"
                )
        return RedirectResponse(
            followed_at(_path(upload), commands, self._maker.now_ms()),
            303,
            PAGE_HEADERS,
        )

    async def _discard(self, request: Request, moment: Moment) -> Response:
        self._uploads.discard(self._upload(request, moment))
        return RedirectResponse(f"{PATH}/publish", 303, PAGE_HEADERS)

    async def _download(self, request: Request, moment: Moment) -> Response:
        """Send the refused rows, which are personal data. Who takes them is logged."""
        upload = self._upload(request, moment)
        import_id = upload.import_id
        who = moment.visitor.who
        _log.info(
            "rejected_rows_downloaded",
            who=who,
            import_id=import_id,
            rows=upload.summary.refused,
        )
        return _csv(upload.rejected_rows(), f"{import_id}.rejected.csv")

    async def _results(self, request: Request, moment: Moment) -> Response:
        """Send the rows of an import's file with their results, which are personal data.

        Neither is kept.
        """
        workspace = word(request.query_params, "workspace")
        import_id = word(request.query_params, "id")
        if workspace not in self._maker.site.settings.workspaces:
            raise AccessRefused(
                422,
                "unknown_workspace",
                "No workspace with this name is configured",
            )
        received = await self._receiver.receive(request, "file")
        if self._joining.locked():
            received.file.close()
            raise AccessRefused(
                503,
                "busy",
                "The results of another file are being joined: try again in a minute",
            )
        with ExitStack() as unless_sent:
            file = unless_sent.enter_context(tempfile.TemporaryFile(prefix="results-"))
            out = io.TextIOWrapper(file, "utf-8", newline="")
            with received.file:
                async with self._joining:
                    try:
                        done = await self._join(
                            ResultFilter(workspace),
                            Joined(received.name, received.file),
                            out,
                        )
                    except SettingsError as error:
                        raise AccessRefused(422, "bad_file", "; ".join(error.problems)) from None
                    except BrokerUnavailable as error:
                        raise AccessRefused(503, "kafka", str(error)) from None
                    except StreamAppError as error:
                        raise AccessRefused(507, "no_room", str(error)) from None
            if not done.results:
                text = (
                    f"No row of {received.name} has a result in {workspace}: "
                    "is it the file of this import?"
                )
                raise AccessRefused(422, "no_results", text)
            unless_sent.pop_all()  # from here on the response closes the file
        _log.info(
            "results_downloaded",
            who=moment.visitor.who,
            import_id=import_id,
            rows=done.lines,
        )
        out.seek(0)
        return _csv(_parts(out.detach()), "enriched.csv")

    def _upload(self, request: Request, moment: Moment) -> Upload:
        upload = self._uploads.get(str(request.path_params["upload"]), moment.visitor.who)
        if upload is None:
            text = (
                "This file is not here any more: it was discarded, or came more than 30 "
                "minutes ago, or the board was restarted. Choose it again on the page Publish: "
                "leads that are published already are recognised as duplicates"
            )
            raise AccessRefused(404, "no_upload", text)
        return upload


def _csv(parts: Iterator[bytes], name: str) -> StreamingResponse:
    headers = {**PAGE_HEADERS, "content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(parts, 200, headers, "text/csv; charset=utf-8")


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while part := file.read(65_536):
            yield part


def _why(form: dict[str, str]) -> str:
    why = scrub(form.get("why", "").strip(), _MAX_WHY_CHARACTERS)
    if not why:
        raise AccessRefused(422, "no_reason", "Say why: the reason is kept with what you do")
    return why


def _path(upload: Upload) -> str:
    return f"{PATH}/publish/{upload.id}"


def _to(upload: Upload) -> RedirectResponse:
    return RedirectResponse(_path(upload), 303, PAGE_HEADERS)
