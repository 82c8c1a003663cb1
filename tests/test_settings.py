"""The configuration: what is right loads, what is wrong says so in one line each, and no secret shows."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import msgspec
import pytest

import stream_app.config
from stream_app.config import Settings, client_options, load_settings
from stream_app.domain.callback.token import Keys, sign, verify
from stream_app.domain.errors import SettingsError
from stream_app.domain.lead.lead import plain_id
from stream_app.domain.policy import Workspace

EXAMPLE = Path(stream_app.config.__file__).with_name("stream_app.example.toml")
URL = "https://api.clay.com/v3/sources/webhook/s3cret-slug"
KEY = "s3cret-key-of-callback-tokens-32-characters"
PEPPER = "s3cret-pepper-of-persons-32-characters"
SECRETS = {
    "CLAY_WEBHOOK_PEOPLE": URL,
    "CLAY_TOKEN_PEOPLE": "s3cret-token",
    "CALLBACK_KEY": KEY,
    "PERSON_PEPPER": PEPPER,
}

PEOPLE = """
[workspaces.acme]
[destinations.people]
workspace = "acme"
webhooks_env = ["CLAY_WEBHOOK_PEOPLE"]
callbacks = false
"""
CALLED_BACK = PEOPLE.replace("callbacks = false", "callbacks = true")
GATEWAY = """
[gateway]
public_url = "https://leads.example.com/clay/"
token_keys_env = ["CALLBACK_KEY"]
api_token_env = "API_TOKEN"
"""


def load(
    tmp_path: Path, text: str, environ: dict[str, str] = SECRETS, *, clay: bool = True, gateway: bool = False
) -> Settings:
    path = tmp_path / "stream_app.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ, clay=clay, gateway=gateway)


def problems(tmp_path: Path, text: str, environ: dict[str, str] = SECRETS) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert not any("\n" in line or "s3cret" in line for line in caught.value.problems)
    return [line.removeprefix(f"{tmp_path / 'stream_app.toml'}: ") for line in caught.value.problems]


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, "")
    assert repr(msgspec.structs.replace(loaded, path=None, stamp=())) == repr(Settings())


def test_the_example_loads_and_shows_every_key_of_every_simple_table() -> None:
    settings = load_settings(EXAMPLE, SECRETS)
    text = EXAMPLE.read_text(encoding="utf-8")
    for table in ("kafka", "delivery", "replay", "shares", "egress", "http", "topics"):
        for key in msgspec.structs.asdict(getattr(settings, table)):
            assert re.search(rf"\n(# )?{key} = ", text) or key == "security", f"{table}.{key}"
        defaults = getattr(Settings(), table)
        assert getattr(settings, table) == defaults, "the example's comment says that these are the defaults"
    acme, default = settings.workspaces["acme"], Workspace("")
    for table in (
        "rate",
        "budget",
        "breaker",
        "window",
        "health",
        "quota",
        "suspension",
        "concurrency",
        "flood_guard",
        "callback_health",
    ):
        keys = text.partition(f"[workspaces.acme.{table}]")[2].partition("\n[")[0]
        for key, value in msgspec.structs.asdict(getattr(acme, table)).items():
            assert f"\n{key} = " in keys or key in ("tz", "most", "opening_month"), f"{table}.{key}"
            if not (table == "budget" and ("_per_" in key or key == "tz")):
                assert value == getattr(getattr(default, table), key), f"{table}.{key}: the example says the default"
    for key in msgspec.structs.asdict(settings.gateway):
        assert f"\n{key} = " in text, f"gateway.{key}"
    assert settings.workspaces["acme"].budget.tz == "Europe/Berlin"
    assert settings.secrets["CLAY_WEBHOOK_PEOPLE"] == URL


def test_secrets_never_show() -> None:
    settings = load_settings(EXAMPLE, SECRETS)
    assert "s3cret" not in repr(settings)
    assert "CLAY_TOKEN_PEOPLE" in settings.secrets


def test_the_file_is_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("[kafka]\npartitions = 3\n")
    assert load_settings(None, {"STREAM_APP_CONFIG": str(path)}).kafka.partitions == 3


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        load_settings(tmp_path / "none.toml", {})
    assert "is not TOML" in problems(tmp_path, "[kafka\n")[0]


def test_every_problem_of_the_file_comes_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        surprise = 1
        [kafka]
        partitions = "8"
        [delivery]
        request_timeout_ms = 30000
        [workspaces.acme]
        hold = "stop"
        [workspaces.acme.breaker]
        open_ms = 3
        [destinations.people]
        workspace = "acme"
        callbacks = false
        """,
    )
    assert len(found) == 6
    assert found[0].startswith("surprise: unknown key")
    assert "kafka.partitions: Expected int, got str" in found
    assert "delivery.request_timeout_ms: unknown key; did you mean request_timeout_s?" in found
    assert any(line == "workspaces.acme.hold: Invalid enum value 'stop'; there are: pause, degrade" for line in found)
    assert "workspaces.acme.breaker.open_ms: unknown key; did you mean open_s?" in found
    assert "destinations.people.webhooks_env: must name at least one environment variable" in found
    (line,) = problems(tmp_path, PEOPLE.replace("[workspaces.acme]", '[workspaces.acme]\nfallback = ["cash"]'))
    assert line == "workspaces.acme.fallback: Invalid enum value 'cash' - at $[0]; there are: cache, stale, local"


