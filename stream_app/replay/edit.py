"""Edits of a dead letter before it is sent back: a JSON Patch (RFC 6902) of the message, or renamed fields."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonpatch

from stream_app.config import Settings
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.errors import SettingsError
from stream_app.domain.lead.identity import identify_cleaned
from stream_app.domain.lead.lead import Unreadable, read_lead
from stream_app.domain.lead.resolve import body_of
from stream_app.domain.messages import Lead
from stream_app.domain.record import ConsumedRecord
from stream_app.replay.document import read_document, write_document

Transform = Callable[[Any], Any]
"""Edit the JSON document of a lead. Raises EditError if the edit does not apply."""

Edit = Callable[[ConsumedRecord, bool], bytes | None]
"""Return the value to send for a dead letter; the flag: the lead continues its delivery. ValueError: do not send."""

LeadCheck = Callable[[Lead, str], str]
"""Return why a lead cannot be sent to the destination that its dead letter names; '' if it can."""


class EditError(ValueError):
    """An edited dead letter must not be sent; the text says why."""


def read_patch(path: Path) -> list[dict[str, Any]]:
    """Read a JSON Patch from a file. Raises SettingsError if the file cannot be read, or is none."""
    try:
        operations: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        jsonpatch.JsonPatch(operations)
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from None
    except (ValueError, TypeError, KeyError, AttributeError, jsonpatch.JsonPatchException) as error:
        raise SettingsError([f"{path}: is not a JSON Patch: {error}"]) from None
    return operations


def from_patch(operations: list[dict[str, Any]]) -> Transform:
    """Return the edit of a JSON Patch."""

    def apply(document: Any) -> Any:
        try:
            # A copy: jsonpatch changes a patch's own values when a later operation works on what it added.
            return jsonpatch.apply_patch(document, copy.deepcopy(operations))
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError) as error:
            raise EditError(f"the patch does not apply: {type(error).__name__}") from None

    return apply


def from_mapping(names: Mapping[str, str]) -> Transform:
    """Rename fields, given as new name -> old name. A lead without the old field stays unchanged."""

    def apply(document: Any) -> Any:
        fields = document.get("fields") if isinstance(document, dict) else None
        if not isinstance(fields, dict):
            raise EditError("it has no fields to map")
        moved = {new: fields[old] for new, old in names.items() if old in fields}
        kept = {name: value for name, value in fields.items() if name not in names.values()}
        return {**document, "fields": {**kept, **moved}}

    return apply


def edit_of(settings: Settings, patch: list[dict[str, Any]] | None, renames: Mapping[str, str]) -> Edit:
    """Return the edit of a JSON Patch or of renamed fields; without either, dead letters stay unchanged."""
    if patch is None and not renames:
        return unchanged
    transform = from_mapping(renames) if patch is None else from_patch(patch)
    check_lead = sendable(settings)

    def edit(dead_letter: ConsumedRecord, same_lead: bool) -> bytes:
        return transformed(transform, dead_letter, check_lead, same_lead=same_lead)

    return edit


def unchanged(dead_letter: ConsumedRecord, same_lead: bool) -> bytes | None:
    """Return the dead letter's own value. Raises ValueError if it has none although its lead is to be sent."""
    if same_lead and not dead_letter.value:
        raise ValueError("it no longer holds its lead: publish the lead again")
    return dead_letter.value


def sendable(settings: Settings) -> LeadCheck:
    """Check leads against the columns of their destination."""

    def check_lead(lead: Lead, named: str) -> str:
        alias = settings.destination_of(lead.workspace or "", lead.destination or named or None)
        if alias is None:
            return "the configuration has no such workspace or destination"
        body = body_of(lead, settings.destinations[alias].columns, {})
        return body.text if isinstance(body, Unreadable) else ""

    return check_lead


def never_sent(value: bytes | None, key: bytes | None, named: str, check_lead: LeadCheck, now_ms: int) -> str:
    """Return why a dead letter's value cannot be sent without an edit; '' if it can.

    `named`: the destination that the dead letter names, or ''. `check_lead` is what `sendable` returns.
    """
    lead = read_lead(value, key)
    if isinstance(lead, Unreadable):
        return lead.text
    if identify_cleaned(lead) is None:
        return "it has no identity"
    if lead.not_after_ms is not None and lead.not_after_ms <= now_ms:
        return "it is too old to be sent"
    return check_lead(lead, named)


def transformed(transform: Transform, dead_letter: ConsumedRecord, check_lead: LeadCheck, *, same_lead: bool) -> bytes:
    """Edit a dead letter's value and check it as the lead pipeline will.

    `same_lead`: the lead continues its delivery, so it must stay the same lead at the same destination. `check_lead` is
    what `sendable` returns.

    Raises:
        EditError: The value cannot be edited, or cannot be sent afterwards.
    """
    try:
        document = read_document(dead_letter.value)
    except ValueError:
        raise EditError("its value is not JSON: export it, edit it by hand, and import it") from None
    try:
        edited = write_document(transform(document))
    except EditError:
        raise
    except (ValueError, RecursionError):  # jsonpatch recurses into the document
        raise EditError("it would not be JSON: export it, edit it by hand, and import it") from None
    check(edited, dead_letter, check_lead, same_lead=same_lead)
    return edited


def check(edited: bytes, dead_letter: ConsumedRecord, check_lead: LeadCheck, *, same_lead: bool) -> None:
    """Check an edited value. Raises EditError if it is no lead, cannot be sent, or (`same_lead`) is another lead."""
    lead = read_lead(edited, dead_letter.key)
    if isinstance(lead, Unreadable):
        raise EditError(f"the edited value is not a lead: {lead.text}")
    old = read_lead(dead_letter.value, dead_letter.key)
    if same_lead and not isinstance(old, Unreadable) and _who(old) != _who(lead):
        raise EditError("the edit makes it another lead: publish that one as a new lead")
    if why := check_lead(lead, (dead_letter.header(HEADERS["destination"]) or "") if same_lead else ""):
        raise EditError(f"it still cannot be sent: {why}")


def changes(before: bytes | None, after: bytes, *, values: bool) -> list[str]:
    """Describe the difference as JSON Patch operations, one per line; `values` includes values (personal data)."""
    try:
        old = read_document(before)
    except ValueError:
        old = None
    try:
        operations = jsonpatch.make_patch(old, read_document(after)).patch
    except RecursionError:
        return ["it is nested too deep to show the difference"]
    return [
        f"{each['op']} {each['path'] or '/'}"
        + (f" from {each['from']}" if "from" in each else "")
        + (f" = {json.dumps(each['value'], ensure_ascii=False)}" if values and "value" in each else "")
        for each in operations
    ]


def _who(lead: Lead) -> tuple[str | None, str | None, str | None, bool]:
    who = identify_cleaned(lead)
    return (who.lead_id if who else None, lead.workspace, lead.destination, lead.force)
