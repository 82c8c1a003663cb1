"""Partitions are assigned together while Kafka adds some to one topic after the other."""

from __future__ import annotations

from typing import Any

import pytest
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from hypothesis import given
from hypothesis import strategies as st

from stream_app.faust_app.app import FaustOptions, build_app
from stream_app.kafka.connection import KafkaConnection

TOPICS = ("leads", "commands", "state")


class Cluster:
    """As much of aiokafka's metadata as the assignor looks at: how many partitions each topic has."""

    def __init__(self, partitions: dict[str, int]) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(self._partitions.get(topic, 0)))


class Member:
    """What a member says of itself when it joins: its topics, and the partitions that it had."""

    def __init__(self, name: str, had: set[int]) -> None:
        self.subscription = list(TOPICS)
        actives = {topic: sorted(had) for topic in TOPICS}
        self.user_data = ClientMetadata(
            assignment=ClientAssignment(actives=actives, standbys={}),
            url=f"http://{name}",
            changelog_distribution={},
            external_topic_distribution={},
            topic_groups={},
        ).dumps()


def all_of_them(numbers: list[int]) -> dict[str, list[int]]:
    return dict.fromkeys(TOPICS, numbers)


def assigned(partitions: dict[str, int], members: dict[str, set[int]]) -> dict[str, dict[str, list[int]]]:
    """What each member gets, by topic."""
    assignor: Any = build_app(FaustOptions("group", KafkaConnection("127.0.0.1:1"), 2)).assignor
    joined = {name: Member(name, had) for name, had in members.items()}
    found = assignor.assign(Cluster(partitions), joined)
    return {name: {topic: sorted(its) for topic, its in each.assignment} for name, each in found.items()}


async def test_partitions_that_only_some_topics_have_are_not_assigned() -> None:
    half = {"leads": 4, "commands": 4, "state": 2}
    found = assigned(half, {"a": {0}, "b": {1}})
    assert found == {"a": all_of_them([0]), "b": all_of_them([1])}


async def test_added_partitions_move_no_other() -> None:
    found = assigned(dict.fromkeys(TOPICS, 4), {"a": {0}, "b": {1}})
    assert {name: its["leads"][0] for name, its in found.items()} == {"a": 0, "b": 1}
    assert sorted(found["a"]["leads"] + found["b"]["leads"]) == [0, 1, 2, 3]


async def test_a_leader_with_old_metadata_keeps_what_was_assigned() -> None:
    found = assigned(dict.fromkeys(TOPICS, 2), {"a": {0, 3}, "b": {1, 2}, "c": set()})
    assert sorted(number for its in found.values() for number in its["leads"]) == [0, 1, 2, 3]


async def test_a_topic_that_does_not_exist_yet_is_left_out() -> None:
    assert assigned({}, {"a": set()}) == {"a": {}}
    assert assigned({"leads": 2, "state": 2}, {"a": set()}) == {"a": {"leads": [0, 1], "state": [0, 1]}}


@pytest.mark.parametrize("members", [1, 2, 3])
@given(st.lists(st.integers(1, 6), min_size=3, max_size=3), st.sets(st.integers(0, 5)))
async def test_all_topics_of_a_member_have_the_same_partitions(members: int, counts: list[int], had: set[int]) -> None:
    names = [f"m{number}" for number in range(members)]
    before = {name: {number for number in had if number % members == at} for at, name in enumerate(names)}
    found = assigned(dict(zip(TOPICS, counts, strict=True)), before)
    for its in found.values():
        assert len({tuple(its.get(topic, ())) for topic in TOPICS}) == 1
    every = sorted(number for its in found.values() for number in its["leads"])
    assert every == list(range(max(min(counts), max(had, default=-1) + 1)))
