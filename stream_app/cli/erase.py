"""`stream-app erase`: erase a lead or a person, and list the rows that an operator must delete in Clay."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stream_app.cli.base import NO, OK, QUEUED, Subparsers, command, on_kafka, say, settings_of, tell, tell_json
from stream_app.cli.dead_letter_options import confirm, reading
from stream_app.cli.lanes import WAIT_S, add_who, login_name
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.domain.messages import CommandKind
    from stream_app.operator.ask import Asked
    from stream_app.operator.erase import Held


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "erase",
        run,
        says="Erase a lead, or all leads of a person, from results, cache and look-up. The person is never sent again, "
        "not even from a dead letter. Clay's rows cannot be deleted from here; the command lists them.",
        example='stream-app erase ada@example.com --why "GDPR request 17"\n  stream-app erase crm-17 --yes --why "..."',
    )
    parser.add_argument("who_is", metavar="LEAD|PERSON", help="a lead's id, an e-mail or a LinkedIn URL (hashed here)")
    parser.add_argument("--workspace", metavar="NAME", help="the lead's workspace, if several have this id")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add_who(parser)


def run(args: argparse.Namespace) -> int:
    import asyncio

    from stream_app.config import check_known
    from stream_app.operator.erase import find_held
    from stream_app.operator.suppress import hashes_of

    settings = settings_of(args, clay=False)
    check_known(settings, workspace=args.workspace)
    is_person = "@" in args.who_is or "linkedin.com/" in args.who_is.lower()
    persons = hashes_of([args.who_is]) if is_person else []
    with reading("reading rows and results") as progress:
        lead_id = None if is_person else args.who_is
        known_by = hashes_of([args.who_is], former=True) if is_person else []
        held = on_kafka(settings, "erase", find_held(settings, known_by, lead_id, args.workspace, progress))
    persons = sorted({*persons, *(person for each in held for person in each.people)})
    if not held and not persons:
        say("nothing found to erase: no row and no result of this lead or person")
        if args.json:
            tell_json({"by_hand": [], "queued": [], "refused": []})
        return NO
    for lead in held:
        check_known(settings, workspace=lead.workspace)  # before anything is erased, so that no erasure is partial
    if not args.yes:
        confirm(f"erase {count(len(held), 'lead')}, and never send this person again")
    return asyncio.run(_erase(args, settings, held, persons))


async def _erase(args: argparse.Namespace, settings: Settings, held: list[Held], persons: list[str]) -> int:
    from stream_app.operator.ask import ask

    who = args.who or login_name()

    async def tell_lanes(kind: CommandKind, workspace: str, what: dict[str, Any]) -> Asked:
        return await ask(settings, kind, workspace, what, who, args.why, wait_s=WAIT_S, say=say, known=[args.who_is])

    # Suppress the person first, so that no new lead of theirs arrives after the erasure.
    asked = [await tell_lanes("suppress", "", {"people": persons})] if persons else []
    for lead in held:
        what = {"lead_id": lead.lead_id, "destinations": lead.destinations, "people": lead.people}
        asked.append(await tell_lanes("erase", lead.workspace, what))
    return _show(args, settings, held, asked)


def _show(args: argparse.Namespace, settings: Settings, held: list[Held], asked: list[Asked]) -> int:
    import msgspec

    from stream_app.operator.erase import remains

    answers = [answer for each in asked for answer in each.answers.values()]
    refused = [answer.text for answer in answers if answer is not None and not answer.applied]
    queued = [each.command.id for each in asked if None in each.answers.values()]
    by_hand = [
        {"workspace": lead.workspace, "destinations": list(lead.destinations), "lead_id": lead.lead_id} for lead in held
    ]
    stays = remains(settings)
    if args.json:
        rest = [msgspec.to_builtins(each) for each in stays]
        tell_json({"by_hand": by_hand, "queued": queued, "refused": refused, "stays": rest})
    else:
        for lead in held:
            tables = ", ".join(lead.destinations)
            tell(f"to do by hand: delete lead {lead.lead_id} in Clay, workspace {lead.workspace}, table {tables}")
        for text in refused:
            say(f"NOT APPLIED, {text}")
        for each in queued:
            tell(f"queued {each}")
        say("What remains, and for how long. None of it is sent to Clay.")
        for place in stays:
            until = "no end" if place.days is None else f"{place.days} days"
            say(f"  {place.place:<24} {until:>8}  {place.what}")
        if queued:
            say("queued commands are applied when their partition has a worker, within 24 hours")
    return NO if refused else QUEUED if queued else OK
