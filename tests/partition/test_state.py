"""Expired rows are deleted, others are kept, and each step reads only a few rows."""

import msgspec
import pytest

from stream_app.domain.commands import command_row
from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from stream_app.domain.delivery.suppression import Suppression, lead_row, person_row
from stream_app.domain.lead.identity import person_key
from stream_app.domain.model.errors import RowUnreadable
from stream_app.domain.model.messages import Status
from stream_app.partition.rows import Rows

DAY_MS = 86_400_000
FRESH_MS = 30 * DAY_MS


def row(at_ms: int, *, final: bool = True, state: Status = "accepted") -> bytes:
    return msgspec.json.encode(Delivery(1, state, "leads/0/1", 3, at_ms, at_ms, "trace", final=final))


def key(number: int) -> bytes:
    return delivery_key("acme", "crm", f"lead-{number}")


def work_off(rows: Rows, now_ms: int, steps: int) -> list[bytes]:
    """A step every 50 ms."""
    gone: list[bytes] = []
    for step in range(steps):
        gone.extend(changed for changed, _ in rows.expire(now_ms + 50 * step))
    return gone


def test_a_final_row_goes_after_the_freshness_window_with_its_alias_and_an_open_one_never() -> None:
    rows = Rows(0, FRESH_MS)
    alias = person_key("acme", "crm", "hash")
    rows.apply(
        [(key(1), row(0)), (alias, key(1)), (key(2), row(0, final=False, state="parked")), (key(3), row(DAY_MS))]
    )
    assert work_off(rows, FRESH_MS - 450, 10) == []
    assert work_off(rows, FRESH_MS + 1, 10) == [key(1), alias]
    assert work_off(rows, 100 * FRESH_MS, 10) == [key(3)]
    assert rows.delivery(key(2)) is not None
    assert work_off(rows, 1_000 * FRESH_MS, 100) == []


def test_a_row_that_became_final_again_counts_from_then() -> None:
    rows = Rows(0, FRESH_MS)
    rows.apply([(key(1), row(0, final=False, state="sending"))])
    assert work_off(rows, 2 * FRESH_MS, 3) == []
    rows.apply([(key(1), row(2 * FRESH_MS))])
    assert work_off(rows, 3 * FRESH_MS - 100, 3) == []
    assert work_off(rows, 3 * FRESH_MS + 1, 3) == [key(1)]


def test_a_step_reads_only_a_few_rows() -> None:
    rows = Rows(0, FRESH_MS)
    rows.load({key(number): row(0) for number in range(10_000)})
    assert len(work_off(rows, 2 * FRESH_MS, 1)) == 4
    assert len(work_off(rows, 2 * FRESH_MS, 2_499)) == 9_996


def test_an_alias_without_its_row_goes() -> None:
    rows = Rows(0, FRESH_MS)
    rows.load({person_key("acme", "crm", "hash"): key(9)})
    assert work_off(rows, 0, 1) == [person_key("acme", "crm", "hash")]


def test_an_alias_of_several_rows_stays_as_long_as_any_of_them() -> None:
    rows = Rows(0, FRESH_MS)
    alias = person_key("acme", "crm", "hash")
    rows.apply([(key(1), row(0)), (key(2), row(DAY_MS)), (alias, key(1) + b" " + key(2) + b" other")])
    assert work_off(rows, FRESH_MS + 1, 10) == [key(1)]
    assert work_off(rows, FRESH_MS + DAY_MS + 1, 10) == [key(2), alias]
    open_row = row(0, final=False, state="parked")
    rows.apply([(key(3), row(0)), (key(4), open_row), (alias, key(3) + b" " + key(4))])
    assert work_off(rows, 100 * FRESH_MS, 10) == [key(3)]
    assert alias in rows


def test_a_row_of_a_newer_version_or_of_no_sense_is_refused() -> None:
    rows = Rows(0, FRESH_MS)
    newer = msgspec.json.encode(msgspec.structs.replace(msgspec.json.decode(row(0), type=Delivery), version=9))
    rows.load({key(1): newer, key(2): b"[1"})
    for number, says in ((1, "version 9"), (2, "cannot be read")):
        with pytest.raises(RowUnreadable, match=says):
            rows.delivery(key(number))


def test_answered_commands_and_cancellations_go_by_age_and_suppressed_people_stay() -> None:
    rows = Rows(0, FRESH_MS)
    suppression = msgspec.json.encode(Suppression("suppressed", 0, "c", "jane"))
    cancelled = lead_row("acme", "lead-1")
    rows.load({command_row("c"): b'{"at_ms": 0, "applied": true}', person_row("x" * 22): suppression})
    rows.apply([(cancelled, suppression)])
    assert rows.suppressing == 2
    assert work_off(rows, FRESH_MS - 450, 10) == []
    assert work_off(rows, FRESH_MS + 1, 10) == [command_row("c"), cancelled]
    assert rows.suppressing == 1
    rows.apply([(person_row("x" * 22), None), (person_row("y" * 22), None)])
    assert rows.suppressing == 0


def test_parked_leads_are_counted_by_workspace_from_the_take_over_on() -> None:
    rows = Rows(0, FRESH_MS)
    parked = row(0, final=False, state="parked")
    other = delivery_key("beta", "parked", "lead-1")
    rows.load({key(1): parked, key(2): row(0), person_key("acme", "crm", "parked"): key(1)})
    assert rows.parked == {"acme": 1}
    rows.apply([(key(2), parked), (key(1), parked), (other, row(0, final=False, state="sending"))])
    assert rows.parked == {"acme": 2}
    rows.apply([(other, parked), (key(1), row(1, final=False, state="replayed")), (key(2), None)])
    assert dict(rows.parked) == {"acme": 0, "beta": 1}
    rows.load({})
    assert rows.parked == {}