def test_a_missing_secret_is_named_with_its_place(tmp_path: Path) -> None:
    assert problems(tmp_path, PEOPLE + 'token_env = "TOK"', {}) == [
        "environment variable CLAY_WEBHOOK_PEOPLE is not set; destinations.people.webhooks_env names it",
        "environment variable TOK is not set; destinations.people.token_env names it",
    ]


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("redis://:s3cret@127.0.0.1:6379/0", True),
        ("rediss://me:s3cret@redis.example.com", True),
        ("http://s3cret", False),
        ("redis://:s3cret@127.0.0.1:abc/0", False),
        ("redis://:s3cret@127.0.0.1:6379/0?s3cret=1", False),
        ("redis://h?socket_timeout=s3cret", False),
        ("s3cret", False),
    ],
)
def test_a_redis_url_that_is_none_is_a_line_of_the_configuration(tmp_path: Path, url: str, right: bool) -> None:
    """Seen: the worker ended with a traceback, which had the password in it."""
    text, environ = '[redis]\nurl_env = "CACHE_URL"', {"CACHE_URL": url}
    if right:
        assert load(tmp_path, text, environ).secrets["CACHE_URL"] == url
    else:
        told = "environment variable CACHE_URL: must be like redis://user:password@host:6379/0 (rediss:// for TLS)"
        assert problems(tmp_path, text, environ) == [told]


def test_the_name_of_a_process_comes_from_its_environment(tmp_path: Path) -> None:
    text = "[kafka]\ninstance_env = 'NAME'"
    assert load(tmp_path, "").instance_id is None
    assert load(tmp_path, text, {"NAME": "worker-0"}).instance_id == "worker-0"
    for wrong in ({}, {"NAME": ""}, {"NAME": "a b"}):
        settings = load(tmp_path, text, wrong)  # a command needs no name
        with pytest.raises(
            SettingsError, match=r"environment variable NAME: must be the name of this process, 1 to 249"
        ):
            _ = settings.instance_id


def test_any_free_port_is_for_processes_that_nobody_looks_up(tmp_path: Path) -> None:
    http = load(tmp_path, "[http]\nworker_port = 0\nreplay_port = 0").http
    assert (http.worker_port, http.replay_port) == (0, 0)


def plain_on(bootstrap: str) -> str:
    return f"""
[kafka]
bootstrap = "{bootstrap}"
[kafka.security]
protocol = "SASL_PLAINTEXT"
mechanism = "PLAIN"
username = "app"
password_env = "KAFKA_PASSWORD"
"""


