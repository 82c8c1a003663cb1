"""Tokens for Kafka: when they are fetched, shared and renewed; what is said when there is none."""

import asyncio
import base64
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from aiokafka import conn
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

from stream_app.kafka.oauth import Token, TokenRefused, Tokens, aws_msk, client_credentials

URL = "https://login.example.com/oauth2/token"


class Endpoint:
    """Gives numbered tokens that last 100 s; fails while `failure` is set."""

    def __init__(self) -> None:
        self.given = 0
        self.failure: Exception | None = None

    def fetch(self) -> Token:
        if self.failure is not None:
            raise self.failure
        self.given += 1
        return f"token-{self.given}", 100.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_connections_share_a_token_until_it_is_renewed() -> None:
    endpoint = Endpoint()
    clock = Clock()
    tokens = Tokens(endpoint.fetch, now_s=clock)
    assert set(await asyncio.gather(*(tokens.token() for _ in range(20)))) == {"token-1"}
    clock.now_s = 79.9
    assert await tokens.token() == "token-1"
    clock.now_s = 80.0
    assert await tokens.token() == "token-2"
    assert endpoint.given == 2


async def test_a_broker_that_answers_the_token_with_a_challenge_refuses_it() -> None:
    """aiokafka takes it for success: docs/reference/upstream/any-challenge-is-success.md."""
    login = conn.OAuthAuthenticator(sasl_oauth_token_provider=Tokens(Endpoint().fetch))
    assert b"Bearer token-1" in (await login.step(None))[0]
    with pytest.raises(SaslAuthenticationFailed, match="refuses the token"):
        await login.step(b'{"status":"invalid_token"}')
    accepted = conn.OAuthAuthenticator(sasl_oauth_token_provider=Tokens(Endpoint().fetch))
    await accepted.step(None)
    assert await accepted.step(b"") is None


async def test_a_valid_token_outlives_an_endpoint_that_is_away() -> None:
    endpoint = Endpoint()
    clock = Clock()
    tokens = Tokens(endpoint.fetch, now_s=clock)
    assert await tokens.token() == "token-1"
    endpoint.failure = KafkaConnectionError("away")
    clock.now_s = 99.9
    assert await tokens.token() == "token-1"
    clock.now_s = 100.0
    with pytest.raises(KafkaConnectionError, match="away"):
        await tokens.token()
    endpoint.failure = None
    assert await tokens.token() == "token-2"


def answering(
    monkeypatch: pytest.MonkeyPatch,
    *answers: httpx.Response | Exception,
) -> list[dict[str, Any]]:
    """Have the endpoint give these answers, and return what it was asked."""
    asked: list[dict[str, Any]] = []
    left = list(answers)

    def post(url: str, **request: Any) -> httpx.Response:
        asked.append({"url": url, **request})
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("httpx.post", post)
    return asked


def test_a_token_is_asked_for_by_client_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    granted = httpx.Response(
        200,
        json={"access_token": "abc", "token_type": "Bearer", "expires_in": 3600},
    )
    asked = answering(monkeypatch, granted, httpx.Response(200, json={"access_token": "def"}))
    assert client_credentials(URL, "app", "s3cret", "kafka")() == ("abc", 3600)
    assert client_credentials(URL, "app", "s3cret", None)() == ("def", 300)
    first, second = asked
    assert first["url"] == URL
    assert first["auth"] == ("app", "s3cret")
    assert first["data"] == {"grant_type": "client_credentials", "scope": "kafka"}
    assert second["data"] == {"grant_type": "client_credentials"}


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            httpx.Response(401, json={"error": "invalid_client"}),
            TokenRefused,
            "HTTP 401, invalid_client): check kafka",
        ),
        (httpx.Response(400, text="no"), TokenRefused, "refuses the client app"),
        (
            httpx.Response(200, text="<html>"),
            TokenRefused,
            "without a token: check kafka.security.oauth.token_url",
        ),
        (httpx.Response(503), KafkaConnectionError, "answers HTTP 503"),
        (httpx.Response(429), KafkaConnectionError, "answers HTTP 429"),
        (httpx.ConnectError("x"), KafkaConnectionError, "does not answer (ConnectError)"),
    ],
)
def test_why_there_is_no_token(
    monkeypatch: pytest.MonkeyPatch,
    answer: httpx.Response | Exception,
    error: type[Exception],
    text: str,
) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(error) as raised:
        client_credentials(URL, "app", "s3cret", None)()
    assert text in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_no_credentials_of_amazon_are_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = "aws_msk_iam_sasl_signer.MSKAuthTokenProvider.generate_auth_token"
    monkeypatch.setattr(signer, Mock(side_effect=ValueError("no credentials")))
    with pytest.raises(TokenRefused, match="check the AWS credentials"):
        aws_msk("eu-central-1")()


def test_amazons_own_signer_signs_with_the_credentials_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    token, lasts_s = aws_msk("eu-central-1")()
    text = base64.urlsafe_b64decode(token + "==").decode()
    assert text.startswith(
        "https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect&",
    )
    assert "X-Amz-Credential=AKIDEXAMPLE" in text
    assert "s3cret" not in text
    assert 800 < lasts_s <= 900
