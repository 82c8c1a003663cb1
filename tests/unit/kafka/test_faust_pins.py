"""The functions of Faust, mode and aiokafka that this project rewrites have not changed.

The versions are exact, and what we call or extend is judged on real Kafka by tests/upstream and
tests/integration. A function is here if an override replaces its body and no test would notice that
upstream has changed it. The methods by which upstream asks for a class of ours are not here
(`_new_transport`, `_new_consumer_thread`, `_new_store`, `recovery`), nor are those of the read-only
table, because tests/integration/test_faust_app.py and tests/unit/faust_app fail when upstream no
longer calls one of them.
When a test fails: read the change of the named function and docs/reference/faust.md, decide whether
the override still holds, run tests/upstream, and only then put the new hash here. The overrides are
in stream_app/faust_app/fixes and in stream_app/kafka (batches, bounded_client, connection,
consumer).
"""

import hashlib
import inspect
from importlib.metadata import version
from pydoc import locate
from typing import Any

import pytest

PINNED = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}

REWRITTEN = {
    "aiokafka.admin.client.AIOKafkaAdminClient._send_request": "1ed126f126dd917a",
    "aiokafka.admin.client.AIOKafkaAdminClient._send_to_controller": "97f54b5c85645a79",
    "aiokafka.client.AIOKafkaClient._get_conn": "68ce5d8391719d33",
    "aiokafka.client.AIOKafkaClient._metadata_update": "06dc51ed3e0d38b8",
    "aiokafka.client.AIOKafkaClient.bootstrap": "198943b004e55849",
    "aiokafka.client.AIOKafkaClient.coordinator_lookup": "19cc69fb75f8d667",
    "aiokafka.client.AIOKafkaClient.send": "246b277687d7b687",
    "aiokafka.consumer.fetcher.FetchResult.getall": "3e717e30de5068d5",
    "aiokafka.consumer.fetcher.PartitionRecords._unpack_records": "b803e6d46480732c",
    "aiokafka.consumer.fetcher.PartitionRecords._consumer_record": "e668541600b047ab",
    "faust.app.base.App._create_directories": "a9f571c3b04abec3",
    "faust.app.base.App._init_fixups": "dc476ee556c2fc0a",
    "faust.app.base.App._on_rebalance_when_stopped": "1b172d9af8ff4eb6",
    "faust.app.base.App.agent": "ae1d2b662569c68b",
    "faust.stores.memory.Store.on_recovery_completed": "a00bef343e139602",
    "faust.stores.base.Store.on_rebalance": "a32fbe3c18de4288",
    "faust.tables.manager.TableManager.on_start": "365dd25fbc0e0684",
    "faust.tables.recovery.Recovery._restart_recovery": "6bd8a8558a2dffe4",
    "faust.tables.recovery.Recovery._wait": "ec7429b70176f8c6",
    "faust.transport.conductor.Conductor._subscriber": "2a79085834048049",
    "faust.transport.consumer.Consumer._add_gap": "4df2573ded7c1c2c",
    "faust.transport.consumer.Consumer._new_offset": "1d2c7ea89a7ad4f1",
    "faust.transport.consumer.Consumer.verify_all_partitions_active": "4e0e46f5c297305d",
    "faust.transport.consumer.Consumer.wait_empty": "e4662fe24f094819",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread._create_worker_consumer": (
        "c2701bfc3e6f6cad"
    ),
    "mode.services.Service.wait_first": "feade6a31f8a6789",
    "mode.utils.queues.FlowControlQueue.in_pressure_high_state": "3165f14880191c41",
}


def digest(name: str) -> str:
    function: Any = locate(name)
    if isinstance(function, property):
        function = function.fget
    function = inspect.unwrap(getattr(function, "fun", function))
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


@pytest.mark.parametrize("package", PINNED)
def test_version_is_pinned(package: str) -> None:
    assert version(package) == PINNED[package], __doc__


@pytest.mark.parametrize("name", REWRITTEN)
def test_source_is_unchanged(name: str) -> None:
    assert digest(name) == REWRITTEN[name], f"{name} changed: {__doc__}"


def test_faust_runs_on_its_compiled_stream_iterator() -> None:
    """Its source ships beside it; what was read there is this text."""
    from faust import streams

    assert streams._CStreamIterator is not None
    source = (inspect.getsourcefile(streams) or "").replace("streams.py", "_cython/streams.pyx")
    with open(source, "rb") as text:
        assert hashlib.sha256(text.read()).hexdigest()[:16] == "0041622f4a251188"
