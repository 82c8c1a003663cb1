"""SASL OAUTHBEARER on a real broker that verifies tokens with the keys of a local token endpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.cli.main import main
from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import LOOPBACK, free_port
from tests.support.token_endpoint import AUDIENCE, CLIENT, SECRET, TokenEndpoint, token_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def broker() -> Iterator[tuple[str, TokenEndpoint]]:
    """The address of a listener with OAUTHBEARER, and the endpoint that it trusts."""
    plain, secured, controller = free_port(), free_port(), free_port()
    with token_endpoint(free_port()) as endpoint, pytest.MonkeyPatch.context() as patch:
        keys = f"{endpoint.url}/keys"
        patch.setenv("JDK_JAVA_OPTIONS", f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}")
        listener = "listener.name.oauth.oauthbearer."
        overrides = {
            "listeners": f"PLAINTEXT://{LOOPBACK}:{plain},OAUTH://{LOOPBACK}:{secured},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{plain},OAUTH://{LOOPBACK}:{secured}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,OAUTH:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "OAUTHBEARER",
            "sasl.oauthbearer.jwks.endpoint.url": keys,
            "sasl.oauthbearer.expected.audience": AUDIENCE,
            f"{listener}sasl.jaas.config": (
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
            ),
            f"{listener}sasl.server.callback.handler.class": (
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
            ),
        }
        with LocalKafka(port=plain, overrides=overrides):
            yield f"{LOOPBACK}:{secured}", endpoint


@pytest.fixture
def config(broker: tuple[str, TokenEndpoint], namespace: str, tmp_path: Path) -> str:
    """The path of a configuration that logs in there, with the secret in KAFKA_SECRET."""
    address, endpoint = broker
    path = tmp_path / "stream_app.toml"
    path.write_text(
        f"""[kafka]
bootstrap = "{address}"
namespace = "{namespace}"
partitions = 1
replication = 1
broker_wait_s = 20
[kafka.security]
protocol = "SASL_PLAINTEXT"
mechanism = "OAUTHBEARER"
oauth = {{ token_url = "{endpoint.url}/token", client_id = "{CLIENT}", client_secret_env = "KAFKA_SECRET" }}
"""
    )
    return str(path)


def test_commands_log_in_with_one_token(
    broker: tuple[str, TokenEndpoint],
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KAFKA_SECRET", SECRET)
    before = broker[1].granted
    assert main(["topics", "--config", config]) == 0, capsys.readouterr().err
    assert broker[1].granted - before <= 3, "connections share it"
    assert main(["results", "--config", config, "-o", str(tmp_path / "results.csv")]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def test_a_token_for_something_else_is_reported_at_once(
    broker: tuple[str, TokenEndpoint], config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_SECRET", SECRET)
    monkeypatch.setattr(broker[1], "audience", "somewhere")
    assert main(["topics", "--config", config]) == 6
    assert "refuses the token (OAUTHBEARER): check the audience" in capsys.readouterr().err
