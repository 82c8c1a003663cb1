"""`stream-app erase`: erase a lead or a person, and list the rows that an operator must delete in Clay."""

from __future__ import annotations

import asyncio

from stream_app.cli.base import NO, confirm, on_kafka, say, show, show_json
from stream_app.cli.lane_commands import exit_code, sent
from stream_app.cli.options import Audit, Workspace
from stream_app.cli.progress import reading
from stream_app.config import Settings, check_known
from stream_app.domain.text import count
from stream_app.operator.erase import StoredLead, erasure, find_stored_leads, remains
from stream_app.operator.submit import SentCommand
from stream_app.operator.suppress import hashes_of


def erase(lead_or_person: str, /, *, workspace: Workspace = None, yes: bool = False, audit: Audit) -> int:
    """Erase a lead, or all leads of a person, from results, cache and look-up.

    The person is never sent again, not even from a dead letter. Clay's rows cannot be deleted from here; the command
    lists them.

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
    persons = sorted({*persons, *(person for each in stored for person in each.people)})
    if not stored and not persons:
        say("nothing found to erase: no row and no result of this lead or person")
        if audit.json:
            show_json({"by_hand": [], "queued": [], "refused": []})
        return NO
    for lead in stored:
        check_known(settings, workspace=lead.workspace)  # before anything is erased, so that no erasure is partial
    confirm(f"erase {count(len(stored), 'lead')}, and never send this person again", yes=yes)
    commands = asyncio.run(_erase(audit, settings, stored, persons, lead_or_person))
    _show(settings, stored, commands, as_json=audit.json)
    return exit_code(commands)


async def _erase(
    audit: Audit, settings: Settings, stored: list[StoredLead], persons: list[str], typed: str
) -> list[SentCommand]:
    return [
        await sent(settings, audit, kind, workspace, args, typed) for kind, workspace, args in erasure(stored, persons)
    ]


def _show(settings: Settings, stored: list[StoredLead], commands: list[SentCommand], *, as_json: bool) -> None:
    refused = [answer.text for each in commands for answer in each.received if not answer.applied]
    queued = [each.command.id for each in commands if each.is_queued]
    stays = remains(settings)
    if as_json:
        by_hand = [
            {"workspace": lead.workspace, "destinations": lead.destinations, "lead_id": lead.lead_id} for lead in stored
        ]
        show_json({"by_hand": by_hand, "queued": queued, "refused": refused, "stays": stays})
        return
    for lead in stored:
        tables = ", ".join(lead.destinations)
        show(f"to do by hand: delete lead {lead.lead_id} in Clay, workspace {lead.workspace}, table {tables}")
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
