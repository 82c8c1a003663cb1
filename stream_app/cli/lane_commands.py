"""Send a command to lanes, and show the answers: the lanes' new state, or that the command is queued."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from stream_app.cli.base import NO, OK, QUEUED, say, show, show_json
from stream_app.cli.lane_tables import show_lanes
from stream_app.cli.options import Audit
from stream_app.client.commands import QUEUED_TEXT, SentCommand, submit
from stream_app.config import Settings
from stream_app.domain.lane.command import outcome_text
from stream_app.domain.lane.explain import LaneFacts
from stream_app.domain.lane_messages import CommandAnswer, CommandKind

_WAIT_S: Final = 5.0


async def sent(
    settings: Settings, audit: Audit, kind: CommandKind, workspace: str, arguments: dict[str, Any], *known: str
) -> SentCommand:
    """Send a command and wait for the answers. `known`: texts to remove from the reason."""
    return await submit(
        settings, kind, workspace, arguments, audit.name, audit.why, wait_s=_WAIT_S, say=say, known=known
    )


def order(audit: Audit, kind: CommandKind, workspace: str = "", arguments: dict[str, Any] | None = None) -> int:
    """Send a command to a lane, show the answers, and return the exit code."""
    settings = audit.settings()
    command = asyncio.run(sent(settings, audit, kind, workspace, arguments or {}))
    answers = command.received
    if audit.json:
        show_json({"id": command.command.id, "queued": command.is_queued, "answers": answers})
    else:
        for text in dict.fromkeys(map(result_text, answers)):
            show(text)
        for answer in answers:
            if answer.lane is not None:
                facts = LaneFacts(answer.workspace, answer.partition, answer.lane, {})
                show_lanes([facts], {}, zones(settings), answer.at_ms)
        if command.is_queued:
            show(f"queued {command.command.id}")
            say(QUEUED_TEXT)
    return exit_code([command])


def exit_code(command: list[SentCommand]) -> int:
    """Return the exit code of some commands."""
    if any(not answer.applied for each in command for answer in each.received):
        return NO
    return QUEUED if any(each.is_queued for each in command) else OK


def result_text(answer: CommandAnswer) -> str:
    """Describe an answer in one line."""
    where = answer.workspace or "all"
    return f"{where}: {'' if answer.applied else 'NOT APPLIED, '}{outcome_text(answer.text, answer.under_way)}"


def zones(settings: Settings) -> Mapping[str, str]:
    """Return each workspace's time zone."""
    return {name: here.time_zone for name, here in settings.workspaces.items()}
