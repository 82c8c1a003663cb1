"""`stream-app suppress` and `erase`: people who are never sent to Clay.

This holds in any workspace and under any lead id.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from stream_app.cli.base import (
    COMMON,
    NO,
    OK,
    QUEUED,
    Common,
    answered_yes,
    confirm,
    on_kafka,
    with_actions,
)
from stream_app.cli.lanes import exit_code, sent
from stream_app.cli.options import Audit, WorkspaceName, iso
from stream_app.cli.output import say
from stream_app.cli.tables import reading
from stream_app.client.lanes.commands import SentCommand
from stream_app.client.people import (
    StoredLead,
    erasure,
    find_stored_leads,
    hashes_of,
    on_the_list,
    persons_in,
    remains,
)
from stream_app.config import Settings, check_known
from stream_app.domain.commands import MAX_PEOPLE, help_text
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.text import count

_Kind = Literal["suppress", "unsuppress"]

_NAMES: Final[dict[_Kind, str]] = {"suppress": "add", "unsuppress": "remove"}
_PEOPLE: Final = ("person is", "people are")

app = with_actions("suppress")


@app.default
def suppress(*, common: Common = COMMON) -> int:
    """List the people who are never sent to Clay.

    An action adds or removes people. They are hashed first.

    example:
      stream-app suppress add ada@example.com --why "GDPR objection of March"
    """
    return list_people(common=common)


def _changing(kind: _Kind) -> Callable[..., int]:
    """Return the command that adds people to the list, or removes them."""

    def change(*person: str, file: Path | None = None, audit: Audit) -> int:
        return _change(
            audit.settings(),
            kind,
            hashes_of([*person, *_lines(file)], hashed=True),
            audit,
        )

    change.__doc__ = f"""{help_text(kind)}

example:
  stream-app suppress {_NAMES[kind]} ada@example.com --why "..."

Args:
    person: an e-mail or a LinkedIn URL, or a hash as `suppress list` shows it
    file: one person per line, or what `suppress list --json` wrote; - is stdin
