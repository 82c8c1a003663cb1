"""The composition root builds what the settings allow."""

from contextlib import nullcontext
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest

from stream_app.domain.dead_letter.orders import ReplayPause
from stream_app.domain.model.errors import SettingsError
from stream_app.replay import state as replay
from stream_app.services.worker import clay_client
from tests.unit.config.files import load


@pytest.mark.parametrize(
    ("connect_s", "request_s"),
    [(0.1, 0.2), (1, 3), (5, 7), (5, 30), (299, 300)],
)
def test_every_allowed_pair_of_timeouts_makes_a_client(
    tmp_path: Path,
    connect_s: float,
    request_s: float,
) -> None:
    line = (
        f"connect_timeout_s = {connect_s}\nrequest_timeout_s = {request_s}\nuncertain_grace_s = "
        "3000"
    )
    settings = load(tmp_path, f"[kafka]\nrebalance_timeout_s = 3600\n[delivery]\n{line}")
    clay_client(settings, settings.make_egress())


def test_a_ca_file_that_cannot_be_read_is_one_line_with_its_key(tmp_path: Path) -> None:
    pem = tmp_path / "company.pem"
    settings = load(tmp_path, f'[egress]\nca_file = "{pem}"\n')
    for text in (None, "no PEM"):
        if text is not None:
            pem.write_text(text)
        with pytest.raises(
            SettingsError,
            match=r"^egress\.ca_file = '.*company\.pem': cannot read it as a PEM file: ",
        ):
            settings.make_egress()


async def test_the_reason_of_a_pause_has_no_personal_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The replay process logs it at each start, and `explain` and the board show it."""
    state = Mock(pause=None, set_pause=AsyncMock())
    monkeypatch.setattr(replay, "ReplayState", lambda *_: nullcontext(state))
    monkeypatch.setattr(replay, "kafka_publisher", lambda *_: nullcontext())
    settings = load(tmp_path, "")
    await replay.set_replay_pause(
        settings,
        "jane",
        "ada@example.com asked, +49 170 1234567",
        7,
        paused=True,
    )
    state.pause = ReplayPause("jane", "", 7)
    await replay.set_replay_pause(settings, "joe", "done, says ada@example.com", 8, paused=False)
    (paused, audited), (resumed, audited_then) = (made.args for made in state.set_pause.mock_calls)
    assert paused == ReplayPause("jane", "[email] asked, +[number]", 7)
    assert resumed is None
    assert audited.kind == "replay_pause"
    assert audited.who == "jane"
    assert audited.why == paused.why
    assert audited.at_ms == 7
    assert audited.text == "all replays are paused; they were not paused before"
    assert audited_then.kind == "replay_resume"
    assert audited_then.who == "joe"
    assert audited_then.why == "done, says [email]"
    assert audited_then.text == "all replays are resumed; they were paused by jane before"
    assert audited.id != audited_then.id
