"""What `stream-app status` says of a lead of which nothing is known."""

import pytest

from stream_app.cli.status import _unknown
from stream_app.client.answers import WaitingAnswer


@pytest.mark.parametrize(
    ("searched", "left", "problem", "says"),
    [
        (30, 0, "", "The lead is unknown, and no record of it waits on Kafka"),
        (30, 70, "", "It may still wait on Kafka: 30 waiting records were searched, 70 were not"),
        (0, 0, "Kafka did not answer: ask again", "0 were not (Kafka did not answer: ask again)"),
    ],
)
def test_a_search_that_is_not_complete_says_so(searched: int, left: int, problem: str, says: str) -> None:
    answer = WaitingAnswer(as_of_ms=1, lag=0, trouble="", leads=[], searched=searched, left=left, problem=problem)
    assert says in _unknown(answer)
