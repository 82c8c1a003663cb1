"""`stream-app lanes`: show all lanes, and send commands to one.

The answer to a command shows the lane's new state.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

from cyclopts import CoercionError, Parameter, Token

from stream_app.cli.base import COMMON, NO, OK, QUEUED, Common, WholeNumber, on_kafka, with_actions
from stream_app.cli.lane_tables import show_lanes
from stream_app.cli.options import VIEW, Audit, OptionalPositive, View, WorkspaceName, iso
from stream_app.cli.output import say, show, show_json
from stream_app.client.doctor.gateways import table_secrets
from stream_app.client.lanes import views as reader
from stream_app.client.lanes.commands import QUEUED_TEXT, SentCommand, submit
from stream_app.config import Settings
from stream_app.domain.commands import (
    REPLAY_RELOAD,
    TO_ALL,
    CommandAnswer,
    CommandKind,
    entries,
    help_text,
    outcome_text,
    read_entries,
)
from stream_app.domain.lane.overrides import ORDERS, OrderKind
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.text import count
from stream_app.domain.views.explain import LaneFacts

_WAIT_S: Final = 5.0


async def sent(
    settings: Settings,
    audit: Audit,
    kind: CommandKind,
    workspace: str,
    arguments: dict[str, Any],
    *known: str,
) -> SentCommand:
    """Send a command and wait for the answers. `known`: texts to remove from the reason."""
    return await submit(
        settings,
        kind,
        workspace,
        arguments,
        audit.name,
        audit.why,
        wait_s=_WAIT_S,
        say=say,
        known=known,
    )


def order(audit: Audit, kind: CommandKind, workspace: str, arguments: dict[str, Any]) -> int:
    """Send a command to a lane, show the answers, and return the exit code."""
    settings = audit.settings()
    command = asyncio.run(sent(settings, audit, kind, workspace, arguments))
    show_sent(settings, audit, command)
    return exit_code([command])


def show_sent(settings: Settings, audit: Audit, command: SentCommand, **more: Any) -> None:
    """Print the answers to a command. `more` goes into the JSON document."""
    answers = command.received
    if audit.json:
        show_json(
            {"id": command.command.id, "queued": command.is_queued, "answers": answers, **more},
        )
        return
    for text in dict.fromkeys(map(result_text, answers)):
        show(text)
    for answer in answers:
        if answer.lane is not None:
            facts = LaneFacts(answer.workspace, answer.partition, answer.lane, {})
            show_lanes(settings, [facts], {}, answer.at_ms)
    if command.is_queued:
        show(f"queued {command.command.id}")
        say(QUEUED_TEXT)


def exit_code(commands: list[SentCommand]) -> int:
    """Return the exit code of some commands."""
    if any(not answer.applied for command in commands for answer in command.received):
        return NO
    return QUEUED if any(command.is_queued for command in commands) else OK


def result_text(answer: CommandAnswer) -> str:
    """Describe an answer in one line."""
    where = answer.workspace or ("replay" if answer.kind == REPLAY_RELOAD else "all")
    return (
        f"{where}: "
        f"{'' if answer.applied else 'NOT APPLIED, '}{outcome_text(answer.text, answer.under_way)}"
    )


_PAGE: Final = 100

app = with_actions("lanes")


@app.default
def lanes(*, limit: OptionalPositive = None, after: WorkspaceName = None, view: View = VIEW) -> int:
    """Show all lanes: what holds them, breaker, health, budget with forecast, and waiting leads.

    An action changes one lane live.

    example:
      stream-app lanes
      stream-app lanes pause acme --why "table is being rebuilt"

    Args:
        limit: show N lanes, in the order of their names; default: 100 in a table, all with --json
        after: show the lanes after this one
    """
    settings = view.settings(workspace=view.workspace)
    most = limit or (None if view.json else _PAGE)

    def show_page() -> int:
        everything = reader.only_workspace(
            asyncio.run(reader.read_lanes(settings, say)),
            view.workspace,
        )
        report = reader.page(everything, after or "", most)
        if view.json:
            show_json(report)
            return OK
        facts = report.facts
        show_lanes(
            settings,
            facts.lanes,
            report.forecasts,
            facts.at_ms,
            works=facts.worker.members > 0,
        )
        if report.more:
            more = count(report.more, "more lane")
            say(f"{more}: stream-app lanes --after {facts.lanes[-1].workspace}")
        if not facts.worker.members:
            idle = "no worker runs, so no lane is running. This is their last published state."
            say(f"{idle} Start one: stream-app worker")
        return OK

    return view.repeat(show_page)


def _command(
    kind: OrderKind,
    example: str = 'acme --why "..."',
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function the command of an order. Its help is what the order's own docstring says."""
    help_ = f"{help_text(kind)}\n\nexample:\n  stream-app lanes {kind} {example}"
    with_values = [order_kind for order_kind in ORDERS if entries(order_kind)]
    place = 1 + with_values.index(kind) if entries(kind) else 0
    return app.command(name=kind, help=help_, sort_key=place)


