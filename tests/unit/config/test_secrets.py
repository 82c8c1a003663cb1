"""Problems of keys, rules and secrets come at once, and neither a secret nor the proxy's URL is
repeated.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.config.files import PEOPLE, SECRETS, URL, load, problems

HERE = """
workspaces.a.budget.unlimited = true
destinations.x = {workspace = 'a', webhooks_env = ['N'], callbacks = false}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[delivery]\nconnect_timeout_s = 20\nrequest_timeout_s = '60'",
            "delivery.request_timeout_s: Expected float",
        ),
        (
            "workspaces = 3\n" + PEOPLE.replace("[workspaces.acme]", ""),
            "workspaces: must be a table",
        ),
        (
            PEOPLE.replace("[workspaces.acme]", "[workspaces]\nacme = 3"),
            "workspaces.acme: must be a table",
        ),
        ("kafka = 3", "kafka: must be a table"),
        (PEOPLE.replace('"acme"', "3"), "destinations.people.workspace: Expected str"),
        (
            PEOPLE + "allowed_hosts = 'relay.example'",
            "destinations.people.allowed_hosts: Expected array",
        ),
        (
            PEOPLE.replace("CLAY_WEBHOOK_PEOPLE", URL),
            "destinations.people.webhooks_env: must be the name of an env",
        ),
        (f"secrets_dir = 3\n{HERE}", "secrets_dir: Expected str"),
        (f"secrets_dir = '/none'\n{HERE}", "secrets_dir = '/none': there is no such directory"),
    ],
)
def test_an_unreadable_value_causes_no_second_error(
    tmp_path: Path,
    text: str,
    expected: str,
) -> None:
    host = "relay.example" if "relay.example" in text else "api.clay.com"
    [line] = problems(tmp_path, text, {"CLAY_WEBHOOK_PEOPLE": URL.replace("api.clay.com", host)})
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "url",
    ["s3cret", "https://[s3cret", "https://user:s3cret@api.clay.com/v3/sources/webhook/x"],
)
def test_a_webhook_that_is_no_clay_webhook(tmp_path: Path, url: str) -> None:
    lines = problems(tmp_path, PEOPLE, {"CLAY_WEBHOOK_PEOPLE": url})
    assert len(lines) == 1
    assert lines[0].startswith("environment variable CLAY_WEBHOOK_PEOPLE: ")


def test_token_and_lead_never_go_through_the_net_in_plain_text(tmp_path: Path) -> None:
    text = PEOPLE + 'allowed_hosts = ["relay.example"]'
    url = "{}://relay.example/v3/sources/webhook/x"
    [line] = problems(tmp_path, text, {"CLAY_WEBHOOK_PEOPLE": url.format("http")})
    assert line.startswith(
        "environment variable CLAY_WEBHOOK_PEOPLE: the webhook's URL must begin with https://",
    )
    load(tmp_path, text, {"CLAY_WEBHOOK_PEOPLE": url.format("https")})


def test_a_token_that_is_no_header_is_refused(tmp_path: Path) -> None:
    text = PEOPLE + 'token_env = "CLAY_TOKEN_PEOPLE"'
    [line] = problems(tmp_path, text, {**SECRETS, "CLAY_TOKEN_PEOPLE": "s3cret\u00e9"})
    assert line.startswith(
        "environment variable CLAY_TOKEN_PEOPLE: the webhook's token must be printable ASCII",
    )


EGRESS = (
    PEOPLE
    + """
[egress]
keepalive_s = 4
ca_file = "/etc/ssl/company.pem"
proxy_env = "EGRESS_PROXY"
"""
)


