"""Two requests that Kafka answers since 3.0, and aiokafka 0.14 does not have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from aiokafka import TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields


class _Producers(Response):  # type: ignore[misc]  # aiokafka is not followed
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition_index", Int32),
                        ("error_code", Int16),
                        ("error_message", CompactString("utf-8")),
                        (
                            "active_producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("current_txn_start_offset", Int64),
                                ("tags", TaggedFields),
                            ),
                        ),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _ProducersQuestion(RequestStruct):  # type: ignore[misc]  # aiokafka is not followed
    FLEXIBLE_VERSION = True
    API_KEY = 61
    API_VERSION = 0
    RESPONSE_TYPE = _Producers
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")), ("partition_indexes", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeProducers(Request[_ProducersQuestion]):  # type: ignore[misc]  # aiokafka is not followed
    """What the leader of these places knows of the transactions there: of one producer, or (None) of any."""

    API_KEY = 61

    def __init__(self, producer_id: int | None, places: Iterable[TopicPartition]) -> None:
        self._producer_id = producer_id
        self._topics: dict[str, list[int]] = defaultdict(list)
        for place in places:
            self._topics[place.topic].append(place.partition)

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class([(topic, numbers, {}) for topic, numbers in self._topics.items()], {})

    def read(self, answer: Any) -> Iterator[tuple[TopicPartition, int, int | None]]:
        """Each place with its error code, and the first offset of the open transaction there, None without one."""
        for topic, partitions, _ in answer.topics:
            for number, code, _, producers, _ in partitions:
                begins = [it[5] for it in producers if it[5] >= 0 and self._producer_id in (None, it[0])]
                yield TopicPartition(topic, number), code, min(begins, default=None)


class _Transactions(Response):  # type: ignore[misc]  # aiokafka is not followed
    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("state", CompactString("utf-8")),
                ("transaction_timeout_ms", Int32),
                ("transaction_start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TransactionsQuestion(RequestStruct):  # type: ignore[misc]  # aiokafka is not followed
    FLEXIBLE_VERSION = True
    API_KEY = 65
    API_VERSION = 0
    RESPONSE_TYPE = _Transactions
    SCHEMA = Schema(("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields))


class DescribeTransactions(Request[_TransactionsQuestion]):  # type: ignore[misc]  # aiokafka is not followed
    """What the id's coordinator knows of its last transaction."""

    API_KEY = 65

    def __init__(self, transactional_id: str) -> None:
        self._ids = [transactional_id]

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._ids, {})
