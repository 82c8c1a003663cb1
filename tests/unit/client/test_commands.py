"""What commands read of the audit topic."""

import msgspec

from stream_app.client.commands import answers_in
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.model.records import ConsumedRecord


def test_records_that_are_no_answers_are_passed_over() -> None:
    answer = CommandAnswer("c-1", True, 1, 1)
    values = (None, b"", b"{foreign", b"[" * 100_000, msgspec.json.encode(answer), b"{}")
    records = [ConsumedRecord("leads.audit", 3, offset, b"acme", value) for offset, value in enumerate(values)]
    assert list(answers_in(records)) == [(3, answer)]
