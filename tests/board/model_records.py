"""Records made by hand, and a file, for the tests of the read model."""

from collections.abc import Iterable
from typing import Any

import msgspec

from stream_app.board.read_model.store import LogPosition, ReadModel, Sources
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.model.messages import Result, Status, StatusEvent
from stream_app.domain.model.topics import Retention, TopicNames
from stream_app.domain.views.lane import LaneView

NOW_MS = 1_790_000_000_000
PARTITIONS = 2
DAY_MS = 86_400_000


class Made(msgspec.Struct, frozen=True):
    """A record as aiokafka gives it."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = 0
    offset: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int = NOW_MS


def sources(namespace: str = "") -> Sources:
    return Sources(TopicNames(namespace), PARTITIONS, Retention(), frozenset({"acme"}))


def event(
    names: TopicNames,
    lead_id: str,
    status: Status,
    seq: int,
    offset: int = 0,
    **more: Any,
) -> Made:
    """A step of the history of the input record at `offset` of partition 0 of `leads`, or of the
    record `origin`.
    """
    origin = str(more.pop("origin", f"{names.leads}/0/{offset}"))
    values: dict[str, Any] = {
        "workspace": "acme",
        "destination": "people",
        "at_ms": NOW_MS + seq,
        **more,
    }
    reported = StatusEvent(
        id=f"{origin}#{seq}",
        lead_id=lead_id,
        status=status,
        seq=seq,
        origin=origin,
        **values,
    )
    return Made(names.status, lead_id.encode(), msgspec.json.encode(reported))


def history(
    names: TopicNames,
    lead_id: str,
    *statuses: Status,
    offset: int = 0,
    **more: Any,
) -> list[Made]:
    return [
        event(names, lead_id, status, seq, offset, **more) for seq, status in enumerate(statuses, 1)
    ]


def result(names: TopicNames, lead_id: str, version: int = 1, **more: Any) -> Made:
    values: dict[str, Any] = {
        "source": "clay",
        "at_ms": NOW_MS,
        "age_s": 0,
        "fields": {"Title": "CEO"},
        **more,
    }
    stored = Result(
        lead_id=lead_id,
        workspace="acme",
        destination="people",
        version=version,
        **values,
    )
    return Made(names.enriched, f"acme/people/{lead_id}".encode(), msgspec.json.encode(stored))


def lane(names: TopicNames, workspace: str = "acme", **more: Any) -> Made:
    values: dict[str, Any] = {
        "breaker": "closed",
        "health": "healthy",
        "score": 100,
        "rate_per_s": 8,
        "at_ms": NOW_MS,
    }
    view = LaneView(workspace=workspace, **({"partition": 0} | values | more))
    return Made(names.lanes, workspace.encode(), msgspec.json.encode(view))


def person(names: TopicNames, hashed: str, lead_id: str | None, *more: str) -> Made:
    """`more`: keys of further rows, and other identifiers."""
    value = None if lead_id is None else " ".join([f"d/acme/people/{lead_id}", *more]).encode()
    return Made(names.state, f"p/acme/people/{hashed}".encode(), value)


def dead_letter(
    topic: str,
    reason: str = "http_503",
    timestamp: int = NOW_MS,
    offset: int = 0,
    **headers: str,
) -> Made:
    named = {"disposition": "failed", "reason": reason, "destination": "people", **headers}
    return Made(
        topic,
        b"acme",
        b"{}",
        offset=offset,
        headers=tuple((HEADERS[field], text.encode()) for field, text in named.items()),
        timestamp=timestamp,
    )


def take(model: ReadModel, *records: Made, at: int = 0) -> None:
    """The records as one batch. Events without an offset get the next ones, as Kafka gives them."""
    batch: dict[str, list[Made]] = {}
    for record in records:
        batch.setdefault(record.topic, []).append(record)
    model.apply(batch, {(topic, 0): LogPosition(at + len(batch[topic])) for topic in batch}, NOW_MS)


def flat(lists: Iterable[list[Made]]) -> list[Made]:
    return [record for records in lists for record in records]
