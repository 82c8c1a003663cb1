"""Grants rights on a broker with an authorizer."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import (
    CreateAclsRequest_v0,
    CreateAclsRequest_v1,
    DescribeAclsRequest_v1,
)
from aiokafka.protocol.api import Request

from stream_app.kafka.rights import BITS, Acl
from tests.support.pace import BUSY
from tests.support.secure import SecureKafka

_RESOURCES: Final = {"Topic": 2, "Group": 3, "TransactionalId": 5}
_PREFIXED = 4
_LITERAL = 3
_ALLOW = 3
_ANY = 1


async def grant(kafka: SecureKafka, acls: Mapping[str, list[Acl]]) -> None:
    """Give these rights to these users. Returns when the broker has them."""
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
        wanted = {(kind, name, user, operation) for kind, name, _, user, _, operation, _ in entries}
        # the broker gets them from the controller a moment later
        async with asyncio.timeout(30 * BUSY):
            while True:
                if wanted <= _rights_in(await admin._send_request(_DescribeAcls())):
                    break
                await asyncio.sleep(0.05)
    finally:
        await admin.close()


def _rights_in(answer: Any) -> set[tuple[int, str, str, int]]:
    assert not answer.error_code, answer.error_message
    return {
        (kind, name, user, operation)
        for kind, name, _, acls in answer.resources
        for user, _, operation, _ in acls
    }


class _DescribeAcls(Request[DescribeAclsRequest_v1]):  # type: ignore[misc]  # aiokafka is not followed
    API_KEY = DescribeAclsRequest_v1.API_KEY

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(_ANY, None, _ANY, None, None, _ANY, _ANY)


class _CreateAcls(Request[CreateAclsRequest_v0 | CreateAclsRequest_v1]):  # type: ignore[misc]  # aiokafka is not followed
    API_KEY = CreateAclsRequest_v1.API_KEY

    def __init__(self, entries: list[tuple[Any, ...]]) -> None:
        self._entries = entries

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._entries)
