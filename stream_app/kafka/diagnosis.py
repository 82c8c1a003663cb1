"""Finds out why no client can talk to Kafka: a broker refuses us, or none answers.

aiokafka's `bootstrap` hides the cause. So this module connects to each address and explains the
error. If Kafka only closes the connection, `_Listener` finds out whether the listener speaks TLS or
requires SASL.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Collection, Mapping
from typing import Any, Final

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from stream_app.domain.model.errors import KafkaRefused
from stream_app.kafka.oauth import TokenRefused

_WITHIN_S: Final = 5.0
_HOSTNAME_MISMATCH: Final = (62, 64)
_NO_SUCH_MECHANISM: Final = "?"

Address = tuple[str, int]
"""Host and port."""


async def diagnose(security: Mapping[str, Any], addresses: Collection[Address]) -> str | None:
    """Return why the last address does not lead to a broker, or None as soon as one does.

    Raises:
        KafkaRefused: No address leads to a broker, and one leads to a broker that refuses us.
            Waiting does not help.
    """
    answer = await _first(security, addresses)
    if isinstance(answer, str):
        return answer
    if not answer.isdisjoint(addresses):
        return None
    # Clients continue with the addresses that the brokers advertise.
    behind = await _first(security, sorted(answer))
    if not isinstance(behind, str):
        return None
    return (
        f"none of the brokers that it names does, {behind}; are their advertised.listeners "
        "addresses that this machine "
        "reaches?"
    )


async def _first(security: Mapping[str, Any], addresses: Collection[Address]) -> set[Address] | str:
    """Return the first answer, or raise the first refusal, or return the last failure.

    All addresses are tried at once, so a broker that hangs delays no other.
    """
    attempts = [asyncio.create_task(_try(security, host, port)) for host, port in addresses]
    failures: list[KafkaRefused | str] = []
    try:
        for coming in asyncio.as_completed(attempts):
            answer = await coming
            if isinstance(answer, set):
                return answer
            failures.append(answer)
    finally:
        for task in attempts:
            task.cancel()
    for failure in failures:
        if isinstance(failure, KafkaRefused):
            raise failure
    return str(failures[-1])


async def _try(
    security: Mapping[str, Any],
    host: str,
    port: int,
) -> set[Address] | KafkaRefused | str:
    """Ask one broker for the addresses of all brokers.

    Returns:
        The addresses that it advertises, or why it refuses us or does not answer.
    """
    try:
        connection = await create_conn(
            host,
            port,
            request_timeout_ms=int(1000 * _WITHIN_S),
            **security,
        )
        try:
            brokers = (await connection.send(MetadataRequest([]))).brokers
        finally:
            connection.close()
    except (KafkaError, OSError, TimeoutError) as error:
        refusal = await _refusal(error, security, host, port)
        if refusal is not None:
            return KafkaRefused(f"Kafka at {host}:{port} {refusal}")
        return f"{host}:{port}: {_in_words(error)}"
    named = {(broker_host, broker_port) for _, broker_host, broker_port, *_ in brokers}
    return named or f"{host}:{port} names no broker yet"


async def _refusal(
    error: BaseException,
    security: Mapping[str, Any],
    host: str,
    port: int,
) -> str | None:
    """Return what Kafka refuses and what to change. None: it may be no refusal."""
    protocol: str = security.get("security_protocol", "PLAINTEXT")
    if isinstance(error, TokenRefused):
        return f"is not asked: {error}"
    if (
        isinstance(error, SaslAuthenticationFailed)
        and security.get("sasl_mechanism") == "OAUTHBEARER"
    ):
        return (
            "refuses the token (OAUTHBEARER): check the audience, the issuer and the keys "
            "that its listener expects, "
            "and kafka.security.oauth"
        )
    if isinstance(error, SaslAuthenticationFailed):
        return (
            f"refuses the user {security.get('sasl_plain_username')} "
            f"({security.get('sasl_mechanism')}): check "
            "kafka.security.username, and the secret that kafka.security.password_env names"
        )
    listener = _Listener(host, port)
    if isinstance(error, UnsupportedSaslMechanismError):
        offered = await listener.mechanisms(tls=protocol == "SASL_SSL")
        return (
            f"has not enabled the mechanism {security.get('sasl_mechanism')}: set "
            "kafka.security.mechanism to "
            f"{' or '.join(offered or ['one that its listener has'])}"
        )
    if isinstance(error, IllegalSaslStateError):
        instead = "SSL" if protocol.endswith("SSL") else "PLAINTEXT"
        return (
            f'asks for no user: set kafka.security.protocol = "{instead}", or use the port of '
            "its SASL listener"
        )
    if (by_tls := _tls_refusal(error, host)) is not None:
        return by_tls
    if isinstance(error, TimeoutError | ConnectionRefusedError | socket.gaierror):
        return None
    return await _other_protocol(listener, protocol)


def _tls_refusal(error: BaseException, host: str) -> str | None:
    failure = next(
        (
            candidate
            for candidate in (error, error.__cause__)
            if isinstance(candidate, ssl.SSLError)
        ),
        None,
    )
    if isinstance(failure, ssl.SSLCertVerificationError):
        if failure.verify_code in _HOSTNAME_MISMATCH:
            return (
                f"has a certificate for another name than {host} ({failure.verify_message}): "
                "use the name that it is "
                "for in kafka.bootstrap and in the broker's advertised.listeners"
            )
        return (
            f"has a certificate that is not trusted ({failure.verify_message}): set "
            "kafka.security.ca_file to the "
            "authority that signed it"
        )
    reason = (failure.reason or "") if failure is not None else ""
    if "CERTIFICATE_REQUIRED" in reason:
        return "wants a client certificate: set kafka.security.cert_file and key_file"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return (
            f"refuses our client certificate ({reason.lower().replace('_', ' ')}): set "
            "kafka.security.cert_file and "
            "key_file to one that an authority in its truststore signed"
        )
    if "ALERT" in reason and ("PROTOCOL_VERSION" in reason or "HANDSHAKE_FAILURE" in reason):
        return (
            f"agrees on no TLS version or cipher with us ({reason.lower().replace('_', ' ')}): "
            "compare both"
        )
    return None


async def _other_protocol(listener: _Listener, protocol: str) -> str | None:
    """Return which other protocol the listener speaks, and what to change."""
    if protocol.endswith("SSL"):
        if await listener.answers_plainly():
            instead = (
                protocol.replace("_SSL", "_PLAINTEXT")
                if protocol.startswith("SASL")
                else "PLAINTEXT"
            )
            return (
                f'speaks no TLS: set kafka.security.protocol = "{instead}", or use the port of '
                "its TLS listener"
            )
    elif await listener.speaks_tls():
        instead = "SASL_SSL" if protocol.startswith("SASL") else "SSL or SASL_SSL"
        return (
            f"speaks TLS: set kafka.security.protocol to {instead}, or use the port of its "
            "plaintext listener"
        )
    if not protocol.startswith("SASL"):
        offered = await listener.mechanisms(tls=protocol == "SSL")
        if offered:
            return (
                f'asks for a user: set kafka.security.protocol = "SASL_{protocol}", '
                "username, password_env and "
                f"mechanism ({' or '.join(offered)})"
            )
    return None


class _Listener:
    """Finds out what protocol a listener speaks, without credentials.

    Each call takes at most `_WITHIN_S` seconds.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    async def answers_plainly(self) -> bool:
        with contextlib.suppress(KafkaError, OSError):
            (await self._connect(tls=False)).close()
            return True
        return False

    async def speaks_tls(self) -> bool:
        """Return True if it answers a TLS greeting, even to refuse it."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                _, writer = await asyncio.open_connection(*self._address, ssl=_any_certificate())
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        except OSError:
            return False
        writer.close()
        return True

    async def mechanisms(self, *, tls: bool) -> list[str]:
        """Return the enabled SASL mechanisms. Empty: it requires no SASL."""
        with contextlib.suppress(KafkaError, OSError):
            connection = await self._connect(tls=tls)
            try:
                answer = await connection.send(SaslHandShakeRequest(_NO_SUCH_MECHANISM))
            finally:
                connection.close()
            return (
                list(answer.enabled_mechanisms)
                if answer.error_code == UnsupportedSaslMechanismError.errno
                else []
            )
        return []

    async def _connect(self, *, tls: bool) -> Any:
        return await create_conn(
            *self._address,
            request_timeout_ms=int(1000 * _WITHIN_S),
            security_protocol="SSL" if tls else "PLAINTEXT",
            ssl_context=_any_certificate() if tls else None,
        )


def _any_certificate() -> ssl.SSLContext:
    """Return a context that accepts any certificate, for requests without a secret."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _in_words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__
