"""Mending leads: what the patch says and nothing else, checked as the line would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_app.core.errors import SettingsError
from stream_app.replays.transform import CannotMend, changes, from_mapping, from_patch, transformed

LEAD = {"workspace": "acme", "lead_id": "crm-1", "fields": {"mail": "ada@example.com", "title": "CEO"}}


def patch(tmp_path: Path, operations: Any) -> Path:
    path = tmp_path / "patch.json"
    path.write_text(json.dumps(operations))
    return path


def encoded(lead: Any) -> bytes:
    return json.dumps(lead).encode()


def test_a_patch(tmp_path: Path) -> None:
    apply = from_patch(patch(tmp_path, [{"op": "move", "from": "/fields/mail", "path": "/fields/email"}]))
    mended = json.loads(transformed(apply, encoded(LEAD), b"acme", same_lead=True))
    assert mended["fields"] == {"email": "ada@example.com", "title": "CEO"}


def test_a_patch_is_the_same_for_every_lead(tmp_path: Path) -> None:
    operations = [{"op": "add", "path": "/fields", "value": {}}, {"op": "add", "path": "/fields/title", "value": "x"}]
    apply = from_patch(patch(tmp_path, operations))
    assert apply(LEAD) == apply(LEAD)
    assert apply(LEAD)["fields"] == {"title": "x"}
    assert LEAD["fields"] == {"mail": "ada@example.com", "title": "CEO"}


def test_a_mapping() -> None:
    mended = json.loads(transformed(from_mapping({"email": "mail"}), encoded(LEAD), b"acme", same_lead=True))
    assert mended["fields"] == {"email": "ada@example.com", "title": "CEO"}


@pytest.mark.parametrize(
    ("operations", "why"),
    [
        ([{"op": "remove", "path": "/fields/email"}], "does not apply"),
        ([{"op": "test", "path": "/fields/title", "value": "CFO"}], "does not apply"),
        ([{"op": "remove", "path": "/fields"}], "no lead"),
        ([{"op": "replace", "path": "/lead_id", "value": "crm-2"}], "another lead"),
        ([{"op": "add", "path": "/destination", "value": "firms"}], "another lead"),
    ],
)
def test_what_must_not_go(tmp_path: Path, operations: Any, why: str) -> None:
    with pytest.raises(CannotMend, match=why) as caught:
        transformed(from_patch(patch(tmp_path, operations)), encoded(LEAD), b"acme", same_lead=True)
    assert "ada@" not in str(caught.value)


def test_poison_may_become_whoever_it_is(tmp_path: Path) -> None:
    apply = from_patch(patch(tmp_path, [{"op": "replace", "path": "/lead_id", "value": "crm-2"}]))
    assert json.loads(transformed(apply, encoded(LEAD), b"acme", same_lead=False))["lead_id"] == "crm-2"
    with pytest.raises(CannotMend, match="not JSON"):
        transformed(apply, b"\xff", b"acme", same_lead=False)
    with pytest.raises(CannotMend, match="no fields"):
        transformed(from_mapping({"a": "b"}), b"[]", b"acme", same_lead=False)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"[" * 10_000 + b"]" * 10_000, "not JSON"),
        (b'{"lead_id": NaN}', "not JSON"),
        (encoded({**LEAD, "fields": {"mail": "half \ud800"}}), "would not be JSON"),
        (encoded(LEAD).replace(b'"CEO"', b"1e999"), "would not be JSON"),
        (encoded(LEAD).replace(b'"CEO"', b"[" * 400 + b"]" * 400), "would"),
    ],
)
def test_a_hostile_letter_is_refused_and_stops_no_others(tmp_path: Path, value: bytes, why: str) -> None:
    """Seen: one of these ended the whole run with a traceback."""
    moved = from_patch(patch(tmp_path, [{"op": "add", "path": "/source", "value": "x"}]))
    for transform in (from_mapping({"email": "mail"}), moved):
        with pytest.raises(CannotMend, match=why):
            transformed(transform, value, b"acme", same_lead=True)
    assert changes(value, encoded(LEAD), values=True)


@pytest.mark.parametrize("operations", [{"op": "add"}, [{"op": "fly", "path": "/x"}], [{"op": "add"}], 7, None])
def test_what_is_no_patch(tmp_path: Path, operations: Any) -> None:
    with pytest.raises(SettingsError, match="no JSON Patch"):
        from_patch(patch(tmp_path, operations))
    with pytest.raises(SettingsError, match="cannot be read"):
        from_patch(tmp_path / "nowhere.json")


def test_the_diff_shows_values_only_when_asked() -> None:
    after = transformed(from_mapping({"email": "mail"}), encoded(LEAD), b"acme", same_lead=True)
    shown = "\n".join(changes(encoded(LEAD), after, values=False))
    assert "/fields/email" in shown
    assert "ada@" not in shown
    replaced = encoded({**LEAD, "fields": {"mail": "b@example.com"}})
    assert "b@example.com" in "\n".join(changes(encoded(LEAD), replaced, values=True))
