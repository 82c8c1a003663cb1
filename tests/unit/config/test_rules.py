"""Each rule that a configuration breaks is explained in one line."""

from pathlib import Path
from typing import Final

import pytest

from stream_app.config import gone
from tests.unit.config.files import KEY, PEOPLE, SECRETS, URL, load, problems

ELSEWHERE = ("2130706433", "0x7f000001", "3232235777", "127.1", "0177.0.0.1", "0x7f.1")
"""Hosts that the resolver reads as numbers: addresses of any machine, in a form that does not show
which.
"""


PLAIN = """
[kafka.security]
protocol = "SASL_PLAINTEXT"
mechanism = "PLAIN"
username = "app"
password_env = "KAFKA_PASSWORD"
[kafka]
bootstrap = "{}"
"""


@pytest.mark.parametrize(
    "bootstrap",
    ["kafka:9092", "127.0.0.1:9094", "localhost:1, [::1]:2,kafka-1:3"],
)
def test_a_readable_password_may_stay_on_this_machine(tmp_path: Path, bootstrap: str) -> None:
    load(tmp_path, PLAIN.format(bootstrap) + PEOPLE, {"KAFKA_PASSWORD": "p"}, ())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "localhost", "otel-collector", "collector_2"],
)
def test_headers_of_traces_may_stay_on_this_machine_or_in_a_network_of_containers(
    tmp_path: Path,
    host: str,
) -> None:
    text = f"[trace]\nendpoint = 'http://{host}:4318/v1/traces'\nheaders_env = 'HEADERS'"
    load(tmp_path, PEOPLE + text, SECRETS)
    load(tmp_path, PEOPLE + "[trace]\nendpoint = 'http://otel.example.com:4318/v1/traces'", SECRETS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[kafka]\nbootstrap = 'broker'", "kafka.bootstrap: must be host:port"),
        ("[kafka]\nnamespace = 'a b'", "kafka.namespace: at most"),
        ("[kafka]\nbroker_wait_s = nan", "kafka.broker_wait_s = nan: must be"),
        ("[kafka]\nrebalance_timeout_s = 60", "kafka.rebalance_timeout_s: must be 20 s above"),
        (
            "[kafka.security]\nprotocol = 'SASL_SSL'",
            "kafka.security: protocol SASL_SSL needs username",
        ),
        (
            "[kafka.security]\ncert_file = 'a'",
            "kafka.security: cert_file and key_file must be set together",
        ),
        (
            "[redis]\nurl_env = 'redis://s3cret'",
            "redis.url_env: must be the name of an environment variable",
        ),
        ("[delivery]\nuncertain_grace_s = 40", "delivery.uncertain_grace_s: must be above"),
        ("[delivery]\nconnect_timeout_s = 30", "delivery.connect_timeout_s: is part of a request"),
        ("[delivery]\nmax_waiting = 0", "delivery.max_waiting = 0: must be from 1 to 100000"),
        ("uncertain_grace_s = nan", "destinations.people.uncertain_grace_s = nan: must be"),
        ("uncertain_grace_s = 40", "destinations.people.uncertain_grace_s: must be above"),
        (
            "uncertain_grace_s = 7200",
            "destinations.people.uncertain_grace_s = 7200: is longer than",
        ),
        ("[egress]\nkeepalive_s = 0", "egress.keepalive_s = 0.0: must be from 0.1 to 3600"),
        (
            "[egress]\nproxy_env = 'http://ada:s3cret@proxy:1'",
            "egress.proxy_env: must be the name of an environment",
        ),
        (
            "[delivery]\nfreshness_days = 10",
            "topics.bulk_days = 14: must not be above delivery.freshness_days = 10",
        ),
        ("[replay]\ntiers_s = [60, 2]", "replay.tiers_s: must be whole seconds"),
        ("[replay]\ntiers_s = []", "replay.tiers_s: must be whole seconds"),
        (
            "[replay]\ntiers_s = [3600, 1382400]",
            (
                "delivery.freshness_days = 30: delay tiers keep records for 32 days: an older "
                "record could be read again"
            ),
        ),
        ("[shares]\nbulk = 0.6\nretry = 0.5", "shares: bulk + retry must stay below 1"),
        (
            "[http]\nworker_port = 9102",
            "http: worker_port, replay_port, gateway_port, gateway_ops_port, trace_port, "
            "board_port and board_ops_port "
            "must differ",
        ),
        ("[http]\ngateway_port = 0", "http.gateway_port = 0: must be from 1 to 65535"),
        (
            "[workspaces.acme]\npartition = 32",
            "workspaces.acme.partition = 32: must be from 0 to 31",
        ),
        ("[workspaces.acme.rate]\nburst = 0", "workspaces.acme.rate.burst = 0: must be"),
        (
            "[workspaces.acme.suspension]\nprobe_lease_s = 0",
            "workspaces.acme.suspension.probe_lease_s = 0.0: must be",
        ),
        (
            "[workspaces.acme.quota]\nwarn_at = 50000",
            "workspaces.acme.quota.warn_at = 50000: must not be",
        ),
        (
            "[workspaces.acme]\ndefault_destination = 'x'",
            "workspaces.acme.default_destination = x: there is",
        ),
        ("[workspaces.'a b']", "workspaces.a b: a workspace's name"),
        (
            "[destinations.b]\nworkspace = 'acme'\nwebhooks_env = []",
            "destinations.b.webhooks_env: must name at least one",
        ),
        ("estimate_credits = 30", "destinations.people.estimate_credits: must not be"),
        ("allowed_hosts = []", "destinations.people.allowed_hosts: must name"),
        (
            "[workspaces.b]\ndefault_destination = 'people'",
            "workspaces.b.default_destination = people: it",
        ),
        (
            "[destinations.people.columns]\na = 'X'\nb = 'X'",
            "destinations.people.columns: each field needs",
        ),
        (
            f"yield = {[f'c{number}' for number in range(11)]}",
            "destinations.people.yield: has 11 columns; name the 10 that count most",
        ),
        ("yield_suspends = true", "destinations.people.yield_suspends: names no column"),
        ("yield = ['a', 'a']", "destinations.people.yield: names a column twice"),
        ("yield = ['status']", "destinations.people.yield: status is no result of a callback"),
        ("yield = ['_clay_meta']", "destinations.people.yield: _clay_meta is no result"),
        ("yield = [' a']", "destinations.people.yield: the name of a column has 1 to 100"),
        ("yield = ['']", "destinations.people.yield: the name of a column has 1 to 100"),
        (f"yield = ['{'a' * 101}']", "destinations.people.yield: the name of a column has 1"),
        (
            "yield = ['a']",
            "destinations.people.yield: no callback says what was found",
        ),
        (
            "[gateway]\npublic_url = 'leads.example.com'",
            "gateway.public_url: must be like https://",
        ),
        (
            "[gateway]\npublic_url = 'https://user:s3cret@x'",
            "gateway.public_url: must be like https://",
        ),
        ("[gateway]\npublic_url = 'https://x?s3cret'", "gateway.public_url: must be like https://"),
        ("[gateway]\npublic_url = 'https://x:port'", "gateway.public_url: must be like https://"),
        *(
            (
                f"[gateway]\npublic_url = 'http://{host}:9103'",
                (
                    "gateway.public_url: must begin with https, because tokens and results are "
                    "sent there"
                ),
            )
            for host in ("leads.example.com", "192.0.2.7", *ELSEWHERE)
        ),
        (
            "[trace]\nendpoint = 'localhost:4318'",
            "trace.endpoint: must be like http://127.0.0.1:4318/v1/traces",
        ),
        (
            "[trace]\nendpoint = 'https://u:s3cret@x/v1/traces'",
            "trace.endpoint: must be like http://",
        ),
        *(
            (
                f"[trace]\nendpoint = 'http://{host}:4318/v1/traces'\nheaders_env = 'HEADERS'",
                (
                    "trace.endpoint: must begin with https, because the headers of "
                    "trace.headers_env are sent there"
                ),
            )
            for host in ("otel.example.com", "192.0.2.7", *ELSEWHERE)
        ),
        *(
            (
                f"[board]\nurl = 'http://{host}:9107'\ntoken_env = 'TOKEN'",
                "board.url: must begin with https, because the token is sent there",
            )
            for host in ("board.internal", "192.0.2.7", *ELSEWHERE)
        ),
        *(
            (
                PLAIN.format(f"{far}:9092"),
                "kafka.security.mechanism: PLAIN sends the password in clear text to another host",
            )
            for far in ("kafka.example.com", "127.0.0.1:1,10.0.0.7", "[2001:db8::1]", *ELSEWHERE)
        ),
        (
            "[gateway]\ntoken_keys_env = ['A', 'A']",
            "gateway.token_keys_env: must name each environment variable once",
        ),
        (
            f"[gateway]\ntoken_keys_env = ['{KEY}']",
            "gateway.token_keys_env: must be the name of an environment",
        ),
        (f"[board]\ntoken_env = '{KEY}'", "board.token_env: must be the name of an environment"),
        (
            f"[board]\noperator_token_env = '{KEY}'",
            "board.operator_token_env: must be the name of an environment",
        ),
        (
            "[board]\nuser_header = 'X-User'",
            "board.user_header: needs board.user_header_secret_env",
        ),
        (
            "[board]\nuser_header = 'X User'\nuser_header_secret_env = 'SECRET'",
            "board.user_header: must be the name of a header",
        ),
        (
            "[board]\ntrace_url = 'https://tempo.example.com/'",
            "board.trace_url: must be like https://",
        ),
        ("[board]\ntrace_url = 'javascript:{trace_id}'", "board.trace_url: must be like https://"),
        ("[board]\nurl = 'board:9107'", "board.url: must be like https://"),
        (
            "[notify]\nwatch_gateway = true",
            "notify.watch_gateway: needs gateway.public_url, which it asks",
        ),
        (
            "[notify]\nurl_env = 'https://hooks.slack.com/x'",
            "notify.url_env: must be the name of an environment",
        ),
        ("[board]\nread_model_path = ''", "board.read_model_path: must be the path of a file"),
        ("[gateway]\nmax_body_bytes = 100", "gateway.max_body_bytes = 100: must be from"),
    ],
)
def test_a_rule_that_is_broken_is_explained(tmp_path: Path, text: str, expected: str) -> None:
    table = "[workspaces.acme]"
    whole = PEOPLE.replace(table, text) if table in text else PEOPLE + text
    lines = problems(tmp_path, whole)
    assert any(line.startswith(expected) for line in lines), lines


