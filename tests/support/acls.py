"""Grants rights on a broker with an authorizer."""

from collections.abc import Mapping
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest_v0, CreateAclsRequest_v1
from aiokafka.protocol.api import Request

from stream_app.kafka.rights import BITS, Acl
from tests.support.secure import SecureKafka

_RESOURCES: Final = {"Topic": 2, "Group": 3, "TransactionalId": 5}
_PREFIXED, _LITERAL, _ALLOW = 4, 3, 3


async def grant(kafka: SecureKafka, acls: Mapping[str, list[Acl]]) -> None:
    """Give these rights to these users."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.broker.bootstrap)
    await admin.start()
    try:
        entries = [
            (
                _RESOURCES[acl.resource],
                acl.name,
                _PREFIXED if acl.prefixed else _LITERAL,
                f"User:{user}",
                "*",
                BITS[acl.operation],
                _ALLOW,
            )
            for user, its in acls.items()
            for acl in its
        ]
        answer = await admin._send_to_controller(_CreateAcls(entries))
        assert not any(code for code, _ in answer.creation_responses)
    finally:
        await admin.close()


class _CreateAcls(Request[CreateAclsRequest_v0 | CreateAclsRequest_v1]):  # type: ignore[misc]  # aiokafka is not followed
    API_KEY = CreateAclsRequest_v1.API_KEY

    def __init__(self, entries: list[tuple[Any, ...]]) -> None:
        self._entries = entries

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._entries)
