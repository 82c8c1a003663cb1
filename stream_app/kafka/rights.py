"""The least rights (ACLs) that each process and command needs on Kafka.

They are compared at the start with what Kafka allows. docs/kafka-rights.md has this table in words.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple

import msgspec
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)

from stream_app.domain.model.errors import KafkaRefused, TopicsError
from stream_app.domain.model.topics import ExistingTopic, TopicNames, TopicPlan, differences
from stream_app.kafka.protocol import DescribeGroups, Metadata

Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs", "AlterConfigs"]
Resource = Literal["Topic", "Group", "TransactionalId"]

BITS: Final[dict[Operation, int]] = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Describe": 8,
    "DescribeConfigs": 10,
    "AlterConfigs": 11,
}
"""The bit of each operation in the `authorized_operations` that Kafka returns."""
_UNKNOWN: Final = -(2**31)
"""Kafka's answer if it does not say which operations are allowed."""


class Acl(NamedTuple):
    """One right. `prefixed`: it covers all names that begin with `name`."""

    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False


class Rights(msgspec.Struct, frozen=True):
    """What one process or command does on Kafka. Read and Write imply Describe.

    Attributes:
        configs: Topics whose configuration it reads.
        alter: Topics whose configuration it sets.
        join_groups: Consumer groups that it joins.
        look_at_groups: Consumer groups whose offsets and members it reads.
        transactional_id: The transactional id that it writes with; '' if none.
        transactional_ids_begin: True: all ids that begin with `transactional_id`.
    """

    read: Set[str] = frozenset()
    write: Set[str] = frozenset()
    configs: Set[str] = frozenset()
    alter: Set[str] = frozenset()
    create: Set[str] = frozenset()
    join_groups: Set[str] = frozenset()
    look_at_groups: Set[str] = frozenset()
    transactional_id: str = ""
    transactional_ids_begin: bool = False

    @property
    def topics(self) -> Set[str]:
        """All topics that must exist before it starts, unless it creates them."""
        return self.read | self.write | self.configs

    @property
    def acls(self) -> list[Acl]:
        """Each right by itself, sorted, without those that another one implies."""
        acls = [Acl("Read", "Topic", name) for name in self.read]
        acls += [Acl("Write", "Topic", name) for name in self.write]
        acls += [Acl("Create", "Topic", name) for name in self.create]
        acls += [Acl("Describe", "Topic", name) for name in self.topics - self.read - self.write]
        acls += [Acl("DescribeConfigs", "Topic", name) for name in self.configs]
        acls += [Acl("AlterConfigs", "Topic", name) for name in self.alter]
        acls += [Acl("Read", "Group", name) for name in self.join_groups]
        acls += [Acl("Describe", "Group", name) for name in self.look_at_groups - self.join_groups]
        if self.transactional_id:
            acls.append(
                Acl(
                    "Write",
                    "TransactionalId",
                    self.transactional_id,
                    self.transactional_ids_begin,
                ),
            )
        return sorted(acls, key=lambda acl: (acl.resource, acl.name, acl.operation))

    def acls_on(self, resource: Resource, name: str) -> list[Acl]:
        return [acl for acl in self.acls if (acl.resource, acl.name) == (resource, name)]


def rights_of(names: TopicNames, tiers_s: Iterable[int]) -> dict[str, Rights]:
    """Return the rights of each process and command, by what is typed after `stream-app`."""
    waits = {names.wait(tier_s) for tier_s in tiers_s}
    leads = {*names.lead_topics}
    dead_letters = {names.dlq, names.parked, names.deferred}
    own = {names.state, names.status, names.enriched, names.lanes, names.audit}
    every = (
        leads | dead_letters | own | waits | {names.commands, names.callbacks, names.replay_state}
    )
    groups = {names.worker_app, names.replay_app}
    skipped = {name: f"{name}-skipped" for name in groups}  # stream_app/kafka/consumer.py
    look = Rights(
        read=leads
        | waits
        | {names.lanes, names.commands, names.audit, names.replay_state, names.dlq, names.deferred},
        configs=every,
        look_at_groups=groups,
    )
    order = Rights(read={names.audit}, write={names.commands})
    change = msgspec.structs.replace(order, read=order.read | {names.state})
    survey = dead_letters | {names.state, names.retry, names.replay_state}
    doctor = Rights(
        read={names.lanes, names.state},
        write={names.audit},
        configs=every,
        look_at_groups=groups,
        transactional_id=f"{names.worker_app}-doctor",
    )
    read = own | leads | {names.dlq, names.parked, names.replay_state}
    board = Rights(read=read, configs=every, look_at_groups=groups)
    count = Rights(read=dead_letters | {names.state})
    stop = Rights(read={names.replay_state}, write={names.replay_state})
    pause = msgspec.structs.replace(stop, write=stop.write | {names.audit})
    return {
        "worker": Rights(
            read=every - {names.replay_state},
            write=dead_letters | own | waits | {names.retry},
            configs=every,
            join_groups={names.worker_app},
            look_at_groups={skipped[names.worker_app]},
            transactional_id=f"{names.worker_app}-",
            transactional_ids_begin=True,
        ),
        "replay": Rights(
            read=waits | survey | {names.audit, names.commands, names.lanes},
            write=waits | {names.retry, names.replay_state, names.audit},
            configs=every,
            join_groups={names.replay_app},
            look_at_groups={skipped[names.replay_app]},
            transactional_id=f"{names.replay_app}-operator",
        ),
        "gateway": Rights(write={names.callbacks}),
        "board": board,
        "board with operator_token_env": msgspec.structs.replace(
            board,
            read=board.read | survey,
            write={names.commands, names.replay_state, names.leads, names.bulk},
        ),
        "trace": Rights(read={names.status}, join_groups={names.trace_group}),
        "topics": Rights(read={names.state}, configs=every, create=every),
        "topics --apply": Rights(read={names.state}, configs=every, create=every, alter=every),
        "doctor": doctor,
        "doctor --round-trip": msgspec.structs.replace(
            doctor,
            read=doctor.read | {names.status, names.audit},
            write=doctor.write | {names.leads, names.commands},
        ),
        "publish": Rights(read={names.lanes}, write={names.leads}),
        "publish --bulk": Rights(read={names.lanes}, write={names.bulk}),
        "publish --wait": Rights(read={names.lanes, names.status}, write={names.leads}),
        "publish --bulk --wait": Rights(read={names.lanes, names.status}, write={names.bulk}),
        "publish()": Rights(write={names.leads}),
        "publish() bulk": Rights(write={names.bulk}),
        "follow_status()": Rights(read={names.status}),
        "results": Rights(read={names.enriched}),
        "results --join": Rights(read={names.enriched, names.state}),
        "books": Rights(
            read=leads | waits | {names.dlq, names.deferred, names.state, names.status},
            look_at_groups=groups,
        ),
        "lanes": look,
        "lanes log": Rights(read={names.audit}),
        "lanes ORDER": order,
        "explain": look,
        "suppress list": Rights(read={names.lanes, names.state}),
        "suppress add": change,
        "suppress remove": change,
        "erase": msgspec.structs.replace(order, read=order.read | {names.state, names.enriched}),
        "dlq": count,
        "dlq show": msgspec.structs.replace(count, read=count.read | {names.status}),
        "dlq export": count,
        "dlq give-up": Rights(read=survey | {names.audit}, write={names.replay_state}),
        "replay plan": Rights(read=survey | {names.lanes}),
        **dict.fromkeys(
            ("replay select", "replay redrive"),
            Rights(read=survey | {names.lanes}, write={names.replay_state}),
        ),
        **dict.fromkeys(("replay pause", "replay resume"), pause),
        "replay stop": stop,
        "replay list": Rights(read={names.replay_state}),
        "skip": Rights(
            read=leads | waits | {names.callbacks, names.commands, names.dlq, names.deferred},
            join_groups=groups | {*skipped.values()},
        ),
    }