@pytest.mark.parametrize("bootstrap", ["kafka:9092", "127.0.0.1:9094", "localhost:1, [::1]:2,kafka-1:3"])
def test_a_readable_password_may_go_to_a_kafka_of_this_machine(bootstrap: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, plain_on(bootstrap) + PEOPLE, {"KAFKA_PASSWORD": "p"}, clay=False)
    assert loaded.secrets["KAFKA_PASSWORD"] == "p"


@pytest.mark.parametrize("bootstrap", ["kafka.example.com:9092", "127.0.0.1:1,10.0.0.7:9092", "[2001:db8::1]:9092"])
def test_a_readable_password_may_not_leave_this_machine(bootstrap: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PLAIN sends the password in clear text to another host"):
        load(tmp_path, plain_on(bootstrap) + PEOPLE, {"KAFKA_PASSWORD": "p"}, clay=False)


def test_who_does_not_post_needs_no_webhooks(tmp_path: Path) -> None:
    assert "CLAY_WEBHOOK_PEOPLE" not in load(tmp_path, PEOPLE, {}, clay=False).secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[kafka]\nbootstrap = 'broker'", "kafka.bootstrap: must be host:port"),
        ("[kafka]\nnamespace = 'a b'", "kafka.namespace: at most"),
        ("[kafka]\npartitions = 0", "kafka.partitions = 0: must be from 1"),
        ("[kafka]\nbroker_wait_s = nan", "kafka.broker_wait_s = nan: must be"),
        ("[kafka]\nrebalance_timeout_s = 60", "kafka.rebalance_timeout_s: must be 20 s above"),
        ("[kafka.security]\nprotocol = 'SASL_SSL'", "kafka.security: protocol SASL_SSL needs username"),
        ("[kafka.security]\ncert_file = 'a'", "kafka.security: cert_file and key_file must be set together"),
        ("[redis]\nurl_env = 'redis://s3cret'", "redis.url_env: must be the name of an environment variable"),
        ("[delivery]\nuncertain_grace_s = 40", "delivery.uncertain_grace_s: must be above"),
        ("[delivery]\nmax_waiting = 0", "delivery.max_waiting = 0: must be from 1 to 100000"),
        ("[delivery]\nmax_waiting_bytes = 0", "delivery.max_waiting_bytes = 0: must be from 102400 to"),
        ("uncertain_grace_s = nan", "destinations.people.uncertain_grace_s = nan: must be"),
        ("uncertain_grace_s = 40", "destinations.people.uncertain_grace_s: must be above"),
        ("uncertain_grace_s = 7200", "destinations.people.uncertain_grace_s = 7200: is longer than"),
        (
            "[delivery]\nuncertain_grace_s = 7200",
            "delivery.uncertain_grace_s = 7200: is longer than the longest delay tier",
        ),
        ("[delivery]\nfreshness_days = 10", "topics.bulk_days = 14: must not be above delivery.freshness_days = 10"),
        ("[replay]\ntiers_s = [60, 2]", "replay.tiers_s: must be whole seconds"),
        ("[replay]\ntiers_s = []", "replay.tiers_s: must be whole seconds"),
        ("[replay]\ntiers_s = [3600, 864000]", "topics.wait_days: must be at least twice"),
        ("[shares]\nbulk = 0.6\nretry = 0.5", "shares: bulk + retry must stay below 1"),
        (
            "[http]\nworker_port = 9102",
            "http: worker_port, replay_port, gateway_port, gateway_ops_port and trace_port must differ",
        ),
        ("[http]\ngateway_port = 0", "http.gateway_port = 0: must be from 1 to 65535"),
        ("[workspaces.acme]\npartition = 32", "workspaces.acme.partition = 32: must be from 0 to 31"),
        ("[workspaces.acme]\ntime_zone = 'Mars'", "workspaces.acme.time_zone = 'Mars': no such time zone"),
        ("[workspaces.acme.budget]\ntz = 'Asia/Tokyo'", "workspaces.acme.budget.tz: the workspace's time_zone sets it"),
        ("[workspaces.acme.rate]\nburst = 0", "workspaces.acme.rate.burst = 0: must be"),
        ("[workspaces.acme.window]\nbuckets = 0", "workspaces.acme.window.buckets = 0: must be"),
        ("[workspaces.acme.quota]\nwarn_at = 50000", "workspaces.acme.quota.warn_at = 50000: must not be"),
        ("[workspaces.acme.breaker]\nprobe_lease_s = 40", "workspaces.acme.breaker.probe_lease_s: must be"),
        ("[workspaces.acme]\ndefault_destination = 'x'", "workspaces.acme.default_destination = x: there is"),
        ("[workspaces.'a b']", "workspaces.a b: a workspace's name"),
        ("[workspaces.b]\ndefault_destination = 'people'", "workspaces.b.default_destination = people: it"),
        ("[destinations.people.columns]\na = 'X'\nb = 'X'", "destinations.people.columns: each field needs"),
        ("[gateway]\npublic_url = 'leads.example.com'", "gateway.public_url: must be like https://"),
        ("[gateway]\npublic_url = 'https://user:s3cret@x'", "gateway.public_url: must be like https://"),
        ("[gateway]\npublic_url = 'https://x?s3cret'", "gateway.public_url: must be like https://"),
        ("[gateway]\npublic_url = 'https://x:port'", "gateway.public_url: must be like https://"),
        ("[gateway]\ntoken_keys_env = ['A', 'A']", "gateway.token_keys_env: must name each environment variable once"),
        (f"[gateway]\ntoken_keys_env = ['{KEY}']", "gateway.token_keys_env: must be the name of an environment"),
        (f"[gateway]\napi_token_env = '{KEY}'", "gateway.api_token_env: must be the name of an environment"),
        ("[gateway]\napi_url = 'gateway:9103'", "gateway.api_url: must be like http://"),
        ("[gateway]\nread_model_path = ''", "gateway.read_model_path: must be the path of a file"),
        ("[gateway]\nmax_body_bytes = 100", "gateway.max_body_bytes = 100: must be from"),
        ("[gateway]\nread_timeout_s = 0", "gateway.read_timeout_s = 0.0: must be from"),
    ],
)
def test_a_rule_that_is_broken_is_explained(tmp_path: Path, text: str, expected: str) -> None:
    table = "[workspaces.acme]"
    whole = PEOPLE.replace(table, text) if table in text else PEOPLE + text
    found = problems(tmp_path, whole)
    assert any(line.startswith(expected) for line in found), found


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (f'webhooks_env = ["{URL}"]', "destinations.people.webhooks_env: must be the name of an environment"),
        ("webhooks_env = []", "destinations.people.webhooks_env: must name at least one"),
        ('webhooks_env = ["A"]\nestimate_credits = 30', "destinations.people.estimate_credits: must not be"),
        ('webhooks_env = ["A"]\nallowed_hosts = []', "destinations.people.allowed_hosts: must name"),
    ],
)
def test_a_destination_that_is_wrong(tmp_path: Path, key: str, expected: str) -> None:
    found = problems(tmp_path, f'[destinations.people]\nworkspace = "acme"\n{key}')
    assert any(line.startswith(expected) for line in found), found


