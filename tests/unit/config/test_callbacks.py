"""How Clay calls back, and who may reach the board: addresses, keys and tokens."""

import secrets
from pathlib import Path

import pytest

from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.tokens import Keys, sign, verify
from tests.unit.config.files import CALLED_BACK, GATEWAY, KEY, PEOPLE, SECRETS, load, problems


def test_where_a_table_calls_back(tmp_path: Path) -> None:
    settings = load(tmp_path, GATEWAY + CALLED_BACK)
    assert settings.callback_url("people") == "https://leads.example.com/clay/callbacks/acme/people"
    token = sign(settings.callback_keys, "acme", "people", "lead-1")
    assert verify(Keys([KEY]), token, "acme", "people", "lead-1")
    pinned = load(
        tmp_path,
        GATEWAY + CALLED_BACK.replace("[workspaces.acme]", "[workspaces.acme]\npartition = 3"),
    )
    assert pinned.callback_url("people") == f"{settings.callback_url('people')}?partition=3"


def test_a_lead_is_parked_while_its_record_is_still_there(tmp_path: Path) -> None:
    late = CALLED_BACK + "callback_grace_s = 604800\n" + GATEWAY
    kept = "[topics]\nleads_days = {leads}\nbulk_days = {bulk}\n"
    one = (
        "destinations.people.callback_grace_s: with callback_deadline_s it is 7.04 days; "
        "topics.{kind}_days must be"
    )
    for days in ({"leads": 7, "bulk": 8}, {"leads": 8, "bulk": 7}):
        [line] = problems(tmp_path, late + kept.format(**days))
        assert line.startswith(one.format(kind=min(days, key=lambda kind: days[kind])))
    day = CALLED_BACK + "callback_deadline_s = 400\ncallback_grace_s = 86000\n" + GATEWAY
    [line] = problems(tmp_path, day + kept.format(leads=1, bulk=2))
    assert "with callback_deadline_s it is 1 day; topics.leads_days" in line
    load(tmp_path, late + kept.format(leads=8, bulk=8), {**SECRETS, "CALLBACK_KEY": KEY})


def test_callbacks_that_could_never_come_or_never_be_trusted_are_refused(tmp_path: Path) -> None:
    nowhere, unproven = problems(tmp_path, CALLED_BACK)
    assert nowhere.startswith(
        "destinations.people.callbacks: Clay has no address to call back: set gateway.public_url",
    )
    assert unproven.startswith("destinations.people.callbacks: nothing authenticates a callback")
    keyless = GATEWAY.replace('token_keys_env = ["CALLBACK_KEY"]', "")
    assert problems(tmp_path, keyless + CALLED_BACK) == [unproven]
    load(tmp_path, keyless + CALLED_BACK + 'callback_secrets_env = ["HEADER"]')


def test_processes_that_sign_or_verify_need_the_keys(tmp_path: Path) -> None:
    text = GATEWAY + CALLED_BACK + 'callback_secrets_env = ["HEADER"]'
    missing = {name: value for name, value in SECRETS.items() if name != "CALLBACK_KEY"}
    line = "environment variable CALLBACK_KEY is not set; gateway.token_keys_env names it"
    header = (
        "environment variable HEADER is not set; destinations.people.callback_secrets_env names it"
    )
    assert problems(tmp_path, text, missing) == [line]
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, {}, ("gateway",))
    assert caught.value.problems == [line, header]
    load(tmp_path, text, {}, ())


@pytest.mark.parametrize(
    ("name", "secret", "problem"),
    [
        ("CALLBACK_KEY", "s3cret", "must have at least 32 characters; make one with"),
        ("CALLBACK_KEY", "a" * 32, "is easy to guess"),
        ("BOARD_TOKEN", "ab1-" * 10, "is easy to guess"),
        ("HEADER", "abcdefghijklmnopqrstuvwxyz0123456789", "is easy to guess"),
        (
            "HEADER",
            "only for the simulator, change it for the real Clay",
            "is an example from this project's files",
        ),
        (
            "BOARD_TOKEN",
            "any-text-of-32-characters-or-more",
            "is an example from this project's files",
        ),
        ("BOARD_TOKEN", KEY, "is the same as CALLBACK_KEY"),
        ("HEADER", KEY, "is the same as CALLBACK_KEY"),
    ],
)
def test_a_secret_that_others_know_or_guess_is_refused(
    tmp_path: Path,
    name: str,
    secret: str,
    problem: str,
) -> None:
    text = GATEWAY + CALLED_BACK + 'callback_secrets_env = ["HEADER"]'
    given = {**SECRETS, "BOARD_TOKEN": secrets.token_urlsafe(32), "HEADER": secrets.token_hex(32)}
    load(tmp_path, text, given, ("clay", "gateway"))
    (line,) = problems(tmp_path, text, given | {name: secret})
    assert line.startswith(f"environment variable {name}: {problem}")
    assert "make one with: python3 -c" in line


