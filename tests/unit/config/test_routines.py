"""A destination with a routine, in place of webhooks: its keys, its secrets, its defaults."""

import asyncio
from pathlib import Path

import pytest

from stream_app.clay.runs import ApiEndpoint
from stream_app.config import load_settings
from stream_app.config.reload import NOTHING_NEW, Configuration, accounts_of, apis_of
from stream_app.domain.model.addresses import API_URL
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.plan import Destination, Workspace
from tests.unit.config.files import CAP, GATEWAY, KEY, load, problems

API_KEY = "s3cret-api-key"
HOOK_SECRET = "s3cret-of-the-completion-webhook"
SECRETS = {"CLAY_KEY_ACME": API_KEY, "CLAY_HOOK_ACME": HOOK_SECRET, "CALLBACK_KEY": KEY}
ROUTINE = f"""{CAP}
[workspaces.acme]
api_key_env = "CLAY_KEY_ACME"
[destinations.people]
workspace = "acme"
routine = "function:t_0abc"
"""
HOOK = 'run_webhook = "wh_1"\nrun_webhook_secret_env = "CLAY_HOOK_ACME"\n'
KEYLESS = ROUTINE.replace('api_key_env = "CLAY_KEY_ACME"', "")
SECOND = """
[workspaces.beta]
api_key_env = "{}"
[destinations.firms]
workspace = "beta"
routine = "workflow:wf_1"
"""
WEBHOOKS = '[destinations.firms]\nworkspace = "acme"\nwebhooks_env = ["HOOK"]\ncallbacks = false\n'


def test_what_a_routine_has_where_the_file_does_not_say_otherwise(tmp_path: Path) -> None:
    settings = load(tmp_path, ROUTINE, SECRETS)
    people = settings.destinations["people"]
    assert people.kind == "routine"
    assert people.webhook_ids == ("function:t_0abc",)
    assert people.lifetime == 0, "a routine has no end at 50,000"
    assert people.callback_url == ""
    assert people.callbacks is True
    assert people.calls_back is False
    assert people.unavailable_is_refused is False
    assert people.callback_deadline_s == 1_800
    assert people.callback_grace_s == 72_000
    assert people.poll_after_s == (20, 60, 180, 600)
    acme = settings.workspaces["acme"]
    assert acme.api_url == API_URL
    assert acme.rate.rate_per_s == 4
    assert acme.rate.burst == 5
    assert settings.gateway.public_url is None, "no address is needed"
    other = load(tmp_path, ROUTINE, SECRETS | {"CLAY_KEY_ACME": "s3cret-other"})
    assert other.destinations["people"].setup_id != people.setup_id


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("[workspaces.acme.rate]\nrate_per_s = 2", (2, 5)),
        ("[workspaces.acme.rate]\nburst = 9", (4, 9)),
        ("[workspace_defaults.rate]\nrate_per_s = 3", (3, 5)),
        ("[workspace_defaults.rate]\nburst = 7\n[workspaces.acme.rate]\nrate_per_s = 1", (1, 7)),
        ("[workspace_defaults.rate]\nretry_after_max_s = 60", (4, 5)),
    ],
)
def test_the_file_overrides_the_rate(
    tmp_path: Path,
    rate: str,
    expected: tuple[float, int],
) -> None:
    policy = load(tmp_path, ROUTINE + rate, SECRETS).workspaces["acme"].rate
    assert (policy.rate_per_s, policy.burst) == expected


def test_the_file_overrides_the_times_of_a_routine(tmp_path: Path) -> None:
    own = "callback_deadline_s = 600\ncallback_grace_s = 60\npoll_after_s = [2.5, 40]"
    people = load(tmp_path, ROUTINE + own, SECRETS).destinations["people"]
    assert people.callback_deadline_s == 600
    assert people.callback_grace_s == 60
    assert people.poll_after_s == (2.5, 40)


