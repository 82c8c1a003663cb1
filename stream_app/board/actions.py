"""What operators can do on the board, all in the way that `forms` describes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256
from shlex import quote
from typing import Any, Final

import msgspec

from stream_app.board.access import PATH, Refused
from stream_app.board.formats import amount, imports_path, lane_path, lead_path
from stream_app.board.forms import Action, Fact, Field, Form, FormRequest, Invalid, Submission
from stream_app.board.page import followed_at
from stream_app.board.replays import Planner, replay_actions
from stream_app.board.requests import lead_id_of
from stream_app.board.site import Site
from stream_app.client import commands as orders
from stream_app.client.commands import CommandSender
from stream_app.client.people import StoredLead, erasure, find_stored_leads, hashes_of
from stream_app.config import Settings, check_known
from stream_app.domain.commands import CommandKind
from stream_app.domain.lane.view import LaneView
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.limits.budget import CAPS, METERS
from stream_app.domain.limits.webhook_quota import Webhook
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.plan import Workspace, in_force

_BUTTONS: Final[dict[CommandKind, str]] = {
    "pause": "Pause the lane",
    "resume": "Resume the lane",
    "trip": "Open the breaker",
    "close": "Close the breaker",
    "shadow": "Put the breaker in shadow",
    "auto": "Let the breaker decide",
    "reset": "Reset the breaker",
    "budget": "Change the budget",
    "correct": "Book it",
    "rate": "Change the rate",
    "quota": "Change the webhook",
}
_MODES: Final[dict[CommandKind, str]] = {"trip": "open", "close": "closed", "shadow": "shadow", "auto": "auto"}
_MODE_WORDS: Final = {
    "open": "forced open",
    "closed": "forced closed",
    "shadow": "shadow: it only reports",
    "auto": "decides by itself",
}
_USES: Final = (("", "unchanged"), ("use", "use it again"), ("retire", "retire it"))
_ON_OFF: Final = (("", "unchanged"), ("on", "on"), ("off", "off"), ("configured", "as configured"))


class _Lane(msgspec.Struct, frozen=True):
    """What the forms show of a lane. `policy`: in force now."""

    name: str
    view: LaneView | None
    policy: Workspace


def lane_actions(site: Site, sender: CommandSender) -> list[Action]:
    """Return the actions of the page Lane."""
    path = "/lanes/{workspace}/act/"
    simple = [
        Action(f"{path}{kind}", partial(_simple, site, kind), partial(_send, sender, kind, lambda _: {}), "lanes")
        for kind in orders.SIMPLE
    ]
    others: list[
        tuple[CommandKind, Callable[[Site, FormRequest], Form], Callable[[Mapping[str, str]], dict[str, Any]]]
    ] = [
        ("budget", _budget, _budget_args),
        ("correct", _correct, _correct_args),
        ("rate", _rate, _rate_args),
        ("quota", _quota, _quota_args),
    ]
    forms = [
        Action(f"{path}{kind}", partial(show, site), partial(_send, sender, kind, args), "lanes")
        for kind, show, args in others
    ]
    return [*simple, *forms, Action("/act/reload", partial(_reload, site), partial(_send_reload, sender), "system")]


async def _send(
    sender: CommandSender,
    kind: CommandKind,
    args: Callable[[Mapping[str, str]], dict[str, Any]],
    submission: Submission,
) -> str:
    workspace = submission.opened.path["workspace"]
    await sender.send(submission.id, kind, workspace, args(submission.values), submission.who, submission.why)
    return followed_at(lane_path(workspace), [submission.id])


async def _send_reload(sender: CommandSender, submission: Submission) -> str:
    await sender.send(submission.id, "reload", "", {}, submission.who, submission.why)
    return followed_at(f"{PATH}/system", [submission.id])


def _lane(site: Site, opened: FormRequest) -> _Lane:
    name = opened.path["workspace"]
    policy = site.settings.workspaces.get(name)
    if policy is None:
        raise Refused(404, "unknown_workspace", "No workspace with this name is configured")
    view = site.queries.lane(name)
    return _Lane(name, view, in_force(policy, view.changes if view else ()))


def _form(kind: CommandKind, lane: _Lane, text: str, **more: Any) -> Form:
    title = f"{kind.capitalize()}: {lane.name}"
    return Form(title, text, _BUTTONS[kind], lane_path(lane.name), **more)


# ------------------------------------------------------------------------------------------------- without arguments


def _simple(site: Site, kind: CommandKind, opened: FormRequest) -> Form:
    lane = _lane(site, opened)
    return _form(kind, lane, orders.SIMPLE[kind].replace("`", ""), facts=_facts(kind, lane.view))


def _facts(kind: CommandKind, view: LaneView | None) -> list[Fact]:
    if kind in _MODES:
        return [Fact("Circuit breaker", _MODE_WORDS[view.mode if view else "auto"], _MODE_WORDS[_MODES[kind]])]
    if kind == "reset":
        breaker = view.breaker.replace("_", " ") if view else "closed"
        return [Fact("Circuit breaker", breaker, "closed, with an empty window")]
    paused = "not paused"
    if view is not None and view.paused_by is not None:
        paused = f"paused by {view.paused_by.who}"
    if kind == "pause":
        return [Fact("Lane", paused, "paused: its leads wait in Kafka")]
    found = [Fact("Lane", paused, "not paused")]
    if view is not None and view.holds and view.paused_by is None:
        found.append(Fact("Held", view.text or view.holds, "no longer, if it is a suspension"))
    return found


def _reload(site: Site, opened: FormRequest) -> Form:
    return Form("Reload the configuration", orders.RELOAD, "Reload", f"{PATH}/system")


# ---------------------------------------------------------------------------------------------------- with arguments


def _budget(site: Site, opened: FormRequest) -> Form:
    lane = _lane(site, opened)
    budget, meters = lane.policy.budget, lane.view.meters if lane.view else {}
    hint = "a number, none for no limit, or configured; empty: unchanged"
    fields = [
        Field(
            cap,
            cap.replace("_", " ").capitalize(),
            _cap(meters[name].cap if name in meters else getattr(budget, cap)),
            hint,
            "number",
            most=20,
        )
        for cap, name in zip(CAPS, METERS, strict=True)
    ]
    shadow = Field("shadow", "Shadow", "on" if budget.shadow else "off", "count only, hold no lead", "choice", _ON_OFF)
    return _form("budget", lane, orders.BUDGET.replace("`", ""), fields=[*fields, shadow])


def _cap(value: int | None) -> str:
    return "no limit" if value is None else amount(value)


def _budget_args(values: Mapping[str, str]) -> dict[str, Any]:
    problems: dict[str, str] = {}
    caps = {cap: _cap_of(values.get(cap, ""), cap, problems) for cap in CAPS if values.get(cap)}
    shadow = values.get("shadow", "")
    if not caps and not shadow:
        problems[""] = "Nothing to change was entered"
    _check(problems)
    return {"caps": caps, "shadow": {"on": True, "off": False, "configured": "configured"}.get(shadow)}


def _cap_of(text: str, name: str, problems: dict[str, str]) -> int | str | None:
    if text.lower() in ("none", "configured"):
        return None if text.lower() == "none" else "configured"
    return _whole(text, name, problems, "Enter a number, none or configured", least=0)


def _correct(site: Site, opened: FormRequest) -> Form:
    lane = _lane(site, opened)
    meters = lane.view.meters if lane.view else {}
    now_ms = opened.moment.now_ms
    spent = {name: f"{amount(meter.at(now_ms).booked)} booked" for name, meter in meters.items()}
    fields = [
        Field("credits", "Credits", spent.get("credits_day", ""), "to book; below 0: returned", "number", most=20),
        Field("actions", "Actions", spent.get("actions_day", ""), "to book; below 0: returned", "number", most=20),
        Field(
            "period", "Period", kind="choice", choices=(("day", "today and this month"), ("month", "only this month"))
        ),
    ]
    return _form("correct", lane, orders.CORRECT, fields=fields)


def _correct_args(values: Mapping[str, str]) -> dict[str, Any]:
    problems: dict[str, str] = {}
    amounts = {
        name: _whole(values[name], name, problems, "Enter a whole number")
        for name in ("credits", "actions")
        if values.get(name)
    }
    if not any(amounts.values()) and not problems:
        problems[""] = "Enter credits or actions"
    _check(problems)
    return {"credits": 0, "actions": 0, **amounts, "period": values.get("period") or "day"}


def _rate(site: Site, opened: FormRequest) -> Form:
    lane = _lane(site, opened)
    hint, rate = "a number, or configured; empty: unchanged", lane.policy.rate
    fields = [
        Field("per_second", "Leads a second at most", amount(rate.rate_per_s), hint, "number", most=20),
        Field("burst", "Leads at once at most", amount(rate.burst), hint, "number", most=20),
    ]
    return _form("rate", lane, orders.RATE, fields=fields)


def _rate_args(values: Mapping[str, str]) -> dict[str, Any]:
    problems: dict[str, str] = {}
    found: dict[str, Any] = {}
    hint = "Enter a number or configured"
    if text := values.get("per_second", ""):
        found["rate_per_s"] = text if text == "configured" else _decimal(text, "per_second", problems, hint)
    if text := values.get("burst", ""):
        found["burst"] = text if text == "configured" else _whole(text, "burst", problems, hint, least=1)
    if not found:
        problems[""] = "Nothing to change was entered"
    _check(problems)
    return found


def _quota(site: Site, opened: FormRequest) -> Form:
    lane = _lane(site, opened)
    known = dict(lane.view.webhooks) if lane.view else {}
    for destination in site.settings.plan.destinations_of(lane.name):
        known |= {webhook_id: Webhook() for webhook_id in destination.webhook_ids if webhook_id not in known}
    chosen = opened.query.get("webhook", "")
    fields = [
        Field(
            "webhook",
            "Webhook",
            kind="choice",
            choices=[("", "choose one"), *((name, f"{name}: {_webhook(each)}") for name, each in known.items())],
            value=chosen,
            required=True,
        ),
        Field("use", "Use", kind="choice", choices=_USES, value=opened.query.get("use", "")),
        Field("count", "Submissions so far", "", "a number; empty: unchanged", "number", most=20),
    ]
    return _form("quota", lane, orders.QUOTA, fields=fields)


def _webhook(webhook: Webhook) -> str:
    state = "out of use" if webhook.dead else "suspended" if webhook.suspension else "in use"
    return f"{amount(webhook.count)} submissions, {state}"


def _quota_args(values: Mapping[str, str]) -> dict[str, Any]:
    problems: dict[str, str] = {}
    text, use = values.get("count", ""), {"use": True, "retire": False}.get(values.get("use", ""))
    count = _whole(text, "count", problems, "Enter a number", least=0) if text else None
    if use is None and not text:
        problems[""] = "Nothing to change was entered"
    _check(problems)
    return {"webhook_id": values["webhook"], "use": use, "count": count}


def _whole(text: str, name: str, problems: dict[str, str], hint: str, least: int = -(10**12)) -> int | None:
    try:
        value = int(text.replace(",", ""))
    except ValueError:
        problems[name] = hint
        return None
    if not least <= value <= 10**12:
        problems[name] = f"{hint}, {least:,} or more" if value < least else f"{hint} of 12 digits at most"
    return value


def _decimal(text: str, name: str, problems: dict[str, str], hint: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        problems[name] = hint
        return None
    if not 0 < value <= 1_000:
        problems[name] = f"{hint}, above 0 and at most 1,000"
    return value


def _check(problems: Mapping[str, str]) -> None:
    if problems:
        raise Invalid(problems)


Find = Callable[[str, str | None], Awaitable[list[StoredLead]]]
"""Finds what is stored of a lead and its person, by lead id and workspace."""

_FIND_WITHIN_S: Final = 60.0
_NONE: Final = "none"
_AT_CLAY: Final = "at_clay"
_GIVE_UP: Final = "give_up"
_finding: Final = asyncio.Semaphore(1)


def lead_actions(site: Site, sender: CommandSender, find: Find | None = None) -> list[Action]:
    """Return the actions of leads and people. `find`: default: reads Kafka."""
    search = find or partial(_find_on_kafka, site.settings)
    lead, current = "/leads/{lead_id:path}/act/", "leads"
    return [
        Action(f"{lead}cancel", partial(_cancel_lead, site), partial(_send_cancel, sender), current),
        Action(f"{lead}resolve", partial(_resolve_lead, site), partial(_send_resolution, sender), current),
        Action(f"{lead}erase", partial(_erase, site), partial(_send_erasure, site, sender, search), current),
        Action("/act/suppress", _suppress, partial(_send_suppression, sender), current),
    ]


# ------------------------------------------------------------------------------------------------------------- leads


def _cancel_lead(site: Site, opened: FormRequest) -> Form:
    return _lead_form(
        site, opened, "Cancel", "Cancel a lead: what is not at Clay yet ends as suppressed.", "Cancel the lead"
    )


def _resolve_lead(site: Site, opened: FormRequest) -> Form:
    form = _lead_form(site, opened, "Resolve", orders.RESOLVE, "Resolve the lead")
    how = (("", "choose one"), (_AT_CLAY, "it is at Clay, and cost this"), (_GIVE_UP, "give it up: never send it"))
    more = (
        Field("how", "Decision", kind="choice", choices=how, required=True),
        Field("credits", "Credits", hint="that it cost, if it is at Clay", kind="number", most=20),
        Field("actions", "Actions", hint="that it cost, if it is at Clay", kind="number", most=20),
    )
    return msgspec.structs.replace(form, fields=[*form.fields, *more])


async def _send_resolution(sender: CommandSender, submission: Submission) -> str:
    lead_id, values, problems = submission.opened.path["lead_id"], submission.values, dict[str, str]()
    args: dict[str, Any] = {"lead_id": plain_id(lead_id), "destination": "", "give_up": values["how"] == _GIVE_UP}
    if values["how"] == _AT_CLAY:
        cost = {
            name: _whole(values[name], name, problems, "Enter a whole number")
            for name in ("credits", "actions")
            if values.get(name)
        }
        if not problems and (not cost or any((cost_ or 0) < 0 for cost_ in cost.values())):
            problems[""] = "Enter the credits or actions that it cost, 0 or more"
        args |= cost
    _check(problems)
    await sender.send(submission.id, "resolve", values["workspace"], args, submission.who, submission.why)
    return followed_at(lead_path(lead_id), [submission.id])


def _erase(site: Site, opened: FormRequest) -> Form:
    form = _lead_form(site, opened, "Erase", orders.ERASE, "Erase the lead and its person", is_final=True)
    linked = Field(
        "linked",
        "Linked leads to erase as well",
        hint="leave it empty at first: if leads are linked to the person, you are asked which are of the same person",
    )
    return msgspec.structs.replace(form, fields=[*form.fields, linked])


def _lead_form(site: Site, opened: FormRequest, verb: str, text: str, button: str, *, is_final: bool = False) -> Form:
    lead_id = lead_id_of(opened.path)
    lead = site.queries.lead(lead_id)
    configured = site.settings.workspaces
    of_lead = (
        dict.fromkeys(history.workspace for history in lead.histories if history.workspace in configured)
        if lead
        else {}
    )
    found = list(of_lead or configured)
    workspace = Field(
        "workspace",
        "Workspace",
        kind="choice",
        choices=[*([("", "choose one")] if len(found) > 1 else []), *((name, name) for name in found)],
        required=True,
    )
    return Form(
        f"{verb}: {lead_id}", text, button, lead_path(lead_id), fields=[workspace], typed=lead_id, is_final=is_final
    )


async def _send_cancel(sender: CommandSender, submission: Submission) -> str:
    lead_id, workspace = submission.opened.path["lead_id"], submission.values["workspace"]
    args = {"lead_id": plain_id(lead_id)}
    await sender.send(submission.id, "cancel_lead", workspace, args, submission.who, submission.why)
    return followed_at(lead_path(lead_id), [submission.id])


async def _send_erasure(site: Site, sender: CommandSender, find: Find, submission: Submission) -> str:
    lead_id, settings = submission.opened.path["lead_id"], site.settings
    stored = await find(lead_id, submission.values["workspace"])
    if not stored:
        raise Invalid({"": "Nothing found to erase: no row and no result of this lead"})
    chosen, kept = _chosen(stored, submission.values.get("linked", ""))
    for lead in chosen:
        check_known(settings, workspace=lead.workspace)  # before anything is erased, so that no erasure is partial
    ids: list[str] = []
    for kind, workspace, args in erasure(chosen, (), kept):
        ids.append(_id_of(submission.id, kind, workspace, args.get("lead_id", "")))
        await sender.send(ids[-1], kind, workspace, args, submission.who, submission.why, [lead_id])
    return followed_at(lead_path(lead_id), ids)


def _chosen(stored: list[StoredLead], entered: str) -> tuple[list[StoredLead], list[StoredLead]]:
    """Return the leads to erase and those to keep. The operator decides about each that only links lead to."""
    linked = {f"{lead.workspace}/{lead.lead_id}": lead for lead in stored if not lead.is_named}
    words = set(entered.split())
    if linked and (not words or (words != {_NONE} and not words <= linked.keys())):
        text = "linked to the person, but do not name this lead. Enter those that are of the same person, or none"
        raise Invalid({"linked": f"{' '.join(linked)}: {text}"})
    chosen = [lead for lead in stored if lead.is_named or f"{lead.workspace}/{lead.lead_id}" in words]
    return chosen, [lead for lead in stored if lead not in chosen]


def _id_of(form_id: str, *parts: str) -> str:
    """Return the id of one of several commands of a form, the same after a second click."""
    return f"c-{sha256('/'.join((form_id, *parts)).encode()).hexdigest()[:32]}"


async def _find_on_kafka(settings: Settings, lead_id: str, workspace: str | None) -> list[StoredLead]:
    """Read all rows and results, in a thread of its own: callbacks go on meanwhile. One search at a time."""

    async def find() -> list[StoredLead]:
        async with asyncio.timeout(_FIND_WITHIN_S):
            return await find_stored_leads(settings, [], lead_id, workspace, lambda done, total: None)

    if _finding.locked():
        raise Refused(503, "busy", "Another erasure is being prepared: try again in a minute")
    async with _finding:
        try:
            return await asyncio.to_thread(asyncio.run, find())
        except TimeoutError as error:
            command = f"stream-app erase {quote(lead_id)}"
            text = f"Rows and results could not be read within {_FIND_WITHIN_S:.0f} s: use `{command}`"
            raise BrokerUnavailable(text) from error


# ------------------------------------------------------------------------------------------------------------ people


def _suppress(opened: FormRequest) -> Form:
    person = Field("person", "Person", hint="an e-mail or a LinkedIn URL; it is hashed here", required=True)
    return Form(
        "Suppress a person", orders.SUPPRESS, "Suppress the person", f"{PATH}/leads", fields=[person], typed="suppress"
    )


async def _send_suppression(sender: CommandSender, submission: Submission) -> str:
    person = submission.values["person"]
    people: dict[str, Any] = {"people": hashes_of([person])}
    await sender.send(submission.id, "suppress", "", people, submission.who, submission.why, [person])
    return followed_at(f"{PATH}/leads", [submission.id])


def import_actions(site: Site, sender: CommandSender) -> list[Action]:
    """Return the actions of the page of an import."""
    return [
        Action("/imports/act/cancel", partial(_cancel_import, site), partial(_send_cancel_import, sender), "imports")
    ]


def _cancel_import(site: Site, opened: FormRequest) -> Form:
    workspace, import_id = _import_of(opened)
    found, _ = site.queries.imports(workspace, import_id, None, 1) if workspace and import_id else ([], None)
    if not found or workspace not in site.settings.workspaces:
        raise Refused(404, "unknown_import", "No lead of this import is known, or its workspace is not configured")
    each = found[0]
    return Form(
        title=f"Cancel import {import_id}",
        text=f"Leads of this import in {workspace} that were published until now and are not at Clay yet end as "
        "suppressed. Leads at Clay go on, and results stay.",
        button="Cancel the import",
        back=imports_path(workspace=workspace, id=import_id),
        facts=(Fact("Leads not at rest", amount(each.moving), "suppressed, unless they are at Clay"),),
        typed=workspace,
        is_final=True,
    )


async def _send_cancel_import(sender: CommandSender, submission: Submission) -> str:
    workspace, import_id = _import_of(submission.opened)
    args = {"import_id": import_id}
    await sender.send(submission.id, "cancel_import", workspace, args, submission.who, submission.why)
    return followed_at(imports_path(workspace=workspace, id=import_id), [submission.id])


def _import_of(opened: FormRequest) -> tuple[str, str]:
    return opened.query.get("workspace", ""), opened.query.get("id", "")


def actions_of(site: Site, sender: CommandSender, planner: Planner, find: Find | None = None) -> list[Action]:
    """Return all actions. `find` finds what is stored of a lead; default: on Kafka."""
    return [
        *lane_actions(site, sender),
        *lead_actions(site, sender, find),
        *import_actions(site, sender),
        *replay_actions(site, planner),
    ]
