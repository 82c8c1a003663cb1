"""Cancel a lead, suppress a person, erase a lead with all that is kept of its person."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from shlex import quote
from typing import Any, Final

import msgspec

from stream_app.board.access import PATH
from stream_app.board.actions.base import Action, Field, Form, FormRequest, Invalid, Submission
from stream_app.board.api_access import Refused
from stream_app.board.commands import followed_at
from stream_app.board.paths import lead_path
from stream_app.board.requests import lead_id_of
from stream_app.board.site import Site
from stream_app.client import commands as orders
from stream_app.client.commands import CommandSender
from stream_app.client.people import StoredLead, erasure, find_stored_leads, hashes_of
from stream_app.config import Settings, check_known
from stream_app.domain.errors import BrokerUnavailable
from stream_app.domain.lead.identity import plain_id

Find = Callable[[str, str | None], Awaitable[list[StoredLead]]]
"""Finds what is stored of a lead and its person, by lead id and workspace."""

_FIND_WITHIN_S: Final = 60.0
_NONE: Final = "none"
_finding: Final = asyncio.Semaphore(1)


def lead_actions(site: Site, sender: CommandSender, find: Find | None = None) -> list[Action]:
    """Return the actions of leads and people. `find`: default: reads Kafka."""
    search = find or partial(_find_on_kafka, site.settings)
    lead, current = "/leads/{lead_id:path}/act/", "leads"
    return [
        Action(f"{lead}cancel", partial(_cancel, site), partial(_send_cancel, sender), current),
        Action(f"{lead}erase", partial(_erase, site), partial(_send_erasure, site, sender, search), current),
        Action("/act/suppress", _suppress, partial(_send_suppression, sender), current),
    ]


# ------------------------------------------------------------------------------------------------------------- leads


def _cancel(site: Site, opened: FormRequest) -> Form:
    return _form(
        site, opened, "Cancel", "Cancel a lead: what is not at Clay yet ends as suppressed.", "Cancel the lead"
    )


def _erase(site: Site, opened: FormRequest) -> Form:
    form = _form(site, opened, "Erase", orders.ERASE, "Erase the lead and its person", is_final=True)
    linked = Field(
        "linked",
        "Linked leads to erase as well",
        hint="leave it empty at first: if leads are linked to the person, you are asked which are of the same person",
    )
    return msgspec.structs.replace(form, fields=[*form.fields, linked])


def _form(site: Site, opened: FormRequest, verb: str, text: str, button: str, *, is_final: bool = False) -> Form:
    lead_id = lead_id_of(opened.path)
    lead = site.queries.lead(lead_id)
    configured = site.settings.workspaces
    of_lead = dict.fromkeys(each.workspace for each in lead.histories if each.workspace in configured) if lead else {}
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
    linked = {f"{each.workspace}/{each.lead_id}": each for each in stored if not each.is_named}
    words = set(entered.split())
    if linked and (not words or (words != {_NONE} and not words <= linked.keys())):
        text = "linked to the person, but do not name this lead. Enter those that are of the same person, or none"
        raise Invalid({"linked": f"{' '.join(linked)}: {text}"})
    chosen = [each for each in stored if each.is_named or f"{each.workspace}/{each.lead_id}" in words]
    return chosen, [each for each in stored if each not in chosen]


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
