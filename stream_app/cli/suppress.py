"""`stream-app suppress`: the list of people who are never sent to Clay, in any workspace and under any lead id."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final, Literal

from stream_app.cli.base import COMMON, NO, OK, QUEUED, Common, on_kafka, say, show, show_json, with_actions
from stream_app.cli.lane_commands import sent
from stream_app.cli.options import Audit, iso
from stream_app.cli.progress import reading
from stream_app.client.people import hashes_of, on_the_list, persons_in
from stream_app.config import Settings
from stream_app.domain.errors import SettingsError, StreamAppError
from stream_app.domain.text import count
from stream_app.pipeline.command import MOST_PEOPLE

_Kind = Literal["suppress", "unsuppress"]

_PEOPLE: Final = ("person is", "people are")

app = with_actions("suppress")


@app.default
def suppress(*, common: Common = COMMON) -> int:
    """List the people who are never sent to Clay. An action adds or removes people. They are hashed first.

    example:
      stream-app suppress add ada@example.com --why "GDPR objection of March"
    """
    return list_people(common=common)


@app.command(name="add")
def add_people(*person: str, file: Path | None = None, audit: Audit) -> int:
    """Add people to the list. Their leads then end as suppressed, in every workspace.

    example:
      stream-app suppress add ada@example.com --why "..."

    Args:
        person: an e-mail or a LinkedIn URL, or a hash as `suppress list` shows it
        file: one person per line, or what `suppress list --json` wrote; - is stdin
    """
    settings = audit.settings()
    people = hashes_of([*person, *_lines(file)], hashed=True)
    return _change(settings, "suppress", people, audit)


@app.command(name="remove")
def remove_people(*person: str, file: Path | None = None, audit: Audit) -> int:
    """Remove people from the list. Leads that ended as suppressed can be published again.

    example:
      stream-app suppress remove ada@example.com --why "..."

    Args:
        person: an e-mail or a LinkedIn URL, or a hash as `suppress list` shows it
        file: one person per line, or what `suppress list --json` wrote; - is stdin
    """
    settings = audit.settings()
    people = hashes_of([*person, *_lines(file)], hashed=True)
    return _change(settings, "unsuppress", people, audit)


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
        found = on_kafka(settings, "suppress list", on_the_list(settings, progress))
    if wanted:
        found = [each for each in found if each.person in wanted]
    if common.json:
        show_json(found)
    else:
        for each in found:
            partly = "" if each.everywhere else "  not in every partition yet: some partition has no worker"
            show(f"{iso(each.since_ms)}  {each.person}  by {each.who} ({each.command}){partly}")
        show(f"{count(len(found), *_PEOPLE)} on the suppression list")
    return OK if wanted <= {each.person for each in found} else NO


def _change(settings: Settings, kind: _Kind, people: list[str], audit: Audit) -> int:
    """Add or remove `people`, given as their hashes."""
    if not people:
        raise SettingsError(["no person given: pass e-mails or LinkedIn URLs, or --file"])
    changed, queued = asyncio.run(_send(settings, audit, kind, people))
    done = "on the suppression list" if kind == "suppress" else "off the suppression list"
    absent = max(0, len(people) - changed) if kind == "unsuppress" and not queued else 0
    if audit.json:
        show_json({"people": len(people), "changed": changed, "queued": queued})
    elif absent:
        show(f"{count(changed, *_PEOPLE)} {done}; {count(absent, 'person was', 'people were')} not on it")
    elif queued:
        for command_id in queued:
            show(f"queued {command_id}")
        say(f"{count(len(people), *_PEOPLE)} {done} as soon as every partition has a worker, within 24 hours")
    else:
        show(f"{count(len(people), *_PEOPLE)} {done}")
    return QUEUED if queued else NO if absent == len(people) else OK


async def _send(settings: Settings, audit: Audit, kind: _Kind, people: list[str]) -> tuple[int, list[str]]:
    """Send the commands; return how many people changed, and the ids of the queued commands."""
    changed, queued = 0, list[str]()
    for first in range(0, len(people), MOST_PEOPLE):
        command = await sent(settings, audit, kind, "", {"people": people[first : first + MOST_PEOPLE]})
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
        return persons_in(sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{file}: cannot be read: {error}"]) from None