def test_the_simulator_may_be_the_host(tmp_path: Path) -> None:
    text = PEOPLE + 'allowed_hosts = ["127.0.0.1"]'
    url = "http://127.0.0.1:8900/v3/sources/webhook/sim"
    assert load(tmp_path, text, {"CLAY_WEBHOOK_PEOPLE": url}).secrets["CLAY_WEBHOOK_PEOPLE"] == url


def test_one_webhook_in_two_pools_is_refused(tmp_path: Path) -> None:
    text = PEOPLE + '[destinations.more]\nworkspace = "acme"\nwebhooks_env = ["OTHER"]\ncallbacks = false'
    found = problems(tmp_path, text, {**SECRETS, "OTHER": URL})
    assert found == ["environment variable OTHER: is the same webhook as CLAY_WEBHOOK_PEOPLE; remove one"]


def test_which_destination_a_lead_goes_to(tmp_path: Path) -> None:
    more = '[destinations.more]\nworkspace = "acme"\nwebhooks_env = ["B"]\ncallbacks = false\n'
    other = '[workspaces.beta]\n[destinations.other]\nworkspace = "beta"\nwebhooks_env = ["C"]\ncallbacks = false\n'
    one = load(tmp_path, PEOPLE + other, clay=False)
    assert sorted(one.workspaces) == ["acme", "beta"]
    assert one.destination_of("acme", None) == "people"
    assert one.destination_of("acme", "other") is None
    assert one.destination_of("nobody", None) is None
    assert load(tmp_path, PEOPLE + more, clay=False).destination_of("acme", None) is None
    default = PEOPLE.replace("[workspaces.acme]", '[workspaces.acme]\ndefault_destination = "more"')
    both = load(tmp_path, default + more, clay=False)
    assert both.destination_of("acme", None) == "more"
    assert both.destination_of("acme", "people") == "people"


