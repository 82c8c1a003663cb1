"""The table [egress]: the proxy's URL is a secret, and never repeated."""

from pathlib import Path

import pytest

from tests.unit.config.files import PEOPLE, SECRETS, load, problems

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
def test_an_egress_proxy_is_a_secret_that_only_worker_and_doctor_need(tmp_path: Path, url: str) -> None:
    settings = load(tmp_path, EGRESS, SECRETS | {"EGRESS_PROXY": url})
    assert settings.secrets["EGRESS_PROXY"] == url
    assert "s3cret" not in repr(settings)
    assert settings.egress.keepalive_s == 4
    assert "EGRESS_PROXY" not in load(tmp_path, EGRESS, {}, ()).secrets


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not set; egress.proxy_env names it"),
        ("https://ada:s3cret@proxy.example.com:3128", "an HTTP proxy, which passes TLS on by CONNECT"),
        ("socks5://s3cret@proxy.example.com:1080", "an HTTP proxy, which passes TLS on by CONNECT"),
        ("http://ada:s3cret@proxy.example.com", "must be like http://user:password@proxy.example.com:3128"),
        ("ada:s3cret@proxy.example.com:3128", "must be like http://user:password@proxy.example.com:3128"),
        ("http://ada:s3/cret@proxy.example.com:3128", "special characters of user and password as %XX"),
        ("http://ada:s3cret #@proxy.example.com:3128", "special characters of user and password as %XX"),
        ("http://ada:s3cret@proxy.example.com:3128/path", "must be like http://user:password@proxy.example.com:3128"),
    ],
)
def test_a_proxy_url_that_is_wrong_is_not_repeated(tmp_path: Path, url: str, says: str) -> None:
    (line,) = problems(tmp_path, EGRESS, SECRETS | {"EGRESS_PROXY": url})
    assert line.startswith("environment variable EGRESS_PROXY")
    assert says in line


def test_egress_ranges_and_names(tmp_path: Path) -> None:
    found = problems(tmp_path, '[egress]\nkeepalive_s = 0\nproxy_env = "http://ada:s3cret@proxy:1"\n')
    assert found == [
        "egress.keepalive_s = 0.0: must be from 0.1 to 3600",
        "egress.proxy_env: must be the name of an environment variable, never the secret itself",
    ]