async def check_access(admin: Any, program: str, rights: Rights, plan: Sequence[TopicPlan]) -> None:
    """Check that the program's topics exist, and that Kafka allows it everything that it needs.

    `program`: the arguments after `stream-app`, for messages.

    Raises:
        KafkaRefused: Rights are missing; one line for each operation.
        TopicsError: Topics are missing, or have another number of partitions.
        KafkaError: Kafka does not answer.
    """
    topics, lacking = await _topics(admin._client, rights)
    for group in rights.join_groups | rights.look_at_groups:
        lacking += await _group(admin, group, rights)
    if lacking:
        raise KafkaRefused("\n".join(_lines(program, lacking)))
    existing = {
        wanted.name: ExistingTopic(topics[wanted.name], wanted.replication, dict(wanted.config))
        for wanted in plan
        if wanted.name in topics
    }
    if not rights.create and (problems := differences(plan, existing)):
        raise TopicsError(problems)


async def allowed(admin: Any, operation: Operation, topics: Collection[str]) -> set[str]:
    """Return the topics on which Kafka allows an operation, or does not say whether it does."""
    wanted = [Acl(operation, "Topic", "")]
    answer = (await admin._client.ask_any(Metadata(topics, operations=True))).to_object()
    return {
        topic["topic"]
        for topic in answer["topics"]
        if not topic["error_code"]
        and not _not_in(topic.get("authorized_operations", _UNKNOWN), wanted)
    }


async def _topics(client: Any, rights: Rights) -> tuple[dict[str, int], list[Acl]]:
    """Return the number of partitions of each existing topic, and the missing rights."""
    needed = {name: rights.acls_on("Topic", name) for name in rights.topics}
    partitions: dict[str, int] = {}
    lacking: list[Acl] = []
    for topic in (await client.ask_any(Metadata(sorted(needed), operations=True))).to_object()[
        "topics"
    ]:
        name = topic["topic"]
        if topic["error_code"] == TopicAuthorizationFailedError.errno:
            lacking += needed[name]
        elif not topic["error_code"]:
            partitions[name] = len(topic["partitions"])
            lacking += _not_in(topic.get("authorized_operations", _UNKNOWN), needed[name])
    return partitions, lacking


async def _group(admin: Any, group: str, rights: Rights) -> list[Acl]:
    try:
        node = await admin.find_coordinator(group)
        ((code, *_, last),) = (await admin._client.send(node, DescribeGroups([group]))).groups
        operations = last if isinstance(last, int) else _UNKNOWN
        if code:
            raise for_code(code)(group)
    except GroupAuthorizationFailedError:
        operations = 0
    except KafkaError as error:
        if not error.retriable:
            raise
        # A new cluster has no coordinator yet; joining the group reports missing rights.
        operations = _UNKNOWN
    return _not_in(operations, rights.acls_on("Group", group))


def _not_in(operations: int, needed: Collection[Acl]) -> list[Acl]:
    if operations == _UNKNOWN:
        return []
    return [acl for acl in needed if not operations >> BITS[acl.operation] & 1]


def _lines(program: str, lacking: Sequence[Acl]) -> Iterator[str]:
    for (operation, resource), acls in groupby(sorted(lacking), key=itemgetter(0, 1)):
        names = ", ".join(acl.name for acl in acls)
        yield (
            f"Kafka does not allow us {operation} on {resource} {names}: `stream-app "
            f"{program}` needs it; "
            "docs/kafka-rights.md has all its rights"
        )
