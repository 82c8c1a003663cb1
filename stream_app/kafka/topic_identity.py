"""Recognises a topic that was deleted and created again: it has the same name and another id.

Kafka sends topic ids since 2.8, in a version of the metadata response that aiokafka 0.14 does not read. Older brokers
send none; then only `topic_watch` detects it, by a log that ends earlier than before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from stream_app.domain.errors import TopicsError

WHAT_NOW: Final = (
    "Rows and group offsets speak of its old records: stop all processes, set a new kafka.namespace, create its topics "
    "with: stream-app topics; leads sent before are not known as duplicates there"
)
_NO_ID: Final = bytes(16)


class KnownTopics:
    """The ids of the topics as the process first saw them. The whole process shares one instance."""

    def __init__(self) -> None:
        self._ids: dict[str, bytes] = {}

    async def check(self, client: Any, topics: Iterable[str], node: int | None = None) -> set[str]:
        """Those that are missing. Raises TopicsError with one line when another one is in a topic's place, KafkaError.

        client  a BoundedClient. node: the broker to ask; whoever read a log asks its leader, which surely knows.
        """
        request = Metadata(topics)
        answer = await (client.ask_any(request) if node is None else client.send(node, request))
        missing = set(topics)
        for topic in answer.to_object()["topics"]:
            if topic["error_code"]:
                continue
            name, seen = topic["topic"], topic.get("topic_id", _NO_ID)
            missing.discard(name)
            if self._ids.setdefault(name, seen) != seen:
                raise TopicsError([f"{name}: the topic was deleted and created anew under this process. {WHAT_NOW}"])
        return missing


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka is not followed
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        return bytes(data.read(16))


class _Answer(Response):  # type: ignore[misc]  # aiokafka is not followed
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _Question(RequestStruct):  # type: ignore[misc]  # aiokafka is not followed
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class Metadata(Request[MetadataRequest_v5 | _Question]):  # type: ignore[misc]  # aiokafka is not followed
    """Of these topics; none is created by asking. `operations`: with what we may do there, where the broker says it."""

    API_KEY = 3

    def __init__(self, topics: Iterable[str], *, operations: bool = False) -> None:
        self._topics = list(topics)
        self._operations = operations

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(self._topics, False)
        return _Question([(_NO_ID, topic, {}) for topic in self._topics], False, False, self._operations, {})
