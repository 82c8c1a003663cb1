"""What operators can do on the board, all in the way that `forms` describes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256
from shlex import quote
from typing import Any, Final, Literal

import msgspec

from stream_app.board.access import PATH, AccessRefused
from stream_app.board.formats import amount, imports_path, lane_path, lead_path
from stream_app.board.forms import (
    Action,
    Fact,
    Form,
    FormField,
    FormRequest,
    FormSubmission,
    Invalid,
)
from stream_app.board.page import followed_at
from stream_app.board.replays import Planner, replay_actions
from stream_app.board.requests import lead_id_of
from stream_app.board.site import Site
from stream_app.client.lanes.commands import Send, new_command
from stream_app.client.people import StoredLead, erasure, find_stored_leads, hashes_of
from stream_app.config import Settings, check_known
from stream_app.domain.commands import (
    MAX_TEXT_CHARACTERS,
    Command,
    CommandKind,
    Entry,
    entries,
    help_text,
    read_entries,
)
from stream_app.domain.lane.overrides import OrderKind
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.limits.budget import CAPS, METERS, MeterName
from stream_app.domain.limits.webhook_quota import Webhook
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.text import count, rate_text
from stream_app.domain.plan import Workspace, in_force
from stream_app.domain.views.lane import LaneView

_BUTTONS: Final[dict[OrderKind, str]] = {
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
_MODES: Final[dict[OrderKind, str]] = {
    "trip": "open",
    "close": "closed",
    "shadow": "shadow",
    "auto": "auto",
}
_MEANT: Final[dict[str, MeterName]] = {"credits": "credits_day", "actions": "actions_day"}
"""The meter of what is booked."""
_MODE_WORDS: Final = {
    "open": "forced open",
    "closed": "forced closed",
    "shadow": "shadow: it only reports",
    "auto": "decides by itself",
}

FindStored = Callable[[str, str | None], Awaitable[list[StoredLead]]]
"""Finds what is stored of a lead and its person, by lead id and workspace."""
ReadForm = Callable[[FormSubmission], tuple[str, dict[str, Any]]]
"""Returns the workspace and the arguments of the command of a form."""


def actions_of(
    site: Site,
    send: Send,
    planner: Planner,
    find: FindStored | None = None,
) -> list[Action]:
    """Return all actions. `find` finds what is stored of a lead; default: on Kafka."""
    lane = "/lanes/{workspace}/act/"
    lead = "/leads/{lead_id:path}/act/"
    erased = partial(_send_erasure, site, send, find or partial(_find_on_kafka, site.settings))
    cancelled = partial(_lead_form, site, "Cancel", _words("cancel_lead"), "Cancel the lead")

    def sent(kind: CommandKind, read: ReadForm) -> Callable[[FormSubmission], Awaitable[str]]:
        return partial(_send, site.settings, send, kind, read)

    return [
        *(
            Action(
                f"{lane}{kind}",
                partial(_show, site, kind),
                sent(kind, partial(_order, kind)),
                "lanes",
            )
            for kind in _BUTTONS
        ),
        Action("/act/reload", _reload, sent("reload", lambda _: ("", {})), "system"),
        Action(f"{lead}cancel", cancelled, sent("cancel_lead", _cancelled_lead), "leads"),
        Action(
            f"{lead}resolve",
            partial(_resolve_lead, site),
            sent("resolve", _resolution),
            "leads",
        ),
        Action(f"{lead}erase", partial(_erase, site), erased, "leads"),
        Action("/act/suppress", _suppress, sent("suppress", _suppressed), "leads"),
        Action(
            "/imports/act/cancel",
            partial(_cancel_import, site),
            sent("cancel_import", _of_import),
            "imports",
        ),
        *replay_actions(site, planner),
    ]


async def _send(
    settings: Settings,
    send: Send,
    kind: CommandKind,
    read: ReadForm,
    submission: FormSubmission,
) -> str:
    workspace, args = read(submission)
    known = [submission.values["person"]] if "person" in submission.values else []
    command = new_command(
        settings,
        submission.id,
        kind,
        workspace,
        args,
        submission.who,
        submission.why,
        known,
    )
    await send(command)
    return followed_at(submission.form.back, [submission.id], command.at_ms)


def _order(kind: OrderKind, submission: FormSubmission) -> tuple[str, dict[str, Any]]:
    return submission.opened.path["workspace"], _args(kind, submission.values)


def _args(kind: CommandKind, entered: Mapping[str, str | bool]) -> dict[str, Any]:
    """Return the arguments of a command. Raises Invalid if something is wrong with them."""
    args, problems = read_entries(kind, entered)
    if problems:
        raise Invalid(problems)
    return args


def _show(site: Site, kind: OrderKind, opened: FormRequest) -> Form:
    name = opened.path["workspace"]
    policy = site.settings.workspaces.get(name)
    if policy is None:
        raise AccessRefused(404, "unknown_workspace", "No workspace with this name is configured")
    view = site.queries.lane(name, opened.moment.now_ms)
    was = _in_force(policy, view, opened.moment.now_ms)
    fields = [
        _field(entry, opened.query.get(entry.name, ""), was.get(entry.name, ""))
        for entry in entries(kind)
    ]
    if kind == "quota":
        choices = [("", "choose one"), *_webhooks(site, name, view)]
        fields[0] = msgspec.structs.replace(fields[0], hint="", kind="choice", choices=choices)
    title = f"{kind.capitalize()}: {name}"
    facts = () if fields else _facts(kind, view)
    return Form(title, _words(kind), _BUTTONS[kind], lane_path(name), facts, fields)


def _field(entry: Entry, value: str = "", was: str = "") -> FormField:
    words = [] if entry.number else [(word, word) for word in entry.words]
    most = 20 if entry.number else MAX_TEXT_CHARACTERS
    choices = words if entry.default else [("", "unchanged"), *words]
    kind: Literal["choice", "number"] = "choice" if words else "number"
    value = value or entry.default
    return FormField(
        entry.name,
        entry.label,
        was,
        entry.hint,
        kind,
        choices,
        value,
        entry.required,
        most,
    )


def _words(kind: CommandKind) -> str:
    return " ".join(help_text(kind).replace("`", "").split())


def _in_force(policy: Workspace, view: LaneView | None, now_ms: int) -> dict[str, str]:
    """Return what is in force, or booked, by entry."""
    rules = in_force(policy, view.changes if view else ())
    meters = view.meters if view else {}
    budget = rules.budget
    rate = rules.rate
    caps = {
        cap: meters[name].cap if name in meters else getattr(budget, cap)
        for cap, name in zip(CAPS, METERS, strict=True)
    }
    booked = {
        name: f"{amount(meters[key].at(now_ms).booked)} booked"
        for name, key in _MEANT.items()
        if key in meters
    }
    return {
        **{cap: "unlimited" if value is None else amount(value) for cap, value in caps.items()},
        "shadow": "on" if budget.shadow else "off",
        **booked,
        "per_second": rate_text(rate.rate_per_s),
        "burst": amount(rate.burst),
    }


def _webhooks(site: Site, workspace: str, view: LaneView | None) -> list[tuple[str, str]]:
    known = dict(view.webhooks) if view else {}
    for destination in site.settings.plan.destinations_of(workspace):
        known |= {
            webhook_id: Webhook()
            for webhook_id in destination.webhook_ids
            if webhook_id not in known
        }
    return [(name, f"{name}: {_webhook(webhook)}") for name, webhook in known.items()]


def _webhook(webhook: Webhook) -> str:
    state = "in use"
    if webhook.dead:
        state = "out of use"
    elif webhook.suspension:
        state = f"suspended: {webhook.out}"
    return f"{count(webhook.count, 'submission')}, {state}"


def _facts(kind: OrderKind, view: LaneView | None) -> list[Fact]:
    if kind in _MODES:
        return [
            Fact(
                "Circuit breaker",
                _MODE_WORDS[view.mode if view else "auto"],
                _MODE_WORDS[_MODES[kind]],
            ),
        ]
    if kind == "reset":
        breaker = view.breaker.replace("_", " ") if view else "closed"
        facts = [Fact("Circuit breaker", breaker, "closed, with an empty window")]
        own = view.destinations if view else {}
        return facts + [
            Fact(f"Circuit breaker of {alias}", seen.breaker.replace("_", " "), "closed")
            for alias, seen in own.items()
            if seen.breaker != "closed"
        ]
    paused = f"paused by {view.paused_by.who}" if view and view.paused_by else "not paused"
    if kind == "pause":
        return [Fact("Lane", paused, "paused: its leads wait on Kafka")]
    facts = [Fact("Lane", paused, "not paused")]
    if view and view.holds and not view.paused_by:
        facts.append(Fact("Held", view.says or view.holds, "no longer, if it is a suspension"))
    facts += [
        Fact(
            f"Leads of {', '.join(part.destinations)}",
            part.says,
            "no longer held, if it is a suspension",
        )
        for part in (view.partly if view else ())
        if not part.bulk
    ]
    return facts


def _reload(opened: FormRequest) -> Form:
    return Form("Reload the configuration", _words("reload"), "Reload", f"{PATH}/system")


_FIND_WITHIN_S: Final = 60.0
_NONE: Final = "none"
_AT_CLAY: Final = "at_clay"
_NOT_AT_CLAY: Final = "not_at_clay"
_GIVE_UP: Final = "give_up"
_COSTS: Final = ("credits", "actions")
_finding: Final = asyncio.Semaphore(1)


def _resolve_lead(site: Site, opened: FormRequest) -> Form:
    form = _lead_form(site, "Resolve", _words("resolve"), "Resolve the lead", opened)
    how = (
        ("", "choose one"),
        (_AT_CLAY, "it is at Clay, and cost this"),
        (_NOT_AT_CLAY, "it is not at Clay: return what was booked"),
        (_GIVE_UP, "give it up: never send it"),
    )
    decision = FormField("how", "Decision", kind="choice", choices=how, required=True)
    costs = [_field(entry) for entry in entries("resolve") if entry.name in _COSTS]
    return msgspec.structs.replace(form, fields=[*form.fields, decision, *costs])


def _resolution(submission: FormSubmission) -> tuple[str, dict[str, Any]]:
    _, lead = _cancelled_lead(submission)
    values = submission.values
    how = submission.values["how"]
    entered: dict[str, str | bool] = {**lead}
    if how == _AT_CLAY:
        entered |= {name: values.get(name, "") for name in _COSTS}
    else:
        entered[how] = True
    return values["workspace"], _args("resolve", entered)


def _erase(site: Site, opened: FormRequest) -> Form:
    form = _lead_form(
        site,
        "Erase",
        _words("erase"),
        "Erase the lead and its person",
        opened,
        is_final=True,
    )
    hint = (
        "leave it empty at first: if leads are linked to the person, "
        "you are asked which are of the same person"
    )
    linked = FormField("linked", "Linked leads to erase as well", hint=hint)
    return msgspec.structs.replace(form, fields=[*form.fields, linked])


def _lead_form(
    site: Site,
    verb: str,
    text: str,
    button: str,
    opened: FormRequest,
    *,
    is_final: bool = False,
) -> Form:
    lead_id = lead_id_of(opened.path)
    lead = site.queries.lead(lead_id, opened.moment.now_ms)
    configured = site.settings.workspaces
    of_lead = (
        [history.workspace for history in lead.histories if history.workspace in configured]
        if lead
        else []
    )
    choices = [(name, name) for name in dict.fromkeys(of_lead or configured)]
    if len(choices) > 1:
        choices.insert(0, ("", "choose one"))
    workspace = FormField("workspace", "Workspace", kind="choice", choices=choices, required=True)
    title = f"{verb}: {lead_id}"
    back = lead_path(lead_id)
    return Form(title, text, button, back, fields=[workspace], typed=lead_id, is_final=is_final)


def _cancelled_lead(submission: FormSubmission) -> tuple[str, dict[str, Any]]:
    return submission.values["workspace"], {"lead_id": plain_id(submission.opened.path["lead_id"])}


async def _send_erasure(
    site: Site,
    send: Send,
    find: FindStored,
    submission: FormSubmission,
) -> str:
    lead_id = submission.opened.path["lead_id"]
    settings = site.settings
    stored = await find(lead_id, submission.values["workspace"])
    if not stored:
        raise Invalid({"": "Nothing found to erase: no row and no result of this lead"})
    chosen, kept = _chosen(stored, submission.values.get("linked", ""))
    for lead in chosen:
        # All are checked before anything is erased: no erasure is partial.
        check_known(settings, workspace=lead.workspace)
    commands: list[Command] = []
    for kind, workspace, args in erasure(chosen, (), kept):
        command_id = _id_of(submission.id, kind, workspace, args.get("lead_id", ""))
        command = new_command(
            settings,
            command_id,
            kind,
            workspace,
            args,
            submission.who,
            submission.why,
            [lead_id],
        )
        await send(command)
        commands.append(command)
    return followed_at(lead_path(lead_id), [command.id for command in commands], commands[-1].at_ms)


def _chosen(stored: list[StoredLead], entered: str) -> tuple[list[StoredLead], list[StoredLead]]:
    """Return the leads to erase and those to keep.

    The operator decides about each that only links lead to.
    """
    linked = {f"{lead.workspace}/{lead.lead_id}": lead for lead in stored if not lead.is_named}
    words = set(entered.split())
    if linked and (not words or (words != {_NONE} and not words <= linked.keys())):
        text = (
            "linked to the person, but do not name this lead. "
            "Enter those that are of the same person, or none"
        )
        raise Invalid({"linked": f"{' '.join(linked)}: {text}"})
    chosen = [
        lead for lead in stored if lead.is_named or f"{lead.workspace}/{lead.lead_id}" in words
    ]
    return chosen, [lead for lead in stored if lead not in chosen]


def _id_of(form_id: str, *parts: str) -> str:
    """Return the id of one of several commands of a form, the same after a second click."""
    return f"c-{sha256('/'.join((form_id, *parts)).encode()).hexdigest()[:32]}"


async def _find_on_kafka(
    settings: Settings,
    lead_id: str,
    workspace: str | None,
) -> list[StoredLead]:
    """Read all rows and results, in a thread of its own: callbacks go on meanwhile.

    One search at a time.
    """

    async def find() -> list[StoredLead]:
        async with asyncio.timeout(_FIND_WITHIN_S):
            return await find_stored_leads(
                settings,
                [],
                lead_id,
                workspace,
                lambda done, total: None,
            )

    if _finding.locked():
        raise AccessRefused(503, "busy", "Another erasure is being prepared: try again in a minute")
    async with _finding:
        try:
            return await asyncio.to_thread(asyncio.run, find())
        except TimeoutError as error:
            command = f"stream-app erase {quote(lead_id)}"
            text = (
                f"Rows and results could not be read within {_FIND_WITHIN_S:.0f} s: use `{command}`"
            )
            raise BrokerUnavailable(text) from error


def _suppress(opened: FormRequest) -> Form:
    person = FormField(
        "person",
        "Person",
        hint="an e-mail or a LinkedIn URL; it is hashed here",
        required=True,
    )
    title = "Suppress a person"
    button = "Suppress the person"
    return Form(
        title,
        _words("suppress"),
        button,
        f"{PATH}/leads",
        fields=[person],
        typed="suppress",
    )


def _suppressed(submission: FormSubmission) -> tuple[str, dict[str, Any]]:
    return "", {"people": hashes_of([submission.values["person"]])}


def _cancel_import(site: Site, opened: FormRequest) -> Form:
    workspace = opened.query.get("workspace", "")
    import_id = opened.query.get("id", "")
    imports, _ = (
        site.queries.imports(workspace, import_id, None, 1)
        if workspace and import_id
        else ([], None)
    )
    if not imports or workspace not in site.settings.workspaces:
        raise AccessRefused(
            404,
            "unknown_import",
            "No lead of this import is known, or its workspace is not configured",
        )
    publication = imports[0]
    return Form(
        title=f"Cancel import {import_id}",
        text=f"Leads of this import in {workspace} that were published until now and are not at "
        "Clay yet end as suppressed. Leads at Clay go on, and results stay.",
        button="Cancel the import",
        back=imports_path(workspace=workspace, id=import_id),
        facts=(
            Fact(
                "Leads not at rest",
                amount(publication.moving),
                "suppressed, unless they are at Clay",
            ),
        ),
        typed=workspace,
        is_final=True,
    )


def _of_import(submission: FormSubmission) -> tuple[str, dict[str, Any]]:
    query = submission.opened.query
    return query["workspace"], {"import_id": query["id"]}
