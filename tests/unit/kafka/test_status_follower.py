"""A follower of status events passes over what is no event."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import StatusFollower

_EVENT = StatusEvent("leads/0/7#1", "crm-1", "received", 1, 1, "leads/0/7")


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> StatusFollower:
    """One that gets an event, four records that are none, and an event."""
    good = msgspec.json.encode(_EVENT)
    values = (
        good,
        b"{",
        good.replace(b'"at_ms":1', b'"at_ms":9223372036854775808'),
        b"[" * 100_000,
        None,
        good,
    )
    records = [
        ConsumedRecord("leads.status", 0, offset, b"crm-1", value)
        for offset, value in enumerate(values)
    ]

    async def follow(self: StatusFollower, starts: Any) -> AsyncIterator[Any]:
        yield {("leads.status", 0): records}

    monkeypatch.setattr(StatusFollower, "follow", follow)
    made = StatusFollower(KafkaConnection("127.0.0.1:1"), "leads.status", [0])
    made._starts = {}
    return made


async def test_what_is_no_event_is_left_out_and_named(
    follower: StatusFollower,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="stream_app"):
        assert [event async for event in follower.events()] == [_EVENT, _EVENT]
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        f"leads.status/0/{offset}" for offset in (1, 2, 3, 4)
    ]
    assert [len(batch) async for batch in follower.batches()] == [2]