def _value(kind: OrderKind, name: str) -> Parameter:
    """Return how one value of an order is entered: with its limits, its words and its help."""
    (entry,) = (entry for entry in entries(kind) if entry.name == name)
    if entry.is_flag:
        yes, no = entry.words
        return Parameter(
            name=f"--{yes}",
            negative=f"--{no}",
            allow_repeating=False,
            help=entry.says,
        )
    if entry.words and not entry.number:
        return Parameter(help=entry.says)

    def check(_: Any, tokens: Sequence[Token]) -> str:
        try:
            entry.value(tokens[0].value)
        except ValueError as error:
            raise CoercionError(str(error), token=tokens[0]) from None
        return tokens[0].value

    metavar = "|".join(["N" if entry.number else "ID", *entry.words])
    return Parameter(metavar=metavar, converter=check, help=entry.says)


def _entered(
    audit: Audit,
    kind: OrderKind,
    workspace: str,
    **values: str | bool | None,
) -> int:
    """Send the order with the values that were entered."""
    entered = {name: value for name, value in values.items() if value is not None}
    arguments, _ = read_entries(kind, entered)  # each option has checked its own value
    return order(audit, kind, workspace, arguments)


@_command("pause")
def _pause(workspace: str, /, *, audit: Audit) -> int:
    return _entered(audit, "pause", workspace)


@_command("resume")
def _resume(workspace: str, /, *, audit: Audit) -> int:
    return _entered(audit, "resume", workspace)


@_command("trip")
def _trip(workspace: str, /, *, audit: Audit) -> int:
    return _entered(audit, "trip", workspace)


@_command("close")
def _close(workspace: str, /, *, audit: Audit) -> int:
    return _entered(audit, "close", workspace)


@_command("shadow")
def _shadow(workspace: str, /, *, audit: Audit) -> int:
    return _entered(audit, "shadow", workspace)


@_command("auto")
def _auto(workspace: str, /, *, audit: Audit) -> int:
    return _entered(audit, "auto", workspace)


@_command("reset")
def _reset(workspace: str, /, *, audit: Audit) -> int:
    return _entered(audit, "reset", workspace)


@_command("budget", 'acme --credits-per-day 8000 --why "topped up"')
def _budget(
    workspace: str,
    /,
    *,
    credits_per_day: Annotated[str | None, _value("budget", "credits_per_day")] = None,
    credits_per_month: Annotated[str | None, _value("budget", "credits_per_month")] = None,
    actions_per_day: Annotated[str | None, _value("budget", "actions_per_day")] = None,
    actions_per_month: Annotated[str | None, _value("budget", "actions_per_month")] = None,
    shadow: Annotated[
        Literal["on", "off", "configured"] | None,
        _value("budget", "shadow"),
    ] = None,
    audit: Audit,
) -> int:
    return _entered(
        audit,
        "budget",
        workspace,
        credits_per_day=credits_per_day,
        credits_per_month=credits_per_month,
        actions_per_day=actions_per_day,
        actions_per_month=actions_per_month,
        shadow=shadow,
    )


@_command("correct", 'acme --credits 120 --why "spent by hand in Clay"')
def _correct(
    workspace: str,
    /,
    *,
    credits_: Annotated[
        str | None,
        Parameter(name="--credits"),
        _value("correct", "credits"),
    ] = None,
    actions: Annotated[str | None, _value("correct", "actions")] = None,
    period: Annotated[Literal["day", "month"] | None, _value("correct", "period")] = "day",
    audit: Audit,
) -> int:
    return _entered(
        audit,
        "correct",
        workspace,
        credits=credits_,
        actions=actions,
        period=period,
    )


