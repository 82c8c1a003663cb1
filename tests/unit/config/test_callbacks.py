"""How Clay calls back: addresses, keys and the token of the look-up API."""

import secrets
from pathlib import Path

import pytest

from stream_app.domain.callback.token import Keys, sign, verify
from stream_app.domain.errors import SettingsError
from tests.unit.config.files import CALLED_BACK, GATEWAY, KEY, PEOPLE, SECRETS, load, problems


def test_where_a_table_calls_back(tmp_path: Path) -> None:
    settings = load(tmp_path, GATEWAY + CALLED_BACK)
    assert settings.callback_url("people") == "https://leads.example.com/clay/callbacks/acme/people"
    token = sign(settings.callback_keys, "acme", "people", "lead-1")
    assert verify(Keys([KEY]), token, "acme", "people", "lead-1")


def test_a_lead_is_parked_while_its_record_is_still_there(tmp_path: Path) -> None:
    late = CALLED_BACK + "callback_grace_s = 604800\n" + GATEWAY
    kept = "[topics]\nleads_days = {leads}\nbulk_days = {bulk}\n"
    one = "destinations.people.callback_grace_s: with callback_deadline_s it is 7.04 days; topics.{kind}_days must be"
    for days in ({"leads": 7, "bulk": 8}, {"leads": 8, "bulk": 7}):
        [said] = problems(tmp_path, late + kept.format(**days))
        assert said.startswith(one.format(kind=min(days, key=lambda kind: days[kind])))
    load(tmp_path, late + kept.format(leads=8, bulk=8), {**SECRETS, "CALLBACK_KEY": KEY})


def test_callbacks_that_could_never_come_or_never_be_trusted_are_refused(tmp_path: Path) -> None:
    nowhere, unproven = problems(tmp_path, CALLED_BACK)
    assert nowhere.startswith("destinations.people.callbacks: Clay has no address to call back: set gateway.public_url")
    assert unproven.startswith("destinations.people.callbacks: nothing authenticates a callback")
    keyless = GATEWAY.replace('token_keys_env = ["CALLBACK_KEY"]', "")
    assert problems(tmp_path, keyless + CALLED_BACK) == [unproven]
    load(tmp_path, keyless + CALLED_BACK + 'callback_secrets_env = ["HEADER"]')


def test_processes_that_sign_or_verify_need_the_keys(tmp_path: Path) -> None:
    text = GATEWAY + CALLED_BACK + 'callback_secrets_env = ["HEADER"]'
    missing = {name: value for name, value in SECRETS.items() if name != "CALLBACK_KEY"}
    said = "environment variable CALLBACK_KEY is not set; gateway.token_keys_env names it"
    header = "environment variable HEADER is not set; destinations.people.callback_secrets_env names it"
    assert problems(tmp_path, text, missing) == [said]
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, {}, ("gateway",))
    assert caught.value.problems == [said, header]
    load(tmp_path, text, {}, ())


def test_a_key_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, GATEWAY + CALLED_BACK, {**SECRETS, "CALLBACK_KEY": "s3cret"})
    assert line.startswith("environment variable CALLBACK_KEY: must have at least 32 characters; make one with")


@pytest.mark.parametrize(
    ("name", "secret", "problem"),
    [
        ("CALLBACK_KEY", "a" * 32, "is easy to guess"),
        ("BOARD_TOKEN", "ab1-" * 10, "is easy to guess"),
        ("HEADER", "abcdefghijklmnopqrstuvwxyz0123456789", "is easy to guess"),
        ("HEADER", "only for the simulator, change it for the real Clay", "is an example from this project's files"),
        ("BOARD_TOKEN", "any-text-of-32-characters-or-more", "is an example from this project's files"),
        ("BOARD_TOKEN", KEY, "is the same as CALLBACK_KEY"),
        ("HEADER", KEY, "is the same as CALLBACK_KEY"),
    ],
)
def test_a_secret_that_others_know_or_guess_is_refused(tmp_path: Path, name: str, secret: str, problem: str) -> None:
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


def test_the_url_of_a_pinned_workspace_names_its_partition(tmp_path: Path) -> None:
    pinned = CALLED_BACK.replace("[workspaces.acme]", "[workspaces.acme]\npartition = 3")
    settings = load(tmp_path, GATEWAY + pinned)
    assert settings.callback_url("people") == "https://leads.example.com/clay/callbacks/acme/people?partition=3"


def test_a_gateway_that_others_reach_needs_a_proxy(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "[gateway]\nhost = '0.0.0.0'\n")
    assert line == (
        "gateway.host = 0.0.0.0: others reach it, and any of them could exhaust its memory; put a reverse proxy in "
        "front of it (deploy/nginx.conf) and set gateway.behind_proxy = true, or listen on 127.0.0.1"
    )
    assert load(tmp_path, "[gateway]\nhost = '0.0.0.0'\nbehind_proxy = true\n").gateway.behind_proxy
    for host in ("127.0.0.1", "::1", "localhost"):
        assert load(tmp_path, f"[gateway]\nhost = '{host}'\n").gateway.host == host
