"""Rows of the state topic, as an earlier version wrote them, are still read.

`docs/compatibility.md` promises it.

tests/samples/rows has a row of each kind in which every field has a value. Until the next release
the samples follow the code. From then on a change that a sample does not survive needs a new row
version, and a sample of its own.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import (
    ROW_VERSION,
    Delivery,
    delivery_key,
    lane_key,
    read_delivery,
)
from stream_app.domain.lane.lane import LANE_VERSION, Lane
from stream_app.domain.model.errors import RowUnreadable
from stream_app.partition.rows import read_lane

SAMPLES = Path(__file__).parents[2] / "samples" / "rows"
LEAD = delivery_key("acme", "people", "crm-17")
LANE = lane_key("acme")


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_bytes())


def encoded(row: Any) -> Any:
    return json.loads(msgspec.json.encode(row))


def test_the_row_of_a_lead_is_read() -> None:
    old = sample("delivery.v1")
    assert encoded(read_delivery(LEAD, msgspec.json.encode(old)))[: len(old)] == old
    assert len(old) == len(Delivery.__struct_fields__), "append the new field to the sample"


def test_the_row_of_a_lead_without_the_fields_that_were_appended_is_read() -> None:
    required = [field for field in msgspec.structs.fields(Delivery) if field.required]
    old = sample("delivery.v1")[: len(required)]
    assert encoded(read_delivery(LEAD, msgspec.json.encode(old)))[: len(old)] == old


def test_the_row_of_a_lane_is_read() -> None:
    old = sample("lane.v1")
    assert encoded(read_lane(LANE, msgspec.json.encode(old))) == old
    assert set(old) == set(Lane.__struct_fields__), "add the new field to the sample"


def test_the_row_of_a_lane_without_the_fields_that_were_added_is_read() -> None:
    assert read_lane(LANE, b'{"workspace": "acme", "partition": 2}') == Lane("acme", 2)


def test_fields_that_a_later_program_adds_are_ignored() -> None:
    lead = sample("delivery.v1")
    lane = sample("lane.v1")
    assert read_delivery(LEAD, msgspec.json.encode([*lead, "later"])) == read_delivery(
        LEAD,
        msgspec.json.encode(lead),
    )
    later = lane | {"later": 1}
    assert read_lane(LANE, msgspec.json.encode(later)) == read_lane(LANE, msgspec.json.encode(lane))


def test_each_row_has_its_version() -> None:
    """A version that is left out would later be read as that of the reader."""
    assert sample("delivery.v1")[0] == ROW_VERSION
    assert encoded(Lane("acme", 2))["version"] == LANE_VERSION


def test_a_row_of_a_later_version_is_refused_by_its_version() -> None:
    """Whatever its fields are, and not as a broken row, which one would be told to delete."""
    later = ROW_VERSION + 1
    for lead in ([later, *sample("delivery.v1")[1:]], [later, {"state": "later"}]):
        with pytest.raises(
            RowUnreadable,
            match=rf"^the row d/acme/people/crm-17 has version {later}, and this program",
        ):
            read_delivery(LEAD, msgspec.json.encode(lead))
    later = LANE_VERSION + 1
    for fields in (sample("lane.v1"), {"workspace": 1, "partition": "all"}):
        with pytest.raises(
            RowUnreadable,
            match=f"^the row l/acme has version {later}, and this program reads up to",
        ):
            read_lane(LANE, msgspec.json.encode(fields | {"version": later}))