def test_a_workspace_of_webhooks_keeps_its_defaults_beside_one_of_routines(tmp_path: Path) -> None:
    text = ROUTINE + WEBHOOKS.replace('"acme"', '"beta"') + "[workspaces.beta]"
    url = "https://api.clay.com/v3/sources/webhook/s3cret-slug"
    settings = load(tmp_path, text, SECRETS | {"HOOK": url})
    assert settings.workspaces["beta"].rate == Workspace("").rate
    plain = Destination("", "")
    firms = settings.destinations["firms"]
    assert firms.callback_grace_s == plain.callback_grace_s
    assert firms.unavailable_is_refused is True
    assert firms.kind == "table"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('webhooks_env = ["HOOK"]', "webhooks_env: a destination has webhooks or a routine"),
        ("callbacks = false", "callbacks: the results of a routine are always asked for"),
        ("quota_lifetime = 5", "quota_lifetime: a routine has no end of this kind"),
        ('token_env = "HOOK"', "token_env: the key of the workspace authenticates"),
        ('callback_secrets_env = ["HOOK"]', "callback_secrets_env: nothing calls back"),
        ("unavailable_is_refused = true", "unavailable_is_refused: nobody says that a 503"),
        ("poll_after_s = []", "poll_after_s: must be 1 to 20 numbers"),
        ("poll_after_s = [0.5, 2]", "poll_after_s: must be 1 to 20 numbers"),
        ("poll_after_s = [2, 2]", "poll_after_s: must be 1 to 20 numbers"),
        ("poll_after_s = [3, 2]", "poll_after_s: must be 1 to 20 numbers"),
        ("poll_after_s = [1, inf]", "poll_after_s: must be 1 to 20 numbers"),
        ("poll_after_s = [nan]", "poll_after_s: must be 1 to 20 numbers"),
        (f"poll_after_s = {list(range(1, 22))}", "poll_after_s: must be 1 to 20 numbers"),
        ("poll_after_s = [1800]", "poll_after_s: begins with 1800, which must be below"),
        ('run_webhook = "wh_1"', "run_webhook: needs run_webhook_secret_env"),
        ('run_webhook_secret_env = "HOOK"', "run_webhook: needs run_webhook_secret_env"),
        (HOOK.replace("wh_1", "https://x"), "run_webhook: must be the id of a completion webhook"),
        (HOOK.replace("wh_1", "w" * 65), "run_webhook: must be the id of a completion webhook"),
    ],
)
def test_what_makes_no_sense_for_a_routine_is_refused(
    tmp_path: Path,
    keys: str,
    expected: str,
) -> None:
    lines = problems(tmp_path, ROUTINE + keys + GATEWAY, SECRETS | {"HOOK": HOOK_SECRET + "-2"})
    assert any(line.startswith(f"destinations.people.{expected}") for line in lines), lines


@pytest.mark.parametrize(
    "routine",
    [
        "",
        "t_0abc",
        "function:t_",
        "function:0abc",
        "workflow:t_1",
        "function:t_a/b",
        "x:t_1",
        f"function:t_{'a' * 54}",
        "https://app.clay.com/workflows/wf_1",
    ],
)
def test_the_id_of_a_routine_has_a_form(tmp_path: Path, routine: str) -> None:
    [line] = problems(tmp_path, ROUTINE.replace("function:t_0abc", routine), SECRETS)
    assert line.startswith("destinations.people.routine: must be the id of a routine")


@pytest.mark.parametrize("routine", ["workflow:wf_1", "function:t_" + "a" * 53])
def test_both_kinds_of_routine_are_taken(tmp_path: Path, routine: str) -> None:
    text = ROUTINE.replace("function:t_0abc", routine)
    assert load(tmp_path, text, SECRETS).destinations["people"].routine == routine


def test_keys_of_a_routine_are_refused_for_webhooks(tmp_path: Path) -> None:
    text = f"{CAP}[workspaces.acme]\n{WEBHOOKS}poll_after_s = [5]\n{HOOK}"
    url = "https://api.clay.com/v3/sources/webhook/s3cret-slug"
    lines = problems(tmp_path, text, SECRETS | {"HOOK": url})
    assert [line.partition(":")[0] for line in lines] == [
        "destinations.firms.poll_after_s",
        "destinations.firms.run_webhook",
        "destinations.firms.run_webhook_secret_env",
    ]


