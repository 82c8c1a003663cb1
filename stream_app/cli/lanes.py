"""`stream-app lanes`: show all lanes, and send commands to one; the answer shows the lane's new state."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from stream_app.cli.base import NO, OK, QUEUED, Subparsers, command, on_kafka, say, settings_of, tell, tell_json
from stream_app.cli.dead_letter_options import add_action, iso
from stream_app.cli.watch import add_watch, watched
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.domain.messages import CommandAnswer, CommandKind
    from stream_app.operator.ask import Asked

T = TypeVar("T")

WAIT_S: Final = 5.0
_SIMPLE: Final = {
    "pause": "Send no more leads of a lane until `resume`. They wait in Kafka.",
    "resume": "End a pause, or the suspension of a lane whose leads Clay rejected.",
    "trip": "Force the circuit breaker open.",
    "close": "Force the circuit breaker closed, regardless of Clay's answers.",
    "shadow": "Let the breaker report its decisions without holding leads.",
    "auto": "Let the breaker decide again.",
    "reset": "Reset the breaker and its window, and end a suspension.",
}
_CAPS: Final = ("credits_per_day", "credits_per_month", "actions_per_day", "actions_per_month")


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "lanes",
        run,
        says="Show all lanes: what holds them, breaker, health, budget with forecast, and waiting leads. An action "
        "changes one lane live.",
        example='stream-app lanes\n  stream-app lanes pause acme --why "table is being rebuilt"',
    )
    parser.add_argument("--workspace", dest="only", metavar="NAME", help="only this workspace")
    add_watch(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    for name, says in _SIMPLE.items():
        _order(actions, name, says, f'stream-app lanes {name} acme --why "..."')
    budget = _order(
        actions,
        "budget",
        "Change caps live, from the next lead on. N, `none` for no limit, or `configured`.",
        'stream-app lanes budget acme --credits-per-day 8000 --why "topped up"',
    )
    for cap in _CAPS:
        budget.add_argument(f"--{cap.replace('_', '-')}", type=_cap, metavar="N", default=argparse.SUPPRESS)
    budget.add_argument("--shadow", type=_switch, metavar="on|off|configured", help="count only, hold no lead")
    correct = _order(
        actions,
        "correct",
        "Book credits or actions that were spent elsewhere, or (below 0) returned by Clay. With --lead: correct "
        "the cost of a lead that was booked at its ceiling.",
        'stream-app lanes correct acme --credits 120 --why "spent by hand in Clay"\n'
        '  stream-app lanes correct acme --lead crm-17 --credits 4 --why "its row in Clay says so"',
    )
    for meter in ("credits", "actions"):
        correct.add_argument(f"--{meter}", type=int, metavar="N")
    correct.add_argument("--lead", metavar="ID", help="the lead id that `books` and `status` show")
    correct.add_argument("--destination", metavar="ALIAS", help="with --lead: its destination, if it has several")
    correct.add_argument(
        "--period", choices=("day", "month"), default="day", help="day: today and this month; month: only this month"
    )
    rate = _order(
        actions, "rate", "Change the rate live.", 'stream-app lanes rate acme --per-second 4 --why "Clay is slow"'
    )
    rate.add_argument("--per-second", type=_number, metavar="N", help="at most N leads per second, or `configured`")
    rate.add_argument("--burst", type=_whole, metavar="N", help="at most N leads at once, or `configured`")
    quota = _order(
        actions,
        "quota",
        "Retire a webhook or use it again, or set its count of submissions.",
        "stream-app lanes --json                # shows the ID of each webhook\n"
        '  stream-app lanes quota acme --webhook ID --count 12000 --why "used by hand before"',
    )
    quota.add_argument("--webhook", required=True, type=_webhook, metavar="ID", help="the ID that `lanes --json` shows")
    use = quota.add_mutually_exclusive_group()
    use.add_argument("--use", action="store_true", default=None, dest="use", help="use the webhook again")
    use.add_argument("--retire", action="store_false", default=None, dest="use", help="stop using the webhook")
    quota.add_argument("--count", type=int, metavar="N", help="submissions so far")
    cancel = _order(
        actions,
        "cancel",
        "Cancel a lead or an import: what is not at Clay yet ends as suppressed.",
        'stream-app lanes cancel acme --import march.csv --why "wrong list"',
    )
    what = cancel.add_mutually_exclusive_group(required=True)
    what.add_argument("--lead", metavar="ID", help="the lead id that `status` shows")
    what.add_argument("--import", dest="import_id", metavar="NAME", help="the import_id of the published leads")
    add_who(
        add_action(
            actions,
            "reload",
            run_order,
            "Have every worker reload its configuration and secrets, with new webhooks, tokens and workspaces.",
            'stream-app lanes reload --why "a third webhook for people"',
        )
    )
    log = add_action(
        actions,
        "log",
        run_log,
        "Show the commands to lanes: who sent them, why, and their results.",
        "stream-app lanes log",
    )
    log.add_argument("workspace", nargs="?", metavar="WORKSPACE")
    log.add_argument("--limit", type=int, default=20, metavar="N", help="the last N commands (%(default)s)")


def _order(actions: Any, name: str, says: str, example: str) -> argparse.ArgumentParser:
    parser = add_action(actions, name, run_order, says, example)
    parser.add_argument("workspace", metavar="WORKSPACE")
    add_who(parser)
    return parser


def add_who(parser: argparse.ArgumentParser) -> None:
    why = "the reason, for the audit log; addresses and long numbers are removed"
    parser.add_argument("--why", required=True, metavar="TEXT", help=why)
    parser.add_argument("--who", metavar="NAME", help="your name in the audit log (default: the login name)")


def login_name() -> str:
    """Return the login name; a container may have none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


