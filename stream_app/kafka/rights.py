"""Compares the topics and rights that a program needs with those that Kafka has and allows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)

from stream_app.domain.errors import KafkaRefused, TopicsError
from stream_app.domain.rights import BITS, Acl, Operation, Rights
from stream_app.domain.topics import ExistingTopic, TopicPlan, differences
from stream_app.kafka.protocol import DescribeGroups, Metadata

_UNKNOWN: Final = -(2**31)
"""Kafka's answer if it does not say which operations are allowed."""


async def check_access(admin: Any, program: str, rights: Rights, plan: Sequence[TopicPlan]) -> None:
    """Check that the program's topics exist, and that Kafka allows it everything that it needs.

    `program`: the arguments after `stream-app`, for messages.

    Raises:
        KafkaRefused: Rights are missing; one line for each operation.
        TopicsError: Topics are missing, or have another number of partitions.
        KafkaError: Kafka does not answer.
    """
    topics, lacking = await _topics(admin._client, rights)
    for group in rights.join_groups | rights.look_at_groups:
        lacking += await _group(admin, group, rights)
    if lacking:
        raise KafkaRefused("\n".join(_lines(program, lacking)))
    if not rights.create and (
        problems := differences(
            plan,
            {
                each.name: ExistingTopic(topics[each.name], each.replication, dict(each.config))
                for each in plan
                if each.name in topics
            },
        )
    ):
        raise TopicsError(problems)


async def allowed(admin: Any, operation: Operation, topics: Collection[str]) -> set[str]:
    """Return the topics on which Kafka allows an operation, or does not say whether it does."""
    wanted = [Acl(operation, "Topic", "")]
    answer = (await admin._client.ask_any(Metadata(topics, operations=True))).to_object()
    return {
        topic["topic"]
        for topic in answer["topics"]
        if not topic["error_code"] and not _not_in(topic.get("authorized_operations", _UNKNOWN), wanted)
    }


async def _topics(client: Any, rights: Rights) -> tuple[dict[str, int], list[Acl]]:
    """Return the number of partitions of each existing topic, and the missing rights."""
    needed: dict[str, set[Acl]] = {name: set() for name in rights.topics}
    for acl in rights.acls:
        if acl.resource == "Topic":
            needed[acl.name].add(acl)
    there: dict[str, int] = {}
    lacking: list[Acl] = []
    for topic in (await client.ask_any(Metadata(sorted(needed), operations=True))).to_object()["topics"]:
        name = topic["topic"]
        if topic["error_code"] == TopicAuthorizationFailedError.errno:
            lacking += needed[name]
        elif not topic["error_code"]:
            there[name] = len(topic["partitions"])
            lacking += _not_in(topic.get("authorized_operations", _UNKNOWN), needed[name])
    return there, lacking


async def _group(admin: Any, group: str, rights: Rights) -> list[Acl]:
    needed = [acl for acl in rights.acls if acl.resource == "Group" and acl.name == group]
    try:
        node = await admin.find_coordinator(group)
        ((code, *_, last),) = (await admin._client.send(node, DescribeGroups([group]))).groups
        operations = last if isinstance(last, int) else _UNKNOWN
        if code:
            raise for_code(code)(group)
    except GroupAuthorizationFailedError:
        operations = 0
    except KafkaError as error:
        if not error.retriable:
            raise
        operations = _UNKNOWN  # a new cluster has no coordinator yet; joining the group reports missing rights
    return _not_in(operations, needed)


def _not_in(operations: int, needed: Collection[Acl]) -> list[Acl]:
    if operations == _UNKNOWN:
        return []
    return [acl for acl in needed if not operations >> BITS[acl.operation] & 1]


def _lines(program: str, lacking: Sequence[Acl]) -> Iterator[str]:
    names: dict[tuple[str, str], list[str]] = {}
    for acl in sorted(lacking):
        names.setdefault((acl.operation, acl.resource), []).append(acl.name)
    for (operation, resource), those in names.items():
        yield (
            f"Kafka does not allow us {operation} on {resource} {', '.join(those)}: `stream-app {program}` needs it; "
            "docs/kafka-rights.md has all its rights"
        )