def test_one_webhook_in_two_pools_is_refused(tmp_path: Path) -> None:
    text = (
        PEOPLE
        + '[destinations.more]\nworkspace = "acme"\nwebhooks_env = ["OTHER"]\ncallbacks = false'
    )
    lines = problems(tmp_path, text, {**SECRETS, "OTHER": URL})
    assert lines == [
        "environment variable OTHER: is the same webhook as CLAY_WEBHOOK_PEOPLE; remove one",
    ]


@pytest.mark.parametrize(
    ("place", "text", "line"),
    [
        (
            "workspaces.*.old",
            "[workspace_defaults]\nold = 1\n",
            "workspace_defaults.old: gone in 0.2.0; use new",
        ),
        (
            "destinations.*.old",
            "[destinations.p]\nold = 1\n",
            "destinations.p.old: gone in 0.2.0; use new",
        ),
    ],
)
def test_a_key_that_is_gone_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    text: str,
    line: str,
) -> None:
    monkeypatch.setattr(gone, "GONE", {place: "use new"})
    assert any(problem.endswith(line) for problem in problems(tmp_path, text))


WORKFLOW: Final = "https://api.clay.com/v3/tc-workflows/streams/s3cret/webhook"


def test_the_webhook_of_a_workflow_is_known_by_its_url(tmp_path: Path) -> None:
    given = {**SECRETS, "CLAY_WEBHOOK_PEOPLE": WORKFLOW}
    people = load(tmp_path, PEOPLE, given).destinations["people"]
    assert people.kind == "workflow"
    assert people.lifetime == 0
    people = load(tmp_path, PEOPLE).destinations["people"]
    assert people.kind == "table"
    assert people.lifetime == 50_000
    capped = PEOPLE.replace("callbacks = false", "callbacks = false\nquota_lifetime = 9000")
    assert load(tmp_path, capped, given).destinations["people"].lifetime == 9_000


def test_the_webhook_of_a_workflow_has_no_token_and_no_table_beside_it(tmp_path: Path) -> None:
    given = {**SECRETS, "CLAY_WEBHOOK_PEOPLE": WORKFLOW}
    token = PEOPLE.replace(
        "callbacks = false",
        'callbacks = false\ntoken_env = "CLAY_TOKEN_PEOPLE"',
    )
    assert problems(tmp_path, token, given) == [
        "destinations.people.token_env: the webhook of a workflow takes no token; remove it",
    ]
    both = PEOPLE.replace('["CLAY_WEBHOOK_PEOPLE"]', '["CLAY_WEBHOOK_PEOPLE", "OTHER"]')
    assert problems(tmp_path, both, {**given, "OTHER": URL}) == [
        (
            "destinations.people.webhooks_env: CLAY_WEBHOOK_PEOPLE is the webhook of a workflow, "
            "and OTHER that of a table; give each a destination of its own"
        ),
    ]
