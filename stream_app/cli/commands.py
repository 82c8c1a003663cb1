"""Send a command to lanes, and show the answers: the lanes' new state, or that the command is queued."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from stream_app.cli.base import NO, OK, QUEUED, say, show, show_json
from stream_app.cli.lane_tables import show_lanes
from stream_app.cli.options import Audit
from stream_app.config import Settings
from stream_app.domain.lane.command import outcome_text
from stream_app.domain.lane.explain import LaneFacts
from stream_app.domain.lane_messages import CommandAnswer, CommandKind
from stream_app.operator.submit import QUEUED_TEXT, SentCommand, submit

_WAIT_S: Final = 5.0


async def sent(
    settings: Settings, audit: Audit, kind: CommandKind, workspace: str, arguments: dict[str, Any], *known: str
) -> SentCommand:
    """Send a command and wait for the answers.

    Args:
        settings: The configuration.
        audit: Who sends it, and why.
        kind: The command's kind.
        workspace: The workspace; '' for a command to every partition.
        arguments: The command's arguments.
        known: Texts to remove from the reason.
    """
    return await submit(
        settings, kind, workspace, arguments, audit.name, audit.why, wait_s=_WAIT_S, say=say, known=known
    )


def order(audit: Audit, kind: CommandKind, workspace: str = "", arguments: dict[str, Any] | None = None) -> int:
    """Send a command to a lane, show the answers, and return the exit code."""
    settings = audit.settings()
    command = asyncio.run(sent(settings, audit, kind, workspace, arguments or {}))
    answers = received(command)
    if audit.json:
        show_json({"id": command.command.id, "queued": is_queued(command), "answers": answers})
    else:
        for text in dict.fromkeys(map(result_text, answers)):
            show(text)
        for answer in answers:
            if answer.lane is not None:
                facts = LaneFacts(answer.workspace, answer.partition, answer.lane, {})
                show_lanes([facts], {}, zones(settings), answer.at_ms)
        if is_queued(command):
            show(f"queued {command.command.id}")
            say(QUEUED_TEXT)
    return exit_code([command])


def received(command: SentCommand) -> list[CommandAnswer]:
    """Return the answers that came in time."""
    return [answer for answer in command.answers.values() if answer is not None]


def is_queued(command: SentCommand) -> bool:
    """Return True if a partition has not answered in time."""
    return None in command.answers.values()


def exit_code(command: list[SentCommand]) -> int:
    """Return the exit code of some commands."""
    if any(not answer.applied for each in command for answer in received(each)):
        return NO
    return QUEUED if any(map(is_queued, command)) else OK


def result_text(answer: CommandAnswer) -> str:
    """Describe an answer in one line."""
    where = answer.workspace or "all"
    return f"{where}: {'' if answer.applied else 'NOT APPLIED, '}{outcome_text(answer.text, answer.under_way)}"


def zones(settings: Settings) -> Mapping[str, str]:
    """Return each workspace's time zone."""
    return {name: here.time_zone for name, here in settings.workspaces.items()}
