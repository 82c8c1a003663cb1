"""Dead letters as they are exported, and as `publish` reads them again."""

import base64
import io
import json
from typing import Any

import pytest

from stream_app.client.publish.rows import read_jsonl
from stream_app.domain.lead.read import Unreadable
from stream_app.domain.model.records import ConsumedRecord
from stream_app.replay.inspect import line_of

HOSTILE = [
    b"[" * 10_000 + b"]" * 10_000,
    b'{"fields": {"email": "half \\ud800"}}',
    b'{"fields": {"n": 1e999}}',
    b'{"fields": {"n": NaN}}',
    b"\xff",
    b"",
]
PEOPLE = {"email": "ada@example.com"}


def line(value: bytes, key: bytes = b"acme", **headers: str) -> str:
    """The line of a dead letter in a configuration with the workspaces acme and beta."""
    pairs = tuple(
        (f"stream-app-{name.replace('_', '-')}", text.encode()) for name, text in headers.items()
    )
    dead_letter = ConsumedRecord("leads.dlq", 0, 7, key, value, pairs)
    return line_of(dead_letter, dict(pairs), {"acme", "beta"})


def published(text: str) -> Any:
    """What `publish` reads of a line."""
    (row,) = read_jsonl(io.BytesIO(f"{text}\n".encode()))
    return row.draft


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_that_is_not_json_is_exported_as_base64_and_not_published(value: bytes) -> None:
    """Seen: half a character in one dead letter ended the whole export."""
    text = line(value, key=b"\xff", reason="\xff", disposition="poison")
    assert base64.b64decode(json.loads(text)["value_base64"]) == value
    refused = published(text)
    assert isinstance(refused, Unreadable)
    assert "write one as lead" in refused.text


def test_a_lead_is_exported_as_readable_json() -> None:
    assert '"lead":{"fields":{"title":"Ärztin"}}' in line(
        '{"fields": {"title": "Ärztin"}}'.encode(),
        key=b"key-1",
    )


def test_an_exported_lead_is_published_to_where_it_would_come_back() -> None:
    value = json.dumps({"fields": PEOPLE}).encode()
    text = line(value, destination="people", lead_id="p-1234567890123456789012")
    assert published(text) == {"fields": PEOPLE, "workspace": "acme", "destination": "people"}, (
        "without an id of its producer's, a corrected address makes its own"
    )


def test_an_exported_lead_keeps_what_its_producer_said_but_for_its_import() -> None:
    lead = {
        "fields": PEOPLE,
        "lead_id": "crm-1",
        "workspace": "beta",
        "destination": "firms",
        "not_after_ms": 9,
    }
    of_an_import = {"import_id": "monday", "import_summary": {"rows": 3}}
    text = line(json.dumps({**lead, **of_an_import}).encode(), destination="people")
    assert published(text) == lead, "it is no row of that file again"


def test_a_dead_letter_without_fields_can_be_corrected() -> None:
    text = line(json.dumps({"field": PEOPLE, "lead_id": "crm-1"}).encode())
    document = json.loads(text)
    document["lead"]["fields"] = document["lead"].pop("field")
    assert published(json.dumps(document)) == {
        "fields": PEOPLE,
        "lead_id": "crm-1",
        "workspace": "acme",
    }
