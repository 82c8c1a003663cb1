"""A secured Kafka: TLS, SCRAM, OAUTHBEARER, client certificates and an authorizer, on one local
broker.

Its listeners: PLAINTEXT (a super user, for the tests themselves), SASL_SSL and SASL_PLAINTEXT
(SCRAM), OAUTH (OAUTHBEARER, another super user), SSL (client certificates).
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import LOOPBACK, free_port
from tests.support.token_endpoint import AUDIENCE, CLIENT, TokenEndpoint, token_endpoint

MECHANISM = "SCRAM-SHA-512"
_OAUTH = "listener.name.oauth.oauthbearer.sasl."
_BEARER = "org.apache.kafka.common.security.oauthbearer.OAuthBearer"


class SecureKafka(NamedTuple):
    """The running broker, the address of each listener, and the PEM files for its clients.

    client_pem  the key and certificate of the principal `User:CN=app`, which the broker's authority
    signed.
    tokens      the endpoint whose tokens the listener OAUTH trusts.
    """

    broker: LocalKafka
    addresses: Mapping[str, str]
    ca_pem: Path
    other_ca_pem: Path
    client_pem: Path
    stranger_pem: Path
    tokens: TokenEndpoint


def _pkcs8(certificate: trustme.LeafCert) -> bytes:
    """Return its key in the one form that Java reads, and its chain."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + b"".join(
        pem.bytes() for pem in certificate.cert_chain_pems
    )


@contextmanager
def secure_kafka(folder: Path, users: Mapping[str, str]) -> Iterator[SecureKafka]:
    """Start it with these SCRAM users (name and password). PEM files go to `folder`."""
    authority = trustme.CA()
    other = trustme.CA()
    server = authority.issue_cert(LOOPBACK)
    stranger = other.issue_cert("app.example", common_name="app")
    client = authority.issue_cert("app.example", common_name="app")
    files = {
        name: folder / f"{name}.pem" for name in ("ca", "other_ca", "server", "client", "stranger")
    }
    authority.cert_pem.write_to_path(str(files["ca"]))
    other.cert_pem.write_to_path(str(files["other_ca"]))
    files["server"].write_bytes(_pkcs8(server))
    client.private_key_and_cert_chain_pem.write_to_path(str(files["client"]))
    stranger.private_key_and_cert_chain_pem.write_to_path(str(files["stranger"]))
    ports = {
        name: free_port() for name in ("PLAINTEXT", "SASL_SSL", "SSL", "SASL_PLAINTEXT", "OAUTH")
    }
    controller = free_port()
    protocols = {name: name for name in ports} | {
        "OAUTH": "SASL_PLAINTEXT",
        "CONTROLLER": "PLAINTEXT",
    }
    addresses = {name: f"{LOOPBACK}:{port}" for name, port in ports.items()}
    overrides = {
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
        "listeners": ",".join(
            [
                *(f"{name}://{where}" for name, where in addresses.items()),
                f"CONTROLLER://{LOOPBACK}:{controller}",
            ],
        ),
        "advertised.listeners": ",".join(f"{name}://{where}" for name, where in addresses.items()),
        "listener.security.protocol.map": ",".join(map(":".join, protocols.items())),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(files["server"]),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(files["ca"]),
        "listener.name.ssl.ssl.client.auth": "required",
        # trustme's certificates have an organisation beside the common name.
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+),.*$/$1/,DEFAULT",
        "sasl.enabled.mechanisms": MECHANISM,
        **{
            f"listener.name.{name}.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            )
            for name in ("sasl_ssl", "sasl_plaintext")
        },
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{CLIENT}",
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        f"{_OAUTH}jaas.config": f"{_BEARER}LoginModule required;",
        f"{_OAUTH}server.callback.handler.class": f"{_BEARER}ValidatorCallbackHandler",
        "sasl.oauthbearer.expected.audience": AUDIENCE,
    }
    scram = [
        f"--add-scram={MECHANISM}=[name={name},password={password}]"
        for name, password in users.items()
    ]
    with token_endpoint(free_port()) as endpoint:
        keys = f"{endpoint.url}/keys"
        overrides["sasl.oauthbearer.jwks.endpoint.url"] = keys
        broker = LocalKafka(port=ports["PLAINTEXT"], overrides=overrides, format_options=scram)
        trusted = {"JDK_JAVA_OPTIONS": f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}"}
        with mock.patch.dict(os.environ, trusted), broker:
            pems = (files["ca"], files["other_ca"], files["client"], files["stranger"])
            yield SecureKafka(broker, addresses, *pems, endpoint)