def test_the_namespace_and_pins(tmp_path: Path) -> None:
    text = PEOPLE.replace("[workspaces.acme]", "[workspaces.acme]\npartition = 5") + '[kafka]\nnamespace = "t1."'
    settings = load(tmp_path, text)
    assert settings.home("acme") == 5
    assert settings.names.leads == "t1.leads"
    assert all(topic.name.startswith("t1.") for topic in settings.topic_plan())


def test_the_password_goes_to_the_client_and_nowhere_else(tmp_path: Path) -> None:
    text = """
    [kafka.security]
    protocol = "SASL_SSL"
    username = "app"
    password_env = "PASSWORD"
    """
    settings = load(tmp_path, text, {"PASSWORD": "s3cret"})
    options = client_options(settings)
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("app", "s3cret")
    assert options["ssl_context"].check_hostname
    assert "s3cret" not in repr(settings)


# ------------------------------------------------------------------------------------------------------------ callbacks


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


def test_who_signs_and_who_verifies_needs_the_keys(tmp_path: Path) -> None:
    text = GATEWAY + CALLED_BACK + 'callback_secrets_env = ["HEADER"]'
    missing = {name: value for name, value in SECRETS.items() if name != "CALLBACK_KEY"}
    said = "environment variable CALLBACK_KEY is not set; gateway.token_keys_env names it"
    header = "environment variable HEADER is not set; destinations.people.callback_secrets_env names it"
    assert problems(tmp_path, text, missing) == [said]
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, {}, clay=False, gateway=True)
    assert caught.value.problems == [said, header]
    load(tmp_path, text, {}, clay=False)


def test_a_key_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, GATEWAY + CALLED_BACK, {**SECRETS, "CALLBACK_KEY": "s3cret"})
    assert line.startswith("environment variable CALLBACK_KEY: must have at least 32 characters; make one with")


@pytest.mark.parametrize(
    ("name", "secret", "problem"),
    [
        ("CALLBACK_KEY", "a" * 32, "is easy to guess"),
        ("API_TOKEN", "ab1-" * 10, "is easy to guess"),
        ("HEADER", "abcdefghijklmnopqrstuvwxyz0123456789", "is easy to guess"),
        ("HEADER", "only for the simulator, change it for the real Clay", "is an example from this project's files"),
        ("API_TOKEN", "any-text-of-32-characters-or-more", "is an example from this project's files"),
        ("API_TOKEN", KEY, "is the same as CALLBACK_KEY"),
        ("HEADER", KEY, "is the same as CALLBACK_KEY"),
    ],
)
def test_a_secret_that_others_know_or_guess_is_refused(tmp_path: Path, name: str, secret: str, problem: str) -> None:
    text = GATEWAY + CALLED_BACK + 'callback_secrets_env = ["HEADER"]'
    given = {**SECRETS, "API_TOKEN": secrets.token_urlsafe(32), "HEADER": secrets.token_hex(32)}
    load(tmp_path, text, given, gateway=True)
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


