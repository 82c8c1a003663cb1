"""What is right loads, what is wrong says so in one line each, and no secret shows."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.config.variables import Need
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.model.errors import SettingsError
from tests.unit.config.files import EXAMPLE, GATEWAY, PEOPLE, PEPPER, SECRETS, URL, load, problems


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, "")
    assert repr(msgspec.structs.replace(loaded, path=None, stamp=())) == repr(Settings())


@pytest.mark.parametrize("with_comments", [False, True])
def test_the_example_loads_as_it_is_and_with_what_its_comments_offer(
    tmp_path: Path,
    with_comments: bool,
) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 50
    environ = SECRETS
    if with_comments:
        text = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M)
        more = ("BOARD_TOKEN", "OPERATOR_TOKEN", "SLACK_WEBHOOK", "PEPPER")
        environ = SECRETS | {
            name: f"https://hooks.example.com/{name.lower()}-of-32-characters-or-more"
            for name in more
        }
    settings = load(tmp_path, text, environ, get_args(Need))
    assert settings.workspaces["acme"].budget.tz == "Europe/Berlin"
    assert settings.secrets["CLAY_WEBHOOK_PEOPLE"] == URL


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        load_settings(tmp_path / "none.toml", {})
    assert "is not TOML" in problems(tmp_path, "[kafka\n")[0]


def test_every_problem_of_the_file_comes_at_once(tmp_path: Path) -> None:
    lines = problems(
        tmp_path,
        """
        surprise = 1
        [kafka]
        partitions = "8"
        [workspaces.acme]
        budget.unlimited = true
        hold = "stop"
        [workspaces.acme.breaker]
        open_ms = 3
        [destinations.people]
        workspace = "acme"
        webhooks_env = ["CLAY_WEBHOOK_PEOPLE"]
        callbacks = false
        [topics]
        leads_days = 0
        """,
        {},
    )
    assert len(lines) == 6
    assert lines[0].startswith("surprise: unknown key")
    assert "kafka.partitions: Expected int, got str" in lines
    assert any(
        line == "workspaces.acme.hold: Invalid enum value 'stop'; there are: pause, degrade"
        for line in lines
    )
    assert "workspaces.acme.breaker.open_ms: unknown key; did you mean open_s?" in lines
    assert "topics.leads_days = 0: must be from 1 to 3650" in lines
    assert lines[-1].startswith("environment variable CLAY_WEBHOOK_PEOPLE is not set")
    (line,) = problems(
        tmp_path,
        PEOPLE.replace("[workspaces.acme]", '[workspaces.acme]\nfallback = ["cash"]'),
    )
    assert line == (
        "workspaces.acme.fallback: Invalid enum value 'cash' - at $[0]; there are: cache, "
        "stale, local"
    )


def test_a_missing_secret_is_named_with_its_place(tmp_path: Path) -> None:
    assert problems(tmp_path, PEOPLE + 'token_env = "TOK"', {}) == [
        (
            "environment variable CLAY_WEBHOOK_PEOPLE is not set; "
            "destinations.people.webhooks_env names it"
        ),
        "environment variable TOK is not set; destinations.people.token_env names it",
    ]
    assert "CLAY_WEBHOOK_PEOPLE" not in load(tmp_path, PEOPLE, {}, ()).secrets, (
        "without POSTs it is not needed"
    )


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
def test_a_redis_url_that_is_none_is_a_line_of_the_configuration(
    tmp_path: Path,
    url: str,
    right: bool,
) -> None:
    """Seen: the worker ended with a traceback, which had the password in it."""
    text = '[redis]\nurl_env = "CACHE_URL"'
    environ = {"CACHE_URL": url}
    if right:
        assert load(tmp_path, text, environ).secrets["CACHE_URL"] == url
    else:
        reported = (
            "environment variable CACHE_URL: must be like redis://user:password@host:6379/0 "
            "(rediss:// for TLS)"
        )
        assert problems(tmp_path, text, environ) == [reported]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://hooks.slack.com/services/s3cret", None),
        ("http://127.0.0.1:9/s3cret", None),
        (
            "http://hooks.example.com/s3cret",
            "must begin with https:// (http:// only for this machine and names without a dot)",
        ),
        ("s3cret", "must be like https://hooks.example.com/services/..., without spaces"),
        ("https://h:s3cret/", "is malformed: copy it again"),
    ],
)
def test_a_url_for_messages_is_checked_and_never_shown(
    tmp_path: Path,
    url: str,
    problem: str | None,
) -> None:
    text = '[notify]\nurl_env = "NOTIFY_URL"'
    environ = {"NOTIFY_URL": url}
    if problem is None:
        load(tmp_path, text, environ)
    else:
        assert problems(tmp_path, text, environ) == [
            f"environment variable NOTIFY_URL: the URL for messages {problem}",
        ]


def test_the_board_needs_the_secrets_of_messages_where_they_are_on(tmp_path: Path) -> None:
    environ = SECRETS | {"BOARD_TOKEN": "s3cret-token-of-the-board-32-characters"}
    text = GATEWAY + PEOPLE + "[egress]\nproxy_env = 'PROXY'\n"
    load(tmp_path, text, environ, ("board",))
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, text + "[notify]\nurl_env = 'NOTIFY_URL'\n", environ, ("board",))
    assert refused.value.problems == [
        f"environment variable {name} is not set; {key} names it"
        for name, key in (("NOTIFY_URL", "notify.url_env"), ("PROXY", "egress.proxy_env"))
    ]


def test_an_uncertain_lead_waits_as_long_as_its_destination_says(tmp_path: Path) -> None:
    firms = (
        '[destinations.firms]\nworkspace = "acme"\nwebhooks_env = ["B"]\ncallbacks = false\n'
        "uncertain_grace_s = 60\n"
    )
    plan = load(tmp_path, PEOPLE + firms + "[delivery]\nuncertain_grace_s = 300", needs=()).plan
    assert [plan.destinations[alias].uncertain_grace_s for alias in ("people", "firms")] == [
        300,
        60,
    ]


def test_which_destination_a_lead_goes_to(tmp_path: Path) -> None:
    more = '[destinations.more]\nworkspace = "acme"\nwebhooks_env = ["B"]\ncallbacks = false\n'
    other = (
        '[workspaces.beta]\n[destinations.other]\nworkspace = "beta"\nwebhooks_env = ["C"]\n'
        "callbacks = false\n"
    )
    one = load(tmp_path, PEOPLE + other, needs=())
    assert sorted(one.workspaces) == ["acme", "beta"]
    assert one.destination_of("acme", None) == "people"
    assert one.destination_of("acme", "other") is None
    assert one.destination_of("unknown", None) is None
    assert load(tmp_path, PEOPLE + more, needs=()).destination_of("acme", None) is None
    default = PEOPLE.replace("[workspaces.acme]", '[workspaces.acme]\ndefault_destination = "more"')
    both = load(tmp_path, default + more, needs=())
    assert both.destination_of("acme", None) == "more"
    assert both.destination_of("acme", "people") == "people"


def test_the_password_goes_to_the_client_and_nowhere_else(tmp_path: Path) -> None:
    text = """
    [kafka.security]
    protocol = "SASL_SSL"
    username = "app"
    password_env = "PASSWORD"
    """
    settings = load(tmp_path, text, {"PASSWORD": "s3cret"})
    options = connection_of(settings).settings()
    assert options["sasl_plain_username"] == "app"
    assert options["sasl_plain_password"] == "s3cret"
    assert options["ssl_context"].check_hostname
    assert "s3cret" not in repr(settings)


def test_the_pepper_keys_the_hashes_of_the_process(tmp_path: Path) -> None:
    plain = plain_id("Ada King")
    load(tmp_path, "[privacy]\npepper_env = 'PERSON_PEPPER'\nhash_lead_ids = true")
    assert plain_id("crm-1").startswith("h-")
    assert plain_id("Ada King") != plain
    load(tmp_path, "")
    assert plain_id("Ada King") == plain
    assert plain_id("crm-1") == "crm-1"


def test_a_weak_a_missing_and_a_second_pepper_are_refused(tmp_path: Path) -> None:
    text = "[privacy]\npepper_env = 'PERSON_PEPPER'"
    assert "at least 32 characters" in problems(tmp_path, text, {"PERSON_PEPPER": "salt"})[0]
    assert problems(tmp_path, text, {}) == [
        "environment variable PERSON_PEPPER is not set; privacy.pepper_env names it",
    ]
    (line,) = problems(
        tmp_path,
        "[privacy]\npepper_env = ['OLD', 'NEW']",
        {"OLD": PEPPER, "NEW": PEPPER},
    )
    assert 'privacy.pepper_env: one pepper now: pepper_env = "NAME"' in line
