"""`stream-app replay select` that is interrupted, or that another operator stops."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from stream_app.cli import replay as module
from stream_app.config import Settings
from stream_app.domain.dead_letter.orders import ReplayCommand, ReplayPhase, ReplayProgress
from stream_app.domain.model.errors import StreamAppError
from tests.support.replay_plans import plan

START = ReplayCommand("r-1", "start", "r-1", 0, "jane")


def told(
    monkeypatch: pytest.MonkeyPatch,
    state: ReplayPhase,
    text: str = "",
) -> list[ReplayCommand]:
    """Have the replay process give one answer and then no more; return the commands it gets."""
    got: list[ReplayCommand] = []

    async def submit_and_follow(
        _: Settings,
        command: ReplayCommand,
    ) -> AsyncIterator[ReplayProgress]:
        got.append(command)
        commands = (command.id,)
        yield ReplayProgress(
            "r-1",
            state,
            "jane",
            "",
            0,
            plan(),
            total=40,
            sent=7,
            text=text,
            commands=commands,
        )
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "submit_and_follow", submit_and_follow)
    return got


async def test_ctrl_c_stops_the_replay_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    got = told(monkeypatch, "running")
    ordering = asyncio.create_task(module.order_and_follow(Settings(), START))
    await asyncio.sleep(0.01)
    ordering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ordering
    assert [(command.kind, command.replay, command.who) for command in got] == [
        ("start", "r-1", "jane"),
        ("stop", "r-1", "jane"),
    ]
    errors = capsys.readouterr().err
    assert "interrupted after 7: run the same command to continue; nothing is sent twice" in errors


async def test_a_replay_that_another_operator_stops_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told(monkeypatch, "stopped", "another operator has started r-2")
    with pytest.raises(StreamAppError, match=r"^replay r-1: another operator has started r-2$"):
        await module.order_and_follow(Settings(), START)