def test_a_public_gateway_needs_the_token_of_the_look_up_api(tmp_path: Path) -> None:
    tokenless = GATEWAY.replace('api_token_env = "API_TOKEN"', "")
    (line,) = problems(tmp_path, tokenless + CALLED_BACK)
    assert line.startswith("gateway.api_token_env: is required with a public_url")
    for host in ("127.0.0.1:9103", "localhost", "[::1]:80"):
        load(tmp_path, tokenless.replace("https://leads.example.com", f"http://{host}") + CALLED_BACK)


def test_where_the_look_up_api_is(tmp_path: Path) -> None:
    assert load(tmp_path, "").api_url == "http://127.0.0.1:9103"
    assert load(tmp_path, "[http]\nhost = '0.0.0.0'\ngateway_port = 80").api_url == "http://127.0.0.1:80"
    assert load(tmp_path, "[http]\nhost = '::'").api_url == "http://[::1]:9103"
    assert load(tmp_path, "[gateway]\napi_url = 'https://leads.internal/'").api_url == "https://leads.internal"


def test_the_token_of_the_look_up_api(tmp_path: Path) -> None:
    assert load(tmp_path, "").api_token is None
    path = tmp_path / "stream_app.toml"
    path.write_text("[gateway]\napi_token_env = 'API_TOKEN'")
    assert load_settings(path, {"API_TOKEN": KEY}, clay=False, api=True).api_token == KEY
    assert load_settings(path, {}, clay=False).gateway.api_token_env == "API_TOKEN", "others do not need it"
    with pytest.raises(SettingsError, match=r"API_TOKEN is not set; gateway\.api_token_env names it"):
        load_settings(path, {}, clay=False, api=True)
    with pytest.raises(SettingsError, match="API_TOKEN: must have at least"):
        load_settings(path, {"API_TOKEN": "guess"}, clay=False, api=True)


def test_a_hot_share_that_leaves_bulk_just_one_lead_is_accepted(tmp_path: Path) -> None:
    rules = "[workspaces.acme]\nbudget = { credits_per_day = 200, hot_share = 0.9 }\n"
    people = PEOPLE.replace("[workspaces.acme]\n", "")
    assert load(tmp_path, rules + people).workspaces["acme"].budget.hot_share == 0.9


