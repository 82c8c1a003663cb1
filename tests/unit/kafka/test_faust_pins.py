"""The functions of Faust, mode and aiokafka that this project overrides or relies on have not changed.

When a test fails: read the change of the named function and docs/reference/faust.md, decide whether the override still
holds, run tests/upstream, and only then put the new hash here. The overrides are in stream_app/faust_app/fixes and in
stream_app/kafka (bounded_client, connection, consumer).
"""

import hashlib
import inspect
from importlib.metadata import version
from pydoc import locate
from typing import Any

import pytest

PINNED = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}

OVERRIDDEN = {
    "aiokafka.admin.client.AIOKafkaAdminClient._send_request": "1ed126f126dd917a",
    "aiokafka.admin.client.AIOKafkaAdminClient._send_to_controller": "97f54b5c85645a79",
    "aiokafka.client.AIOKafkaClient._get_conn": "68ce5d8391719d33",
    "aiokafka.client.AIOKafkaClient._metadata_update": "06dc51ed3e0d38b8",
    "aiokafka.client.AIOKafkaClient.bootstrap": "198943b004e55849",
    "aiokafka.client.AIOKafkaClient.close": "02119d4d618ae493",
    "aiokafka.client.AIOKafkaClient.coordinator_lookup": "19cc69fb75f8d667",
    "aiokafka.client.AIOKafkaClient.send": "246b277687d7b687",
    "faust.app.base.App._create_directories": "a9f571c3b04abec3",
    "faust.app.base.App._init_fixups": "dc476ee556c2fc0a",
    "faust.app.base.App._new_producer_transport": "eb3b4aa6a8961275",
    "faust.app.base.App._new_transport": "42db531312dd776f",
    "faust.app.base.App._on_rebalance_when_stopped": "1b172d9af8ff4eb6",
    "faust.app.base.App.on_init_dependencies": "7621a70a9b01f93f",
    "faust.app.base.App.on_rebalance_start": "5c1e23de30674082",
    "faust.app.base.App.agent": "ae1d2b662569c68b",
    "faust.stores.memory.Store.__post_init__": "e59c82f3785458b2",
    "faust.stores.memory.Store.on_recovery_completed": "a00bef343e139602",
    "faust.stores.base.Store.on_rebalance": "a32fbe3c18de4288",
    "faust.tables.base.Collection._new_store": "914a2bda605d38f5",
    "faust.tables.table.Table.on_key_del": "4f2900b2f9d24a08",
    "faust.tables.table.Table.on_key_set": "a370e35ca55c2c7e",
    "faust.tables.manager.TableManager.on_start": "365dd25fbc0e0684",
    "faust.tables.manager.TableManager.recovery": "f0bf5de78b4c3d23",
    "faust.tables.recovery.Recovery._restart_recovery": "6bd8a8558a2dffe4",
    "faust.tables.recovery.Recovery.on_stop": "766b9af50a72dc22",
    "faust.tables.recovery.Recovery._wait": "ec7429b70176f8c6",
    "faust.transport.conductor.Conductor._subscriber": "2a79085834048049",
    "faust.transport.consumer.Consumer._add_gap": "4df2573ded7c1c2c",
    "faust.transport.consumer.Consumer._commit_offsets": "1a69799041188441",
    "faust.transport.consumer.Consumer._drain_messages": "44a2500309e83c63",
    "faust.transport.consumer.Consumer._new_offset": "1d2c7ea89a7ad4f1",
    "faust.transport.consumer.Consumer._wait_next_records": "6218e1969a636b3f",
    "faust.transport.consumer.Consumer.on_partitions_revoked": "d04b7ae72c6fc206",
    "faust.transport.consumer.Consumer.perform_seek": "0e8c130ff4b0afd8",
    "faust.transport.consumer.Consumer.stop_flow": "cf7e875a2b0d40e8",
    "faust.transport.consumer.Consumer.verify_all_partitions_active": "4e0e46f5c297305d",
    "faust.transport.consumer.Consumer.wait_empty": "e4662fe24f094819",
    "faust.transport.consumer.ConsumerThread.on_partitions_assigned": "e59e8dda43724bd4",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc3e6f6cad",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread._fetch_records": "39a2c6c79fc1455a",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread.seek_to_committed": "775ab0adc4b052ab",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread.on_start": "38b4e8bd1e10723a",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread.on_thread_stop": "8dfc004e258b6c25",
    "faust.transport.drivers.aiokafka.Consumer._new_consumer_thread": "0870ec53dea75083",
    "faust.transport.drivers.aiokafka.Producer.on_start": "219c9a7a785d77b2",
    "mode.threads.ServiceThread._stopped_set": "af9b1ff7781223c2",
    "mode.services.Service.wait_first": "feade6a31f8a6789",
}

