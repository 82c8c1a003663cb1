"""The topics and users as resources of Strimzi, the Kafka operator for Kubernetes."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, Final

from stream_app.config import Settings
from stream_app.kafka.rights import Rights, rights_of

_API: Final = "kafka.strimzi.io/v1"
_TYPES: Final = {"Topic": "topic", "Group": "group", "TransactionalId": "transactionalId"}


def resources(settings: Settings, cluster: str) -> dict[str, Any]:
    """Return a list that `kubectl apply` takes: a KafkaTopic for each topic, and a KafkaUser for each process.

    `cluster` is the name of the Kafka resource that they belong to.
    """
    labels = {"strimzi.io/cluster": cluster}
    topics = [
        {
            "apiVersion": _API,
            "kind": "KafkaTopic",
            "metadata": {"name": _resource_name(topic.name), "labels": labels},
            "spec": {
                "topicName": topic.name,
                "partitions": topic.partitions,
                "replicas": topic.replication,
                "config": topic.config,
            },
        }
        for topic in settings.topic_plan()
    ]
    rights = rights_of(settings.names, settings.replay.tiers_s)
    programs = {name: name for name in ("worker", "replay", "gateway", "trace")} | {"board": settings.board_rights}
    users = [
        {
            "apiVersion": _API,
            "kind": "KafkaUser",
            "metadata": {"name": _resource_name(f"{settings.names.worker_app}-{name}"), "labels": labels},
            "spec": {
                "authentication": {"type": "scram-sha-512"},
                "authorization": {"type": "simple", "acls": _acls(rights[program])},
            },
        }
        for name, program in programs.items()
    ]
    return {"apiVersion": "v1", "kind": "List", "items": [*topics, *users]}


def _acls(rights: Rights) -> list[dict[str, Any]]:
    operations = defaultdict[tuple[str, str, bool], list[str]](list)
    for acl in rights.acls:
        operations[acl.resource, acl.name, acl.prefixed].append(acl.operation)
    return [
        {
            "resource": {
                "type": _TYPES[resource],
                "name": name,
                "patternType": "prefix" if prefixed else "literal",
            },
            "operations": granted,
        }
        for (resource, name, prefixed), granted in operations.items()
    ]


def _resource_name(name: str) -> str:
    """A topic may have capitals and underscores, the name of a resource may not."""
    return re.sub(r"[^a-z0-9.-]", "-", name.lower()).strip("-.")
