"""The Strimzi resources have the topics that `stream-app topics` creates, and the rights of each process."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stream_app.cli.main import main
from stream_app.config import load_settings
from stream_app.kafka.rights import rights_of

CONFIG = 'kafka = { namespace = "Prod_EU.", partitions = 12 }\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "stream_app.toml"
    path.write_text(CONFIG)
    return path


def printed(config: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["topics", "--strimzi", "my-cluster", "--config", str(config)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["apiVersion"], document["kind"]) == ("v1", "List")
    items: list[dict[str, Any]] = document["items"]
    return items


def test_topics_are_those_of_the_plan(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {topic.name: topic for topic in load_settings(config, {}, ()).topic_plan()}
    topics = [item["spec"] for item in printed(config, capsys) if item["kind"] == "KafkaTopic"]
    assert {spec["topicName"] for spec in topics} == plan.keys()
    for topic_spec in topics:
        topic = plan[topic_spec["topicName"]]
        assert (topic_spec["partitions"], topic_spec["replicas"]) == (topic.partitions, topic.replication) == (12, 3)
        assert topic_spec["config"] == topic.config


def test_each_process_has_a_user_with_its_rights(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(config, {}, ())
    rights = rights_of(settings.names, settings.replay.tiers_s)
    kinds = {"topic": "Topic", "group": "Group", "transactionalId": "TransactionalId"}
    users = {
        item["metadata"]["name"].rpartition("-")[2]: item["spec"]["authorization"]["acls"]
        for item in printed(config, capsys)
        if item["kind"] == "KafkaUser"
    }
    assert users.keys() == {"worker", "replay", "gateway", "board", "trace"}
    for process, acls in users.items():
        granted = {
            (
                operation,
                kinds[acl["resource"]["type"]],
                acl["resource"]["name"],
                acl["resource"]["patternType"] == "prefix",
            )
            for acl in acls
            for operation in acl["operations"]
        }
        assert granted == {tuple(acl) for acl in rights[process].acls}


def test_names_and_labels_are_those_that_kubernetes_takes(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = printed(config, capsys)
    names = [(item["kind"], item["metadata"]["name"]) for item in items]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) for _, name in names)
    assert all(item["metadata"]["labels"] == {"strimzi.io/cluster": "my-cluster"} for item in items)