@_command("rate", 'acme --per-second 4 --why "Clay is slow"')
def _rate(
    workspace: str,
    /,
    *,
    per_second: Annotated[str | None, _value("rate", "per_second")] = None,
    burst: Annotated[str | None, _value("rate", "burst")] = None,
    audit: Audit,
) -> int:
    return _entered(audit, "rate", workspace, per_second=per_second, burst=burst)


@_command("quota", 'acme --webhook ID --count 12000 --why "used by hand"')
def _quota(
    workspace: str,
    /,
    *,
    webhook: Annotated[str, _value("quota", "webhook")],
    use: Annotated[bool | None, _value("quota", "use")] = None,
    count_: Annotated[str | None, Parameter(name="--count"), _value("quota", "count")] = None,
    audit: Audit,
) -> int:
    return _entered(audit, "quota", workspace, webhook=webhook, use=use, count=count_)


@app.command(sort_key=20)
def cancel(
    workspace: str,
    /,
    *,
    lead: Annotated[str | None, Parameter(metavar="ID")] = None,
    import_id: Annotated[str | None, Parameter(name="--import", metavar="NAME")] = None,
    audit: Audit,
) -> int:
    """Cancel a lead or an import: what is not at Clay yet ends as suppressed.

    example:
      stream-app lanes cancel acme --import march.csv --why "wrong list"

    Args:
        lead: the lead id that `status` shows
        import_id: the import_id of the published leads
    """
    if (lead is None) == (import_id is None):
        raise SettingsError(["pass either --lead or --import"])
    if lead is not None:
        return order(audit, "cancel_lead", workspace, {"lead_id": plain_id(lead.strip())})
    return order(audit, "cancel_import", workspace, {"import_id": import_id})


@app.command(sort_key=21)
def reload(*, audit: Audit) -> int:
    """Have workers and replay reload configuration and secrets.

    They take over new webhooks, tokens and workspaces. The command waits until every worker and
    replay process has answered. Gateways adopt a changed file by themselves. Where a table has
    callback_secrets_env, this tries its secrets at gateway.public_url and names each one that a
    gateway lacks. A gateway that the proxy in front does not choose is not asked.

    example:
      stream-app lanes reload --why "a third webhook for people"
    """
    settings = audit.settings()
    command = asyncio.run(sent(settings, audit, "reload", "", {}))
    secrets = asyncio.run(table_secrets(settings, _WAIT_S))
    show_sent(settings, audit, command, gateways=secrets)
    if absent := list(command.replay.values()).count(None):
        say(
            f"no replay process has answered for {absent} of "
            f"{count(len(command.replay), 'partition')} within {_WAIT_S:g} s. "
            "It reads the configuration when it starts: stream-app replay",
        )
    for secret in secrets:
        say(secret.text)
    is_missing = [secret.state == "missing" for secret in secrets]
    if not all(is_missing):
        say(
            "a gateway that the proxy did not choose was not asked: all are alike when the metric "
            "stream_app_gateway_tables_info has one digest",
        )
    if any(is_missing):
        return NO
    return exit_code([command]) or (QUEUED if absent else OK)


@app.command(sort_key=22)
def log(
    workspace: str | None = None,
    /,
    *,
    limit: WholeNumber = 20,
    common: Common = COMMON,
) -> int:
    """Show the commands to lanes: who sent them, why, and their results.

    example:
      stream-app lanes log

    Args:
        workspace: only this workspace
        limit: the last N commands
    """
    settings = common.settings(workspace=workspace)
    commands = on_kafka(settings, "lanes log", reader.command_log(settings, workspace, limit))
    lines = [_log_line(alike, settings.kafka.partitions) for alike in commands] or [
        "no commands in the kept audit log",
    ]
    common.show([answer for alike in commands for answer in alike], *lines)
    return OK


def _log_line(alike: Sequence[CommandAnswer], partitions: int) -> str:
    answer = alike[0]
    number = len({answered.partition for answered in alike})
    why = f" ({answer.why})" if answer.why else ""
    is_partial = answer.kind in (*TO_ALL, REPLAY_RELOAD) and number < partitions
    where = f" (by {number} of {partitions} partitions)" if is_partial else ""
    return f"{iso(answer.at_ms)}  {answer.who} {answer.kind}{why}  {result_text(answer)}{where}"
