"""What cannot be read, what breaks a rule and what is wrong with a secret come at once, and no secret is repeated."""

from pathlib import Path

import pytest

from tests.unit.config.files import PEOPLE, SECRETS, URL, load, problems

HERE = "workspaces.a = {}\ndestinations.x = {workspace = 'a', webhooks_env = ['N'], callbacks = false}"


def test_errors_in_keys_rules_and_secrets_are_reported_together(tmp_path: Path) -> None:
    text = "[kafka]\npartitions = 0\nname = 'x'\n" + PEOPLE
    unknown, out_of_range, missing = problems(tmp_path, text, {})
    assert unknown.startswith("kafka.name: unknown key; did you mean namespace?")
    assert out_of_range == "kafka.partitions = 0: must be from 1 to 10000"
    assert missing.startswith("environment variable CLAY_WEBHOOK_PEOPLE is not set")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[delivery]\nconnect_timeout_s = 20\nrequest_timeout_s = '60'", "delivery.request_timeout_s: Expected float"),
        (
            "[delivery]\nconnect_timeout_s = 31\nrequest_timeout = 60",
            "delivery.request_timeout: unknown key; did you mean",
        ),
        ("workspaces = 3", "workspaces: must be a table"),
        ("kafka = 3", "kafka: must be a table"),
        (PEOPLE.replace('"acme"', "3"), "destinations.people.workspace: Expected str"),
        (PEOPLE + "allowed_hosts = 'relay.example'", "destinations.people.allowed_hosts: Expected array"),
        (f"secrets_dir = 3\n{HERE}", "secrets_dir: Expected str"),
        (f"secrets_dir = '/none'\n{HERE}", "secrets_dir = '/none': there is no such directory"),
    ],
)
def test_an_unreadable_value_causes_no_second_error(tmp_path: Path, text: str, expected: str) -> None:
    host = "relay.example" if "relay.example" in text else "api.clay.com"
    [found] = problems(tmp_path, text, {"CLAY_WEBHOOK_PEOPLE": URL.replace("api.clay.com", host)})
    assert found.startswith(expected)


def test_a_secret_in_the_place_of_its_name_is_not_repeated(tmp_path: Path) -> None:
    [found] = problems(tmp_path, PEOPLE.replace("CLAY_WEBHOOK_PEOPLE", URL), {})
    assert found.startswith("destinations.people.webhooks_env: must be the name of an environment variable")


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "https://[s3cret",
        "https://evil.example/v3/sources/webhook/s3cret",
        "https://api.clay.com.evil.example/v3/sources/webhook/s3cret",
        "http://api.clay.com/v3/sources/webhook/s3cret",
        "https://api.clay.com/v3/sources/webhook/",
        "https://api.clay.com/other/s3cret",
        "https://user:s3cret@api.clay.com/v3/sources/webhook/x",
        "https://api.clay.com/v3/sources/webhook/x?s3cret",
        "https://api.clay.com/v3/sources/webhook/s3cret\n",
    ],
)
def test_a_webhook_that_is_no_clay_webhook(tmp_path: Path, url: str) -> None:
    found = problems(tmp_path, PEOPLE, {"CLAY_WEBHOOK_PEOPLE": url})
    assert len(found) == 1
    assert found[0].startswith("environment variable CLAY_WEBHOOK_PEOPLE: ")


def test_token_and_lead_never_go_through_the_net_in_plain_text(tmp_path: Path) -> None:
    text = PEOPLE + 'allowed_hosts = ["relay.example"]'
    url = "{}://relay.example/v3/sources/webhook/x"
    [found] = problems(tmp_path, text, {"CLAY_WEBHOOK_PEOPLE": url.format("http")})
    assert found.startswith("environment variable CLAY_WEBHOOK_PEOPLE: the webhook's URL must begin with https://")
    load(tmp_path, text, {"CLAY_WEBHOOK_PEOPLE": url.format("https")})


def test_a_token_that_is_no_header_is_refused(tmp_path: Path) -> None:
    text = PEOPLE + 'token_env = "CLAY_TOKEN_PEOPLE"'
    [found] = problems(tmp_path, text, {**SECRETS, "CLAY_TOKEN_PEOPLE": "s3cret\u00e9"})
    assert found.startswith("environment variable CLAY_TOKEN_PEOPLE: the webhook's token must be printable ASCII")
