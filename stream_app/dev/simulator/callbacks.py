"""The HTTP column: fills its templates as Clay does, and sends the row.

It has Clay's quirks, and plays the faults of the script.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from stream_app.dev.simulator.chance import Timeline
from stream_app.dev.simulator.ledger import CallbackLine, ChargeLine, Ledger
from stream_app.dev.simulator.script import Fault, HttpColumn
from stream_app.dev.simulator.world import TableRow, World

_CELL_CHARACTERS = 200
_UNESCAPED = ', "note": "they said "call me back" twice"}'


@dataclass(slots=True, eq=False)
class Job:
    """One run of a row's HTTP column."""

    row: TableRow
    run: int
    settings: HttpColumn
    url: str
    body: dict[str, Any]
    cells: dict[str, Any]
    faults: dict[str, Fault]


class Callbacks:
    """Sends callbacks, a limited number at a time. `close` drops the pending ones."""

    def __init__(self, world: World, timeline: Timeline, ledger: Ledger) -> None:
        script = world.script
        self._world = world
        self._script = script
        self._timeline = timeline
        self._ledger = ledger
        self._slots = asyncio.Semaphore(script.callback_concurrency)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def report(self, row: TableRow, cells: dict[str, Any], is_found: bool) -> None:
        """Run the HTTP column of a row, if it has one and its run condition is met."""
        settings = row.webhook.settings.callback
        if not settings.enabled:
            return
        cells = cells | {"clay_row": row.number, "clay_run": row.run, "clay_credits": row.spent}
        url = fill(settings.url, cells)
        body = settings.body or self._default_body(row)
        faults = self._timeline.callback_faults(
            row.webhook.workspace.name,
            row.webhook.slug,
            row.about,
            row.run,
        )
        job = Job(row, row.run, settings, url, body, cells, {fault.kind: fault for fault in faults})
        if not url or (settings.run_if == "found" and not is_found):
            self._write(job, 1, "condition_not_met")
            return
        row.reporting = True
        task = asyncio.get_running_loop().create_task(self._deliver(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _default_body(self, row: TableRow) -> dict[str, Any]:
        names = [self._script.lead_id_field, self._script.delivery_id_field]
        names += [column.name for column in row.webhook.settings.columns]
        return {name: f"{{{{{name}}}}}" for name in names}

    async def _deliver(self, job: Job) -> None:
        try:
            await self._call(job)
        finally:
            job.row.reporting = False

    async def _call(self, job: Job) -> None:
        if late := job.faults.get("callbacks_late"):
            await asyncio.sleep(late.delay_s or 0)
        if reordered := job.faults.get("callbacks_reordered"):
            await self._attempt(job, 2)
            await asyncio.sleep(reordered.delay_s or 0)
            await self._attempt(job, 1)
        elif doubled := job.faults.get("callbacks_doubled"):
            await asyncio.gather(
                self._attempt(job, 1),
                self._attempt_after(doubled.delay_s or 0, job),
            )
        else:
            await self._attempt_and_repeat(job)

    async def _attempt_after(self, delay_s: float, job: Job) -> None:
        await asyncio.sleep(delay_s)
        await self._attempt(job, 1)

    async def _attempt_and_repeat(self, job: Job) -> None:
        retry = job.settings.retry_in_force
        most = retry.most if retry.enabled else 0
        for attempt in range(1, most + 2):
            if not await self._attempt(job, attempt, may_repeat=attempt <= most):
                return

    async def _attempt(self, job: Job, attempt: int, *, may_repeat: bool = False) -> bool:
        """Send one paid POST. Returns whether the column repeats it, which it does at once."""
        workspace = job.row.webhook.workspace
        if not workspace.pay(0, 1):
            self._write(job, attempt, "out_of_actions")
            return False
        self._ledger.write(ChargeLine(**job.row.names(), column="callback", actions=1))
        if "callbacks_lost" in job.faults:
            self._write(job, attempt, "lost")
            return False
        wait_s = workspace.outward_in_s(self._world.limits, self._world.now_s)
        if wait_s:
            await asyncio.sleep(wait_s)
        async with self._slots:
            return await self._post(job, attempt, may_repeat=may_repeat)

    async def _post(self, job: Job, attempt: int, *, may_repeat: bool) -> bool:
        cells = job.cells | {"clay_attempt": attempt}
        began = time.monotonic()
        try:
            async with self._session.post(
                job.url,
                data=_body(job, cells).encode("utf-8", "replace"),
                headers={"Content-Type": "application/json", **_headers(job, cells)},
                timeout=aiohttp.ClientTimeout(total=job.settings.waits_s),
                allow_redirects=False,
            ) as response:
                cell = (await response.content.read(4 * _CELL_CHARACTERS)).decode(errors="replace")
                status: int | str = response.status
                error = None
        except TimeoutError:
            status = "timeout"
            error = "ETIMEDOUT" if job.settings.repeats_timeouts else "ECONNABORTED"
            cell = ""
        # ValueError: the URL or a header is invalid
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            status = "error"
            error = _code_of(failure)
            cell = ""
        ms = round(1000 * (time.monotonic() - began))
        retry = job.settings.retry_in_force
        if isinstance(status, int) and status < 300:
            job.row.reported = True
        repeats = may_repeat and (status in retry.statuses or error in retry.errors)
        self._write(
            job,
            attempt,
            status,
            ms=ms,
            error=error,
            cell=cell[:_CELL_CHARACTERS] or None,
            repeats=repeats,
        )
        return repeats

    def _write(self, job: Job, attempt: int, status: int | str, **more: Any) -> None:
        """Log an attempt. `more`: how long it took and what came back, if it was made."""
        about = {
            "run": job.run,
            "faults": list(job.faults),
            "delivery_id": job.row.delivery_id,
            **more,
        }
        self._ledger.write(CallbackLine(**job.row.names(), attempt=attempt, status=status, **about))


def _code_of(failure: Exception) -> str:
    """Return Node's code of a failed call, because Clay lists those; else the failure's own name.

    An answer that is cut off is a reset there, too.
    """
    if isinstance(failure, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "ECONNRESET"
    code = errno.errorcode.get(getattr(failure, "errno", None) or 0)
    return code or type(failure).__name__


def _headers(job: Job, cells: dict[str, Any]) -> dict[str, str]:
    headers = {name: fill(value, cells) for name, value in job.settings.headers.items()}
    if old := job.faults.get("callbacks_old_secret"):
        headers |= old.headers or {}
    return headers


def _body(job: Job, cells: dict[str, Any]) -> str:
    template = dict(job.body)
    if "callbacks_missing_keys" in job.faults:
        template.pop(list(template)[-1])
    if "callbacks_extra_keys" in job.faults:
        template |= {"_clay_meta": {"table": "People"}, "Column 7": "", "Run status": "200 OK"}
    if "callbacks_wrong_lead" in job.faults:
        template |= {
            key: f"{value}-of-another-table" for key, value in template.items() if "lead_id" in key
        }
    text = body_text(template, cells, typed=job.settings.typed, escape=job.settings.escape)
    if "callbacks_broken_json" in job.faults:
        return text.removesuffix("}") + _UNESCAPED
    return text


_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")


def placeholders(template: str) -> list[str]:
    """Return the names of a template's placeholders."""
    return _PLACEHOLDER.findall(template)


def fill(template: str, cells: dict[str, Any]) -> str:
    """Fill the template with each cell as text. An empty or unknown cell becomes ""."""
    return _PLACEHOLDER.sub(lambda match: as_text(cells.get(match[1])), template)


def as_text(value: object) -> str:
    """Return a cell as Clay's text in a body: null is "", numbers lose their type."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def body_text(template: dict[str, Any], cells: dict[str, Any], *, typed: bool, escape: bool) -> str:
    """Return a JSON body.

    With `escape` off, quotes and newlines in a cell stay unescaped, which may break it.
    """
    if not escape:
        return fill(json.dumps(template, ensure_ascii=False), cells)
    return json.dumps(_filled(template, cells, typed), ensure_ascii=False)


def _filled(template: Any, cells: dict[str, Any], typed: bool) -> Any:
    if isinstance(template, dict):
        return {key: _filled(value, cells, typed) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, cells, typed) for value in template]
    if not isinstance(template, str):
        return template
    whole = _PLACEHOLDER.fullmatch(template)
    if typed and whole:
        return cells.get(whole[1])
    return fill(template, cells)
