"""How to reach Kafka: where it is, and the TLS and SASL settings that every aiokafka client here gets alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """`bootstrap` is "host:port[,host:port]". `security` goes to aiokafka as it is and is never printed.

    Its keys are aiokafka's own: security_protocol, ssl_context, sasl_mechanism, sasl_plain_username,
    sasl_plain_password, sasl_kerberos_service_name, sasl_kerberos_domain_name, sasl_oauth_token_provider.
    """

    bootstrap: str
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def settings(self) -> dict[str, Any]:
        """The keyword arguments of an aiokafka client."""
        return {"bootstrap_servers": self.bootstrap, **self.security}
