"""Tables at the widths of terminals, and in a pipe: whole words, fewer columns where there is no
room.
"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.cli.lane_tables import lane_tables, second
from stream_app.cli.status import _show_finding
from stream_app.cli.tables import Column, Table, lines_of
from stream_app.domain.limits.budget import MeterName
from stream_app.domain.limits.meters import Meter
from stream_app.domain.views.explain import ConsumerGroup, Facts, LaneFacts, explain
from stream_app.domain.views.lane import DestinationView, LaneView, RunsView

SAID = "Clay answered 503 and asks for another try in a while"


def dead_letters() -> Table:
    table = Table(
        Column("count", right=True),
        Column("reason"),
        Column("last", rank=2),
        Column("says", rank=1, prose=True),
    )
    table.add(7, "credits_exhausted_suspected", "2026-11-26 05:40:00Z", SAID)
    table.add(1, "http_503", "2026-11-26 05:41:00Z", "")
    return table


def test_at_80_columns_prose_is_wrapped_between_words() -> None:
    lines, left_out = lines_of(dead_letters(), 80)
    assert lines == [
        "count  reason                       says",
        "    7  credits_exhausted_suspected  Clay answered 503 and asks for another try",
        "                                    in a while",
        "    1  http_503",
    ]
    assert left_out == ["last"]


def test_in_a_pipe_a_row_is_a_line_and_nothing_is_left_out() -> None:
    lines, left_out = lines_of(dead_letters(), None)
    assert lines[1] == f"    7  credits_exhausted_suspected  2026-11-26 05:40:00Z  {SAID}"
    assert len(lines) == 3
    assert left_out == []


def test_where_not_even_the_least_fits_a_row_is_a_block() -> None:
    lines, _ = lines_of(dead_letters(), 30)
    assert lines == [
        "count",
        "7",
        "  reason: credits_exhausted_suspected",
        "1",
        "  reason: http_503",
    ]


def test_a_cell_of_others_is_one_line_and_obeyed_by_no_terminal() -> None:
    table = Table(Column("says", prose=True))
    table.add("a\nb \x1b]0;gone\x07")
    assert lines_of(table, None)[0] == ["says", "a b \ufffd]0;gone\ufffd"]


CELLS = st.text("ab _/äß语", max_size=60)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=4), st.none() | st.integers(10, 140))
def test_no_word_is_cut_at_any_width(rows: list[tuple[str, str, str]], width: int | None) -> None:
    table = Table(Column("one"), Column("two", rank=1, prose=True), Column("three", rank=2))
    for row in rows:
        table.add(*row)
    lines, left_out = lines_of(table, width)
    words = [word for line in lines for word in line.split()]
    for cells in table.rows:
        for column, cell in zip(table.columns, cells, strict=True):
            if column.title not in left_out:
                assert all(word in words for word in cell.split())


def test_without_a_worker_no_lane_is_running() -> None:
    view = LaneView("acme", 0, 1, "closed", "healthy", 99.5, 8.0)
    table, _ = lane_tables([LaneFacts("acme", 0, view, {}, ("beta",))], {}, {}, 1, works=False)
    assert table.rows[0][1] == "no worker runs, shares its partition with beta"


def test_a_sick_destination_is_not_averaged_away() -> None:
    health = {
        "people": DestinationView(38.5, "unhealthy", 70, "half_open"),
        "firms": DestinationView(99.4, "healthy", 160),
        "jobs": DestinationView(100.0, "insufficient_data", 3),
    }
    view = LaneView("acme", 0, 1, "closed", "degraded", 82.0, 8.0, destinations=health)
    _, destinations, *_ = lane_tables([LaneFacts("acme", 0, view, {}, ())], {}, {}, 1)
    assert lines_of(destinations, 80)[0] == [
        "lane  destination  health            breaker",
        "acme  people       unhealthy 38.5    half open",
        "acme  firms        healthy 99.4      closed",
        "acme  jobs         3 calls: too few  closed",
    ]
    alone = msgspec.structs.replace(view, destinations={"people": health["people"]})
    titles = [
        column.title
        for table in lane_tables([LaneFacts("acme", 0, alone, {}, ())], {}, {}, 1)
        for column in table.columns
    ]
    assert "destination" not in titles, "it has the health of its lane"


def test_lanes_and_explain_name_the_open_runs_and_the_next_poll(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now_ms = 1_790_000_000_000
    poll_ms = now_ms + 20_000
    at = second(poll_ms, now_ms, "UTC")
    view = LaneView("acme", 0, now_ms, "closed", "healthy", 99.5, 8.0)
    for runs, says, polled in (
        (RunsView(3, poll_ms), "3 runs are open", at),
        (
            RunsView(1, now_ms - 1, waits_for_rate=True),
            "1 run is open; polls wait for the rate of the lane",
            "",
        ),
    ):
        lane = LaneFacts("acme", 0, msgspec.structs.replace(view, runs=runs), {}, ())
        _, table, *_ = lane_tables([lane], {}, {}, now_ms)
        assert [column.title for column in table.columns] == ["lane", "runs", "next poll"]
        assert table.rows == [["acme", says, polled]]
        group = ConsumerGroup("Stable", 1)
        first, *_ = explain(Facts(now_ms, group, group, [lane]))
        _show_finding(first, now_ms, "UTC")
        told = capsys.readouterr().out.splitlines()
        assert told == [f"acme: {says}", *([f"    poll at {at} (UTC)"] if polled else [])]


def test_a_lane_without_a_cap_is_called_unlimited() -> None:
    meters: dict[MeterName, Meter] = {
        "credits_day": Meter("2026-11-24", 2, None, 40),
        "credits_month": Meter("2026-11", 2, None, 90),
    }
    view = LaneView("acme", 0, 1, "closed", "healthy", 99.5, 8.0, meters=meters)
    _, budgets = lane_tables([LaneFacts("acme", 0, view, {}, ())], {}, {}, 1)
    assert [row[:4] for row in budgets.rows] == [["acme", "credits today", "40", "unlimited"]]
