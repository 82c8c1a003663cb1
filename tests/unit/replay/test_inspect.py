"""Dead letters in a file: whatever was written to a topic comes back from it as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_app.config import Settings
from stream_app.domain.errors import SettingsError
from stream_app.domain.record import ConsumedRecord
from stream_app.replay.inspect import line_of, read_export

HOSTILE = [
    b"[" * 10_000 + b"]" * 10_000,
    b'{"fields": {"email": "half \\ud800"}}',
    b'{"fields": {"n": 1e999}}',
    b'{"fields": {"n": NaN}}',
    b"\xff",
    b"",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_that_is_not_json_is_exported_as_base64(value: bytes, tmp_path: Path) -> None:
    """Seen: half a character in one dead letter ended the whole export."""
    dead_letter = ConsumedRecord(
        "leads.dlq", 0, 7, b"\xff", value, (("stream-app-reason", b"\xff"), ("stream-app-disposition", b"poison"))
    )
    line = line_of(dead_letter, dict(dead_letter.headers))
    assert "value_base64" in json.loads(line)
    file = tmp_path / "dead-letters.jsonl"
    file.write_text(f"{line}\n", encoding="utf-8")
    (again,) = read_export(Settings(), file)
    assert (again.topic, again.partition, again.offset, again.value) == ("leads.dlq", 0, 7, value)


def test_a_lead_is_exported_as_readable_json() -> None:
    dead_letter = ConsumedRecord("leads.dlq", 0, 7, b"acme", '{"fields": {"title": "Ärztin"}}'.encode())
    assert '"lead":{"fields":{"title":"Ärztin"}}' in line_of(dead_letter, {})


@pytest.mark.parametrize("lead", ['"\\ud800"', "[" * 10_000 + "]" * 10_000, "NaN", "1e999"])
def test_invalid_json_in_an_import_is_refused_with_its_line(lead: str, tmp_path: Path) -> None:
    file = tmp_path / "dead-letters.jsonl"
    file.write_text(f'\n{{"record_id": "leads.dlq/0/7", "lead": {lead}}}\n')
    with pytest.raises(SettingsError, match="line 2: is not a line of an export"):
        list(read_export(Settings(), file))
