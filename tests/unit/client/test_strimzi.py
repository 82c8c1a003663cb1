"""The Strimzi resources have the topics that `stream-app topics` creates, and the rights of each
process.
"""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from stream_app.cli.main import main
from stream_app.config import Settings
from stream_app.kafka.rights import rights_of
from tests.unit.config.files import load


def printed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> tuple[Settings, list[dict[str, Any]]]:
    settings = load(tmp_path, 'kafka = { namespace = "Prod_EU.", partitions = 12 }\n')
    assert main(["topics", "--strimzi", "my-cluster", "--config", str(settings.path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["apiVersion"] == "v1"
    assert document["kind"] == "List"
    return settings, document["items"]


def test_topics_are_those_of_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, items = printed(tmp_path, capsys)
    plan = {topic.name: topic for topic in settings.topic_plan()}
    topics = [item["spec"] for item in items if item["kind"] == "KafkaTopic"]
    assert {spec["topicName"] for spec in topics} == plan.keys()
    for topic_spec in topics:
        topic = plan[topic_spec["topicName"]]
        assert (
            (topic_spec["partitions"], topic_spec["replicas"])
            == (topic.partitions, topic.replication)
            == (12, 3)
        )
        assert topic_spec["config"] == topic.config


def test_each_process_has_a_user_with_its_rights(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, items = printed(tmp_path, capsys)
    rights = rights_of(settings.names, settings.replay.tiers_s)
    kinds = {"topic": "Topic", "group": "Group", "transactionalId": "TransactionalId"}
    users = {
        item["metadata"]["name"].rpartition("-")[2]: item["spec"]["authorization"]["acls"]
        for item in items
        if item["kind"] == "KafkaUser"
    }
    assert users.keys() == {"worker", "replay", "gateway", "board", "trace"}
    for process, acls in users.items():
        granted = {
            (
                operation,
                kinds[resource["type"]],
                resource["name"],
                resource["patternType"] == "prefix",
            )
            for acl in acls
            for resource, operation in product([acl["resource"]], acl["operations"])
        }
        assert granted == {tuple(acl) for acl in rights[process].acls}


def test_names_and_labels_are_those_that_kubernetes_takes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, items = printed(tmp_path, capsys)
    names = [(item["kind"], item["metadata"]["name"]) for item in items]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) for _, name in names)
    assert all(item["metadata"]["labels"] == {"strimzi.io/cluster": "my-cluster"} for item in items)
