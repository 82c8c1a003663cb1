"""The table [board]: who may reach the board, where it is, and what was in [gateway] before."""

from pathlib import Path

import pytest

from stream_app.config import load_settings
from stream_app.domain.errors import SettingsError
from tests.unit.config.files import KEY, load, problems

PROXIED = '[board]\nhost = "0.0.0.0"\nbehind_proxy = true\nurl = "https://board.example.com"\n'
TOKEN = 'token_env = "BOARD_TOKEN"\n'


def test_a_board_that_others_reach_needs_a_proxy_and_a_token(tmp_path: Path) -> None:
    """Without the proxy it speaks clear text to a network; without the token the proxy opens it to everyone."""
    (line,) = problems(tmp_path, f'[board]\nhost = "0.0.0.0"\n{TOKEN}')
    assert line.startswith("board.host = 0.0.0.0: others reach it without TLS; put a reverse proxy in front of it")
    for text in (PROXIED, PROXIED.replace("0.0.0.0", "127.0.0.1")):
        (line,) = problems(tmp_path, text)
        assert line.startswith("board.token_env: is required with board.behind_proxy = true")
        assert load(tmp_path, text + TOKEN).board.behind_proxy
    (line,) = problems(tmp_path, f"[board]\nbehind_proxy = true\n{TOKEN}")
    assert line.startswith("board.url: is required with board.behind_proxy = true")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_a_board_of_this_machine_needs_neither(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, f'[board]\nhost = "{host}"\n').board.host == host


@pytest.mark.parametrize("url", ["http://board.internal", "http://192.0.2.7:9107"])
def test_a_token_is_not_sent_in_clear_text(tmp_path: Path, url: str) -> None:
    (line,) = problems(tmp_path, f'[board]\nurl = "{url}"\n{TOKEN}')
    assert line == "board.url: must begin with https, because the token is sent there"
    for private in ("http://board:9107", "http://127.0.0.1:9107", "https://board.internal"):
        load(tmp_path, f'[board]\nurl = "{private}"\n{TOKEN}')


def test_where_the_board_is(tmp_path: Path) -> None:
    assert load(tmp_path, "").board_url == "http://127.0.0.1:9107"
    assert load(tmp_path, "[http]\nboard_port = 80").board_url == "http://127.0.0.1:80"
    assert load(tmp_path, '[board]\nhost = "::1"').board_url == "http://[::1]:9107"
    assert load(tmp_path, '[board]\nurl = "https://board.internal/"').board_url == "https://board.internal"
    (line,) = problems(tmp_path, '[board]\nurl = "https://ops.example.com/leads"')
    assert line.startswith("board.url: must be like https://board.example.com, without user, path, query or fragment")


def test_the_token_of_the_board(tmp_path: Path) -> None:
    assert load(tmp_path, "").board_token is None
    path = tmp_path / "stream_app.toml"
    path.write_text("[board]\ntoken_env = 'BOARD_TOKEN'")
    assert load_settings(path, {"BOARD_TOKEN": KEY}, ("api",)).board_token == KEY
    assert load_settings(path, {}, ()).board.token_env == "BOARD_TOKEN", "others do not need it"
    for need in ("api", "board"):
        with pytest.raises(SettingsError, match=r"BOARD_TOKEN is not set; board\.token_env names it"):
            load_settings(path, {}, (need,))
    with pytest.raises(SettingsError, match="BOARD_TOKEN: must have at least"):
        load_settings(path, {"BOARD_TOKEN": "guess"}, ("api",))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("api_token_env", "token_env"),
        ("api_url", "url"),
        ("banner", "banner"),
        ("operator_token_env", "operator_token_env"),
        ("read_model_path", "read_model_path"),
        ("trace_url", "trace_url"),
        ("user_header", "user_header"),
        ("user_header_secret_env", "user_header_secret_env"),
    ],
)
def test_a_key_that_was_in_gateway_names_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    (line,) = problems(tmp_path, f'[gateway]\n{old} = "X"')
    assert line.startswith(f"gateway.{old}: gone in 0.2.0; it is board.{new} now")
