"""How many records one stands for."""

import pytest

from stream_app.domain.model.records import LeftOut, Reduced, records_of


@pytest.mark.parametrize(("records", "stands_for"), [(0, 1), (1, 1), (180, 180)])
def test_a_record_of_which_something_was_left_out_stands_for_itself_at_least(
    records: int,
    stands_for: int,
) -> None:
    assert records_of(Reduced(LeftOut("batch_too_large", records=records))) == stands_for


def test_any_other_record_stands_for_itself() -> None:
    assert records_of(()) == 1
