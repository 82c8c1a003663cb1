"""The plan of the topics, and the advice on workspaces that share a partition."""

from stream_app.domain.lead.lead import home_partition
from stream_app.domain.topics import (
    MAX_CARRIED_BYTES,
    MAX_INPUT_BYTES,
    Retention,
    TopicNames,
    plan,
    shared_partitions,
)

TIERS_S = (2, 60)


def test_every_topic_is_in_the_namespace_and_has_the_same_partitions() -> None:
    topics = plan(TopicNames("t1."), 6, 3, Retention(), TIERS_S)
    assert [topic.name for topic in topics] == [
        "t1.leads",
        "t1.leads.retry",
        "t1.leads.bulk",
        "t1.leads.dlq",
        "t1.leads.deferred",
        "t1.leads.wait.2s",
        "t1.leads.wait.60s",
        "t1.leads.parked",
        "t1.leads.status",
        "t1.leads.callbacks",
        "t1.leads.commands",
        "t1.leads.audit",
        "t1.leads.enriched",
        "t1.leads.lanes",
        "t1.stream-app-state",
        "t1.stream-app-replay-state",
    ]
    assert {(topic.partitions, topic.replication) for topic in topics} == {(6, 3)}
    assert {topic.config["min.insync.replicas"] for topic in topics} == {"2"}


def test_topics_with_raw_input_have_room_for_headers() -> None:
    names = TopicNames()
    topics = {topic.name: topic.config for topic in plan(names, 1, 1, Retention(), TIERS_S)}
    assert int(topics[names.leads]["max.message.bytes"]) == MAX_INPUT_BYTES
    for carried in (names.dlq, names.retry, names.deferred, names.wait(2), names.parked):
        assert int(topics[carried]["max.message.bytes"]) == MAX_CARRIED_BYTES


def test_retention_is_by_the_brokers_clock_and_state_is_compacted() -> None:
    names = TopicNames()
    topics = {topic.name: topic.config for topic in plan(names, 1, 1, Retention(dlq_days=3), TIERS_S)}
    assert topics[names.dlq]["retention.ms"] == str(3 * 86_400_000)
    for name, config in topics.items():
        if name in (names.enriched, names.lanes, names.state, names.replay_state):
            assert config["cleanup.policy"] == "compact"
            assert "retention.ms" not in config
        else:
            assert config["message.timestamp.type"] == "LogAppendTime"


def test_days_have_a_range() -> None:
    assert Retention().problems() == []
    assert Retention(leads_days=0).problems()[0].startswith("leads_days = 0: must be from 1")


def test_the_proposed_pins_separate_workspaces_that_share_a_partition() -> None:
    homes = {"w2": 0, "w1": 0, "w0": 0, "w3": 1}
    lines = shared_partitions(homes, 8, ["w2"])
    assert len(lines) == 1
    assert lines[0].startswith("partition 0 is shared by w0, w1, w2: ")
    assert lines[0].endswith("pin: [workspaces.w0] partition = 2; [workspaces.w1] partition = 3"), "w2 stays"
    assert shared_partitions({"w3": 1}, 8, []) == []


def test_a_proposed_pin_is_a_free_partition() -> None:
    names = [f"w{n}" for n in range(8)]
    pins: dict[str, int] = {}
    for line in shared_partitions({name: home_partition(name, 8, {}) for name in names}, 8, {}):
        for move in line.partition("pin: ")[2].split("; "):
            place, _, partition = move.partition("] partition = ")
            pins[place.removeprefix("[workspaces.")] = int(partition)
    homes = [home_partition(name, 8, pins) for name in names]
    assert len(set(homes)) == len(homes)
    assert pins, "the names above do collide"


def test_too_few_partitions_are_reported() -> None:
    assert shared_partitions({"a": 0, "b": 0}, 1, {})[0].endswith("pin: no partition is free")