@pytest.mark.parametrize(
    ("lane", "line"),
    [
        ('time_zone = "Europe/Atlantis"', ".time_zone = 'Europe/Atlantis': no such time zone; use a name like"),
        ("budget.credits_per_day = -1", ".budget.credits_per_day = -1: must be from 0 to 1e+12"),
        ("budget.credits_per_day = 19", ".budget.credits_per_day = 19: below destinations.people.ceiling_credits = 20"),
        ("budget.actions_per_month = 4", ".budget.actions_per_month = 4: below destinations.people.ceiling_actions"),
        ("budget = { credits_per_day = 9000, credits_per_month = 8000 }", "must not be above credits_per_month = 8000"),
        ("budget = { credits_per_day = 30, hot_share = 0.5 }", ".budget.hot_share = 0.5: leaves bulk 15 of"),
        ("budget.hot_share = 0.5", ".budget.hot_share = 0.5: is a share of a cap, and no cap is set"),
        ("budget = { credits_per_day = 100, hot_share = 1.5 }", ".budget.hot_share = 1.5: must be from 0 to 0.9"),
        ("budget.soft_limits = [80, 50]", ".budget.soft_limits = [80, 50]: must be percents from 1 to 99"),
        ("budget.soft_limits = [0, 150]", ".budget.soft_limits = [0, 150]: must be percents from 1 to 99"),
        ("budget.billing_day = 0", ".budget.billing_day = 0: must be from 1 to 31"),
        ("budget.opening_credits = 5", ".budget.opening_month = '': the month of the opening balance"),
        ('budget.tz = "Europe/Berlin"', ".budget.tz: the workspace's time_zone sets it; remove it"),
        ("rate.rate_per_s = nan", ".rate.rate_per_s = nan: must be from 0.01 to 1000"),
        ("rate.rate_per_s = inf", ".rate.rate_per_s = inf: must be from 0.01 to 1000"),
        ("rate = { rate_per_s = 0.1 }", ".rate.floor_per_s = 0.5: must not be above rate_per_s = 0.1"),
        ("rate.decrease = 1.0", ".rate.decrease = 1.0: must be from 0.1 to 0.99"),
        ("breaker.failure_rate = 1.01", ".breaker.failure_rate = 1.01: must be from 0.01 to 1"),
        ("breaker = { open_s = 60, open_cap_s = 30 }", ".breaker.open_s = 60.0: must not be above open_cap_s = 30.0"),
        ("breaker.probe_lease_s = 40", ".breaker.probe_lease_s: must be above delivery.max_request_start_age_s"),
        ('breaker.mode = "open"', ".breaker.mode: Invalid enum value 'open'"),
        ("suspension.probe_lease_s = 40", ".suspension.probe_lease_s: must be above delivery.max_request_start_age_s"),
        (
            "suspension = { probe_s = 60, probe_cap_s = 30 }",
            ".suspension.probe_s = 60.0: must not be above probe_cap_s = 30.0",
        ),
        ("health.healthy_above = 70", ".health.degraded_above = 80.0: must not be above healthy_above = 70.0"),
        ("quota = { warn_at = 46000 }", ".quota.warn_at = 46000: must not be above rotate_at = 45000"),
        ("quota.rotate_at = 50001", ".quota.rotate_at = 50001: must be from 1 to 50000"),
        ("concurrency.least = 101", ".concurrency.least = 101: must not be above"),
        ("concurrency.most = 7", ".concurrency.most: delivery.max_in_flight sets it; remove it"),
        ("flood_guard.share = 0", ".flood_guard.share = 0.0: must be from 0.01 to 1"),
        ("callback_health.overdue = 0", ".callback_health.overdue = 0: must be from 1 to 10000"),
    ],
)
def test_a_lane_that_contradicts_itself_is_told_so_in_one_line(tmp_path: Path, lane: str, line: str) -> None:
    found = problems(tmp_path, PEOPLE.replace("[workspaces.acme]", f"[workspaces.acme]\n{lane}"))
    assert len(found) == 1
    assert found[0].startswith("workspaces.acme")
    assert line in found[0]


# ------------------------------------------------------------------------------------------------ whose policies count


def test_a_misspelt_workspace_does_not_switch_its_budget_off(tmp_path: Path) -> None:
    text = PEOPLE.replace("[workspaces.acme]", "[workspaces.acm.budget]\ncredits_per_day = 10")
    line = "destinations.people.workspace = acme: there is no [workspaces.acme]; did you mean acm?"
    assert problems(tmp_path, text) == [line]


def test_a_workspace_that_a_destination_names_has_its_table(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, PEOPLE.replace("[workspaces.acme]", ""))
    assert line == "destinations.people.workspace = acme: there is no [workspaces.acme]; add it, an empty one will do"
    more = '[workspaces.beta]\n[destinations.more]\nworkspace = "bta"\nwebhooks_env = ["B"]\ncallbacks = false\n'
    (line,) = problems(tmp_path, PEOPLE + more, {**SECRETS, "B": URL + "2"})
    assert line == "destinations.more.workspace = bta: there is no [workspaces.bta]; did you mean beta?"


