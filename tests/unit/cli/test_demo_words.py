"""What the demo says at its end."""

from stream_app.cli.demo import unanswered_text


def test_one_lead_without_an_answer_is_not_told_as_many() -> None:
    waits = "got no answer and waits for a person, because sending again could pay twice."
    assert unanswered_text(1) == f"1 lead that Clay accepted {waits}"
    assert unanswered_text(2) == f"2 leads that Clay accepted {waits.replace('waits', 'wait')}"
