"""The Public API: routines are run by `POST /routines/<id>/run`, and their results are asked for.

A run takes items, answers 202 with its id, and shows nothing of an item before all of them have
finished. Its items are rows of the same world as those of webhooks, with the same prices. Runs are
kept in memory: a simulator that was killed forgets them.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web
from attrs import define
from attrs import field as attribute

from stream_app.dev.simulator.chance import Timeline
from stream_app.dev.simulator.ledger import Ledger, NotifyLine, PollLine, RunLine, now_ms
from stream_app.dev.simulator.played import play, status_of
from stream_app.dev.simulator.script import REFUSING, EndpointName, Fault, Routine
from stream_app.dev.simulator.world import Submission, TableRow, WebhookState, WorkspaceState, World

API: Final = "/public/v0"
KEY_HEADER: Final = "clay-api-key"
SIGNATURE_HEADER: Final = "X-Clay-Signature"

_MAX_ITEMS = 100
_MAX_ID_CHARACTERS = 64
_PAGE = 20
_KEPT_RUNS = 100_000
_NOTIFIED_WITHIN_S = 30.0
_NUMBER = re.compile(r"[0-9]{1,3}")


@dataclass(slots=True, eq=False)
class RoutineItem:
    """One item of a run.

    `outcome` is what the results say of it, and None while it has not finished.
    """

    id: str
    row: TableRow
    faults: dict[str, Fault]
    outcome: dict[str, Any] | None = None


@dataclass(slots=True, eq=False)
class RoutineRun:
    """A run. Times are seconds of the world's clock."""

    id: str
    routine: WebhookState
    completion_webhook: str | None
    made_at_s: float
    faults: dict[str, Fault]
    items: list[RoutineItem] = field(default_factory=list)
    finished_at_s: float | None = None

    @property
    def finished(self) -> int:
        return sum(item.outcome is not None for item in self.items)