"""
    return change


for _kind, _name in _NAMES.items():
    app.command(_changing(_kind), name=_name)


@app.command(name="list")
def list_people(*person: str, common: Common = COMMON) -> int:
    """Show the list (hashes). With people: check that all of them are on it, else exit code 1.

    example:
      stream-app suppress list ada@example.com

    Args:
        person: an e-mail or a LinkedIn URL
    """
    settings = common.settings()
    wanted = set(hashes_of(person))
    with reading("the rows") as progress:
        on_list = on_kafka(settings, "suppress list", on_the_list(settings, progress))
    if wanted:
        on_list = [suppressed for suppressed in on_list if suppressed.person in wanted]
    lines = [
        (
            f"{iso(suppressed.since_ms)}  {suppressed.person}  by {suppressed.who} "
            f"({suppressed.command})"
        )
        + (
            ""
            if suppressed.everywhere
            else "  not in every partition yet: some partition has no worker"
        )
        for suppressed in on_list
    ]
    common.show(on_list, *lines, f"{count(len(on_list), *_PEOPLE)} on the suppression list")
    return OK if wanted <= {suppressed.person for suppressed in on_list} else NO


def _change(settings: Settings, kind: _Kind, people: list[str], audit: Audit) -> int:
    """Add or remove `people`, given as their hashes."""
    if not people:
        raise SettingsError(["no person given: pass e-mails or LinkedIn URLs, or --file"])
    changed, queued = asyncio.run(_send(settings, audit, kind, people))
    absent = max(0, len(people) - changed) if kind == "unsuppress" and not queued else 0
    done = (
        f"{count(len(people) - absent, *_PEOPLE)} "
        f"{'on' if kind == 'suppress' else 'off'} the suppression list"
    )
    lines = [f"queued {command_id}" for command_id in queued] or [
        done + (f"; {count(absent, 'person was', 'people were')} not on it" if absent else ""),
    ]
    audit.show({"people": len(people), "changed": changed, "queued": queued}, *lines)
    if queued and not audit.json:
        say(f"{done} as soon as every partition has a worker, within 24 hours")
    return QUEUED if queued else NO if absent == len(people) else OK


async def _send(
    settings: Settings,
    audit: Audit,
    kind: _Kind,
    people: list[str],
) -> tuple[int, list[str]]:
    """Send the commands; return how many people changed, and the ids of the queued commands."""
    changed = 0
    queued = list[str]()
    for first in range(0, len(people), MAX_PEOPLE):
        command = await sent(
            settings,
            audit,
            kind,
            "",
            {"people": people[first : first + MAX_PEOPLE]},
        )
        answers = command.received
        if refused := next((answer for answer in answers if not answer.applied), None):
            raise StreamAppError(f"NOT APPLIED, {refused.text}")
        changed += max((answer.people for answer in answers), default=0)
        if command.is_queued:
            queued.append(command.command.id)
    return changed, queued


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return persons_in(
            sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"),
        )
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{file}: cannot be read: {error}"]) from None


def erase(
    lead_or_person: str,
    /,
    *,
    workspace: WorkspaceName = None,
    yes: bool = False,
    audit: Audit,
) -> int:
    """Erase a lead, or all leads of a person, from results, cache and look-up.

    The person is never sent again, not even from a dead letter. Clay's rows cannot be deleted from
    here; the command lists them. A lead that is linked to the person but does not name it is asked
    for apart, and stays with --yes.

    example:
      stream-app erase ada@example.com --why "GDPR request 17"
      stream-app erase crm-17 --yes --why "..."

    Args:
        lead_or_person: a lead's id, an e-mail or a LinkedIn URL (hashed here)
        workspace: the lead's workspace, if several have this id
        yes: do not ask for confirmation
    """
    settings = audit.settings(workspace=workspace)
    is_person = "@" in lead_or_person or "linkedin.com/" in lead_or_person.lower()
    persons = hashes_of([lead_or_person]) if is_person else []
    with reading("reading rows and results") as progress:
        lead_id = None if is_person else lead_or_person
        stored = on_kafka(
            settings,
            "erase",
            find_stored_leads(settings, persons, lead_id, workspace, progress),
        )
    named = [listed for listed in stored if listed.is_named]
    if not stored and not persons:
        say("nothing found to erase: no row and no result of this lead or person")
        audit.show({"by_hand": [], "linked": [], "queued": [], "refused": []})
        return NO
    for lead in stored:
        # All are checked before anything is erased: no erasure is partial.
        check_known(settings, workspace=lead.workspace)
    confirm(f"erase {count(len(named), 'lead')}, and never send this person again", yes=yes)
    chosen = list(named)
    kept = list[StoredLead]()
    for lead in (listed for listed in stored if not listed.is_named):
        # A producer may have named two people in one lead.
        linked = (
            f"lead {lead.lead_id} in workspace {lead.workspace} is linked to this "
            "person, but does not name it"
        )
        if not yes and answered_yes(f"{linked}: erase it as well"):
            chosen.append(lead)
        else:
            kept.append(lead)

    async def send() -> list[SentCommand]:
        commands = erasure(chosen, persons, kept)
        return [
            await sent(settings, audit, kind, place, args, lead_or_person)
            for kind, place, args in commands
        ]

    commands = asyncio.run(send())
    _show_erased(settings, audit, chosen, kept, commands)
    return exit_code(commands)


def _show_erased(
    settings: Settings,
    audit: Audit,
    chosen: list[StoredLead],
    kept: list[StoredLead],
    commands: list[SentCommand],
) -> None:
    by_hand = [
        {"workspace": lead.workspace, "destinations": lead.destinations, "lead_id": lead.lead_id}
        for lead in chosen
    ]
    linked = [{"workspace": lead.workspace, "lead_id": lead.lead_id} for lead in kept]
    refused = [
        answer.text for command in commands for answer in command.received if not answer.applied
    ]
    queued = [command.command.id for command in commands if command.is_queued]
    stays = remains(settings)
    audit.show(
        {
            "by_hand": by_hand,
            "linked": linked,
            "queued": queued,
            "refused": refused,
            "stays": stays,
        },
        *(
            f"to do by hand: delete lead {lead.lead_id} in Clay, workspace {lead.workspace}, "
            f"table {', '.join(lead.destinations)}"
            for lead in chosen
        ),
        *(
            f"not erased: lead {lead.lead_id} in workspace {lead.workspace}, "
            "linked to this person, which it does not name; if it is the same person: "
            f"stream-app erase {lead.lead_id} --workspace {lead.workspace}"
            for lead in kept
        ),
        *(f"queued {command_id}" for command_id in queued),
    )
    if audit.json:
        return
    for text in refused:
        say(f"NOT APPLIED, {text}")
    say("What remains, and for how long. None of it is sent to Clay.")
    for place in stays:
        until = "no end" if place.days is None else count(place.days, "day")
        say(f"  {place.place:<24} {until:>8}  {place.what}")
    if queued:
        say("queued commands are applied when their partition has a worker, within 24 hours")