def test_a_workspace_with_a_routine_needs_its_own_key(tmp_path: Path) -> None:
    [line] = problems(tmp_path, KEYLESS, SECRETS)
    assert line.startswith("workspaces.acme.api_key_env: the routine of destinations.people needs")
    [line] = problems(tmp_path, ROUTINE, {})
    assert line.startswith("environment variable CLAY_KEY_ACME is not set; workspaces.acme.api_key")
    [line] = problems(tmp_path, ROUTINE + SECOND.format("CLAY_KEY_ACME"), SECRETS)
    assert line.startswith("workspaces.beta.api_key_env: CLAY_KEY_ACME is the key of workspace acm")
    copied = SECRETS | {"CLAY_KEY_BETA": API_KEY}
    [line] = problems(tmp_path, ROUTINE + SECOND.format("CLAY_KEY_BETA"), copied)
    assert line.startswith("environment variable CLAY_KEY_BETA: is the same key as CLAY_KEY_ACME")
    [line] = problems(tmp_path, ROUTINE, {"CLAY_KEY_ACME": "s3cret key"})
    assert line.startswith("environment variable CLAY_KEY_ACME: the API's key must be printable")
    shared = KEYLESS + '[workspace_defaults]\napi_key_env = "CLAY_KEY_ACME"'
    lines = problems(tmp_path, shared.replace(CAP, ""), SECRETS)
    assert lines[0] == (
        "workspace_defaults.api_key_env: a key is of one workspace; "
        "write it under [workspaces.NAME]"
    )


ACME_OF_WEBHOOKS = f"""{CAP}
[workspaces.acme]
api_key_env = "CLAY_KEY_ACME"
{{}}
{WEBHOOKS}"""
URL_OF_HOOK = {"HOOK": "https://api.clay.com/v3/sources/webhook/s3cret-slug"}


def test_a_workspace_with_webhooks_may_have_a_key_for_its_balance(tmp_path: Path) -> None:
    settings = load(tmp_path, ACME_OF_WEBHOOKS.format(""), SECRETS | URL_OF_HOOK)
    assert accounts_of(settings) == {"acme": ApiEndpoint(API_URL, API_KEY)}
    assert apis_of(settings) == {}
    elsewhere = ACME_OF_WEBHOOKS.format('api_url = "https://collects-keys.example.com/v0"')
    [line] = problems(tmp_path, elsewhere, SECRETS | URL_OF_HOOK)
    assert line == (
        "workspaces.acme.api_url: the API's host must be one of allowed_hosts (api.clay.com)"
    )


def test_a_running_worker_adopts_a_key_for_webhooks(tmp_path: Path) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text(ACME_OF_WEBHOOKS.format(""))
    environ = SECRETS | URL_OF_HOOK
    configuration = Configuration(
        load_settings(path, environ),
        lambda: load_settings(path, environ),
    )
    assert asyncio.run(configuration.reload("c1")) == NOTHING_NEW
    environ["CLAY_KEY_ACME"] = "s3cret-new"
    assert asyncio.run(configuration.reload("c2")).text == "adopted: the API key of workspace acme"
    assert configuration.accounts == {"acme": ApiEndpoint(API_URL, "s3cret-new")}


def test_webhooks_and_routines_have_a_workspace_each(tmp_path: Path) -> None:
    url = "https://api.clay.com/v3/sources/webhook/s3cret-slug"
    [line] = problems(tmp_path, ROUTINE + WEBHOOKS, SECRETS | {"HOOK": url})
    assert line.startswith(
        "workspaces.acme: destinations.people has a routine and destinations.firms has webhooks",
    )