class _Refused(Exception):
    """An answer with an error status."""

    def __init__(
        self,
        status: int,
        message: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class _SentItem(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    inputs: dict[str, Any]


class _SentRun(msgspec.Struct, forbid_unknown_fields=True):
    items: list[_SentItem]
    webhook_id: str | None = None


@define(eq=False, repr=False)
class PublicApi:
    """Handles the Public API. `start` is called with each row to run."""

    _world: World
    _timeline: Timeline
    _ledger: Ledger
    _start: Callable[[TableRow], None]
    _stopping: asyncio.Event
    _runs: OrderedDict[str, RoutineRun] = attribute(init=False, factory=OrderedDict)
    _open: dict[int, tuple[RoutineRun, RoutineItem]] = attribute(init=False, factory=dict)
    _made: int = attribute(init=False, default=0)
    _asked: int = attribute(init=False, default=0)
    _session: aiohttp.ClientSession | None = attribute(init=False, default=None)
    _tasks: set[asyncio.Task[None]] = attribute(init=False, factory=set)

    @property
    def unfinished(self) -> int:
        """The number of items that have not finished."""
        return len(self._open)

    async def close(self) -> None:
        """Drop the notifications under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def me(self, request: web.Request) -> web.StreamResponse:
        def answer(workspace: WorkspaceState) -> web.Response:
            user = {"id": "u_1", "name": None}
            return web.json_response({"user": user, "workspace": {"id": workspace.name}})

        return await self._answered(request, "me", answer)

    async def balance(self, request: web.Request) -> web.StreamResponse:
        def answer(workspace: WorkspaceState) -> web.Response:
            return web.json_response(
                {"balance": workspace.credits, "action_execution_balance": workspace.actions},
            )

        return await self._answered(request, "balance", answer)

    async def results(self, request: web.Request) -> web.StreamResponse:
        def answer(workspace: WorkspaceState) -> web.Response:
            return self._page(workspace, request)

        return await self._answered(request, "results", answer)

    async def _answered(
        self,
        request: web.Request,
        endpoint: EndpointName,
        answer: Callable[[WorkspaceState], web.Response],
    ) -> web.StreamResponse:
        """Answer a request that changes nothing, and write it to the ledger."""
        self._asked += 1
        workspace = self._workspace_of_key(request)
        name = workspace.name if workspace else ""
        run = self._runs.get(request.match_info.get("run", ""))
        routine = run.routine.slug if run else ""
        fault = self._timeline.request_fault(
            name,
            routine,
            run.id if run else endpoint,
            self._asked,
            endpoint,
        )
        if fault is not None and fault.kind in REFUSING:
            response = _error(fault.status or 500)
        else:
            try:
                response = answer(self._admitted(workspace))
            except _Refused as refused:
                response = _refusal(refused)
        line = PollLine(
            workspace=name or None,
            endpoint=endpoint,
            routine=routine,
            run_id=run.id if run else "",
            status=response.status if fault is None else status_of(fault, response.status),
            fault=fault.kind if fault is not None else None,
        )
        self._ledger.write(line)
        return await self._played(fault, request, response)

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Make a run of a routine."""
        at_ms = now_ms()
        workspace = self._workspace_of_key(request)
        name = workspace.name if workspace else ""
        slug = request.match_info["routine"]
        body = await request.read()
        sent = _read_run(body)
        first = self._lead_of(sent.items[0]) if sent is not None and sent.items else ""
        occurrence = self._ledger.tally.of(first).requests if first else self._made
        fault = self._timeline.request_fault(name, slug, first, occurrence, "run")
        if fault is not None and (fault.kind in REFUSING or fault.accepted is False):
            status = status_of(fault, 500)
            self._write_items(at_ms, name, slug, sent, status, "", fault)
            refused = _error(fault.status or 500)
            return await self._played(fault, request, refused)
        try:
            run = self._make(self._admitted(workspace), slug, sent)
        except _Refused as refused_:
            self._write_items(at_ms, name, slug, sent, refused_.status, "", None)
            return _refusal(refused_)
        status = 202 if fault is None else status_of(fault, 202)
        assert sent is not None  # `_make` refuses what cannot be read
        self._write_items(at_ms, name, slug, sent, status, run.id, fault)
        self._ledger.flush()
        for item in run.items:
            if "item_hung" not in item.faults:
                self._start(item.row)
        answer = web.json_response(
            {"routine_run_id": run.id, "status": "in_progress"},
            status=202,
        )
        if "run_answer_cut" in run.faults:
            answer = web.Response(
                status=202,
                text='{"routine_run_id":"',
                content_type="application/json",
            )
        return await self._played(fault, request, answer)

    async def _played(
        self,
        fault: Fault | None,
        request: web.Request,
        answer: web.Response,
    ) -> web.StreamResponse:
        if fault is None:
            return answer
        return await play(fault, request, answer, self._stopping, _error)

    def _make(self, workspace: WorkspaceState, slug: str, sent: _SentRun | None) -> RoutineRun:
        """Make the run and its rows. Raises _Refused as a working Clay refuses it."""
        limits = self._world.limits
        if limits.no_credits == "refused" and workspace.credits <= 0:
            raise _Refused(402, "Not enough credits.")
        routine = self._world.routines.get(slug)
        if routine is None:
            raise _Refused(404, "Routine not found.")
        if routine.workspace is not workspace:
            raise _Refused(403, "The key belongs to another workspace.")
        settings = self._world.script.routines[slug]
        if not settings.open_to_api:
            raise _Refused(limits.closed_status, "The API is not enabled for this routine.")
        if sent is None or not 1 <= len(sent.items) <= _MAX_ITEMS:
            raise _Refused(400, "Invalid request body.")
        if any(not 1 <= len(item.id) <= _MAX_ID_CHARACTERS for item in sent.items):
            raise _Refused(400, "Invalid item id.")
        hooks = self._world.completion_webhooks
        if sent.webhook_id is not None and sent.webhook_id not in hooks:
            raise _Refused(400, "Unknown webhook_id.")
        for item in sent.items:
            for wanted in settings.requires:
                if wanted not in item.inputs:
                    raise _Refused(400, f"Missing required field: {wanted}")
        self._made += 1
        # It cannot be guessed from the one before, as Clay's cannot.
        named = f"{self._world.script.seed} {self._made}".encode()
        run_id = f"r{hashlib.blake2b(named, digest_size=10).hexdigest()}"
        about = self._lead_of(sent.items[0])
        faults = self._timeline.routine_faults(workspace.name, slug, about, self._made)
        run = RoutineRun(
            run_id,
            routine,
            sent.webhook_id,
            self._world.now_s,
            {fault.kind: fault for fault in faults},
        )
        for item in sent.items:
            lead = self._lead_of(item)
            again = self._ledger.tally.of(lead).accepted
            submission = Submission(
                body=msgspec.json.encode(item.inputs),
                cells=item.inputs,
                lead_id=lead,
                delivery_id=item.id,
            )
            row = self._world.new_row(routine, submission, f"{lead}#{again}.0")
            of_item = self._timeline.routine_faults(workspace.name, slug, lead, again)
            made = RoutineItem(item.id, row, {fault.kind: fault for fault in of_item})
            run.items.append(made)
            self._open[row.number] = (run, made)
        self._runs[run_id] = run
        if len(self._runs) > _KEPT_RUNS:
            _, forgotten = self._runs.popitem(last=False)
            for hung in forgotten.items:
                self._open.pop(hung.row.number, None)
        return run

    def _write_items(
        self,
        at_ms: int,
        workspace: str,
        slug: str,
        sent: _SentRun | None,
        status: int | str,
        run_id: str,
        fault: Fault | None,
    ) -> None:
        for item in sent.items if sent is not None else [None]:
            line = RunLine(
                at_ms=at_ms,
                workspace=workspace or None,
                webhook=slug,
                rows=int(item is not None),
                status=status,
                accepted=int(bool(run_id)),
                lead_id=self._lead_of(item) if item is not None else None,
                delivery_id=item.id if item is not None else None,
                fault=fault.kind if fault is not None else None,
                run_id=run_id,
            )
            self._ledger.write(line)

    def _lead_of(self, item: _SentItem) -> str:
        """Return the lead id among the inputs, else the item's own id."""
        lead = item.inputs.get(self._world.script.lead_id_field)
        return lead if isinstance(lead, str) and lead else item.id

    # ------------------------------------------------------------------------------- its items

    def finish(self, row: TableRow, cells: dict[str, Any]) -> bool:
        """Take the result of a row. Returns False if the row is of no run."""
        names = [column.name for column in row.webhook.settings.columns]
        values = {name: cells[name] for name in names if cells.get(name) is not None}
        settings = row.webhook.settings
        if isinstance(settings, Routine) and settings.cost_output is not None:
            values[settings.cost_output] = row.spent
        return self._end(row, {"status": "complete", "result": values})

    def unpaid(self, row: TableRow) -> None:
        """Take that the workspace has too little for a row's next column."""
        if self._world.limits.no_credits != "hung":
            self._end(row, _failure("Insufficient credits."))

    def _end(self, row: TableRow, outcome: dict[str, Any]) -> bool:
        of_row = self._open.pop(row.number, None)
        if of_row is None:
            return False
        run, item = of_row
        item.outcome = _with_faults(item, outcome)
        if run.finished == len(run.items):
            run.finished_at_s = self._world.now_s
            if run.completion_webhook is not None:
                task = asyncio.get_running_loop().create_task(self._notify(run))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return True

    def _page(self, workspace: WorkspaceState, request: web.Request) -> web.Response:
        """Return a page of results, as a working Clay does. Raises _Refused."""
        run = self._runs.get(request.match_info["run"])
        now_s = self._world.now_s
        if run is None or run.routine.workspace is not workspace:
            raise _Refused(404, "Run not found.")
        not_yet = run.faults.get("run_unknown_at_first")
        if not_yet is not None and now_s < run.made_at_s + (not_yet.delay_s or 0):
            raise _Refused(404, "Run not found.")
        kept_s = self._world.limits.results_kept_s
        if run.finished_at_s is not None and now_s >= run.finished_at_s + kept_s:
            raise _Refused(404, "Run not found.")
        counts = {
            "routine_run_id": run.id,
            "total": len(run.items),
            "finished": run.finished,
        }
        if run.finished_at_s is None:
            return web.json_response({**counts, "status": "in_progress"}, status=202)
        limit = request.query.get("limit", str(_PAGE))
        cursor = request.query.get("cursor", "0")
        # Three digits at most: `int` refuses thousands of them.
        if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= _MAX_ITEMS:
            raise _Refused(400, "Invalid limit.")
        if not _NUMBER.fullmatch(cursor):
            raise _Refused(400, "Invalid cursor.")
        begin = int(cursor)
        end = begin + int(limit)
        page = {
            **counts,
            "status": "complete",
            "data": [{"id": item.id, **(item.outcome or {})} for item in run.items[begin:end]],
        }
        if end < len(run.items):
            page["cursor"] = str(end)
        return web.json_response(page)

    # ------------------------------------------------------------------------------- who asks

    def _workspace_of_key(self, request: web.Request) -> WorkspaceState | None:
        """Return the workspace whose key a request has, and count the request."""
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        key = request.headers.get(KEY_HEADER) or bearer
        for name, known in self._world.script.api_keys.items():
            if key and hmac.compare_digest(key.encode(), known.encode()):
                workspace = self._world.workspace(name)
                workspace.count_api(self._world.now_s)
                return workspace
        return None

    def _admitted(self, workspace: WorkspaceState | None) -> WorkspaceState:
        """Return the workspace of the key, whose rate allows the request. Raises _Refused."""
        if workspace is None:
            raise _Refused(401, "Invalid API key.")
        limits = self._world.limits
        if not workspace.take_api(limits, self._world.now_s):
            headers = {"Retry-After": str(limits.retry_after_s)}
            raise _Refused(429, "Too many requests.", headers)
        return workspace

    # ------------------------------------------------------------------------------- who is told

    async def _notify(self, run: RoutineRun) -> None:
        """Tell the completion webhook that a run has finished. Clay promises no second attempt."""
        if late := run.faults.get("notification_late"):
            await asyncio.sleep(late.delay_s or 0)
        if "notification_lost" in run.faults:
            self._write_notified(run, "lost")
            return
        data = {"routine_run_id": run.id}
        if "notification_test" in run.faults:
            await self._post(run, {})
        await self._post(run, data)
        if "notification_doubled" in run.faults:
            await self._post(run, data)

    async def _post(self, run: RoutineRun, data: dict[str, str]) -> None:
        name = run.completion_webhook or ""
        hook = self._world.completion_webhooks[name]
        created = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = msgspec.json.encode({"webhookId": name, "createdAt": created, "data": data})
        signature = hmac.new(hook.secret.encode(), body, hashlib.sha256).hexdigest()
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        status: int | str
        try:
            async with self._session.post(
                hook.url,
                data=body,
                headers={
                    "Content-Type": "application/json",
                    SIGNATURE_HEADER: f"sha256={signature}",
                },
                timeout=aiohttp.ClientTimeout(total=_NOTIFIED_WITHIN_S),
                allow_redirects=False,
            ) as response:
                status = response.status
        except TimeoutError:
            status = "timeout"
        except (aiohttp.ClientError, OSError, ValueError):
            status = "error"
        self._write_notified(run, status)

    def _write_notified(self, run: RoutineRun, status: int | str) -> None:
        line = NotifyLine(
            workspace=run.routine.workspace.name,
            routine=run.routine.slug,
            run_id=run.id,
            status=status,
        )
        self._ledger.write(line)


def _read_run(body: bytes) -> _SentRun | None:
    """Return what was sent, or None if it is not what the API takes."""
    try:
        return msgspec.json.decode(body, type=_SentRun)
    except (ValueError, RecursionError):
        return None


def _with_faults(item: RoutineItem, outcome: dict[str, Any]) -> dict[str, Any]:
    """Return what the results say of an item where the faults of the script have it otherwise."""
    if "item_failed" in item.faults:
        return _failure("Internal error, please contact support.")
    if "item_status_unknown" in item.faults:
        return {"status": "skipped"}
    if "result_empty" in item.faults:
        return {"status": "complete", "result": {}}
    if "result_nested" in item.faults:
        values = outcome.get("result", {})
        nested = {name: {"value": value, "sources": [value]} for name, value in values.items()}
        return {"status": "complete", "result": nested}
    if huge := item.faults.get("result_huge"):
        return {"status": "complete", "result": {"Research": "x" * (huge.size_bytes or 0)}}
    return outcome


def _failure(message: str) -> dict[str, Any]:
    return {"status": "failed", "error": {"message": message}}


def _refusal(refused: _Refused) -> web.Response:
    return _error(refused.status, refused.message, refused.headers)


def _error(
    status: int,
    message: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return an error. All have a body of this shape."""
    return web.json_response(
        {"message": message or "Something went wrong."},
        status=status,
        headers=headers,
    )
