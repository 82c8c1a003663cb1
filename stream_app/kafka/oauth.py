"""SASL OAUTHBEARER: tokens for Kafka.

They come from an OAuth 2.0 endpoint (client credentials), or for MSK from AWS.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
from aiokafka import conn
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError, KafkaError, SaslAuthenticationFailed
from attrs import define, field

from stream_app.domain.model.untrusted import UNREADABLE

_WITHIN_S: Final = 10.0
_RENEW_AFTER: Final = 0.8  # of a token's life
_USUAL_S: Final = 300.0  # where the endpoint does not say how long a token lasts


class TokenRefused(SaslAuthenticationFailed):  # type: ignore[misc]  # aiokafka ships no types
    """The endpoint gives this client no token. Its text says what to change."""


class _Authenticator(OAuthAuthenticator):  # type: ignore[misc]  # aiokafka ships no types
    """Notices that the broker refuses a token.

    The broker sends its reason as a challenge, and no error code (RFC 7628, section 3.2.2).
    aiokafka 0.14.0 takes any challenge for success
    (docs/reference/upstream/any-challenge-is-success.md).
    """

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if self._token_sent and payload:
            raise SaslAuthenticationFailed("the broker refuses the token")
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step


conn.OAuthAuthenticator = _Authenticator


Token = tuple[str, float]
"""A token, and how many seconds it lasts."""


@define(eq=False, repr=False)
class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """Gives every connection a token that is still valid.

    Connections of all threads share it. `fetch` may block.
    """

    _fetch: Callable[[], Token]
    _extensions: dict[str, str] = field(factory=dict)
    _now_s: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _text: str = field(init=False, default="")
    _renew_s: float = field(init=False, default=0.0)
    _end_s: float = field(init=False, default=0.0)

    async def token(self) -> str:
        """Return a valid token. Raises KafkaError."""
        return await asyncio.to_thread(self._valid)

    def extensions(self) -> dict[str, str]:
        return self._extensions

    def _valid(self) -> str:
        with self._lock:
            if self._now_s() >= self._renew_s:
                try:
                    self._text, lasts_s = self._fetch()
                except KafkaError:
                    if self._now_s() >= self._end_s:
                        raise
                    return self._text
                self._renew_s = self._now_s() + lasts_s * _RENEW_AFTER
                self._end_s = self._now_s() + lasts_s
            return self._text


class _TokenAnswer(msgspec.Struct):
    """The endpoint's grant or its refusal (RFC 6749, sections 5.1 and 5.2)."""

    access_token: str = ""
    expires_in: float = _USUAL_S
    error: str = ""


def client_credentials(
    url: str,
    client_id: str,
    secret: str,
    scope: str | None,
) -> Callable[[], Token]:
    """Return a function that gets a token by the client credentials grant (RFC 6749, section 4.4).

    Without a scope it gets the endpoint's default.
    """
    import httpx  # 0.1 s at the start of each process, and few clusters use OAuth

    form = {"grant_type": "client_credentials"} | ({} if scope is None else {"scope": scope})

    def fetch() -> Token:
        try:
            answer = httpx.post(url, data=form, auth=(client_id, secret), timeout=_WITHIN_S)
        except httpx.HTTPError as error:
            raise KafkaConnectionError(
                f"the token endpoint {url} does not answer ({type(error).__name__})",
            ) from error
        try:
            content = msgspec.json.decode(answer.content, type=_TokenAnswer)
        except UNREADABLE:
            content = _TokenAnswer()
        if answer.is_success:
            if not content.access_token:
                raise TokenRefused(
                    f"{url} answers without a token: check kafka.security.oauth.token_url",
                )
            return content.access_token, content.expires_in
        if answer.is_server_error or answer.status_code == 429:
            raise KafkaConnectionError(
                f"the token endpoint {url} answers HTTP {answer.status_code}",
            )
        named = f", {content.error[:80]}" if content.error and content.error.isprintable() else ""
        raise TokenRefused(
            f"the token endpoint {url} refuses the client {client_id} (HTTP "
            f"{answer.status_code}{named}): check "
            "kafka.security.oauth: client_id, scope, and the secret that client_secret_env names",
        )

    return fetch


def aws_msk(region: str) -> Callable[[], Token]:
    """Return a function that signs a token for Amazon MSK with the AWS credentials of this process.

    Raises:
        ImportError: The extra `msk` is not installed.
    """
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

    def fetch() -> Token:
        try:
            text, ends_ms = MSKAuthTokenProvider.generate_auth_token(region)
        except Exception as error:
            raise TokenRefused(
                f"AWS signs no token for MSK in {region} ({type(error).__name__}): check the "
                "AWS credentials of this "
                "process, and kafka.security.oauth.aws_region",
            ) from error
        return text, ends_ms / 1000 - time.time()

    return fetch
