"""Fix: while partitions are added to the topics, partition n of all topics still goes to one member.

Upstream (not reported): topics with different numbers of partitions are assigned independently of each other. Kafka
adds partitions to one topic after the other, so partition 0 of one topic could go to a member, and that of its state to
another one. Besides, a leader whose metadata is older than the last assignment fails on partitions that it does not
know.

Tests: tests/unit/faust_app/test_assignor.py, tests/e2e/test_grow.py.

Remove it when upstream assigns all topics of an app together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.assignor import PartitionAssignor


class TogetherAssignor(PartitionAssignor):  # type: ignore[misc]  # faust ships no types
    """Assigns the partitions that all topics have, those of one number to one member."""

    _assigned_before = 0

    def _perform_assignment(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        assigned = [
            partition
            for metadata in member_metadata.values()
            for partitions in self._get_client_metadata(metadata).assignment.actives.values()
            for partition in partitions
        ]
        self._assigned_before = max(assigned, default=-1) + 1
        return super()._perform_assignment(cluster, member_metadata)

    def _get_copartitioned_groups(
        self, topics: set[str], cluster: Any, subscriptions: Mapping[str, list[str]]
    ) -> dict[int, Any]:
        """Return all existing topics as topics with the same number of partitions, by that number."""
        found = super()._get_copartitioned_groups(topics, cluster, subscriptions)
        there = {topic for groups in found.values() for group in groups for topic in group}
        if not there:
            return {}
        return {max(min(found), self._assigned_before): self._group_co_subscribed(there, subscriptions)}