# ------------------------------------------------------------------------------------------------------- the table


def run(args: argparse.Namespace) -> int:
    from stream_app.config import check_known

    settings = settings_of(args, clay=False)
    check_known(settings, workspace=args.only)
    return watched(args, lambda: _show_all(args, settings))


def _show_all(args: argparse.Namespace, settings: Settings) -> int:
    import asyncio

    import msgspec

    from stream_app.cli.lane_table import show_lanes
    from stream_app.operator.look import look, only

    seen = only(asyncio.run(look(settings, say)), args.only)
    if args.json:
        tell_json(msgspec.to_builtins(seen))
        return OK
    facts = seen.facts
    show_lanes(facts.lanes, seen.forecasts, _zones(settings), facts.at_ms, works=facts.worker.members > 0)
    if not facts.worker.members:
        say("no worker runs, so no lane moves. This is their last published state. Start one: stream-app worker")
    return OK


def _zones(settings: Settings) -> dict[str, str]:
    return {name: here.time_zone for name, here in settings.workspaces.items()}


# ------------------------------------------------------------------------------------------------------- a command


def run_order(args: argparse.Namespace) -> int:
    import asyncio

    from stream_app.operator.ask import ask

    kind, arguments = _command_of(args)
    settings = settings_of(args, clay=False)
    workspace = getattr(args, "workspace", "")
    who = args.who or login_name()
    asked = asyncio.run(ask(settings, kind, workspace, arguments, who, args.why, wait_s=WAIT_S, say=say))
    return show_asked(args, settings, asked)


def show_asked(args: argparse.Namespace, settings: Settings, asked: Asked) -> int:
    """Print the result of a command, and return its exit code."""
    import msgspec

    answers = [answer for answer in asked.answers.values() if answer is not None]
    queued, refused = len(answers) < len(asked.answers), any(not answer.applied for answer in answers)
    if args.json:
        tell_json({"id": asked.command.id, "queued": queued, "answers": msgspec.to_builtins(answers)})
    else:
        for text in dict.fromkeys(map(_result_text, answers)):
            tell(text)
        for answer in answers:
            _show_lane(settings, answer)
        if queued:
            tell(f"queued {asked.command.id}")
            say("no worker has answered yet: the command is applied when a worker runs, within 24 hours")
    return NO if refused else QUEUED if queued else OK


