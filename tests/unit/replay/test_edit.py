"""Edits of dead letters: a patch or renamed fields, checked as the lead pipeline will check them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_app.config import Settings
from stream_app.domain.errors import SettingsError
from stream_app.domain.policy import Destination, Workspace
from stream_app.domain.record import ConsumedRecord
from stream_app.replay.edit import (
    EditError,
    Transform,
    changes,
    from_mapping,
    from_patch,
    never_sent,
    read_patch,
    sendable,
    transformed,
    unchanged,
)

SETTINGS = Settings(
    workspaces={"acme": Workspace("acme", "people")},
    destinations={
        "people": Destination("people", "acme", columns={"email": "Email", "mail": "Mail", "title": "Title"}),
        "all": Destination("all", "acme"),
    },
)
LEAD = {"workspace": "acme", "lead_id": "crm-1", "fields": {"mail": "ada@example.com", "title": "CEO"}}


def patch(tmp_path: Path, operations: Any) -> Path:
    path = tmp_path / "patch.json"
    path.write_text(json.dumps(operations))
    return path


def edit(apply: Transform, value: bytes, *, same_lead: bool) -> bytes:
    """Of a dead letter of acme's `people`."""
    dead_letter = ConsumedRecord("leads.parked", 0, 7, b"acme", value, (("stream-app-destination", b"people"),))
    return transformed(apply, dead_letter, sendable(SETTINGS), same_lead=same_lead)


def encoded(lead: Any) -> bytes:
    return json.dumps(lead).encode()


def test_a_patch(tmp_path: Path) -> None:
    apply = from_patch(read_patch(patch(tmp_path, [{"op": "move", "from": "/fields/mail", "path": "/fields/email"}])))
    edited = json.loads(edit(apply, encoded(LEAD), same_lead=True))
    assert edited["fields"] == {"email": "ada@example.com", "title": "CEO"}


def test_a_patch_is_the_same_for_every_lead(tmp_path: Path) -> None:
    operations = [{"op": "add", "path": "/fields", "value": {}}, {"op": "add", "path": "/fields/title", "value": "x"}]
    apply = from_patch(read_patch(patch(tmp_path, operations)))
    assert apply(LEAD) == apply(LEAD)
    assert apply(LEAD)["fields"] == {"title": "x"}
    assert LEAD["fields"] == {"mail": "ada@example.com", "title": "CEO"}


def test_a_mapping() -> None:
    edited = json.loads(edit(from_mapping({"email": "mail"}), encoded(LEAD), same_lead=True))
    assert edited["fields"] == {"email": "ada@example.com", "title": "CEO"}


@pytest.mark.parametrize(
    ("operations", "why"),
    [
        ([{"op": "remove", "path": "/fields/email"}], "does not apply"),
        ([{"op": "test", "path": "/fields/title", "value": "CFO"}], "does not apply"),
        ([{"op": "remove", "path": "/fields"}], "not a lead"),
        ([{"op": "replace", "path": "/lead_id", "value": "crm-2"}], "another lead"),
        ([{"op": "add", "path": "/destination", "value": "firms"}], "another lead"),
        ([{"op": "add", "path": "/force", "value": True}], "another lead"),
        ([{"op": "add", "path": "/fields/title", "value": "x" * 9_000}], "more than the 8192 bytes"),
        ([{"op": "add", "path": "/fields", "value": {"twitter": "@ada"}}], "No field of the lead has a column"),
    ],
)
def test_an_edit_that_makes_the_lead_unsendable_is_refused(tmp_path: Path, operations: Any, why: str) -> None:
    with pytest.raises(EditError, match=why) as caught:
        edit(from_patch(read_patch(patch(tmp_path, operations))), encoded(LEAD), same_lead=True)
    assert "ada@" not in str(caught.value)


def test_an_unknown_workspace_or_destination_is_refused(tmp_path: Path) -> None:
    for operation in ({"path": "/destination", "value": "peple"}, {"path": "/workspace", "value": "unknown"}):
        apply = from_patch(read_patch(patch(tmp_path, [{"op": "add", **operation}])))
        with pytest.raises(EditError, match="no such workspace or destination"):
            edit(apply, encoded(LEAD), same_lead=False)


