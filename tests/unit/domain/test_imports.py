"""The names of imports, and what people see of a file's name."""

import pytest

from stream_app.domain.lead.imports import label, new_import_id


def test_a_new_import_is_named_by_its_date() -> None:
    assert new_import_id(1_790_000_000_000, "kfdwzp") == "2026-09-21-kfdwzp"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("leads.csv", "leads.csv"),
        ("leads 2026-11-26 (2).csv", "leads 2026-11-26 (2).csv"),
        ("ada@example.com.csv", "[email]"),
        ("calls to +4915112345678.csv", "calls to [number].csv"),
        ("two\nlines\tand   more", "two lines and more"),
        ("x" * 500, "x" * 80),
        ("", ""),
    ],
)
def test_a_label_has_no_address_and_no_phone_number(text: str, shown: str) -> None:
    assert label(text) == shown
