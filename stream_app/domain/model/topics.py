"""The topics: names under a namespace, their settings, and the workspaces that share a partition.

All topics have the same number of partitions, so one worker owns partition n of all of them.
"""

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property
from math import ceil, inf
from typing import Annotated, Final

import msgspec

from stream_app.domain.model.ranges import Policy, Range
from stream_app.domain.model.records import murmur2
from stream_app.domain.model.text import count

MAX_INPUT_BYTES: Final = 1_048_588  # the largest batch that the lead topics accept: Kafka's default

MAX_UNPACKED_BYTES: Final = 16 * MAX_INPUT_BYTES
"""The most bytes of a batch once it is decompressed. Its records as a broker takes them have a
sixteenth at most.
"""

MAX_CARRIED_BYTES: Final = MAX_INPUT_BYTES + 65_536
"""The same for topics that carry a record's raw bytes with our headers. The worker's producers need
it too.
"""

_DAY_MS: Final = 86_400_000

COMPACTED: Final = {
    "cleanup.policy": "compact",
    "max.message.bytes": str(MAX_INPUT_BYTES),
    "min.cleanable.dirty.ratio": "0.1",
    "segment.ms": str(_DAY_MS // 4),
    "delete.retention.ms": str(_DAY_MS),
}
"""Compacted early and in small segments, because a take-over reads the whole topic."""

ERASED_LAG_MS: Final = _DAY_MS
RESULTS: Final = COMPACTED | {
    "max.compaction.lag.ms": str(ERASED_LAG_MS),
    "delete.retention.ms": str(30 * _DAY_MS),
}
"""Settings of `leads.enriched`.

A result that a tombstone deletes leaves the disk within two days (partition/owner.py). The
tombstone stays for 30 days, so that a cache whose worker was down for long still reads it.
"""


MORE_PARTITIONS: Final = (
    "a system keeps the number that it began with: set kafka.partitions to that, or take a "
    "new kafka.namespace "
    "(docs/sizing.md, More partitions)"
)
"""What to do about another number of partitions than there is."""

COMMANDS_DAYS: Final = 14  # how long `leads.commands` keeps its records


def wait_days(tiers_s: Sequence[int]) -> int:
    """Return how many days a delay tier keeps its records.

    It is at least twice the longest delay, because leads would expire otherwise.
    """
    return max(3, ceil(2 * max(tiers_s, default=0) / 86_400))


class Retention(Policy, frozen=True):
    """How many days each kind of topic keeps its records.

    `enriched`, `lanes` and the state are compacted.

    Attributes:
        leads_days: How long `leads` and `leads.retry` keep a record.
        bulk_days: The same for `leads.bulk`.
        dlq_days: The same for `leads.dlq`.
        deferred_days: The same for `leads.deferred`.
        parked_days: The same for `leads.parked`.
        status_days: The same for `leads.status`, and how long the board keeps a lead after its last
            event.
        callbacks_days: The same for `leads.callbacks`.
        audit_days: The same for `leads.audit`.
    """

    leads_days: Annotated[int, Range(1, 3_650)] = 7
    bulk_days: Annotated[int, Range(1, 3_650)] = 14
    dlq_days: Annotated[int, Range(1, 3_650)] = 14
    deferred_days: Annotated[int, Range(1, 3_650)] = 14
    parked_days: Annotated[int, Range(1, 3_650)] = 365
    status_days: Annotated[int, Range(1, 3_650)] = 30
    callbacks_days: Annotated[int, Range(1, 3_650)] = 14
    audit_days: Annotated[int, Range(1, 3_650)] = 365


def _named(name: str) -> cached_property[str]:
    """Return a name with the namespace in front."""
    return cached_property(lambda names: names.namespace + name)


class TopicNames(msgspec.Struct, frozen=True, dict=True):
    """Every name of ours on Kafka, with the namespace (such as "t1.") in front.

    Groups, app ids and transactional ids carry it too, so that two systems can share a cluster.
    `dict=True` keeps each name once it was used.
    """

    namespace: str = ""

    leads = _named("leads")
    retry = _named("leads.retry")
    bulk = _named("leads.bulk")
    dlq = _named("leads.dlq")
    deferred = _named("leads.deferred")
    parked = _named("leads.parked")
    status = _named("leads.status")
    enriched = _named("leads.enriched")
    lanes = _named("leads.lanes")
    callbacks = _named("leads.callbacks")
    commands = _named("leads.commands")
    audit = _named("leads.audit")
    """The answer to each command."""
    state = _named("stream-app-state")
    replay_state = _named("stream-app-replay-state")
    """The state of the replay group: progress of each rewind epoch, an operator's pause, dead
    letters sent back.
    """
    worker_app = _named("stream-app")
    """App id and consumer group of `stream-app worker`."""
    replay_app = _named("stream-app-replay")
    """App id and consumer group of `stream-app replay`."""
    trace_group = _named("stream-app-trace")
    """Consumer group of `stream-app trace`."""

    def wait(self, tier_s: int) -> str:
        """Return the topic of a delay tier.

        The name has the delay, so a changed configuration strands no lead.
        """
        return f"{self.namespace}leads.wait.{tier_s}s"

    @cached_property
    def inputs(self) -> frozenset[str]:
        """The topics to which producers publish.

        Only our own processes write to the other lead topics.
        """
        return frozenset((self.leads, self.bulk))

    @property
    def lead_topics(self) -> tuple[str, str, str]:
        """The topics that workers read leads from."""
        return self.leads, self.retry, self.bulk


class TopicPlan(msgspec.Struct, frozen=True):
    """The wanted settings of one topic. `config` uses Kafka's own names and spelling."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def plan(
    names: TopicNames,
    partitions: int,
    replication: int,
    retention: Retention,
    tiers_s: Sequence[int],
) -> list[TopicPlan]:
    """Return the wanted settings of all topics."""
    kept = {
        names.leads: _timed(retention.leads_days, MAX_INPUT_BYTES),
        names.retry: _timed(retention.leads_days, MAX_CARRIED_BYTES),
        names.bulk: _timed(retention.bulk_days, MAX_INPUT_BYTES),
        names.dlq: _timed(retention.dlq_days, MAX_CARRIED_BYTES),
        names.deferred: _timed(retention.deferred_days, MAX_CARRIED_BYTES),
        **{names.wait(tier_s): _timed(wait_days(tiers_s), MAX_CARRIED_BYTES) for tier_s in tiers_s},
        names.parked: _timed(retention.parked_days, MAX_CARRIED_BYTES),
        names.status: _timed(retention.status_days, MAX_INPUT_BYTES),
        names.callbacks: _timed(retention.callbacks_days, MAX_INPUT_BYTES),
        names.commands: _timed(COMMANDS_DAYS, MAX_INPUT_BYTES),
        names.audit: _timed(retention.audit_days, MAX_INPUT_BYTES),
        names.enriched: RESULTS,
        names.lanes: COMPACTED,
        names.state: COMPACTED,
        names.replay_state: COMPACTED,
    }
    safe = {"min.insync.replicas": str(max(1, replication - 1))}
    return [
        TopicPlan(name, partitions, replication, {**config, **safe})
        for name, config in kept.items()
    ]


def _timed(days: int, max_bytes: int) -> dict[str, str]:
    """Return settings of a topic that keeps its records by time.

    Its timestamps are of the broker's clock. With the clock of a producer, a wrong clock could
    delete leads at once, and a delay tier could not measure how long a record has waited.
    """
    return {
        "cleanup.policy": "delete",
        "max.message.bytes": str(max_bytes),
        "message.timestamp.type": "LogAppendTime",
        "retention.bytes": "-1",
        "retention.ms": str(days * _DAY_MS),
        "segment.ms": str(_DAY_MS),
    }


def shared_partitions(
    homes: Mapping[str, int],
    partitions: int,
    pinned: Container[str],
) -> list[str]:
    """Return one line for each partition with several workspaces, with pins that separate them.

    Args:
        homes: Workspace -> its home partition.
        partitions: The number of partitions.
        pinned: The workspaces to which the configuration gives a partition.
    """
    residents: dict[int, list[str]] = defaultdict(list)
    for workspace, home in sorted(homes.items()):
        residents[home].append(workspace)
    free = [partition for partition in range(partitions) if partition not in residents]
    lines = []
    for partition, lodgers in sorted(residents.items()):
        if len(lodgers) < 2:
            continue
        movable = sorted(lodgers, key=lambda name: name not in pinned)[1:]
        moves = [f"[workspaces.{name}] partition = {free.pop(0)}" for name in movable if free]
        advice = "; ".join(moves) or "no partition is free"
        lines.append(
            f"partition {partition} is shared by {', '.join(lodgers)}: leads whose turn "
            "comes later than "
            "delivery.patience_s are deferred there. "
            f"Before their first leads, pin: {advice}",
        )
    return lines


class ExistingTopic(msgspec.Struct, frozen=True):
    """A topic as the broker has it."""

    partitions: int
    replication: int
    config: dict[str, str | None]


_AT_LEAST: Final = frozenset(
    (
        "delete.retention.ms",
        "max.message.bytes",
        "min.insync.replicas",
        "retention.bytes",
        "retention.ms",
    ),
)
_AT_MOST: Final = frozenset(("max.compaction.lag.ms", "min.cleanable.dirty.ratio", "segment.ms"))
"""Settings of which more, or less, than the plan says does no harm. All others must be equal."""


def differences(plan: Sequence[TopicPlan], seen: Mapping[str, ExistingTopic]) -> list[str]:
    """Return one line for each way in which a topic lacks what a process needs.

    The line says what to do.
    """
    return by_topics(
        [(topic.name, text) for topic in plan for text in _lacking(topic, seen.get(topic.name))],
    )


def _lacking(topic: TopicPlan, existing: ExistingTopic | None) -> Iterator[str]:
    if existing is None:
        yield "there is no such topic; create it with: stream-app topics"
        return
    if existing.partitions != topic.partitions:
        yield (
            f"has {count(existing.partitions, 'partition')}, the config says {topic.partitions}; "
            f"{MORE_PARTITIONS}"
        )
    if existing.replication != topic.replication:
        yield (
            f"has replication {existing.replication}, the config says {topic.replication}; "
            "set kafka.replication = "
            f"{existing.replication}, or change the topic with kafka-reassign-partitions.sh"
        )
    if lacking := unequal(topic, existing, enough=False):
        yield f"{_compared(lacking, existing)}; set it with: stream-app topics --apply"


def more_than_planned(plan: Sequence[TopicPlan], seen: Mapping[str, ExistingTopic]) -> list[str]:
    """Return one line for each setting that is not as planned and yet enough.

    Such a setting is a longer retention.
    """
    text = "that is enough; stream-app topics --apply --yes sets it"
    return by_topics(
        [
            (topic.name, f"{_compared(more, existing)}; {text}")
            for topic in plan
            if (existing := seen.get(topic.name))
            and (more := unequal(topic, existing, enough=True))
        ],
    )


def unequal(topic: TopicPlan, existing: ExistingTopic, *, enough: bool) -> dict[str, str]:
    """Return the planned settings that a topic has otherwise.

    `enough` selects those that are enough, else those that are not are returned.
    """
    return {
        key: wanted
        for key, wanted in topic.config.items()
        if existing.config.get(key) != wanted
        and _enough(key, wanted, existing) == enough
        # With fewer replicas than planned, Kafka would refuse every write.
        and (key != "min.insync.replicas" or existing.replication == topic.replication)
    }


def _enough(key: str, wanted: str, existing: ExistingTopic) -> bool:
    try:
        has = _limit_of(existing.config.get(key) or "")
        needed = _limit_of(wanted)
    except ValueError:
        return False
    if key == "min.insync.replicas":
        return needed <= has <= existing.replication
    return (key in _AT_LEAST and has >= needed) or (key in _AT_MOST and has <= needed)


def _limit_of(value: str) -> float:
    """Return a limit of a topic as a number. Kafka writes -1 for no limit."""
    return inf if value == "-1" else float(value)


def _compared(settings: Mapping[str, str], existing: ExistingTopic) -> str:
    return ", ".join(
        f"{key} is {existing.config.get(key)}, the plan says {wanted}"
        for key, wanted in settings.items()
    )


def by_topics(problems: Sequence[tuple[str, str]]) -> list[str]:
    """Return one line for each text, with the names of all its topics."""
    names: dict[str, list[str]] = {}
    for name, text in problems:
        names.setdefault(text, []).append(name)
    return [
        f"{those[0]}: {text}"
        if len(those) == 1
        else f"{len(those)} topics, each: {text} ({', '.join(those)})"
        for text, those in names.items()
    ]


def home_partition(workspace: str, partitions: int, pins: Mapping[str, int]) -> int:
    """Return the home partition of a workspace.

    It is the workspace's pin; without one, the partition of Kafka's default partitioner.
    """
    pin = pins.get(workspace)
    return pin if pin is not None else (murmur2(workspace.encode()) & 0x7FFFFFFF) % partitions
