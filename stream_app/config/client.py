"""The connection arguments of a Kafka client: broker, TLS and SASL, as aiokafka's keyword arguments."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from stream_app.clay.egress import Egress
from stream_app.config.model import OAuth, Secrets, Security, Settings
from stream_app.domain.errors import SettingsError
from stream_app.kafka.oauth import Token, Tokens, aws_msk, client_credentials


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments that aiokafka's producer, consumer and admin client share.

    Raises:
        SettingsError: A certificate cannot be read.
    """
    security = settings.kafka.security
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka.bootstrap,
        "security_protocol": security.protocol,
    }
    if security.protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(security, settings)
    if security.protocol.startswith("SASL"):
        options["sasl_mechanism"] = security.mechanism
    if security.protocol.startswith("SASL") and security.mechanism == "OAUTHBEARER":
        options["sasl_oauth_token_provider"] = Tokens(
            _token_source(security.oauth, settings.secrets), security.oauth.extensions
        )
    elif security.protocol.startswith("SASL"):
        options["sasl_plain_username"] = security.username
        options["sasl_plain_password"] = settings.secrets[security.password_env or ""]
    return options


def stranger_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of an unauthenticated client: no user, no client certificate."""
    security = settings.kafka.security
    protocol: Literal["PLAINTEXT", "SSL"] = "SSL" if security.protocol.endswith("SSL") else "PLAINTEXT"
    kafka = msgspec.structs.replace(settings.kafka, security=Security(protocol=protocol, ca_file=security.ca_file))
    return client_options(msgspec.structs.replace(settings, kafka=kafka))


def egress_of(settings: Settings) -> Egress:
    """Return how to reach hosts outside. The configuration must have been read with Clay's secrets.

    Raises:
        SettingsError: `egress.ca_file` cannot be read.
    """
    file = settings.egress.ca_file
    try:
        return Egress.of(file, settings.secrets.get(settings.egress.proxy_env))
    except OSError as exc:
        raise SettingsError([f"egress.ca_file = {file!r}: cannot read it as a PEM file: {exc}"]) from exc


def _token_source(oauth: OAuth, secrets: Secrets) -> Callable[[], Token]:
    if oauth.aws_region is None:
        secret = secrets[oauth.client_secret_env or ""]
        return client_credentials(oauth.token_url or "", oauth.client_id or "", secret, oauth.scope)
    try:
        return aws_msk(oauth.aws_region)
    except ImportError:
        raise SettingsError(
            ["kafka.security.oauth.aws_region needs Amazon's signer: pip install 'stream-app[msk]'"]
        ) from None


def _ssl_context(security: Security, settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
        if security.cert_file:
            # Without a password OpenSSL asks on the terminal; with an empty one it fails.
            password = settings.secrets.get(security.key_password_env) or ""
            context.load_cert_chain(security.cert_file, security.key_file, password)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError([f"kafka.security: cannot use a certificate or key: {exc}"]) from exc
    return context