def test_an_example_secret_is_taken_where_every_webhook_is_local(tmp_path: Path) -> None:
    local = PEOPLE + 'allowed_hosts = ["127.0.0.1", "sim"]\n'
    given = {**SECRETS, "CLAY_WEBHOOK_PEOPLE": "http://sim:8700/v3/sources/webhook/x"}
    given["CALLBACK_KEY"] = "any-text-of-32-characters-or-more"
    load(tmp_path, GATEWAY + local, given)
    (line,) = problems(tmp_path, GATEWAY + local.replace('"sim"', '"sim", "api.clay.com"'), given)
    assert "is an example from this project's files" in line


def test_a_gateway_that_others_reach_needs_a_proxy(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "[gateway]\nhost = '0.0.0.0'\n")
    assert line == (
        "gateway.host = 0.0.0.0: others reach it, and any of them could exhaust its memory; "
        "put a reverse proxy in "
        "front of it (deploy/nginx.conf) and set gateway.behind_proxy = true, or listen on "
        "127.0.0.1"
    )
    assert load(tmp_path, "[gateway]\nhost = '0.0.0.0'\nbehind_proxy = true\n").gateway.behind_proxy
    for host in ("127.0.0.1", "::1", "localhost"):
        assert load(tmp_path, f"[gateway]\nhost = '{host}'\n").gateway.host == host


PROXIED = '[board]\nhost = "0.0.0.0"\nbehind_proxy = true\nurl = "https://board.example.com"\n'
TOKEN = 'token_env = "BOARD_TOKEN"\n'


def test_a_board_that_others_reach_needs_a_proxy_and_a_token(tmp_path: Path) -> None:
    """Without the proxy it speaks clear text to a network; without the token the proxy opens it to
    everyone.
    """
    (line,) = problems(tmp_path, f'[board]\nhost = "0.0.0.0"\n{TOKEN}')
    assert line.startswith(
        "board.host = 0.0.0.0: others reach it without TLS; put a reverse proxy in front of it",
    )
    for text in (PROXIED, PROXIED.replace("0.0.0.0", "127.0.0.1")):
        (line,) = problems(tmp_path, text)
        assert line.startswith("board.token_env: is required with board.behind_proxy = true")
        assert load(tmp_path, text + TOKEN).board.behind_proxy
    (line,) = problems(tmp_path, f"[board]\nbehind_proxy = true\n{TOKEN}")
    assert line.startswith("board.url: is required with board.behind_proxy = true")
    for host in ("127.1.2.3", "::1", "localhost"):
        assert load(tmp_path, f"[board]\nhost = '{host}'\n").board.host == host


@pytest.mark.parametrize(
    "url",
    ["http://board:9107", "http://127.0.0.1:9107", "https://board.internal"],
)
def test_a_token_is_sent_by_tls_or_stays_near(tmp_path: Path, url: str) -> None:
    load(tmp_path, f'[board]\nurl = "{url}"\n{TOKEN}')


def test_where_the_board_is(tmp_path: Path) -> None:
    assert load(tmp_path, "").board_url == "http://127.0.0.1:9107"
    assert load(tmp_path, "[http]\nboard_port = 80").board_url == "http://127.0.0.1:80"
    assert load(tmp_path, '[board]\nhost = "::1"').board_url == "http://[::1]:9107"
    assert (
        load(tmp_path, '[board]\nurl = "https://board.internal/"').board_url
        == "https://board.internal"
    )
    (line,) = problems(tmp_path, '[board]\nurl = "https://ops.example.com/leads"')
    assert line.startswith(
        "board.url: must be like https://board.example.com, without user, path, query or fragment",
    )


def test_the_token_of_the_board(tmp_path: Path) -> None:
    assert load(tmp_path, "").board_token is None
    text = f"[board]\n{TOKEN}"
    assert load(tmp_path, text, {"BOARD_TOKEN": KEY}, ("api",)).board_token == KEY
    assert load(tmp_path, text, {}, ()).board.token_env == "BOARD_TOKEN", "others do not need it"
    for need in ("api", "board"):
        with pytest.raises(
            SettingsError,
            match=r"BOARD_TOKEN is not set; board\.token_env names it",
        ):
            load(tmp_path, text, {}, (need,))
    with pytest.raises(SettingsError, match="BOARD_TOKEN: must have at least"):
        load(tmp_path, text, {"BOARD_TOKEN": "guess"}, ("api",))
