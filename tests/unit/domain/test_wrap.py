"""Lines for a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.text import wrapped

SAID = (
    "Clay goes down for 15 s. A few leads fail and become dead letters; then the breaker opens, and the rest waits in "
    "Kafka: nothing is lost, nothing is paid."
)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_break_between_words(width: int) -> None:
    lines = wrapped(SAID, width).split("\n")
    assert all(len(line) <= width for line in lines)
    assert " ".join(lines) == SAID


@given(st.text("ab c\n-", max_size=300), st.integers(5, 100), st.integers(0, 9))
def test_no_word_is_cut_or_lost(text: str, width: int, hang: int) -> None:
    assert wrapped(text, width, hang).split() == text.split()


def test_a_line_keeps_its_indent_and_a_command_stays_whole() -> None:
    text = "    lifts   repair the cause, then run: stream-app lanes resume acme\nnext"
    assert wrapped(text, 80) == text
    assert wrapped(text, 60) == ("    lifts   repair the cause, then run:\n    stream-app lanes resume acme\nnext")