def test_a_table_that_no_destination_names_is_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, PEOPLE + "[workspaces.acm.budget]\ncredits_per_day = 100")
    assert line.startswith("workspaces.acm: no destination names this workspace, so the table has no effect; did you")
    (line,) = problems(tmp_path, PEOPLE + "[workspaces.other]")
    assert line.endswith("; remove it, or add its destination")


def test_all_workspaces_have_the_defaults_key_by_key(tmp_path: Path) -> None:
    defaults = """
        [workspace_defaults]
        hold = "degrade"
        time_zone = "Europe/Berlin"
        budget = { credits_per_day = 500, soft_limits = [90] }
        rate.burst = 5
        [workspaces.beta]
        time_zone = "America/New_York"
        budget.credits_per_day = 40
        [destinations.more]
        workspace = "beta"
        webhooks_env = ["B"]
        callbacks = false
    """
    settings = load(tmp_path, PEOPLE + defaults, clay=False)
    acme, beta = settings.workspaces["acme"], settings.workspaces["beta"]
    assert (acme.hold, acme.rate.burst, acme.rate.rate_per_s) == ("degrade", 5, Workspace("").rate.rate_per_s)
    assert (acme.budget.credits_per_day, acme.budget.soft_limits, acme.budget.tz) == (500, (90,), "Europe/Berlin")
    assert (beta.hold, beta.rate.burst) == ("degrade", 5)
    assert (beta.budget.credits_per_day, beta.budget.soft_limits, beta.budget.tz) == (40, (90,), "America/New_York")


def test_a_mistake_in_the_defaults_is_reported_once(tmp_path: Path) -> None:
    more = '[workspaces.beta]\n[destinations.more]\nworkspace = "beta"\nwebhooks_env = ["B"]\ncallbacks = false\n'
    wrong = "[workspace_defaults]\nrate.rate_per_s = 0\nbugdet = {}\nhold = 'stop'\npartition = 3\n"
    found = problems(tmp_path, wrong + PEOPLE + more, {**SECRETS, "B": URL + "2"})
    assert [line.partition(" ")[0].rstrip(":") for line in found] == [
        "workspace_defaults.bugdet",
        "workspace_defaults.partition",
        "workspace_defaults.hold",
        "workspace_defaults.rate.rate_per_s",
        "workspace_defaults.rate.floor_per_s",
    ]
    assert "did you mean budget?" in found[0]


def test_workspaces_that_are_no_tables_are_said_so_once(tmp_path: Path) -> None:
    assert problems(tmp_path, "workspaces = 3\n" + PEOPLE.replace("[workspaces.acme]", "")) == [
        "workspaces: must be a table"
    ]
    found = problems(tmp_path, PEOPLE.replace("[workspaces.acme]", "[workspaces]\nacme = 3"))
    assert found == ["workspaces.acme: must be a table"]


def test_peppers_key_the_hashes_of_the_process(tmp_path: Path) -> None:
    plain = plain_id("Ada King")
    load(tmp_path, "[privacy]\npepper_env = ['PERSON_PEPPER']\nhash_lead_ids = true")
    assert plain_id("crm-1").startswith("h-")
    assert plain_id("Ada King") != plain
    load(tmp_path, "")
    assert plain_id("Ada King") == plain
    assert plain_id("crm-1") == "crm-1"


def test_a_weak_pepper_is_refused(tmp_path: Path) -> None:
    text = "[privacy]\npepper_env = ['PERSON_PEPPER']"
    assert "at least 32 characters" in problems(tmp_path, text, {"PERSON_PEPPER": "salt"})[0]
    assert problems(tmp_path, text, {}) == [
        "environment variable PERSON_PEPPER is not set; privacy.pepper_env names it"
    ]
    text = "[privacy]\npepper_env = ['P', 'P']"
    assert "privacy.pepper_env: must name each environment variable once" in problems(tmp_path, text, {"P": PEPPER})
