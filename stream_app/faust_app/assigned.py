"""What the group has assigned to this process, where records wait to be taken, and whether it takes any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stream_app.domain.errors import UnreadableBatch
from stream_app.faust_app.fixes.app import SafeApp


def assigned(app: SafeApp) -> dict[tuple[str, int], bool]:
    """Topic and partition -> whether records wait there: ones that Kafka has told of, or that were fetched.

    Those under way are among the fetched.

    Reads what belongs to the consumer's thread, so it may be a moment old.
    """
    fetched = {message.tp for message in tuple(app.consumer._unacked_messages)}
    stopped = unreadable(app)
    return {
        (tp.topic, tp.partition): (
            state.has_valid_position and (state.highwater or 0) > state.position and tp not in stopped
        )
        or tp in fetched
        for tp, state in _states(app)
    }


def membership(app: SafeApp) -> dict[str, int]:
    """What has to move by itself for the group, whatever is assigned, with a number that changes when it does.

    The taking up after a rebalance, with its generation: nothing else shows a partition that was kept, for its records
    are not fetched until then, so none seem to wait. And heartbeats: nothing else shows an idle process without Kafka.
    What cannot be read does not move until an operator acts.
    """
    if not app.started:
        return {}
    found = {"Kafka has taken no heartbeat of this process": app.consumer._thread.heartbeats_taken}
    if app.tables.recovery.taking_over:
        found["no records are taken since the last rebalance"] = app.consumer_generation_id
    return found | {str(batch): 0 for batch in unreadable(app).values()}


def unreadable(app: SafeApp) -> dict[Any, UnreadableBatch]:
    """By topic and partition, what has stopped it: a batch that cannot be read."""
    consumer = app.consumer._thread._consumer if app.started else None
    return consumer.unreadable if consumer is not None else {}


def waiting(app: SafeApp, sources: Mapping[str, str]) -> dict[tuple[str, int], int]:
    """Source and partition -> records from the group's offset to the end that Kafka last told of.

    sources  topic -> its name in the metric. The ends of transactions count among records that wait, but not alone.
    """
    waits = {}
    consumed = {message.tp for message in tuple(app.consumer._unacked_messages)} if app.started else set()
    for tp, state in _states(app):
        offset = app.consumer._committed_offset.get(tp)
        if offset is None and state.has_valid_position:
            offset = state.position
        if offset is None or tp.topic not in sources:
            continue
        passed_all = state.has_valid_position and state.position >= (state.highwater or 0) and tp not in consumed
        waits[sources[tp.topic], tp.partition] = 0 if passed_all else max(0, (state.highwater or 0) - offset)
    return waits


def _states(app: SafeApp) -> Iterator[tuple[Any, Any]]:
    """Each assigned partition of a topic that has an agent (the changelog's has none), with aiokafka's state of it."""
    consumer = app.consumer._thread._consumer if app.started else None
    assignment = consumer and consumer._subscription.subscription and consumer._subscription.subscription.assignment
    if assignment:
        yield from ((tp, assignment.state_value(tp)) for tp in assignment.tps if tp.topic in app.agents)
