"""Mending leads: what the patch says and nothing else, checked as the line would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_app.config import Settings
from stream_app.config.model import Destination, Workspace
from stream_app.domain.errors import SettingsError
from stream_app.domain.record import ConsumedRecord
from stream_app.replay.edit import (
    EditError,
    Transform,
    changes,
    from_mapping,
    from_patch,
    never_sent,
    sendable,
    transformed,
)
from stream_app.replay.select import as_it_is

SETTINGS = Settings(
    workspaces={"acme": Workspace(default_destination="people")},
    destinations={
        "people": Destination("acme", ("NO_MATTER",), columns={"email": "Email", "mail": "Mail", "title": "Title"}),
        "all": Destination("acme", ("NO_MATTER",)),
    },
)
LEAD = {"workspace": "acme", "lead_id": "crm-1", "fields": {"mail": "ada@example.com", "title": "CEO"}}


def patch(tmp_path: Path, operations: Any) -> Path:
    path = tmp_path / "patch.json"
    path.write_text(json.dumps(operations))
    return path


def mend(apply: Transform, value: bytes, *, same_lead: bool) -> bytes:
    """Of a letter of acme's `people`."""
    letter = ConsumedRecord("leads.parked", 0, 7, b"acme", value, (("stream-app-destination", b"people"),))
    return transformed(apply, letter, sendable(SETTINGS), same_lead=same_lead)


def encoded(lead: Any) -> bytes:
    return json.dumps(lead).encode()


def test_a_patch(tmp_path: Path) -> None:
    apply = from_patch(patch(tmp_path, [{"op": "move", "from": "/fields/mail", "path": "/fields/email"}]))
    mended = json.loads(mend(apply, encoded(LEAD), same_lead=True))
    assert mended["fields"] == {"email": "ada@example.com", "title": "CEO"}


def test_a_patch_is_the_same_for_every_lead(tmp_path: Path) -> None:
    operations = [{"op": "add", "path": "/fields", "value": {}}, {"op": "add", "path": "/fields/title", "value": "x"}]
    apply = from_patch(patch(tmp_path, operations))
    assert apply(LEAD) == apply(LEAD)
    assert apply(LEAD)["fields"] == {"title": "x"}
    assert LEAD["fields"] == {"mail": "ada@example.com", "title": "CEO"}


def test_a_mapping() -> None:
    mended = json.loads(mend(from_mapping({"email": "mail"}), encoded(LEAD), same_lead=True))
    assert mended["fields"] == {"email": "ada@example.com", "title": "CEO"}


@pytest.mark.parametrize(
    ("operations", "why"),
    [
        ([{"op": "remove", "path": "/fields/email"}], "does not apply"),
        ([{"op": "test", "path": "/fields/title", "value": "CFO"}], "does not apply"),
        ([{"op": "remove", "path": "/fields"}], "no lead"),
        ([{"op": "replace", "path": "/lead_id", "value": "crm-2"}], "another lead"),
        ([{"op": "add", "path": "/destination", "value": "firms"}], "another lead"),
        ([{"op": "add", "path": "/force", "value": True}], "another lead"),
        ([{"op": "add", "path": "/fields/title", "value": "x" * 9_000}], "more than the 8192 bytes"),
        ([{"op": "add", "path": "/fields", "value": {"twitter": "@ada"}}], "No field of the lead has a column"),
    ],
)
def test_what_must_not_go(tmp_path: Path, operations: Any, why: str) -> None:
    with pytest.raises(EditError, match=why) as caught:
        mend(from_patch(patch(tmp_path, operations)), encoded(LEAD), same_lead=True)
    assert "ada@" not in str(caught.value)


def test_what_the_configuration_does_not_know_must_not_go(tmp_path: Path) -> None:
    for operation in ({"path": "/destination", "value": "peple"}, {"path": "/workspace", "value": "nobody"}):
        apply = from_patch(patch(tmp_path, [{"op": "add", **operation}]))
        with pytest.raises(EditError, match="no such workspace or destination"):
            mend(apply, encoded(LEAD), same_lead=False)


def test_all_fields_together_must_fit(tmp_path: Path) -> None:
    many = {f"note{number}": "x" * 8_000 for number in range(12)}
    apply = from_patch(patch(tmp_path, [{"op": "add", "path": "/fields", "value": many | {"name": "y" * 4_000}}]))
    lead = {"workspace": "acme", "lead_id": "crm-1", "destination": "all", "fields": {"title": "CEO"}}
    with pytest.raises(EditError, match="larger than the 100 KB"):
        mend(apply, encoded(lead), same_lead=True)


def test_a_letter_that_holds_nothing_of_its_lead_does_not_go() -> None:
    for value in (None, b""):
        letter = ConsumedRecord("leads.parked", 0, 7, b"acme", value)
        with pytest.raises(ValueError, match="publish the lead anew"):
            as_it_is(letter, True)
        assert as_it_is(letter, False) == value, "poison: that is what was wrong with it"


def test_poison_may_become_whoever_it_is(tmp_path: Path) -> None:
    apply = from_patch(patch(tmp_path, [{"op": "replace", "path": "/lead_id", "value": "crm-2"}]))
    assert json.loads(mend(apply, encoded(LEAD), same_lead=False))["lead_id"] == "crm-2"
    with pytest.raises(EditError, match="not JSON"):
        mend(apply, b"\xff", same_lead=False)
    with pytest.raises(EditError, match="no fields"):
        mend(from_mapping({"a": "b"}), b"[]", same_lead=False)


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
        with pytest.raises(EditError, match=why):
            mend(transform, value, same_lead=True)
    assert changes(value, encoded(LEAD), values=True)


@pytest.mark.parametrize("operations", [{"op": "add"}, [{"op": "fly", "path": "/x"}], [{"op": "add"}], 7, None])
def test_what_is_no_patch(tmp_path: Path, operations: Any) -> None:
    with pytest.raises(SettingsError, match="no JSON Patch"):
        from_patch(patch(tmp_path, operations))
    with pytest.raises(SettingsError, match="cannot be read"):
        from_patch(tmp_path / "nowhere.json")


def test_the_diff_shows_values_only_when_asked() -> None:
    after = mend(from_mapping({"email": "mail"}), encoded(LEAD), same_lead=True)
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
def test_what_can_never_be_sent(value: bytes, named: str, says: str) -> None:
    why = never_sent(value, b"acme", named, sendable(SETTINGS), NOW_MS)
    assert says in why
    assert bool(why) == bool(says)
