"""What a Kafka client of ours is told: broker, TLS and SASL, as aiokafka's keyword arguments."""

from __future__ import annotations

import ssl
from typing import Any, Literal

import msgspec

from stream_app.clay.egress import Egress
from stream_app.config.model import Security, Settings
from stream_app.domain.errors import SettingsError


def client_options(settings: Settings) -> dict[str, Any]:
    """Arguments that aiokafka's producer, consumer and admin client share.

    Raises SettingsError when a certificate cannot be read.
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
        options["sasl_plain_username"] = security.username
        options["sasl_plain_password"] = settings.secrets[security.password_env or ""]
    return options


def stranger_options(settings: Settings) -> dict[str, Any]:
    """The arguments of a client that proves nothing about itself: no user, no certificate, else the same."""
    security = settings.kafka.security
    protocol: Literal["PLAINTEXT", "SSL"] = "SSL" if security.protocol.endswith("SSL") else "PLAINTEXT"
    kafka = msgspec.structs.replace(settings.kafka, security=Security(protocol=protocol, ca_file=security.ca_file))
    return client_options(msgspec.structs.replace(settings, kafka=kafka))


def egress_of(settings: Settings) -> Egress:
    """How to reach hosts outside, where the configuration was read with Clay's secrets.

    Raises SettingsError when `egress.ca_file` cannot be read.
    """
    file, proxy = settings.egress.ca_file, settings.egress.proxy_env
    try:
        return Egress.of(file, settings.secrets[proxy] if proxy else None)
    except OSError as exc:
        raise SettingsError([f"egress.ca_file = {file!r}: cannot be used as a PEM file: {exc}"]) from exc


def _ssl_context(security: Security, settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
        if security.cert_file:
            named = security.key_password_env
            # Without a password OpenSSL would ask for one on the terminal; an empty one fails instead.
            password = settings.secrets[named] if named else ""
            context.load_cert_chain(security.cert_file, security.key_file, password)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError([f"kafka.security: a certificate or key cannot be used: {exc}"]) from exc
    return context
