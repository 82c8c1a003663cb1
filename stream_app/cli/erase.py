"""`stream-app erase`: erase a lead or a person, and list the rows that an operator must delete in Clay."""

from __future__ import annotations

import asyncio
from typing import Any

from stream_app.cli.base import NO, answered_yes, confirm, on_kafka, say, show, show_json
from stream_app.cli.lane_commands import exit_code, sent
from stream_app.cli.options import Audit, Workspace
from stream_app.cli.progress import reading
from stream_app.client.commands import SentCommand
from stream_app.client.people import StoredLead, erasure, find_stored_leads, hashes_of, remains
from stream_app.config import Settings, check_known
from stream_app.domain.lane_messages import CommandKind
from stream_app.domain.text import count


def erase(lead_or_person: str, /, *, workspace: Workspace = None, yes: bool = False, audit: Audit) -> int:
    """Erase a lead, or all leads of a person, from results, cache and look-up.

    The person is never sent again, not even from a dead letter. Clay's rows cannot be deleted from here; the command
    lists them. A lead that is linked to the person but does not name it is asked for apart, and stays with --yes.

    example:
      stream-app erase ada@example.com --why "GDPR request 17"
      stream-app erase crm-17 --yes --why "..."

    Args:
        lead_or_person: a lead's id, an e-mail or a LinkedIn URL (hashed here)
        workspace: the lead's workspace, if several have this id
        yes: do not ask for confirmation
    """
    settings = audit.settings()
    check_known(settings, workspace=workspace)
    is_person = "@" in lead_or_person or "linkedin.com/" in lead_or_person.lower()
    persons = hashes_of([lead_or_person]) if is_person else []
    with reading("reading rows and results") as progress:
        lead_id = None if is_person else lead_or_person
        stored = on_kafka(settings, "erase", find_stored_leads(settings, persons, lead_id, workspace, progress))
    named = [each for each in stored if each.is_named]
    if not stored and not persons:
        say("nothing found to erase: no row and no result of this lead or person")
        if audit.json:
            show_json({"by_hand": [], "linked": [], "queued": [], "refused": []})
        return NO
    for lead in stored:
        check_known(settings, workspace=lead.workspace)  # before anything is erased, so that no erasure is partial
    confirm(f"erase {count(len(named), 'lead')}, and never send this person again", yes=yes)
    taken, kept = _asked_apart([each for each in stored if not each.is_named], ask=not yes)
    chosen = erasure([*named, *taken], persons, kept)
    commands = asyncio.run(_erase(audit, settings, chosen, lead_or_person))
    _show(settings, [*named, *taken], kept, commands, as_json=audit.json)
    return exit_code(commands)


def _asked_apart(linked: list[StoredLead], *, ask: bool) -> tuple[list[StoredLead], list[StoredLead]]:
    """Return the linked leads to erase as well, and those to keep: a producer may have named two people in one lead."""
    taken = [
        lead
        for lead in linked
        if ask
        and answered_yes(
            f"lead {lead.lead_id} in workspace {lead.workspace} is linked to this person, but does not name it: "
            "erase it as well"
        )
    ]
    return taken, [lead for lead in linked if lead not in taken]


async def _erase(
    audit: Audit, settings: Settings, commands: list[tuple[CommandKind, str, dict[str, Any]]], typed: str
) -> list[SentCommand]:
    return [await sent(settings, audit, kind, workspace, args, typed) for kind, workspace, args in commands]


def _show(
    settings: Settings, stored: list[StoredLead], kept: list[StoredLead], commands: list[SentCommand], *, as_json: bool
) -> None:
    refused = [answer.text for each in commands for answer in each.received if not answer.applied]
    queued = [each.command.id for each in commands if each.is_queued]
    stays = remains(settings)
    if as_json:
        by_hand = [
            {"workspace": lead.workspace, "destinations": lead.destinations, "lead_id": lead.lead_id} for lead in stored
        ]
        linked = [{"workspace": lead.workspace, "lead_id": lead.lead_id} for lead in kept]
        show_json({"by_hand": by_hand, "linked": linked, "queued": queued, "refused": refused, "stays": stays})
        return
    for lead in stored:
        tables = ", ".join(lead.destinations)
        show(f"to do by hand: delete lead {lead.lead_id} in Clay, workspace {lead.workspace}, table {tables}")
    for lead in kept:
        show(
            f"not erased: lead {lead.lead_id} in workspace {lead.workspace}, linked to this person, which it does not "
            f"name; if it is the same person: stream-app erase {lead.lead_id} --workspace {lead.workspace}"
        )
    for text in refused:
        say(f"NOT APPLIED, {text}")
    for command_id in queued:
        show(f"queued {command_id}")
    say("What remains, and for how long. None of it is sent to Clay.")
    for place in stays:
        until = "no end" if place.days is None else f"{place.days} days"
        say(f"  {place.place:<24} {until:>8}  {place.what}")
    if queued:
        say("queued commands are applied when their partition has a worker, within 24 hours")