def test_fields_above_the_size_limit_are_refused(tmp_path: Path) -> None:
    many = {f"note{number}": "x" * 8_000 for number in range(12)}
    apply = from_patch(
        read_patch(patch(tmp_path, [{"op": "add", "path": "/fields", "value": many | {"name": "y" * 4_000}}]))
    )
    lead = {"workspace": "acme", "lead_id": "crm-1", "destination": "all", "fields": {"title": "CEO"}}
    with pytest.raises(EditError, match="larger than the 100 KB"):
        edit(apply, encoded(lead), same_lead=True)


def test_a_dead_letter_without_its_lead_is_refused() -> None:
    for value in (None, b""):
        dead_letter = ConsumedRecord("leads.parked", 0, 7, b"acme", value)
        with pytest.raises(ValueError, match="publish the lead again"):
            unchanged(dead_letter, True)
        assert unchanged(dead_letter, False) == value, "poison: that is what was wrong with it"


def test_poison_may_become_another_lead(tmp_path: Path) -> None:
    apply = from_patch(read_patch(patch(tmp_path, [{"op": "replace", "path": "/lead_id", "value": "crm-2"}])))
    assert json.loads(edit(apply, encoded(LEAD), same_lead=False))["lead_id"] == "crm-2"
    with pytest.raises(EditError, match="not JSON"):
        edit(apply, b"\xff", same_lead=False)
    with pytest.raises(EditError, match="no fields"):
        edit(from_mapping({"a": "b"}), b"[]", same_lead=False)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"[" * 10_000 + b"]" * 10_000, "not JSON"),
        (b'{"lead_id": NaN}', "not JSON"),
        (encoded({**LEAD, "fields": {"mail": "half \ud800"}}), "would not be JSON"),
        (encoded(LEAD).replace(b'"CEO"', b"1e999"), "would not be JSON"),
        (encoded(LEAD).replace(b'"CEO"', b"[" * 400 + b"]" * 400), "not a lead|would not be JSON"),
    ],
)
def test_a_hostile_dead_letter_is_refused_without_stopping_others(tmp_path: Path, value: bytes, why: str) -> None:
    """Seen: one of these ended the whole run with a traceback."""
    moved = from_patch(read_patch(patch(tmp_path, [{"op": "add", "path": "/source", "value": "x"}])))
    for transform in (from_mapping({"email": "mail"}), moved):
        with pytest.raises(EditError, match=why):
            edit(transform, value, same_lead=True)
    assert changes(value, encoded(LEAD), values=True)


@pytest.mark.parametrize("operations", [{"op": "add"}, [{"op": "fly", "path": "/x"}], [{"op": "add"}], 7, None])
def test_an_invalid_patch_is_refused(tmp_path: Path, operations: Any) -> None:
    with pytest.raises(SettingsError, match="not a JSON Patch"):
        read_patch(patch(tmp_path, operations))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_patch(tmp_path / "nowhere.json")


def test_the_diff_hides_values_by_default() -> None:
    after = edit(from_mapping({"email": "mail"}), encoded(LEAD), same_lead=True)
    shown = "\n".join(changes(encoded(LEAD), after, values=False))
    assert "/fields/email" in shown
    assert "ada@" not in shown
    replaced = encoded({**LEAD, "fields": {"mail": "b@example.com"}})
    assert "b@example.com" in "\n".join(changes(encoded(LEAD), replaced, values=True))


NOW_MS = 1_790_000_000_000


@pytest.mark.parametrize(
    ("value", "named", "says"),
    [
        (encoded(LEAD), "people", ""),
        (encoded({**LEAD, "not_after_ms": NOW_MS + 1}), "people", ""),
        (encoded({**LEAD, "not_after_ms": NOW_MS}), "people", "too old"),
        (b"no JSON", "people", "JSON"),
        (encoded({"workspace": "acme", "fields": {}}), "people", "identity"),
        (encoded({**LEAD, "destination": "gone"}), "", "no such workspace or destination"),
        (encoded({**LEAD, "workspace": "gone"}), "", "no such workspace or destination"),
    ],
)
def test_never_sent_gives_the_reason(value: bytes, named: str, says: str) -> None:
    why = never_sent(value, b"acme", named, sendable(SETTINGS), NOW_MS)
    assert says in why
    assert bool(why) == bool(says)
