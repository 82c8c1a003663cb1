"""Topics, the partitions that workspaces live in, and the rights on Kafka that the page for
operators lists.
"""

from collections import defaultdict
from collections.abc import Set
from pathlib import Path

import pytest

from stream_app.domain.model.topics import (
    ExistingTopic,
    Retention,
    TopicNames,
    differences,
    home_partition,
    more_than_planned,
    plan,
    shared_partitions,
    unequal,
)
from stream_app.domain.plan import Destination, Plan, Workspace
from stream_app.kafka.rights import rights_of
from tests.support.cpu import exponent

TIERS_S = (2, 60)


def test_every_topic_is_in_the_namespace_and_has_the_same_partitions() -> None:
    topics = plan(TopicNames("t1."), 6, 3, Retention(dlq_days=3), TIERS_S)
    leads = (
        "",
        "retry",
        "bulk",
        "dlq",
        "deferred",
        "wait.2s",
        "wait.60s",
        "parked",
        "status",
        "callbacks",
        "commands",
    )
    names = [f"leads.{name}".rstrip(".") for name in (*leads, "audit", "enriched", "lanes")]
    names += ["stream-app-state", "stream-app-replay-state"]
    assert [topic.name for topic in topics] == [f"t1.{name}" for name in names]
    assert {(topic.partitions, topic.replication) for topic in topics} == {(6, 3)}
    assert topics[3].config["retention.ms"] == str(3 * 86_400_000)


def test_the_proposed_pins_separate_workspaces_that_share_a_partition() -> None:
    homes = {"w2": 0, "w1": 0, "w0": 0, "w3": 1, "w5": 4, "w4": 4}
    lines = shared_partitions(homes, 7, ["w2"])
    assert len(lines) == 2
    assert lines[0].startswith("partition 0 is shared by w0, w1, w2: ")
    assert lines[0].endswith("pin: [workspaces.w0] partition = 2; [workspaces.w1] partition = 3"), (
        "w2 stays"
    )
    assert lines[1].endswith("pin: [workspaces.w5] partition = 5"), "the next free one"
    assert shared_partitions({"a": 0, "b": 0}, 1, {})[0].endswith("pin: no partition is free")


def _plan(count: int, pins: dict[str, int] | None = None) -> Plan:
    names = [f"w{number}" for number in range(count)]
    return Plan(
        topics=TopicNames(""),
        partitions=8,
        workspaces={name: Workspace(name, f"{name}-people") for name in names},
        destinations={f"{name}-people": Destination(f"{name}-people", name, ()) for name in names},
        pins=pins or {},
    )


def test_each_workspace_is_a_resident_of_its_home() -> None:
    plan = _plan(100, pins={"w3": 5})
    assert sorted(name for number in range(8) for name in plan.residents(number)) == sorted(
        plan.workspaces,
    )
    for number in range(8):
        for name in plan.residents(number):
            assert plan.home_of(name) == home_partition(name, 8, plan.pins) == number
    assert "w3" in plan.residents(5)
    assert plan.home_of("a workspace that is not configured") in range(8)
    assert list(plan.residents(1_000)) == []


def test_a_workspace_that_is_added_live_is_a_resident_and_a_running_one_stays() -> None:
    plan = _plan(2, pins={"w0": 1, "w1": 1})
    plan.put_workspace(Workspace("new", ""), 1)
    assert list(plan.residents(1)) == ["w0", "w1", "new"]
    plan.put_workspace(Workspace("new", "elsewhere"), 2)
    assert plan.home_of("new") == 1
    assert plan.workspaces["new"].default_destination == "elsewhere"
    assert list(plan.residents(2)) == []


def test_destinations_keep_the_order_of_the_configuration() -> None:
    plan = _plan(2)
    plan.put_destination(Destination("a-second", "w0", ()))
    plan.put_destination(Destination("w0-people", "w0", ("hook",)))
    known = [
        (destination.alias, destination.webhook_ids) for destination in plan.destinations_of("w0")
    ]
    assert known == [("w0-people", ("hook",)), ("a-second", ())]
    assert plan.destinations_of("unknown") == []


