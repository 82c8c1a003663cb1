"""Every number in a message on our topics has bounds within which each reader can work with it."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest

from stream_app.domain.books.records import BookEvent
from stream_app.domain.commands import Command, CommandAnswer
from stream_app.domain.dead_letter.orders import (
    ReplayCommand,
    ReplayPause,
    ReplayProgress,
    read_pause,
)
from stream_app.domain.dead_letter.replay import Came, SuppressionList, read_epoch
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.delivery.suppression import Suppression, erased_row
from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.messages import Callback, Result, StatusEvent
from stream_app.domain.model.numbers import MAX_AMOUNT
from stream_app.domain.model.system import SystemRow
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.views.lane import LaneView
from tests.support.numbers import Place, document, encode, places, with_number

NOW_MS: Final = 1_790_000_000_000
OUR_TYPES: Final = (
    StatusEvent,
    BookEvent,
    Result,
    Callback,
    Command,
    CommandAnswer,
    LaneView,
    Lane,
    Delivery,
    Suppression,
    SystemRow,
    ReplayCommand,
    ReplayProgress,
    ReplayPause,
    Came,
)
"""All that a process of ours writes as JSON. A lead is its producer's (test_lead.py)."""


def numbers_of(kind: type) -> tuple[Any, list[Place]]:
    """Return a whole message, and where it has numbers of ours: the values of a result are the
    user's.
    """
    value = document(kind, {}, NOW_MS)
    return value, [place for place in places(value) if "fields" not in place]


def refuses(decoder: msgspec.json.Decoder[Any], value: Any) -> bool:
    try:
        decoder.decode(encode(value))
    except UNREADABLE:
        return True
    return False


@pytest.mark.parametrize("kind", OUR_TYPES)
def test_every_number_has_bounds(kind: type) -> None:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    value, places = numbers_of(kind)
    assert places
    assert not refuses(decoder, value), "the message as it is"
    for place in places:
        for number in (2**63, -(2**63) - 1, 10**30, 2**63 - 1, 1e300):
            assert refuses(decoder, with_number(value, place, number)), (place, number)


@pytest.mark.parametrize("kind", OUR_TYPES)
def test_every_time_is_one_of_the_calendar(kind: type) -> None:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    value, places = numbers_of(kind)
    times = [place for place in places if str(place[-1]).endswith("_ms")]
    for place in times:
        if place[-1] not in ("usual_ms", "accepted_ms", "held_ms"):  # averages
            assert refuses(decoder, with_number(value, place, 10**15)), place
            assert refuses(decoder, with_number(value, place, -1)), place
    latest = (
        [at for at in range(40, 60) if not refuses(decoder, with_number(value, times[0], 2**at))]
        if times
        else []
    )
    for power in latest:  # a time and a duration are a time, too
        at = datetime.fromtimestamp(2**power / 1000, UTC) + timedelta(milliseconds=2**power)
        assert f"{at:%Y-%m-%d}"


def test_the_largest_amounts_of_millions_of_events_add_up() -> None:
    assert 9_000_000 * MAX_AMOUNT < 2**63


def test_a_pause_that_cannot_be_read_is_a_pause() -> None:
    assert read_pause(None) is None
    assert read_pause(b'{"by":"jane","why":"","at_ms":7}') == ReplayPause("jane", "", 7)
    for value in (b"{", b'{"by":"jane","why":"","at_ms":1e300}', b"[" * 100_000):
        assert read_pause(value) == ReplayPause(
            who="an order that this version cannot read",
            why="stream-app replay resume ends it",
            at_ms=0,
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"dlq/1.5/0", b'{"offset":7}'),
        (b"dlq/1", b'{"offset":7}'),
        (b"dlq/1/0/2", b'{"offset":7}'),
        (b"dlq/1/0", b'{"offset":9223372036854775808}'),
        (b"dlq/1/0", b"{"),
        (b"dlq/1/0", None),
        (b"pause", b"{}"),
    ],
)
def test_a_row_that_names_no_epoch_is_none(key: bytes, value: bytes | None) -> None:
    assert read_epoch(key, value) is None
    assert read_epoch(b"dlq/1/0", b'{"offset":7}') == (1, 0, Came(7))


def test_a_suppression_that_cannot_be_read_holds_the_lead() -> None:
    listed = SuppressionList()
    listed.apply(erased_row("acme", "lead-1"), b'{"at_ms":9223372036854775808}', 0)
    lead = b'{"lead_id":"lead-1","workspace":"acme"}'
    assert listed.names({}, b"acme", lead, NOW_MS)
    assert not listed.names({}, b"globex", lead.replace(b"acme", b"globex"), NOW_MS)