@pytest.mark.parametrize(
    "url",
    [
        "http://proxy.example.com:3128",
        "http://ada:s3cret%2Fpass%40word@10.0.0.1:8080/",
        "http://:s3cret@[::1]:3128",
    ],
)
def test_an_egress_proxy_is_a_secret_that_only_worker_and_doctor_need(
    tmp_path: Path,
    url: str,
) -> None:
    settings = load(tmp_path, EGRESS, SECRETS | {"EGRESS_PROXY": url})
    assert settings.secrets["EGRESS_PROXY"] == url
    assert "s3cret" not in repr(settings)
    assert settings.egress.keepalive_s == 4
    assert "EGRESS_PROXY" not in load(tmp_path, EGRESS, {}, ()).secrets


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not set; egress.proxy_env names it"),
        (
            "https://ada:s3cret@proxy.example.com:3128",
            "an HTTP proxy, which passes TLS on by CONNECT",
        ),
        ("socks5://s3cret@proxy.example.com:1080", "an HTTP proxy, which passes TLS on by CONNECT"),
        (
            "http://ada:s3cret@proxy.example.com",
            "must be like http://user:password@proxy.example.com:3128",
        ),
        (
            "ada:s3cret@proxy.example.com:3128",
            "must be like http://user:password@proxy.example.com:3128",
        ),
        (
            "http://ada:s3/cret@proxy.example.com:3128",
            "special characters of user and password as %XX",
        ),
        (
            "http://ada:s3cret #@proxy.example.com:3128",
            "special characters of user and password as %XX",
        ),
        (
            "http://ada:s3cret@proxy.example.com:3128/path",
            "must be like http://user:password@proxy.example.com:3128",
        ),
    ],
)
def test_a_proxy_url_that_is_wrong_is_not_repeated(tmp_path: Path, url: str, says: str) -> None:
    (line,) = problems(tmp_path, EGRESS, SECRETS | {"EGRESS_PROXY": url})
    assert line.startswith("environment variable EGRESS_PROXY")
    assert says in line


@pytest.mark.parametrize(
    "headers",
    [
        "x-key=s3cret%0Ax: y",
        "x-key=s3cret%0D",
        "x-key=s3cret%C3%A9",
        "x-key=%20s3cret",
        "a=b,c=s3cret\x7f",
    ],
)
def test_a_header_for_traces_that_cannot_be_sent_is_refused_without_its_value(
    tmp_path: Path,
    headers: str,
) -> None:
    """Seen: the HTTP library quoted it in its error, which `doctor` and the trace process print."""
    text = (
        f"{PEOPLE}\n[trace]\nendpoint = 'https://otel.example.com/v1/traces'\nheaders_env = "
        "'HEADERS'"
    )
    [line] = problems(tmp_path, text, {**SECRETS, "HEADERS": headers})
    assert line.startswith("environment variable HEADERS: the values must be printable ASCII")
    assert "s3cret" not in line
    load(tmp_path, text, {**SECRETS, "HEADERS": "authorization=Basic%20czNjcmV0"})


def mounted(folder: Path) -> Path:
    """Write a secret as Kubernetes projects it: links through `..data` into a directory that an
    update replaces.
    """
    secrets = folder / "secrets"
    data = secrets / "..2026_11_29"
    data.mkdir(parents=True)
    (data / "CLAY_WEBHOOK_PEOPLE").write_text(URL)
    (secrets / "..data").symlink_to(data.name)
    (secrets / "CLAY_WEBHOOK_PEOPLE").symlink_to("..data/CLAY_WEBHOOK_PEOPLE")
    for path, mode in ((secrets, 0o755), (data, 0o755), (data / "CLAY_WEBHOOK_PEOPLE", 0o444)):
        path.chmod(mode)
    return secrets


@pytest.mark.parametrize(
    ("place", "mode", "expected"),
    [
        ("", 0o777, "secrets_dir = "),
        ("", 0o1777, "secrets_dir = "),
        (
            "..data",
            0o777,
            (
                "secrets_dir: others can write the file CLAY_WEBHOOK_PEOPLE: run chmod o-w on it "
                "and its"
            ),
        ),
        (
            "CLAY_WEBHOOK_PEOPLE",
            0o666,
            "secrets_dir: others can write the file CLAY_WEBHOOK_PEOPLE: run chmod o-w",
        ),
    ],
)
def test_secrets_that_others_can_write_are_refused(
    tmp_path: Path,
    place: str,
    mode: int,
    expected: str,
) -> None:
    secrets = mounted(tmp_path)
    text = f"secrets_dir = '{secrets}'\n{PEOPLE}"
    assert load(tmp_path, text, {}).secrets["CLAY_WEBHOOK_PEOPLE"] == URL
    (secrets / place).chmod(mode)
    [line] = problems(tmp_path, text, {})
    assert line.startswith(expected)
    assert "others can write" in line
    assert "s3cret" not in line


def test_secrets_on_a_read_only_mount_may_have_any_mode(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kubernetes mounts a Secret read-only, and its directory has the mode 1777 of the file system
    in memory.
    """
    secrets = mounted(tmp_path)
    secrets.chmod(0o1777)
    monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert (
        load(tmp_path, f"secrets_dir = '{secrets}'\n{PEOPLE}", {}).secrets["CLAY_WEBHOOK_PEOPLE"]
        == URL
    )
