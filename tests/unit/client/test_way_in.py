"""A board without a configured token, and the user who runs it: who comes in, by the files and the
address alone.
"""

import os
import stat
from pathlib import Path

import httpx
import pytest

from stream_app.cli.main import main
from stream_app.client.results.lookup import way_in
from stream_app.config import Settings, load_settings
from stream_app.config.board_files import token_of_board, token_of_reader
from stream_app.domain.model.errors import SettingsError, StreamAppError
from tests.board.scene import OWN_TOKEN
from tests.board.serving import served


def settings_of(folder: Path, url: str = "http://127.0.0.1:1") -> Settings:
    path = folder / "stream_app.toml"
    path.write_text(f'[board]\nurl = "{url}"\nread_model_path = "{folder}/model.sqlite"\n')
    return load_settings(path, {}, ())


def test_the_token_is_made_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert token_of_reader(settings, {}) is None, "no board has run yet"
    token = token_of_board(settings, {})
    assert len(token) >= 32
    assert token_of_board(settings, {}) == token, "a restart ends no session"
    assert token_of_reader(settings, {}) == token
    assert stat.S_IMODE((tmp_path / "model.token").stat().st_mode) == 0o600


def test_the_configuration_alone_leads_to_it(tmp_path: Path) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text("[kafka]\nnamespace = 'a.'\n")
    settings = load_settings(path, {}, ())
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    token = token_of_board(settings, environ)
    assert token_of_reader(load_settings(path, {}, ()), environ) == token
    assert (tmp_path / "stream-app" / "a.board-9107.token").read_text() == token


@pytest.mark.parametrize("content", ["", "short", "\x00" * 64])
def test_a_file_that_is_no_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.token").write_text(content)
    with pytest.raises(SettingsError, match="is no token of a board; remove the file"):
        token_of_board(settings_of(tmp_path), {})
    assert token_of_reader(settings_of(tmp_path), {}) is None


def test_without_a_folder_that_lasts_the_board_names_what_to_set(
    tmp_path: Path,
) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text("")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"board\.token_env: is required where"):
        token_of_board(load_settings(path, {}, ()), {"XDG_STATE_HOME": str(tmp_path / "file")})


def test_the_user_who_runs_the_board_comes_in_and_another_is_told_what_to_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with served(tmp_path) as url:
        settings = settings_of(tmp_path, url)
        with pytest.raises(StreamAppError, match=r"set board\.token_env for everyone else"):
            way_in(settings)
        (tmp_path / "model.token").write_text(OWN_TOKEN)
        address = way_in(settings)
        assert OWN_TOKEN not in address
        with httpx.Client() as browser:
            assert browser.get(address).status_code == 303
            assert browser.get(f"{url}/board").status_code == 200
        assert httpx.get(address).status_code == 403, "it was good once"

        monkeypatch.setenv("STREAM_APP_CONFIG", str(tmp_path / "stream_app.toml"))
        capsys.readouterr()  # the board of this process logs who came in
        assert main(["open", "--token"]) == 0
        assert capsys.readouterr().out.strip() == OWN_TOKEN
        assert main(["open"]) == 0
        assert "ticket" not in capsys.readouterr().out, "what a pipe or a file keeps lets nobody in"


def test_a_token_that_is_configured_is_the_one_that_reads(tmp_path: Path) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text(f'[board]\ntoken_env = "BOARD"\nread_model_path = "{tmp_path}/model.sqlite"\n')
    token = "a token of the configuration: 4be1d7a2"
    settings = load_settings(path, {"BOARD": token}, ("api",))
    assert (
        token_of_board(settings, dict(os.environ))
        == token_of_reader(settings, dict(os.environ))
        == token
    )
    assert not (tmp_path / "model.token").exists()
    without = load_settings(path, {"BOARD": token}, ())
    assert token_of_reader(without, dict(os.environ)) == token