def test_a_look_up_costs_the_same_with_eight_times_the_workspaces() -> None:
    def look_up(plan: Plan) -> None:
        for _ in range(2_000):
            plan.residents(1), plan.home_of("w7"), plan.destinations_of("w7")

    assert exponent(look_up, _plan, 8_000, 0.2)[0] <= 0.2


DELAYS_S = (2, 10, 60, 600, 3_600)
PAGE = Path(__file__).parents[3] / "docs" / "kafka-rights.md"


def in_words(resource: str, names: set[str], every: Set[str]) -> str:
    """Names as the page has them: all topics, or each; the delay tiers as one."""
    if names == every:
        return "all topics"
    tiers = {TopicNames().wait(tier_s) for tier_s in DELAYS_S}
    short = sorted(names - tiers) + (["leads.wait.<n>s"] if tiers <= names else [])
    kind = {"Topic": "", "Group": "group ", "TransactionalId": "transactional id "}[resource]
    return ", ".join(f"{kind}`{name}`" for name in short)


def rows() -> list[str]:
    """The page's table: a row for each process and command; those with the same rights share."""
    rights = rights_of(TopicNames(), DELAYS_S)
    every = rights["topics"].create
    programs_of: dict[str, list[str]] = defaultdict(list)
    for program, its in rights.items():
        by_kind: dict[tuple[str, str], set[str]] = defaultdict(set)
        for acl in its.acls:
            by_kind[acl.resource, acl.operation].add(acl.name + ("*" if acl.prefixed else ""))
        cells = [
            f"{operation}: {in_words(resource, names, every)}"
            for (resource, operation), names in sorted(by_kind.items(), reverse=True)
        ]
        programs_of["<br>".join(cells)].append(f"`{program}`")
    return [f"| {', '.join(programs)} | {cells} |" for cells, programs in programs_of.items()]


def test_the_page_lists_exactly_the_rights_of_the_code() -> None:
    table = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    assert table == rows(), "write the rows as they are on the right"


@pytest.mark.parametrize("program", rights_of(TopicNames(), DELAYS_S))
def test_every_name_has_the_namespace(program: str) -> None:
    for acl in rights_of(TopicNames("prod."), DELAYS_S)[program].acls:
        assert acl.name.startswith("prod.")


@pytest.mark.parametrize(
    ("name", "key", "less", "more"),
    [
        ("leads.parked", "retention.ms", "1000", "-1"),
        ("leads.parked", "retention.bytes", "1000000", None),
        ("leads.parked", "max.message.bytes", "1048588", "2000000"),
        ("leads.parked", "min.insync.replicas", "1", "3"),
        ("leads.parked", "min.insync.replicas", "4", None),
        ("leads.parked", "cleanup.policy", "compact,delete", None),
        ("leads.parked", "segment.ms", "99999999999", "1000"),
        ("leads.enriched", "delete.retention.ms", "1000", "99999999999"),
        ("leads.enriched", "max.compaction.lag.ms", "99999999999", "1000"),
        ("leads.enriched", "min.cleanable.dirty.ratio", "0.5", "0.05"),
        ("leads.enriched", "cleanup.policy", None, None),
    ],
)
def test_a_topic_may_have_more_than_planned_and_not_less(
    name: str,
    key: str,
    less: str | None,
    more: str | None,
) -> None:
    (topic,) = [
        topic for topic in plan(TopicNames(), 2, 3, Retention(), TIERS_S) if topic.name == name
    ]

    def lines(value: str | None) -> tuple[list[str], list[str]]:
        existing = {name: ExistingTopic(2, 3, {**topic.config, key: value})}
        return differences([topic], existing), more_than_planned([topic], existing)

    text = f"{name}: {key} is {less}, the plan says {topic.config[key]}"
    assert lines(less) == ([f"{text}; set it with: stream-app topics --apply"], [])
    if more is not None:
        text = f"{name}: {key} is {more}, the plan says {topic.config[key]}"
        assert lines(more) == (
            [],
            [f"{text}; that is enough; stream-app topics --apply --yes sets it"],
        )
    assert lines(topic.config[key]) == ([], [])


