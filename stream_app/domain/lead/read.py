"""Reads a lead and its import from the bytes of a record, and builds the row for Clay.

Nothing here raises on bad input: any bytes give a `Lead` or an `Unreadable`.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from stream_app.domain.lead.fields import has_too_many_marks, normalise
from stream_app.domain.lead.identity import given_id, says_who
from stream_app.domain.model.messages import ImportSummary, Lead, Scalar
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.topics import MAX_UNPACKED_BYTES
from stream_app.domain.model.untrusted import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_KEY_BYTES,
    MAX_LEVELS,
    MAX_MARKS,
    NestedTooDeep,
    check_depth,
)

# The largest payload that Clay accepts (docs/reference/clay.md, "Inbound").
MAX_LEAD_BYTES: Final = 102_400
# The largest usual cell of a Clay table, as UTF-8 (docs/reference/clay.md, "Inbound").
MAX_CELL_BYTES: Final = 8_192
MAX_IMPORT_ID_CHARACTERS: Final = 200
_MAX_LABEL_CHARACTERS: Final = 80
_EMAIL: Final = re.compile(r"\S*@\S*")
_NUMBER: Final = re.compile(r"\+?\d{7,}")
_NONE: Final = ("", None)


class Unreadable(msgspec.Struct, frozen=True):
    """Why a record is not a lead. `text` is for people and never repeats the input."""

    reason: str  # a stable code
    text: str  # the reason in words
    workspace: str = ""  # the workspace, if the record names one; otherwise the record's key may
    lead_id: str = ""  # the id under which the sender may look for the lead, if it can be read
    of_import: tuple[str, ImportSummary | None] = ("", None)  # what `import_of` returns of a lead


TOO_DEEP: Final = Unreadable(
    "nested_too_deep",
    f"The JSON is nested too deep (more than {MAX_LEVELS} levels)",
)


class _OfImport(msgspec.Struct, frozen=True):
    """What a record says of its import, whether it is a valid lead or not."""

    import_id: str
    import_summary: ImportSummary | None = None


def read_lead(
    value: bytes | None,
    key: bytes | None,
    max_bytes: int = MAX_LEAD_BYTES,
) -> Lead | Unreadable:
    """Read a record's value. The resulting lead has cleaned fields, a workspace and an identity.

    Unknown top-level names are ignored. The last of duplicate keys wins. `not_after_ms` may be a
    string of digits. The record's key is the workspace of a lead that names none.
    """
    document = _document(value, max_bytes)
    if isinstance(document, Unreadable):
        return document
    lead = _read_document(document, key)
    if isinstance(lead, Unreadable):
        return msgspec.structs.replace(lead, of_import=_import_in(document))
    return lead


def import_id_in(value: bytes | None) -> str:
    """Return the import that a record belongs to, as its first event names it; '' if to none.

    It reads no more of the value than that, so that many dead letters can be searched.
    """
    document = _document(value, MAX_LEAD_BYTES)
    return "" if isinstance(document, Unreadable) else _import_in(document)[0]


def _import_in(document: dict[str, Any]) -> tuple[str, ImportSummary | None]:
    with suppress(msgspec.ValidationError):
        return import_of(msgspec.convert(document, _OfImport, strict=False))
    return _NONE


def what_is_left_out(
    consumed: ConsumedRecord,
    max_bytes: int = MAX_LEAD_BYTES,
) -> Unreadable | None:
    """Return why a record cannot be sent because its reader has left something out of it.

    It is None if nothing was left out.
    """
    left_out = consumed.left_out
    if left_out is None:
        return None
    if left_out.why == "batch_too_large":
        return Unreadable(
            "batch_too_large",
            f"A batch has more than {MAX_UNPACKED_BYTES >> 20} MiB once it is decompressed: "
            "stream-app dlq show --leads FILE writes its leads to a file",
        )
    if left_out.why == "key_too_long":
        return Unreadable(
            "key_too_long",
            f"The record's key has more than {MAX_KEY_BYTES} bytes: its dead letter has "
            "neither key nor headers",
        )
    if left_out.why == "too_many_headers":
        return Unreadable(
            "too_many_headers",
            f"The record has more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes "
            "of them: "
            "its dead letter has none",
        )
    return _oversize(len(consumed.value or b"") + left_out.cut_bytes, max_bytes)


def _oversize(size: int, max_bytes: int) -> Unreadable:
    return Unreadable(
        "oversize",
        f"The record has {size} bytes, more than the {max_bytes} that Clay takes",
    )


def _read_document(document: dict[str, Any], key: bytes | None) -> Lead | Unreadable:
    try:
        lead = msgspec.convert(document, Lead, strict=False)
    except msgspec.ValidationError as error:
        # msgspec's text names the place and the types, never the value; a field's name shows as
        # [...].
        return Unreadable("invalid_lead", f"Not a valid lead: {error}")
    checked = _checked(lead, lead.workspace or (key or b"").decode("utf-8", "replace"))
    if isinstance(checked, Unreadable) and lead.lead_id:
        return msgspec.structs.replace(checked, lead_id=given_id(lead.lead_id.strip()))
    return checked


def _checked(lead: Lead, workspace: str) -> Lead | Unreadable:
    """Return the lead with cleaned fields.

    No workspace has the character that replaces a bad byte of its name.
    """
    if not workspace:
        return Unreadable(
            "no_workspace",
            "No workspace: neither in the lead nor as the record's key",
        )
    if not _WORKSPACE.fullmatch(workspace):
        return Unreadable("bad_workspace", "A workspace is 1 to 64 of A-Z a-z 0-9 . _ -")
    for value in (*lead.fields.values(), lead.not_after_ms):
        # Python has no limit, but other JSON readers do.
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return Unreadable(
                "number_out_of_range",
                "A number has more than 64 bits: send it as text",
                workspace,
            )
    fields = normalise(lead.fields)
    # A value with too many marks is left out by `normalise`, so a lead that has kept all its values
    # has none of them.
    if len(fields) < len(lead.fields) and has_too_many_marks(lead.fields):
        text = f"A field has more than {MAX_MARKS} combining marks (accents) in a row: remove them"
        return Unreadable("too_many_marks", text, workspace)
    cleaned = msgspec.structs.replace(lead, workspace=workspace, fields=fields)
    if not says_who(cleaned):
        missing = (
            "No identity: give linkedin_url, email, domain + first_name + last_name, or lead_id "
            "and a field"
        )
        return Unreadable("no_identity", missing, workspace)
    return cleaned


def _document(value: bytes | None, max_bytes: int) -> dict[str, Any] | Unreadable:
    """Return the JSON object in the bytes, or why there is none."""
    if value is None:
        return Unreadable("tombstone", "The record has no value (a tombstone)")
    if not value:
        return Unreadable("empty", "The record's value is empty")
    if len(value) > max_bytes:
        return _oversize(len(value), max_bytes)
    try:
        check_depth(value)
        document = msgspec.json.decode(value)
    except NestedTooDeep:
        return TOO_DEEP
    except UnicodeDecodeError:
        return Unreadable("not_utf8", "The value is not UTF-8")
    except ValueError:
        return Unreadable("not_json", "The value is not JSON")
    if not isinstance(document, dict):
        return Unreadable("not_an_object", "The value is JSON, but not an object")
    return document


_WORKSPACE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def clay_row(
    fields: Mapping[str, Scalar],
    columns: Mapping[str, str],
    echo: Mapping[str, str],
) -> dict[str, Scalar] | Unreadable:
    """Return the flat object to send to Clay.

    It has the cleaned fields under their column names, and what the callback must echo.

    Args:
        fields: The lead's fields.
        columns: Lead field -> Clay column; other fields are left out. Empty: every field goes under
            its own name.
        echo: Column -> value (`lead_id`, `callback_token` ...). It replaces a field of the same
            name.
    """
    row: dict[str, Scalar] = {}
    for name, value in fields.items():
        column = columns.get(name) if columns else name
        if column is None or value is None:
            continue
        if isinstance(value, str) and len(value.encode()) > MAX_CELL_BYTES:
            text = f"A field has more than the {MAX_CELL_BYTES} bytes that a Clay cell takes"
            return Unreadable("cell_oversize", text)
        row[column] = value
    if not row:
        return Unreadable(
            "nothing_to_send",
            "No field of the lead has a column at this destination",
        )
    return {**row, **echo}


def new_import_id(now_ms: int, suffix: str) -> str:
    """Return a name for an import without one: its date (UTC), and a suffix to make it unique."""
    return f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m-%d}-{suffix}"


def is_shown(import_id: str) -> bool:
    """True if events may hold this name. They hold no text that may be an e-mail address."""
    return 0 < len(import_id) <= MAX_IMPORT_ID_CHARACTERS and "@" not in import_id


def import_of(lead: Lead | Unreadable | _OfImport) -> tuple[str, ImportSummary | None]:
    """Return the import of a lead, as its first event shows it.

    It is the name, and what the publisher counted.
    """
    if isinstance(lead, Unreadable):
        return lead.of_import
    if not lead.import_id or not is_shown(lead.import_id):
        return _NONE
    summary = lead.import_summary
    if summary is not None:
        summary = msgspec.structs.replace(summary, file=label(summary.file), who=label(summary.who))
    return lead.import_id, summary


def shown_workspace(name: str) -> str:
    """Return the name of a workspace that is not configured, for people.

    It is '' if the name may be personal data.
    """
    return name if _WORKSPACE.fullmatch(name) and label(name) == name else ""


def label(text: str) -> str:
    """Return a name for people, without what looks like an e-mail address or a phone number."""
    line = " ".join(text[: 4 * _MAX_LABEL_CHARACTERS].split())
    return _NUMBER.sub("[number]", _EMAIL.sub("[email]", line))[:_MAX_LABEL_CHARACTERS]
