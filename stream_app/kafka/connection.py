"""How to connect to Kafka: its address, and the TLS and SASL settings of every aiokafka client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from stream_app.domain.errors import BrokerUnavailable, KafkaRefused, StreamAppError

_NOT_ALLOWED: Final = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
LOOK: Final = "Is it running, and is kafka.bootstrap right?"


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """The address and the security settings of Kafka.

    Attributes:
        bootstrap: "host:port[,host:port]".
        security: arguments for aiokafka, never printed: security_protocol, ssl_context, sasl_mechanism,
            sasl_plain_username, sasl_plain_password, sasl_kerberos_service_name, sasl_kerberos_domain_name,
            sasl_oauth_token_provider.
    """

    bootstrap: str
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments for an aiokafka client."""
        return {"bootstrap_servers": self.bootstrap, **self.security}

    def lost(self, error: Exception) -> StreamAppError:
        """Return the error to raise after an aiokafka error."""
        return lost(self.bootstrap, error)


def lost(bootstrap: str, error: Exception) -> StreamAppError:
    """Return the error to raise after an aiokafka error, by the address of Kafka."""
    if isinstance(error, _NOT_ALLOWED):
        return KafkaRefused(
            f"Kafka at {bootstrap} does not allow it: {error}: docs/kafka-rights.md lists what is needed"
        )
    what = " does not answer" if isinstance(error, KafkaConnectionError | OSError) else f": {error}"
    return BrokerUnavailable(f"Kafka at {bootstrap}{what}. {LOOK}")