@pytest.mark.parametrize(
    ("api_url", "expected"),
    [
        ("http://api.clay.com/public/v0", "must begin with https://"),
        ("https://user@api.clay.com/public/v0", "must have no user"),
        ("https://api.clay.com/public/v0?x=1", "must have no user"),
        ("https://api.example.com/public/v0", "host must be one of allowed_hosts (api.clay.com)"),
        ("https://api.clay.com/../v0", "path must have no . or .. step"),
        ("https://[api.clay.com", "URL is malformed"),
    ],
)
def test_the_key_goes_to_an_allowed_host_alone(
    tmp_path: Path,
    api_url: str,
    expected: str,
) -> None:
    text = ROUTINE.replace("[workspaces.acme]", f'[workspaces.acme]\napi_url = "{api_url}"')
    [line] = problems(tmp_path, text, SECRETS)
    assert line.startswith("workspaces.acme.api_url: the API's ")
    assert expected in line


def test_the_simulator_has_an_address_of_its_own(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9109/public/v0"
    text = ROUTINE.replace("[workspaces.acme]", f'[workspaces.acme]\napi_url = "{url}"')
    settings = load(tmp_path, text + 'allowed_hosts = ["127.0.0.1:9109"]', SECRETS)
    assert settings.workspaces["acme"].api_url == url


def test_only_an_announcement_needs_an_address_of_ours(tmp_path: Path) -> None:
    [line] = problems(tmp_path, ROUTINE + HOOK, SECRETS)
    assert line.startswith("destinations.people.run_webhook: Clay has no address to announce")
    people = load(tmp_path, ROUTINE + HOOK + GATEWAY, SECRETS).destinations["people"]
    assert people.run_webhook == "wh_1"
    assert people.run_webhook_secret_env == "CLAY_HOOK_ACME"


def test_each_process_has_its_own_secret(tmp_path: Path) -> None:
    text = ROUTINE + HOOK + GATEWAY
    worker = load(tmp_path, text, SECRETS, ("clay",)).secrets
    assert "CLAY_KEY_ACME" in worker
    assert "CLAY_HOOK_ACME" not in worker
    gateway = load(tmp_path, text, SECRETS, ("gateway",)).secrets
    assert "CLAY_HOOK_ACME" in gateway
    assert "CLAY_KEY_ACME" not in gateway
    with pytest.raises(SettingsError, match="CLAY_HOOK_ACME is not set"):
        load(tmp_path, text, {"CALLBACK_KEY": KEY}, ("gateway",))


def test_a_running_worker_adopts_a_key_and_a_routine(tmp_path: Path) -> None:
    path = tmp_path / "stream_app.toml"
    folder = tmp_path / "secrets"
    folder.mkdir()
    head = f'secrets_dir = "{folder}"\n'
    path.write_text(head + ROUTINE)
    environ = dict(SECRETS)
    configuration = Configuration(
        load_settings(path, environ),
        lambda: load_settings(path, environ),
    )
    assert configuration.endpoints == {}
    assert configuration.apis == {"people": ApiEndpoint(API_URL, API_KEY)}
    assert API_KEY not in repr(configuration.apis)
    (folder / "CLAY_KEY_ACME").write_text("s3cret-new\n")
    (folder / "CLAY_KEY_BETA").write_text("s3cret-beta\n")
    path.write_text(head + ROUTINE + SECOND.format("CLAY_KEY_BETA"))
    assert asyncio.run(configuration.refresh()).text == (
        "adopted: workspace beta (new), destination people with a routine, "
        "destination firms (new) with a routine"
    )
    assert configuration.apis == {
        "people": ApiEndpoint(API_URL, "s3cret-new"),
        "firms": ApiEndpoint(API_URL, "s3cret-beta"),
    }
    assert configuration.plan.destinations["firms"].webhook_ids == ("workflow:wf_1",)
    hook = tmp_path / "secrets" / "HOOK"
    hook.write_text("https://api.clay.com/v3/sources/webhook/s3cret-slug\n")
    webhooks = 'webhooks_env = ["HOOK"]\ncallbacks = false'
    beta = SECOND.format("CLAY_KEY_BETA")
    path.write_text(head + ROUTINE.replace('routine = "function:t_0abc"', webhooks) + beta)
    reported = asyncio.run(configuration.refresh())
    assert reported.text == (
        "adopted: workspace acme; "  # the default rate of webhooks
        "needs a restart of every process (destinations.people.routine)"
    )
    assert configuration.plan.destinations["people"].kind == "routine"
    assert configuration.endpoints == {}