def _result_text(answer: CommandAnswer) -> str:
    where = answer.workspace or "all"
    under_way = f"; {count(answer.under_way, 'request')} in progress will finish" if answer.under_way else ""
    return f"{where}: {'' if answer.applied else 'NOT APPLIED, '}{answer.text}{under_way}"


def _show_lane(settings: Settings, answer: CommandAnswer) -> None:
    if answer.lane is None:
        return
    from stream_app.cli.lane_table import show_lanes
    from stream_app.domain.lane.explain import LaneFacts

    show_lanes([LaneFacts(answer.workspace, answer.partition, answer.lane, {})], {}, _zones(settings), answer.at_ms)


def _command_of(args: argparse.Namespace) -> tuple[CommandKind, dict[str, Any]]:
    """Return the kind and the arguments of an action's command."""
    from stream_app.domain.lead.lead import plain_id

    given = vars(args)
    match args.action:
        case "budget":
            caps = {cap: given[cap] for cap in _CAPS if cap in given}
            return "budget", {"caps": caps, "shadow": args.shadow}
        case "correct":
            return "correct", _correction(args)
        case "rate":
            return "rate", {"rate_per_s": args.per_second, "burst": args.burst}
        case "quota":
            return "quota", {"webhook_id": args.webhook, "use": args.use, "count": args.count}
        case "cancel" if args.lead is not None:
            return "cancel_lead", {"lead_id": plain_id(args.lead.strip())}
        case "cancel":
            return "cancel_import", {"import_id": args.import_id}
        case action:
            return action, {}


def _correction(args: argparse.Namespace) -> dict[str, Any]:
    from stream_app.domain.errors import SettingsError
    from stream_app.domain.lead.lead import plain_id

    if args.lead is None:
        if args.destination is not None:
            raise SettingsError(["--destination needs --lead"])
        return {"credits": args.credits or 0, "actions": args.actions or 0, "period": args.period}
    amounts = {"credits": args.credits, "actions": args.actions}
    given = {meter: amount for meter, amount in amounts.items() if amount is not None}
    if not given or min(given.values()) < 0:
        raise SettingsError(["--lead: pass the lead's cost as --credits, --actions or both, 0 or more"])
    return {"lead_id": plain_id(args.lead.strip()), "destination": args.destination or "", **given}


def _cap(text: str) -> int | str | None:
    return None if text == "none" else _as(int, text, "a whole number, none or configured")


def _number(text: str) -> float | str:
    return _as(float, text, "a number or configured")


def _whole(text: str) -> int | str:
    return _as(int, text, "a whole number or configured")


def _as(kind: Callable[[str], T], text: str, expected: str) -> T | str:
    try:
        return text if text == "configured" else kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None


def _switch(text: str) -> bool | str:
    if text not in ("on", "off", "configured"):
        raise argparse.ArgumentTypeError(f"{text!r} is not on, off or configured")
    return text if text == "configured" else text == "on"


def _webhook(text: str) -> str:
    if "/" in text:
        raise argparse.ArgumentTypeError("pass the webhook's ID that `stream-app lanes --json` shows, never its URL")
    return text


# ---------------------------------------------------------------------------------------------------------- the log


def run_log(args: argparse.Namespace) -> int:
    import msgspec

    from stream_app.config import check_known
    from stream_app.domain.lane.command import TO_ALL
    from stream_app.operator.look import log

    settings = settings_of(args, clay=False)
    check_known(settings, workspace=args.workspace)
    found = on_kafka(settings, "lanes log", log(settings, args.workspace, args.limit))
    if args.json:
        tell_json([msgspec.to_builtins(answer) for alike in found for answer in alike])
        return OK
    for alike in found:
        answer = alike[0]
        why = f" ({answer.why})" if answer.why else ""
        number, all_of_them = len({each.partition for each in alike}), settings.kafka.partitions
        where = f" (by {number} of {all_of_them} partitions)" if answer.kind in TO_ALL and number < all_of_them else ""
        tell(f"{iso(answer.at_ms)}  {answer.who} {answer.kind}{why}  {_result_text(answer)}{where}")
    if not found:
        tell("no commands in the kept audit log")
    return OK
