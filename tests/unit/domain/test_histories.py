"""The history of one record, event by event: what counts, and what is wrong with it."""

import pytest

from stream_app.domain.books.records import Event, RecordHistory, advance

DOUBLE, GAP, BEGINS, ILLEGAL = "a double", "a gap", "its first event is missing", "no legal step"
Step = tuple[str, int]


@pytest.mark.parametrize(
    ("steps", "kept", "said", "last", "headless", "rerouted"),
    [
        ((("received", 1), ("sending", 2), ("accepted", 3)), True, ("", "", ""), ("accepted", 3), False, False),
        ((("received", 1), ("received", 1)), True, ("", DOUBLE), ("received", 1), False, False),
        ((("received", 1), ("sending", 2), ("received", 1)), True, ("", "", DOUBLE), ("sending", 2), False, False),
        ((("received", 1), ("accepted", 3)), True, ("", GAP), ("accepted", 3), False, False),
        ((("received", 1), ("enriched", 2)), True, ("", ILLEGAL), ("enriched", 2), False, False),
        ((("rerouted", 1),), True, ("",), ("rerouted", 1), False, True),
        ((("rerouted", 1), ("received", 2)), True, ("", ""), ("received", 2), False, True),
        ((("received", 2), ("rerouted", 1)), True, ("", ""), ("received", 2), True, True),
        ((("received", 2), ("rerouted", 1), ("rerouted", 1)), True, ("", "", DOUBLE), ("received", 2), True, True),
        ((("received", 1), ("rerouted", 2)), True, ("", ILLEGAL), ("rerouted", 2), False, False),
        ((("sending", 2),), True, (BEGINS,), ("sending", 2), True, False),
        ((("sending", 2),), False, ("",), ("sending", 2), True, False),
        ((("accepted", 3),), True, (GAP,), ("accepted", 3), False, False),
        ((("accepted", 3), ("enriched", 4)), False, ("", ""), ("enriched", 4), True, False),
        ((("sending", 1),), True, (ILLEGAL,), ("sending", 1), False, False),
    ],
)
def test_what_a_history_says(
    steps: tuple[Step, ...], kept: bool, said: tuple[str, ...], last: Step, headless: bool, rerouted: bool
) -> None:
    history = RecordHistory()
    for (status, seq), problem in zip(steps, said, strict=True):
        event = Event("crm-1", status, seq, seq * 10, "leads/0/1", "acme")
        counts, found = advance(history, event, kept=kept)
        assert (counts, found.endswith(problem), bool(found)) == (problem != DOUBLE, True, bool(problem)), found
    assert (history.status, history.seq, history.at_ms) == (*last, last[1] * 10)
    assert (history.lead_id, history.headless, history.rerouted) == ("crm-1", headless, rerouted)
