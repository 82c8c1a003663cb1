"""Mends a lead before it is sent back: a JSON Patch (RFC 6902) over the whole message, or fields under other names."""

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
from stream_app.domain.lead.lead import Unreadable, identify, read_lead
from stream_app.domain.lead.resolve import body_of
from stream_app.domain.messages import Lead
from stream_app.domain.record import ConsumedRecord
from stream_app.replay.document import read_document, write_document

Transform = Callable[[Any], Any]
"""The JSON document of a lead -> another one. Raises EditError where it cannot be applied."""

WhyNot = Callable[[Lead, str], str]
"""A lead, and the destination that its letter names -> why it cannot be sent there; '' if it can."""


class EditError(ValueError):
    """Why a letter must not go as it was mended."""


def from_patch(path: Path) -> Transform:
    """A JSON Patch in a file. Raises SettingsError when it is none."""
    try:
        operations = json.loads(path.read_text(encoding="utf-8"))
        jsonpatch.JsonPatch(operations)
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from None
    except (ValueError, TypeError, KeyError, AttributeError, jsonpatch.JsonPatchException) as error:
        raise SettingsError([f"{path}: is no JSON Patch: {error}"]) from None

    def apply(document: Any) -> Any:
        try:
            # A copy: jsonpatch changes a patch's own values when a later operation works on what it added.
            return jsonpatch.apply_patch(document, copy.deepcopy(operations))
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError) as error:
            raise EditError(f"the patch does not apply: {type(error).__name__}") from None

    return apply


def from_mapping(names: Mapping[str, str]) -> Transform:
    """Fields under new names: new -> old. A lead that has no such field stays as it is."""

    def apply(document: Any) -> Any:
        fields = document.get("fields") if isinstance(document, dict) else None
        if not isinstance(fields, dict):
            raise EditError("it has no fields to map")
        moved = {new: fields[old] for new, old in names.items() if old in fields}
        kept = {name: value for name, value in fields.items() if name not in names.values()}
        return {**document, "fields": {**kept, **moved}}

    return apply


def sendable(settings: Settings) -> WhyNot:
    """By the columns of the destination."""

    def why_not(lead: Lead, named: str) -> str:
        alias = settings.destination_of(lead.workspace or "", lead.destination or named or None)
        if alias is None:
            return "the configuration has no such workspace or destination"
        body = body_of(lead, settings.destinations[alias].columns, {})
        return body.text if isinstance(body, Unreadable) else ""

    return why_not


def never_sent(value: bytes | None, key: bytes | None, named: str, why_not: WhyNot, now_ms: int) -> str:
    """Why a letter's value can never be sent without an edit; '' if it can.

    Args:
        value: The letter's value.
        key: The letter's key.
        named: The destination that the letter names, or ''.
        why_not: As `sendable` gives it.
        now_ms: The time, by which the lead may be too old.
    """
    lead = read_lead(value, key)
    if isinstance(lead, Unreadable):
        return lead.text
    if identify(lead) is None:
        return "it has no identity"
    if lead.not_after_ms is not None and lead.not_after_ms <= now_ms:
        return "it is too old to be sent"
    return why_not(lead, named)


def transformed(transform: Transform, letter: ConsumedRecord, why_not: WhyNot, *, same_lead: bool) -> bytes:
    """The mended value, checked as the line will. Raises EditError with the reason where it is no good.

    same_lead  it goes on with its own story, so it must stay the same lead at the same destination.
    """
    try:
        document = read_document(letter.value)
    except ValueError:
        raise EditError("its value is not JSON: export it, mend it by hand, and import it") from None
    try:
        mended = write_document(transform(document))
    except EditError:
        raise
    except (ValueError, RecursionError):  # a patch walks down to where it applies
        raise EditError("it would not be JSON: export it, mend it by hand, and import it") from None
    check(mended, letter, why_not, same_lead=same_lead)
    return mended


def check(mended: bytes, letter: ConsumedRecord, why_not: WhyNot, *, same_lead: bool) -> None:
    """Raises EditError when a mended value is no lead, none that can be sent, or (`same_lead`) another than before."""
    lead = read_lead(mended, letter.key)
    if isinstance(lead, Unreadable):
        raise EditError(f"it would be no lead: {lead.text}")
    old = read_lead(letter.value, letter.key)
    if same_lead and not isinstance(old, Unreadable) and _who(old) != _who(lead):
        raise EditError("it would be another lead: publish that as a new one")
    if why := why_not(lead, (letter.header(HEADERS["destination"]) or "") if same_lead else ""):
        raise EditError(f"it could not be sent: {why}")


def changes(before: bytes | None, after: bytes, *, values: bool) -> list[str]:
    """What differs, one JSON Patch operation a line; values only where `values` says so: they are personal data."""
    try:
        old = read_document(before)
    except ValueError:
        old = None
    try:
        operations = jsonpatch.make_patch(old, read_document(after)).patch
    except RecursionError:
        return ["it is nested too deep to show what differs"]
    return [
        f"{each['op']} {each['path'] or '/'}"
        + (f" from {each['from']}" if "from" in each else "")
        + (f" = {json.dumps(each['value'], ensure_ascii=False)}" if values and "value" in each else "")
        for each in operations
    ]


def _who(lead: Lead) -> tuple[str | None, str | None, str | None, bool]:
    who = identify(lead)
    return (who.lead_id if who else None, lead.workspace, lead.destination, lead.force)
