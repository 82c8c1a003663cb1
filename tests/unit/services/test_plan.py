"""The composition root builds what the settings allow."""

import asyncio
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import AsyncMock, Mock, call

import pytest

from stream_app.config import load_settings
from stream_app.domain.dead_letter.orders import Pause
from stream_app.domain.model.errors import SettingsError
from stream_app.replay import state as replay
from stream_app.services.worker import clay_client
from stream_app.tasks import run_until
from tests.unit.config.files import load


@pytest.mark.parametrize(("connect_s", "request_s"), [(0.1, 0.2), (1, 3), (5, 7), (5, 30), (299, 300)])
async def test_every_allowed_pair_of_timeouts_makes_a_client(
    tmp_path: Path, connect_s: float, request_s: float
) -> None:
    config = tmp_path / "stream_app.toml"
    line = f"connect_timeout_s = {connect_s}\nrequest_timeout_s = {request_s}\nuncertain_grace_s = 3000"
    config.write_text(f"[kafka]\nrebalance_timeout_s = 3600\n[delivery]\n{line}")
    settings = load_settings(config, {})
    clay_client(settings, settings.make_egress())


def test_an_uncertain_lead_waits_as_long_as_its_destination_says(tmp_path: Path) -> None:
    config = tmp_path / "stream_app.toml"
    table = 'workspace = "acme"\ncallbacks = false\nwebhooks_env = ["{0}"]\n'
    people, firms = table.format("A"), table.format("B")
    config.write_text(
        f"[delivery]\nuncertain_grace_s = 300\n[workspaces.acme]\ndefault_destination = 'people'\n"
        f"[destinations.people]\n{people}[destinations.firms]\n{firms}uncertain_grace_s = 60"
    )
    hooks = {name: f"https://api.clay.com/v3/sources/webhook/{name}" for name in "AB"}
    plan = load_settings(config, hooks).plan
    assert {alias: destination.uncertain_grace_s for alias, destination in plan.destinations.items()} == {
        "people": 300,
        "firms": 60,
    }


def test_a_ca_file_that_cannot_be_read_is_one_line_with_its_key(tmp_path: Path) -> None:
    config, pem = tmp_path / "stream_app.toml", tmp_path / "company.pem"
    config.write_text(f'[egress]\nca_file = "{pem}"\n')
    settings = load_settings(config, {})
    for text in (None, "no PEM"):
        if text is not None:
            pem.write_text(text)
        with pytest.raises(SettingsError, match=r"^egress\.ca_file = '.*company\.pem': cannot read it as a PEM file: "):
            settings.make_egress()


async def test_the_reason_of_a_pause_has_no_personal_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay process logs it at each start, and `explain` and the board show it."""
    state = Mock(pause=None, set_pause=AsyncMock())
    monkeypatch.setattr(replay, "ReplayState", lambda *_: nullcontext(state))
    monkeypatch.setattr(replay, "kafka_publisher", lambda *_: nullcontext())
    settings = load(tmp_path, "")
    await replay.set_replay_pause(settings, "jane", "ada@example.com asked, +49 170 1234567", 7)
    await replay.set_replay_pause(settings, None, "", 0)
    assert state.set_pause.mock_calls == [call(Pause("jane", "[email] asked, +[number]", 7)), call(None)]


async def test_work_is_cancelled_when_the_process_is_to_stop() -> None:
    stop, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asyncio.get_running_loop().call_soon(stop.set)
    await run_until(stop, work())
    assert ended.is_set()


async def test_the_error_of_the_work_ends_the_process() -> None:
    async def work() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await run_until(asyncio.Event(), work())