@pytest.mark.parametrize(("partitions", "replication"), [(1, 3), (3, 3), (2, 2), (2, 4)])
def test_a_topic_has_exactly_as_many_partitions_and_replicas_as_planned(
    partitions: int,
    replication: int,
) -> None:
    (topic, *_) = plan(TopicNames(), 2, 3, Retention(), TIERS_S)
    existing = {topic.name: ExistingTopic(partitions, replication, {**topic.config})}
    (line,) = differences([topic], existing)
    assert "the config says" in line


def test_all_that_a_topic_lacks_is_one_line_and_topics_alike_share_it() -> None:
    topics = plan(TopicNames(), 2, 1, Retention(), TIERS_S)[:2]
    existing = {
        topic.name: ExistingTopic(
            2,
            1,
            {**topic.config, "retention.ms": "1", "segment.ms": "604800000"},
        )
        for topic in topics
    }
    assert differences(topics, existing) == [
        "2 topics, each: retention.ms is 1, the plan says 604800000, segment.ms is "
        "604800000, the plan says 86400000; "
        "set it with: stream-app topics --apply (leads, leads.retry)",
    ]


def test_without_the_planned_replicas_as_many_are_not_asked_to_be_in_sync() -> None:
    (topic,) = [
        topic
        for topic in plan(TopicNames(), 2, 3, Retention(), TIERS_S)
        if topic.name == "leads.parked"
    ]
    existing = ExistingTopic(
        2,
        1,
        {**topic.config, "min.insync.replicas": "1", "retention.ms": "1"},
    )
    assert unequal(topic, existing, enough=False) == {"retention.ms": topic.config["retention.ms"]}


DAYS = {
    "leads": 7,
    "leads.retry": 7,
    "leads.bulk": 14,
    "leads.dlq": 14,
    "leads.deferred": 14,
    "leads.wait.2s": 3,
    "leads.wait.60s": 3,
    "leads.parked": 365,
    "leads.status": 30,
    "leads.callbacks": 14,
    "leads.commands": 14,
    "leads.audit": 365,
}
CARRIED = [
    "leads.retry",
    "leads.dlq",
    "leads.deferred",
    "leads.wait.2s",
    "leads.wait.60s",
    "leads.parked",
]
COMPACTED = {
    "leads.enriched": (30, "86400000"),
    **dict.fromkeys(("leads.lanes", "stream-app-state"), (1, None)),
}


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "4")])
def test_each_topic_keeps_what_it_must_for_its_time(replication: int, in_sync: str) -> None:
    day_ms = 86_400_000
    both = {"min.insync.replicas": in_sync}
    configs = {
        topic.name: topic.config
        for topic in plan(TopicNames(), 2, replication, Retention(), TIERS_S)
    }
    assert configs.pop("stream-app-replay-state") == configs["stream-app-state"]
    for name, days in DAYS.items():
        assert configs.pop(name) == both | {
            "cleanup.policy": "delete",
            "max.message.bytes": "1114124" if name in CARRIED else "1048588",
            "message.timestamp.type": "LogAppendTime",
            "retention.bytes": "-1",
            "retention.ms": str(days * day_ms),
            "segment.ms": "86400000",
        }
    for name, (days, lag) in COMPACTED.items():
        assert configs.pop(name) == both | ({"max.compaction.lag.ms": lag} if lag else {}) | {
            "cleanup.policy": "compact",
            "max.message.bytes": "1048588",
            "min.cleanable.dirty.ratio": "0.1",
            "segment.ms": "21600000",
            "delete.retention.ms": str(days * day_ms),
        }
    assert configs == {}
