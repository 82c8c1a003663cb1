"""The control API and the ledger over HTTP.

    GET    /control               the current state
    POST   /control/faults        one or a list; `at_s` counts from now
    DELETE /control/faults        [?kind=] clears the faults of a kind, or all
    POST   /control/clock         starts the timeline again
    POST   /control/limits        the limits to change: {"rate_per_s": 0}
    POST   /control/workspaces    full meters: {"name": "acme", "credits": 6000}
    POST   /control/webhooks      {"slug": "acme--crm", ...as in the script}
    POST   /control/completion-webhooks   who is told of runs that name it:
                                  {"id": "wh_1", "url": ..., "secret": ...}
    POST   /control/credits       a top-up: {"workspace": "acme", "add": 500};
                                  nothing resumes by itself
    POST   /control/month         a new billing month: {"workspace": "acme"}
    POST   /control/auto-run      {"webhook": "acme--crm", "on": false}
    POST   /control/rerun         {"webhook": "acme--crm", "which": "failed"},
                                  or "all", or "unreported": only the HTTP
                                  column, of rows whose cell has no 2xx
    POST   /control/reset         back to the script's beginning, totals too;
                                  the ledger's file continues
    GET    /ledger                [?since=N&kind=&workspace=] the ledger's lines
                                  after number N, JSONL
    GET    /ledger/summary        [?leads=all|repeated|none] its totals

An invalid call gets a 400 with {"problems": [...]}, one line each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, get_args

import msgspec
from aiohttp import web

from stream_app.dev.simulator.clay import SimulatedClay
from stream_app.dev.simulator.ledger import Leads, Ledger
from stream_app.dev.simulator.script import (
    ClayLimits,
    ClayPlan,
    CompletionWebhook,
    Fault,
    Script,
    ScriptError,
    ScriptPart,
    ScriptWebhook,
    checked,
    over,
)


class Controlled(Protocol):
    """What the API controls: the simulator, which serves it.

    Attributes:
        script: What the simulator began with.
        clay: The simulated Clay. `reset` puts another one in its place.
        ledger: What has happened.
    """

    script: Script
    clay: SimulatedClay
    ledger: Ledger

    async def reset(self) -> None:
        """Go back to the script's beginning."""


class Credits(ScriptPart, frozen=True, kw_only=True):
    """The body of `POST /control/credits`."""

    workspace: str
    add: int


class Month(ScriptPart, frozen=True, kw_only=True):
    """The body of `POST /control/month`."""

    workspace: str


class AutoRun(ScriptPart, frozen=True, kw_only=True):
    """The body of `POST /control/auto-run`."""

    webhook: str
    on: bool


class Rerun(ScriptPart, frozen=True, kw_only=True):
    """The body of `POST /control/rerun`."""

    webhook: str
    which: Literal["failed", "all", "unreported"] = "failed"


class NoSettings(ScriptPart, frozen=True, kw_only=True):
    """An empty body."""


ControlAction = Callable[[Controlled, Any], Awaitable[object] | object]

_FAILED = {"errors", "out_of_credits", "not_run"}


def _faults(sim: Controlled, body: Any) -> object:
    items = body if isinstance(body, list) else [body]
    problems: list[str] = []
    faults = []
    for number, item in enumerate(items):
        try:
            faults.append(checked(Fault, item, f"fault[{number}]"))
        except ScriptError as error:
            problems += error.problems
    if problems:
        raise ScriptError(problems)
    timeline = sim.clay.timeline
    now_s = timeline.now_s
    timeline.add(msgspec.structs.replace(fault, at_s=now_s + fault.at_s) for fault in faults)
    sim.clay.did(f"added faults: {', '.join(fault.kind for fault in faults)}")
    sim.clay.changed.set()
    return {"added": len(faults)}


def _clock(sim: Controlled, body: Any) -> None:
    checked(NoSettings, body)
    sim.clay.timeline.reset_clock()
    sim.clay.did("reset the clock")
    sim.clay.changed.set()


def _limits(sim: Controlled, body: Any) -> object:
    world = sim.clay.world
    world.limits = checked(
        ClayLimits,
        msgspec.structs.asdict(world.limits) | _object(body),
        "limits",
    )
    sim.clay.did("set the limits")
    return world.limits


def _workspaces(sim: Controlled, body: Any) -> None:
    name, rest = _named(body, "name")
    sim.clay.world.set_workspace(name, checked(ClayPlan, rest))
    sim.clay.did("set the plan", name)


def _webhooks(sim: Controlled, body: Any) -> None:
    slug, rest = _named(body, "slug")
    settings = checked(ScriptWebhook, over(msgspec.to_builtins(sim.script.table), rest))
    state = sim.clay.world.set_webhook(slug, settings)
    sim.clay.did(f"set the webhook {slug}", state.workspace.name)


def _completion_webhooks(sim: Controlled, body: Any) -> None:
    name, rest = _named(body, "id")
    sim.clay.world.completion_webhooks[name] = checked(CompletionWebhook, rest)
    sim.clay.did(f"set the completion webhook {name}")


