"""Requests of Kafka's protocol that aiokafka 0.14 lacks, or lacks in the needed version."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.protocol.admin import (
    DescribeGroupsRequest_v0,
    DescribeGroupsRequest_v3,
    DescribeGroupsResponse_v3,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_TEXT: Final = CompactString("utf-8")
NO_TOPIC_ID: Final = bytes(16)
"""The id of a topic from a broker that sends none."""


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka is not followed
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        return bytes(data.read(16))


def _array(**fields: Any) -> Any:
    return CompactArray(*fields.items(), ("tags", TaggedFields))


def _schema(**fields: Any) -> Any:
    return Schema(*fields.items(), ("tags", TaggedFields))


def _version(api_key: int, api_version: int, *, request: Any, response: Any) -> Any:
    """Declare one flexible version of a request."""
    names = {"API_KEY": api_key, "API_VERSION": api_version}
    answer = type("Answer", (Response,), {**names, "SCHEMA": response})
    return type(
        "Question",
        (RequestStruct,),
        {**names, "FLEXIBLE_VERSION": True, "RESPONSE_TYPE": answer, "SCHEMA": request},
    )


_Producers = _version(
    61,
    0,
    request=_schema(topics=_array(name=_TEXT, partition_indexes=CompactArray(Int32))),
    response=_schema(
        throttle_time_ms=Int32,
        topics=_array(
            name=_TEXT,
            partitions=_array(
                partition_index=Int32,
                error_code=Int16,
                error_message=_TEXT,
                active_producers=_array(
                    producer_id=Int64,
                    producer_epoch=Int32,
                    last_sequence=Int32,
                    last_timestamp=Int64,
                    coordinator_epoch=Int32,
                    current_txn_start_offset=Int64,
                ),
            ),
        ),
    ),
)


class DescribeProducers(Request[_Producers]):  # type: ignore[misc]  # aiokafka is not followed
    """Asks the leader of these partitions for the open transactions of a producer (None: of all).

    Kafka 3.0.
    """

    API_KEY = 61

    def __init__(self, producer_id: int | None, places: Iterable[TopicPartition]) -> None:
        self._producer_id = producer_id
        self._topics: dict[str, list[int]] = defaultdict(list)
        for place in places:
            self._topics[place.topic].append(place.partition)

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(
            [(topic, numbers, {}) for topic, numbers in self._topics.items()],
            {},
        )

    def read(self, answer: Any) -> Iterator[tuple[TopicPartition, int, dict[int, int]]]:
        """Read which transactions are open in each partition.

        Yields: The partition, its error code, and by producer id the first offset of its open
            transaction.
        """
        for topic, partitions, _ in answer.topics:
            for number, code, _, producers, _ in partitions:
                begins = {
                    it[0]: it[5]
                    for it in producers
                    if it[5] >= 0 and self._producer_id in (None, it[0])
                }
                yield TopicPartition(topic, number), code, begins


_Transactions = _version(
    65,
    0,
    request=_schema(transactional_ids=CompactArray(_TEXT)),
    response=_schema(
        throttle_time_ms=Int32,
        transactions=_array(
            error_code=Int16,
            transactional_id=_TEXT,
            state=_TEXT,
            transaction_timeout_ms=Int32,
            transaction_start_time_ms=Int64,
            producer_id=Int64,
            producer_epoch=Int16,
            topics=_array(topic=_TEXT, partitions=CompactArray(Int32)),
        ),
    ),
)


class DescribeTransactions(Request[_Transactions]):  # type: ignore[misc]  # aiokafka is not followed
    """Asks the coordinator of a transactional id for its last transaction. Kafka 3.0."""

    API_KEY = 65

    def __init__(self, transactional_id: str) -> None:
        self._ids = [transactional_id]

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._ids, {})


_MetadataV10 = _version(
    3,
    10,
    request=_schema(
        topics=_array(topic_id=_Uuid, topic=_TEXT),
        allow_auto_topic_creation=Boolean,
        include_cluster_authorized_operations=Boolean,
        include_topic_authorized_operations=Boolean,
    ),
    response=_schema(
        throttle_time_ms=Int32,
        brokers=_array(node_id=Int32, host=_TEXT, port=Int32, rack=_TEXT),
        cluster_id=_TEXT,
        controller_id=Int32,
        topics=_array(
            error_code=Int16,
            topic=_TEXT,
            topic_id=_Uuid,
            is_internal=Boolean,
            partitions=_array(
                error_code=Int16,
                partition=Int32,
                leader=Int32,
                leader_epoch=Int32,
                replicas=CompactArray(Int32),
                isr=CompactArray(Int32),
                offline_replicas=CompactArray(Int32),
            ),
            authorized_operations=Int32,
        ),
        authorized_operations=Int32,
    ),
)


class Metadata(Request[MetadataRequest_v5 | _MetadataV10]):  # type: ignore[misc]  # aiokafka is not followed
    """Asks for topics, and creates none. Topic ids and operations come from Kafka 2.8 and newer.

    `operations`: ask also what we may do with each topic.
    """

    API_KEY = 3

    def __init__(self, topics: Iterable[str], *, operations: bool = False) -> None:
        self._topics = list(topics)
        self._operations = operations

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(self._topics, False)
        return _MetadataV10(
            [(NO_TOPIC_ID, topic, {}) for topic in self._topics],
            False,
            False,
            self._operations,
            {},
        )


class _DescribeGroupsV3(DescribeGroupsRequest_v3):  # type: ignore[misc]  # aiokafka is not followed
    """aiokafka 0.14 reads the answer as if it were one of version 2, without the operations."""

    RESPONSE_TYPE = DescribeGroupsResponse_v3


class DescribeGroups(Request[DescribeGroupsRequest_v0 | _DescribeGroupsV3]):  # type: ignore[misc]  # aiokafka ships no types
    """Asks the coordinator of groups for their description.

    It also asks what we may do with them, where the broker's version knows that.
    """

    API_KEY = 15

    def __init__(self, groups: list[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is DescribeGroupsRequest_v0:
            return DescribeGroupsRequest_v0(self._groups)
        return _DescribeGroupsV3(self._groups, True)


_Alterations = _version(
    44,
    1,
    request=_schema(
        resources=_array(
            resource_type=Int8,
            resource_name=_TEXT,
            configs=_array(name=_TEXT, config_operation=Int8, value=_TEXT),
        ),
        validate_only=Boolean,
    ),
    response=_schema(
        throttle_time_ms=Int32,
        responses=_array(
            error_code=Int16,
            error_message=_TEXT,
            resource_type=Int8,
            resource_name=_TEXT,
        ),
    ),
)
_SET: Final = 0


class AlterTopics(Request[_Alterations]):  # type: ignore[misc]  # aiokafka is not followed
    """Sets settings of topics and leaves all others as they are.

    aiokafka's own request resets those that it does not name.
    """

    API_KEY = 44

    def __init__(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        self._settings = settings

    def build(self, request_struct_class: Any) -> Any:
        topics: list[Any] = [
            (
                ConfigResourceType.TOPIC,
                name,
                [(key, _SET, value, {}) for key, value in settings.items()],
                {},
            )
            for name, settings in self._settings.items()
        ]
        return request_struct_class(topics, False, {})
