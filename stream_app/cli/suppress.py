"""`stream-app suppress`: the list of people who are never sent to Clay, in any workspace and under any lead id."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stream_app.cli.base import NO, OK, QUEUED, Subparsers, command, on_kafka, say, settings_of, tell, tell_json
from stream_app.cli.dead_letter_options import add_action, iso, reading
from stream_app.cli.lanes import WAIT_S, add_who, login_name
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.domain.messages import CommandKind

_PEOPLE: Final = ("person is", "people are")


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "suppress",
        run_list,
        says="List the people who are never sent to Clay. An action adds or removes people. They are hashed first.",
        example='stream-app suppress add ada@example.com --why "GDPR objection of March"',
    )
    parser.set_defaults(who_is=[])
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    who = "an e-mail or a LinkedIn URL"
    for name, says, who_is in (
        (
            "add",
            "Add people to the list. Their leads then end as suppressed, in every workspace.",
            who,
        ),
        (
            "remove",
            "Remove people from the list. Leads that ended as suppressed can be published again.",
            f"{who}, or a hash as `suppress list` shows it",
        ),
    ):
        action = add_action(actions, name, run_change, says, f'stream-app suppress {name} ada@example.com --why "..."')
        action.add_argument("who_is", nargs="*", metavar="PERSON", help=who_is)
        action.add_argument("--file", type=Path, metavar="FILE", help="one person per line; - is stdin")
        add_who(action)
    listed = add_action(
        actions,
        "list",
        run_list,
        "Show the list (hashes). With people: check that all of them are on it, else exit code 1.",
        "stream-app suppress list ada@example.com",
    )
    listed.add_argument("who_is", nargs="*", metavar="PERSON", help=who)


def run_change(args: argparse.Namespace) -> int:
    import asyncio

    from stream_app.domain.errors import SettingsError
    from stream_app.operator.suppress import hashes_of

    settings = settings_of(args, clay=False)
    removes = args.action == "remove"
    lines = [*args.who_is, *_lines(args.file)]
    people = hashes_of(lines, hashed=removes, former=removes)
    if not people:
        raise SettingsError(["no person given: pass e-mails or LinkedIn URLs, or --file"])
    named = len(hashes_of(lines, hashed=removes))
    return asyncio.run(_change(args, settings, people, named))


async def _change(args: argparse.Namespace, settings: Settings, people: list[str], named: int) -> int:
    """Add or remove `people`: the hashes of `named` persons. After a change of the pepper a person has several."""
    from stream_app.domain.errors import StreamAppError
    from stream_app.operator.ask import ask
    from stream_app.pipeline.command import MOST_PEOPLE

    kind: CommandKind = "suppress" if args.action == "add" else "unsuppress"
    who = args.who or login_name()
    queued: list[str] = []
    changed = 0
    for first in range(0, len(people), MOST_PEOPLE):
        some = people[first : first + MOST_PEOPLE]
        asked = await ask(settings, kind, "", {"people": some}, who, args.why, wait_s=WAIT_S, say=say)
        answers = [answer for answer in asked.answers.values() if answer is not None]
        if refused := next((answer for answer in answers if not answer.applied), None):
            raise StreamAppError(f"NOT APPLIED, {refused.text}")
        changed += max((answer.people for answer in answers), default=0)
        if len(answers) < len(asked.answers):
            queued.append(asked.command.id)
    done = "on the suppression list" if kind == "suppress" else "off the suppression list"
    absent = max(0, named - changed) if kind == "unsuppress" and not queued else 0
    if args.json:
        tell_json({"people": named, "changed": changed, "queued": queued})
    elif absent:
        tell(f"{count(changed, *_PEOPLE)} {done}; {count(absent, 'person was', 'people were')} not on it")
    elif queued:
        for each in queued:
            tell(f"queued {each}")
        say(f"{count(named, *_PEOPLE)} {done} as soon as every partition has a worker, within 24 hours")
    else:
        tell(f"{count(named, *_PEOPLE)} {done}")
    return QUEUED if queued else NO if absent == named else OK


def run_list(args: argparse.Namespace) -> int:
    import msgspec

    from stream_app.operator.suppress import hashes_of, on_the_list

    settings = settings_of(args, clay=False)
    wanted = set(hashes_of(args.who_is, former=True))
    persons = [set(hashes_of([each], former=True)) for each in args.who_is]
    with reading("the rows") as progress:
        found = on_kafka(settings, "suppress list", on_the_list(settings, progress))
    if wanted:
        found = [each for each in found if each.person in wanted]
    if args.json:
        tell_json(msgspec.to_builtins(found))
    else:
        for each in found:
            partly = "" if each.everywhere else "  not in every partition yet: some partition has no worker"
            tell(f"{iso(each.since_ms)}  {each.person}  by {each.who} ({each.command}){partly}")
        tell(f"{count(len(found), *_PEOPLE)} on the suppression list")
    on_list = {each.person for each in found}
    return NO if any(on_list.isdisjoint(each) for each in persons) else OK


def _lines(file: Path | None) -> list[str]:
    from stream_app.domain.errors import SettingsError

    if file is None:
        return []
    try:
        return sys.stdin.readlines() if str(file) == "-" else file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{file}: cannot be read: {error}"]) from None
