"""`stream-app topics` and `skip`: create the topics, and move past records that cannot be read."""

from __future__ import annotations

import asyncio

import msgspec

from stream_app.cli.base import COMMON, NO, OK, Common, confirm, on_kafka, say, show, show_json
from stream_app.client import skip as unreadable
from stream_app.client.strimzi import resources
from stream_app.config.kafka_access import connection_of
from stream_app.domain.topics import shared_partitions
from stream_app.kafka.topics import create_topics


def topics(*, strimzi: str = "", common: Common = COMMON) -> int:
    """Create missing topics, and show exactly how existing ones differ from the plan.

    example:
      stream-app topics --config stream_app.toml
      stream-app topics --strimzi my-cluster | kubectl apply -f -

    Args:
        strimzi: print topics and users as Strimzi resources of this Kafka cluster, and create nothing
    """
    settings = common.settings()
    if strimzi:
        show_json(resources(settings, strimzi))
        return OK
    kafka = settings.kafka
    report = asyncio.run(create_topics(connection_of(settings), settings.topic_plan(), kafka.broker_wait_s, say))
    warnings = shared_partitions(settings.homes, kafka.partitions, settings.pins)
    if common.json:
        show_json({**msgspec.to_builtins(report), "warnings": warnings})
    else:
        for name in report.created:
            show(f"created {name}")
        for line in report.problems:
            say(line)
        for line in warnings:
            say(f"warning: {line}")
        show(f"{len(report.created)} created, {len(report.unchanged)} were there, {len(report.problems)} problems")
    return NO if report.problems else OK


def skip(record_id: str, /, *, yes: bool = False, common: Common = COMMON) -> int:
    """Skip unreadable records (damaged, or in an unknown format), so that their partition continues.

    The processes that read the topic may run, and pass the records within seconds. Readable records are never skipped.

    example:
      stream-app skip leads/0/15

    Args:
        record_id: topic/partition/offset from the error message
        yes: do not ask for confirmation
    """
    settings = common.settings()
    batch = on_kafka(settings, "skip", unreadable.find_unreadable(settings, record_id))
    where = f"{batch.topic}/{batch.partition}, offsets {batch.first} to {batch.last}"
    confirm(f"lose the records at {where} ({batch.cause})", yes=yes)
    passed = on_kafka(settings, "skip", unreadable.skip(settings, batch))
    if common.json:
        show_json({"topic": batch.topic, "partition": batch.partition, "first": batch.first, "last": batch.last})
    else:
        show(f"skipped {where}; the {'process' if passed else 'next start'} continues at {batch.last + 1}")
    return OK
