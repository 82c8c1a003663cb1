"""Tables at the widths of terminals, and in a pipe: whole words, fewer columns where there is no room."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream_app.cli.dlq import list_table, tally_table
from stream_app.cli.lanes import lane_tables, waiting_text
from stream_app.cli.tables import Column, Table, lines_of
from stream_app.domain.dead_letter.causes import Tally
from stream_app.domain.lane.explain import LaneFacts
from stream_app.domain.lane.view import LaneView
from stream_app.domain.limits.meters import Meter
from stream_app.domain.plan import Actor, Change
from stream_app.replay.inspect import Listed

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
    assert (len(lines), left_out) == (3, [])


def test_where_not_even_the_least_fits_a_row_is_a_block() -> None:
    lines, _ = lines_of(dead_letters(), 30)
    assert lines == ["count", "7", "  reason: credits_exhausted_suspected", "1", "  reason: http_503"]


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


NOW_MS = 1_790_000_000_000
REASONS = ("credits_exhausted_suspected", "http_503", "connect_timeout")
ANSWERED = "the circuit breaker let a probe through, and Clay answered 503 to it"


def tally() -> Table:
    counted = Tally(NOW_MS)
    for number, reason in enumerate(REASONS):
        headers = {
            "stream-app-reason": reason.encode(),
            "stream-app-disposition": b"failed",
            "stream-app-destination": b"people",
            "stream-app-reason-text": ANSWERED.encode(),
        }
        for _ in range(1_200 >> number):
            counted.add(headers, b"acme", NOW_MS - 1_000)
    return tally_table(counted.sorted())


def listed() -> Table:
    return list_table(
        [
            Listed(f"leads.dlq/0/{17 + at}", NOW_MS, "failed", reason, "acme", "people", f"crm-{at}", ANSWERED)
            for at, reason in enumerate(REASONS)
        ]
    )


def lanes() -> str:
    """The tables of two lanes, where no worker runs."""
    by = Actor("jane", "the account was topped up with more credits this morning", NOW_MS - 60_000)
    view = LaneView(
        "acme",
        0,
        NOW_MS,
        "closed",
        "healthy",
        99.5,
        8.0,
        meters={"credits_day": Meter("2026-09-21", NOW_MS + 3_600_000, 6_000, 3_000, 300)},
        changes=(Change("budget.credits_per_day", 5_000, 6_000, by),),
        p95_ms=210,
    )
    paused = msgspec.structs.replace(view, workspace="beta", holds="paused", paused_by=by, since_ms=by.at_ms)
    facts = [LaneFacts("acme", 0, view, {"leads": 1_234}, ("beta",)), LaneFacts("beta", 0, paused, {"leads": 7})]
    tables = lane_tables(facts, {}, {}, NOW_MS, works=False)
    return "\n".join(line for table in tables for line in lines_of(table, None)[0])


def test_the_tally_keeps_what_dead_letters_say_at_80_columns() -> None:
    lines, left_out = lines_of(tally(), 80)
    assert "says" not in left_out
    assert all(word in " ".join(lines) for word in ANSWERED.split())


def test_a_list_gives_the_place_that_show_takes() -> None:
    for width in (40, 80, 120):
        text = "\n".join(lines_of(listed(), width)[0])
        assert all(f"leads.dlq/0/{17 + at}" in text for at in range(3)), text


def test_without_a_worker_no_lane_is_running() -> None:
    text = lanes()
    assert "running" not in text
    assert "no worker runs, shares its partition with beta" in text
    assert "paused since" in text
    assert "budget.credits_per_day = 6000" in text


def test_what_waits_says_for_how_long_and_whose_it_is() -> None:
    assert waiting_text(1_234, NOW_MS - 720_000, NOW_MS, shared=True) == "1,234 in its partition, for 12 minutes"
    assert waiting_text(7, 0, NOW_MS, shared=False) == "7"
    assert waiting_text(0, 0, NOW_MS, shared=True) == "0"