def _credits(sim: Controlled, body: Any) -> None:
    order = checked(Credits, body)
    sim.clay.workspace(order.workspace).credits += order.add
    sim.clay.did(f"topped up {_counted(order.add, 'credit')}", order.workspace)


def _month(sim: Controlled, body: Any) -> None:
    state = sim.clay.workspace(checked(Month, body).workspace)
    state.credits += state.plan.credits  # credits roll over, Actions do not
    state.actions = state.plan.actions
    sim.clay.did("began a new month", state.name)


def _auto_run(sim: Controlled, body: Any) -> None:
    """Turn auto-run on or off.

    Rows that came while it was off do not start when it is turned on.
    """
    order = checked(AutoRun, body)
    webhook = sim.clay.webhook(order.webhook)
    webhook.auto_run = order.on
    sim.clay.did(
        f"auto-run {'on' if order.on else 'off'} for {order.webhook}",
        webhook.workspace.name,
    )


def _rerun(sim: Controlled, body: Any) -> object:
    """Run the failed columns of failed rows again, or all of every row, or the HTTP column."""
    order = checked(Rerun, body)
    webhook = sim.clay.webhook(order.webhook)
    if order.which == "unreported":
        reported = sum(map(sim.clay.enrichment.report_again, list(webhook.rows.values())))
        columns = _counted(reported, "HTTP column")
        sim.clay.did(f"ran {columns} of {order.webhook} again", webhook.workspace.name)
        return {"rows": reported}
    is_all = order.which == "all"
    rows = [
        row
        for row in webhook.rows.values()
        if row.state in _FAILED or (is_all and row.state != "running")
    ]
    told = _counted(len(rows), "row")
    sim.clay.did(f"ran {told} of {order.webhook} again", webhook.workspace.name)
    for row in rows:
        if is_all:
            row.filled = {}
        sim.clay.enrichment.start(row)
    return {"rows": len(rows)}


async def _reset(sim: Controlled, body: Any) -> None:
    checked(NoSettings, body)
    await sim.reset()


ACTIONS: dict[str, ControlAction] = {
    "faults": _faults,
    "clock": _clock,
    "limits": _limits,
    "workspaces": _workspaces,
    "webhooks": _webhooks,
    "completion-webhooks": _completion_webhooks,
    "credits": _credits,
    "month": _month,
    "auto-run": _auto_run,
    "rerun": _rerun,
    "reset": _reset,
}


class ControlApi:
    """The handlers of the routes above."""

    def __init__(self, sim: Controlled) -> None:
        self._sim = sim

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/control", self._state)
        app.router.add_delete("/control/faults", self._clear_faults)
        app.router.add_post("/control/{action}", self._act)
        app.router.add_get("/ledger", self._lines)
        app.router.add_get("/ledger/summary", self._summary)

    async def _state(self, _: web.Request) -> web.Response:
        return _json(self._sim.clay.state())

    async def _clear_faults(self, request: web.Request) -> web.Response:
        clay = self._sim.clay
        cleared = clay.timeline.clear(request.query.get("kind"))
        clay.did(f"cleared {_counted(cleared, 'fault')}")
        clay.changed.set()
        return _json({"cleared": cleared})

    async def _act(self, request: web.Request) -> web.Response:
        name = request.match_info["action"]
        if name not in ACTIONS:
            return _problems([f"/control/{name}: unknown; known: {', '.join(ACTIONS)}"], 404)
        text = await request.read()
        try:
            result = ACTIONS[name](self._sim, msgspec.json.decode(text) if text else {})
            if isinstance(result, Awaitable):
                result = await result
        except msgspec.DecodeError as error:
            return _problems([f"the body is not JSON: {error}"])
        except ScriptError as error:
            return _problems(error.problems)
        return _json(result if result is not None else {})

    async def _lines(self, request: web.Request) -> web.StreamResponse:
        since = request.query.get("since", "0")
        if not since.isdecimal():
            return _problems([f"since: must be the number of a line, not {since!r}"])
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        kind = request.query.get("kind")
        workspace = request.query.get("workspace")
        for line in self._sim.ledger.read(int(since), kind, workspace):
            await response.write(line)
        await response.write_eof()
        return response

    async def _summary(self, request: web.Request) -> web.Response:
        try:
            leads = msgspec.convert(request.query.get("leads", "all"), Leads)
        except msgspec.ValidationError:
            return _problems([f"leads: must be one of {', '.join(get_args(Leads))}"])
        return _json(self._sim.ledger.tally.summary(leads))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else f'{noun}s'}"


def _json(content: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(content),
        content_type="application/json",
        status=status,
    )


def _problems(problems: list[str], status: int = 400) -> web.Response:
    return _json({"problems": problems}, status)


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ScriptError([f"the body must be a JSON object, not {type(body).__name__}"])
    return body


def _named(body: Any, key: str) -> tuple[str, dict[str, Any]]:
    rest = dict(_object(body))
    name = rest.pop(key, None)
    if not isinstance(name, str) or not name:
        raise ScriptError([f"{key}: missing, or not a text"])
    return name, rest
