"""Markers are deleted when the group has passed their records; the passed offset stays."""

from stream_app.domain.delivery.state_machine import mark_key
from stream_app.partition.rows import ProcessedMarkers
from tests.partition.virtual import consumed


def test_only_passed_markers_are_deleted_and_the_offset_is_written_with_them() -> None:
    marks = ProcessedMarkers(0)
    for offset in (3, 1, 7):
        marks.note(mark_key(f"leads/0/{offset}"))
    assert marks.drop_passed(lambda topic: None) == []
    assert marks.drop_passed(lambda topic: 3) == []  # the first in order of time is not passed: no search behind it
    rows = marks.drop_passed(lambda topic: 5)
    assert rows == [(b"o/leads/0/3", None), (b"o/leads/0/1", None), (b"c/leads", b"5")]
    assert marks.is_passed(consumed(4))
    assert not marks.is_passed(consumed(5))


def test_a_topic_without_a_stream_delays_no_other() -> None:
    marks = ProcessedMarkers(0)
    marks.note(mark_key("leads.bulk/0/1"))
    marks.note(mark_key("leads/0/1"))
    rows = marks.drop_passed({"leads": 2}.get)
    assert (b"o/leads/0/1", None) in rows
    assert (b"o/leads.bulk/0/1", None) not in rows


def test_the_marker_of_another_partition_stays() -> None:
    marks = ProcessedMarkers(0)
    marks.note(mark_key("leads/1/1"))
    assert marks.drop_passed(lambda topic: 100) == []


def test_a_take_over_reads_markers_and_offsets() -> None:
    marks = ProcessedMarkers(0)
    rows = {b"o/leads/0/8": b"1", b"c/leads": b"6", b"d/acme/main/a": b"..."}
    marks.load(rows)
    assert rows.keys() == {b"o/leads/0/8", b"d/acme/main/a"}
    assert marks.is_passed(consumed(5))
    assert marks.drop_passed(lambda topic: 9) == [(b"o/leads/0/8", None), (b"c/leads", b"9")]