RELIED_UPON = {
    "aiokafka.admin.client.AIOKafkaAdminClient.list_consumer_group_offsets": "63aad3c2197d4867",
    "aiokafka.client.AIOKafkaClient._on_connection_closed": "36f8c06a62fe343a",
    "aiokafka.client.AIOKafkaClient.ready": "79d9637f40fc070e",
    "aiokafka.conn.AIOKafkaConnection._do_sasl_handshake": "d4f7b5acbbecc07b",
    "aiokafka.conn.AIOKafkaConnection.close": "28f164aa1e4f0bbc",
    "aiokafka.conn.AIOKafkaConnection.connect": "b0f9ba7f0cf6b432",
    "aiokafka.conn.AIOKafkaConnection.send": "5909ea32f4efca49",
    "aiokafka.conn.create_conn": "673276cbddb4dc7c",
    "aiokafka.consumer.group_coordinator.GroupCoordinator._do_fetch_commit_offsets": "b0f3598132715552",
    "aiokafka.consumer.group_coordinator.GroupCoordinator._send_req": "fa4b12e914ce9fcf",
    "aiokafka.consumer.group_coordinator.GroupCoordinator.ensure_coordinator_known": "4dfb9ccd877aba5d",
    "aiokafka.producer.sender.Sender._find_coordinator": "33001a36bf6a0ae0",
    "aiokafka.client.AIOKafkaClient._md_synchronizer": "e0421bffa9a7735a",
    "aiokafka.client.AIOKafkaClient.force_metadata_update": "cb7befef21c8f3f9",
    "aiokafka.client.AIOKafkaClient.set_topics": "9f9b55d6d8997834",
    "aiokafka.consumer.consumer.AIOKafkaConsumer.getmany": "bc6d248e42a4e9d9",
    "aiokafka.consumer.consumer.AIOKafkaConsumer.seek_to_committed": "f6cd85c8b70a4ccf",
    "aiokafka.consumer.consumer.AIOKafkaConsumer.start": "2f1ba70443327538",
    "aiokafka.consumer.consumer.AIOKafkaConsumer.stop": "bc5da9c98595299a",
    "aiokafka.consumer.fetcher.FetchResult.getall": "3e717e30de5068d5",
    "aiokafka.consumer.fetcher.Fetcher._get_actions_per_node": "1dab2cf937d165d0",
    "aiokafka.consumer.fetcher.Fetcher._proc_fetch_request": "59bf948fff47eed5",
    "aiokafka.consumer.fetcher.Fetcher.close": "1cd24bc1c442149e",
    "aiokafka.consumer.fetcher.Fetcher.fetched_records": "be4348896b9b66af",
    "aiokafka.consumer.fetcher.PartitionRecords.__next__": "63ac34a08c309098",
    "aiokafka.consumer.fetcher.PartitionRecords._unpack_records": "b803e6d46480732c",
    "aiokafka.consumer.group_coordinator.GroupCoordinator._do_heartbeat": "dc1d6632aaa68e96",
    "aiokafka.consumer.group_coordinator.GroupCoordinator._on_join_prepare": "4d9524afc0ee2c2f",
    "aiokafka.consumer.group_coordinator.GroupCoordinator.ensure_active_group": "33c84c1a93012e81",
    "aiokafka.consumer.group_coordinator.GroupCoordinator.reset_generation": "537aa37c531b4de9",
    "aiokafka.consumer.subscription_state.TopicPartitionState.pause": "6c91801ebcc292ab",
    "aiokafka.consumer.subscription_state.TopicPartitionState.resume": "8aecb5a6164f4211",
    "aiokafka.producer.message_accumulator.MessageAccumulator.add_batch": "5ed1c5b1367ad854",
    "aiokafka.producer.message_accumulator.MessageAccumulator.drain_by_nodes": "fc995afbfc5718e2",
    "aiokafka.producer.message_accumulator.MessageAccumulator.fail_all": "f1e12e8100bfcb8c",
    "aiokafka.producer.message_accumulator.MessageAccumulator.flush_for_commit": "39683730fcffc2a4",
    "aiokafka.producer.message_accumulator.MessageBatch.failure": "719b2122c318e955",
    "aiokafka.producer.producer.AIOKafkaProducer.send_batch": "bf42b0f0c5c0646d",
    "aiokafka.producer.producer.AIOKafkaProducer.start": "bae900a5e83a6d97",
    "aiokafka.producer.producer.AIOKafkaProducer.stop": "43ef97147111893b",
    "aiokafka.producer.sender.AddPartitionsToTxnHandler.handle_response": "67266db24da2dfaf",
    "aiokafka.producer.sender.BaseHandler.do": "1106439a38fe7943",
    "aiokafka.producer.sender.EndTxnHandler.handle_response": "89bd9721c28ec792",
    "aiokafka.producer.sender.Sender._maybe_wait_for_pid": "577189636b56f6d9",
    "aiokafka.producer.sender.Sender.start": "ef0a0cbbf1f69e7d",
    "aiokafka.producer.sender.SendProduceReqHandler._can_retry": "7ff5d491d977aacf",
    "aiokafka.producer.sender.SendProduceReqHandler.do": "2dccd3d56b1607fb",
    "aiokafka.producer.sender.SendProduceReqHandler.handle_response": "850323cc8f77abc3",
    "aiokafka.producer.sender.Sender._do_txn_commit": "8263eaebb7c30ea1",
    "aiokafka.producer.sender.Sender._sender_routine": "2380dc5e333d9ebd",
    "aiokafka.producer.transaction_manager.TransactionManager.fatal_error": "8e9fd08dc50042c4",
    "aiokafka.producer.transaction_manager.TransactionManager.set_pid_and_epoch": "1e174622d40d330f",
    "aiokafka.record.default_records._DefaultRecordBatchPy._maybe_uncompress": "c9d0dc2bed50cc86",
    "aiokafka.record.default_records._DefaultRecordBatchPy._read_msg": "0997ab7a58505c93",
    "faust.agents.actor.Actor.on_isolated_partition_revoked": "636a35c791bf3dbc",
    "faust.agents.agent.Agent._assign_isolated_partition": "6f805da7af64ed8f",
    "faust.agents.agent.Agent._execute_actor": "c750b828d2bda93e",
    "faust.agents.agent.Agent._maybe_start_isolated": "4db8fc3f0f3e5935",
    "faust.agents.manager.AgentManager.on_rebalance": "2b7b8f8ea4bcca90",
    "faust.app.base.App._on_partitions_assigned": "de932b7927db85b3",
    "faust.app.base.App._on_partitions_revoked": "d5c895bbe57dc73a",
    "faust.app.base.App._stop_consumer": "55854a5de12c3f52",
    "faust.assignor.copartitioned_assignor.CopartitionedAssignor.get_assignment": "9e7c467c7140fd22",
    "faust.assignor.partition_assignor.PartitionAssignor._perform_assignment": "1e0bf2c5c8f42574",
    "faust.streams.Stream._c_aiter": "fa44582a5882e9df",
    "faust.streams.Stream.ack": "32d7171a89b0931d",
    "faust.streams.Stream.noack": "921a6f5c674d32d4",
    "faust.tables.manager.TableManager._update_channels": "88e3941facc934d6",
    "faust.tables.manager.TableManager.on_rebalance": "2d2c23a07bf54328",
    "faust.tables.recovery.Recovery._resume_streams": "d986a6710c1aca98",
    "faust.tables.recovery.Recovery.on_rebalance": "aa4d997a1795ceae",
    "faust.topics.Topic.declare": "8fbfd8842b963d8d",
    "faust.topics.Topic.on_stop_iteration": "6b17f7aee7645a16",
    "faust.transport.conductor.Conductor._update_tp_index": "e8e3ac9025ef44f7",
    "faust.transport.consumer.Consumer.ack": "5fcf41cf45153475",
    "faust.transport.consumer.Consumer.commit": "a354437baaa08bf8",
    "faust.transport.consumer.Consumer.getmany": "4b168d84882a70d6",
    "faust.transport.consumer.Consumer.maybe_wait_for_commit_to_finish": "d687f63a0b5ef0c5",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread._commit": "932852ce7a23f658",
    "faust.transport.drivers.aiokafka.ConsumerRebalanceListener.on_partitions_assigned": "1c1f8406ad3698a6",
    "mode.services.Service.stop": "e17cd2b6bd01e861",
    "mode.threads.ServiceThread._serve": "67809eae09573ac7",
    "mode.utils.queues.FlowControlEvent.resume": "4dcdc1253fd0dcb4",
    "mode.utils.queues.FlowControlQueue.put_nowait_enhanced": "f1839f43dda3d2cf",
    "mode.utils.queues.ThrowableQueue.clear": "d18f09e451acf62e",
}


def digest(name: str) -> str:
    found: Any = locate(name)
    if isinstance(found, property):
        found = found.fget
    found = inspect.unwrap(getattr(found, "fun", found))
    return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:16]


@pytest.mark.parametrize("package", PINNED)
def test_version_is_pinned(package: str) -> None:
    assert version(package) == PINNED[package], __doc__


@pytest.mark.parametrize("name", [*OVERRIDDEN, *RELIED_UPON])
def test_source_is_unchanged(name: str) -> None:
    assert digest(name) == (OVERRIDDEN | RELIED_UPON)[name], f"{name} changed: {__doc__}"


def test_faust_runs_on_its_compiled_stream_iterator() -> None:
    """Its source ships beside it; what was read there is this text."""
    from faust import streams

    assert streams._CStreamIterator is not None
    source = (inspect.getsourcefile(streams) or "").replace("streams.py", "_cython/streams.pyx")
    with open(source, "rb") as text:
        assert hashlib.sha256(text.read()).hexdigest()[:16] == "0041622f4a251188"
