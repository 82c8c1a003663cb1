"""Reads a lead from the bytes of a record, cleans and identifies it, and builds the row for Clay.

Nothing here raises on bad input: any bytes give a `Lead` or an `Unreadable`. The rules of cleaning and identity are in
docs/reference/clay.md ("Lead data") and docs/identity.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from stream_app.domain.lead.free_mail import is_free_mail
from stream_app.domain.lead.pseudonyms import current, digest, former_digests
from stream_app.domain.messages import Lead, Scalar
from stream_app.domain.record import murmur2

MAX_LEAD_BYTES: Final = 102_400
"""The largest payload that Clay accepts (docs/reference/clay.md, "Inbound")."""

MAX_CELL_BYTES: Final = 8_192
"""The largest usual cell of a Clay table, as UTF-8 (docs/reference/clay.md, "Inbound")."""


class Unreadable(msgspec.Struct, frozen=True):
    """Why a record is not a lead. `text` is for people and never repeats the input.

    Attributes:
        reason: A stable code.
        text: The reason in words.
        workspace: The workspace, if the record names one. Otherwise the record's key may.
        lead_id: The id under which the sender may look for the lead, if it can be read.
    """

    reason: str
    text: str
    workspace: str = ""
    lead_id: str = ""


class Identity(msgspec.Struct, frozen=True):
    """The id of a lead and hashes of its person. It holds no personal data.

    Attributes:
        lead_id: The id.
        person: The strongest hash of the person; None if only an id is known.
        people: `hashes` of the person.
        former: The same hashes under each former pepper, for look-ups.
        former_ids: Ids that the lead may have had under former peppers.
    """

    lead_id: str
    person: str | None
    people: tuple[str, ...] = ()
    former: tuple[tuple[str, ...], ...] = ()
    former_ids: tuple[str, ...] = ()


def read_lead(value: bytes | None, key: bytes | None, max_bytes: int = MAX_LEAD_BYTES) -> Lead | Unreadable:
    """Read a record's value. The resulting lead has cleaned fields, a workspace and an identity.

    Unknown top-level names are ignored. The last of duplicate keys wins. `not_after_ms` may be a string of digits.

    Args:
        value: The record's value.
        key: The record's key: the workspace of a lead that names none.
        max_bytes: The largest value that is accepted.
    """
    document = _document(value, max_bytes)
    if isinstance(document, Unreadable):
        return document
    try:
        lead = msgspec.convert(document, Lead, strict=False)
    except msgspec.ValidationError as exc:
        # msgspec's text names the place and the types, never the value; a field's name shows as [...].
        return Unreadable("invalid_lead", f"Not a valid lead: {exc}")
    workspace, given_id = lead.workspace or _text(key), plain_id(lead.lead_id.strip()) if lead.lead_id else ""
    if not workspace:
        text = "No workspace: neither in the lead nor as the record's key"
        return Unreadable("no_workspace", text, lead_id=given_id)
    if not _WORKSPACE.fullmatch(workspace):
        return Unreadable("bad_workspace", "A workspace is 1 to 64 of A-Z a-z 0-9 . _ -", lead_id=given_id)
    if not all(_fits(value) for value in (*lead.fields.values(), lead.not_after_ms)):
        return Unreadable("number_out_of_range", "A number has more than 64 bits: send it as text", workspace, given_id)
    lead = msgspec.structs.replace(lead, workspace=workspace, fields=normalise(lead.fields))
    if not _says_who(lead):
        return Unreadable(
            "no_identity",
            "No identity: give linkedin_url, email, domain + first_name + last_name, or lead_id and a field",
            workspace,
            given_id,
        )
    return lead


def _document(value: bytes | None, max_bytes: int) -> dict[str, Any] | Unreadable:
    """Return the JSON object in the bytes, or why there is none."""
    if value is None:
        return Unreadable("tombstone", "The record has no value (a tombstone)")
    if not value:
        return Unreadable("empty", "The record's value is empty")
    if len(value) > max_bytes:
        text = f"The record has {len(value)} bytes, more than the {max_bytes} that Clay takes"
        return Unreadable("oversize", text)
    try:
        document = msgspec.json.decode(value)
    except RecursionError:
        return Unreadable("nested_too_deep", "The JSON is nested too deep")
    except UnicodeDecodeError:
        return Unreadable("not_utf8", "The value is not UTF-8")
    except ValueError:
        return Unreadable("not_json", "The value is not JSON")
    if not isinstance(document, dict):
        return Unreadable("not_an_object", "The value is JSON, but not an object")
    return document


def _text(raw: bytes | None) -> str:
    """Return a key as text. Bytes that are not UTF-8 become characters that no workspace name may have."""
    return (raw or b"").decode("utf-8", "replace")


def _fits(value: Scalar) -> bool:
    """Return True if other JSON readers can hold the number: they have 64 bits, Python has no limit."""
    return not isinstance(value, int) or -(2**63) <= value < 2**64


_WORKSPACE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def normalise(fields: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the fields as they are sent to Clay, which compares exactly. A second call changes nothing.

    A known field without a usable value (blank, not an e-mail, a free-mail domain) is left out. Unknown fields stay
    unchanged.
    """
    cleaned: dict[str, Scalar] = {}
    for name, value in fields.items():
        clean = _CLEANERS.get(name)
        if clean is None or not isinstance(value, str):
            if clean is None or (value is not None and clean is tidy):
                cleaned[name] = value
            continue
        if text := clean(value):
            cleaned[name] = text
    return cleaned


_remembered: Final = lru_cache(64)  # a lead's values are cleaned twice: when it is read and when it is identified


def tidy(text: str) -> str:
    """Return names, titles and phones in NFC, without invisible characters, with single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    return " ".join(text.split())


def _lower(text: str) -> str:
    return tidy(tidy(text).lower())


@_remembered
def clean_email(text: str) -> str:
    """Return a mail address in lower case with a punycode domain and without `mailto:`; "" if it is none."""
    address = _lower(text)
    while address.startswith("mailto:"):
        address = address.removeprefix("mailto:").partition("?")[0].strip()
    local, _, domain = address.rpartition("@")
    host = _host(domain)
    return f"{local}@{host}" if host and _LOCAL_PART.fullmatch(local) else ""


@_remembered
def clean_domain(text: str) -> str:
    """Return a company's domain as punycode; "" if it is none or a free-mail domain.

    Scheme, user, path, port and `www.` are removed.
    """
    rest = _lower(text)
    rest = rest.rpartition("://")[2] if "://" in rest else rest
    rest = re.split(r"[/?#\\]", rest, maxsplit=1)[0].rpartition("@")[2]
    host = _host(re.sub(r":\d*$", "", rest))
    while host.startswith("www.") and host.count(".") > 1:
        host = host.removeprefix("www.")
    return "" if is_free_mail(host) else host


@_remembered
def clean_linkedin(text: str) -> str:
    """Return `https://www.linkedin.com/in/<slug>`; "" if the URL is not a person's page on LinkedIn."""
    found = _LINKEDIN.match(tidy(text))
    if not found:
        return ""
    slug = _lower(unquote(found[1]) if "%" in found[1] else found[1])
    if not slug or _NOT_IN_SLUG.search(slug):
        return ""
    return f"https://www.linkedin.com/in/{quote(slug, safe='')}"


def _host(text: str) -> str:
    """Return a host name with at least one dot and ASCII labels; "" if it is none."""
    host = text.strip().rstrip(".")
    if not host.isascii():
        # Not the `idna` codec: it is IDNA 2003 and turns straße.de into strasse.de, a different domain.
        labels = unicodedata.normalize("NFKC", host).lower().replace("。", ".").split(".")
        host = ".".join(_ascii_label(label) for label in labels)
    return host if len(host) <= 253 and _HOST.fullmatch(host) else ""


def _ascii_label(label: str) -> str:
    if label.isascii():
        return label
    if not all(char == "-" or unicodedata.category(char)[0] in "LMN" for char in label):
        return ""
    return "xn--" + unicodedata.normalize("NFC", label).encode("punycode").decode("ascii")


_INVISIBLE: Final = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff\u00ad"))
_LOCAL_PART: Final = re.compile(r"(?!=)[^\s@<>()\[\],;:\"\\|]{1,64}")
"""No leading `=` and no `|`: such an address is a spreadsheet formula (`=cmd|calc@example.com`)."""
_HOST: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+(?!\d+$)[a-z0-9][a-z0-9-]{0,61}[a-z0-9]")
_LINKEDIN: Final = re.compile(r"(?:[a-z]+://)?(?:[a-z0-9-]+\.)*linkedin\.com/(?:mwlite/)?in/([^/?#\s]+)", re.I)
_NOT_IN_SLUG: Final = re.compile(r"[\s/?#\x00-\x1f\x7f\ufffd\ud800-\udfff]")

_CLEANERS: Final[dict[str, Callable[[str], str]]] = {
    "email": clean_email,
    "domain": clean_domain,
    "linkedin_url": clean_linkedin,
    **dict.fromkeys(("first_name", "last_name", "full_name", "company_name", "title", "phone", "country"), tidy),
}


def identify(lead: Lead) -> Identity | None:
    """Return the identity of a lead with raw or cleaned fields; None if nothing identifies it.

    The person is the first of linkedin_url, email, domain + first + last. The id is `plain_id` of the given id, or
    derived from the person.
    """
    parts = _parts(lead.fields)
    people = tuple(digest(*each) if each else "" for each in parts)
    former = _former(parts)
    person = next(filter(None, people), None)
    lead_id = (lead.lead_id or "").strip()
    if not lead_id:
        former_ids = tuple(f"p-{next(filter(None, each))}" for each in former) if person else ()
        return Identity(f"p-{person}", person, people, former, former_ids) if person else None
    if person is None and not _says_something(lead.fields):
        return None
    return Identity(plain_id(lead_id), person, people, former, former_ids_of(lead_id))


def _says_who(lead: Lead) -> bool:
    """Return True if `identify` would find an identity in cleaned fields, at a tenth of the cost."""
    fields = lead.fields
    if fields.get("linkedin_url") or fields.get("email"):
        return True
    if lead.lead_id and lead.lead_id.strip() and _says_something(fields):
        return True
    return all(isinstance(fields.get(name), str) for name in ("domain", "first_name", "last_name"))


def _says_something(fields: Mapping[str, Scalar]) -> bool:
    return any(value not in (None, "") for value in fields.values())


def plain_id(lead_id: str) -> str:
    """Return the id for rows, keys and events. A second call changes nothing.

    It is a hash if the id may hold personal data (an address, a URL), is not valid as a key, or if every id is to be
    hashed.
    """
    return f"h-{digest('id', lead_id)}" if _is_hashed(lead_id) else lead_id


def former_ids_of(lead_id: str) -> tuple[str, ...]:
    """Return what `plain_id` gave under former peppers, and the id itself from before ids were hashed."""
    if not _is_hashed(lead_id):
        return ()
    before = (lead_id,) if _PLAIN_ID.fullmatch(lead_id) else ()
    return (*(f"h-{each}" for each in former_digests("id", lead_id)), *before)


def row_id(lead_id: str) -> str:
    """Return the id of a command as rows have it. The command may already hold such an id."""
    return lead_id if is_plain_id(lead_id) else plain_id(lead_id)


def _is_hashed(lead_id: str) -> bool:
    if current().hash_lead_ids:
        return _MADE_ID.fullmatch(lead_id) is None
    return _PLAIN_ID.fullmatch(lead_id) is None


def people(fields: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Return all hashes that identify the person of these fields. The first one is the one of `identify`."""
    return tuple(filter(None, hashes(fields)))


def hashes(fields: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Return the same hashes by kind: LinkedIn URL, e-mail, name with domain; '' for one that is missing.

    Only the first two are unique to a person: two people of one name may work at one company.
    """
    return tuple(digest(*each) if each else "" for each in _parts(fields))


def former_hashes(fields: Mapping[str, Scalar]) -> tuple[tuple[str, ...], ...]:
    """Return `hashes` under each former pepper."""
    return _former(_parts(fields))


def _cleaned(fields: Mapping[str, Scalar], name: str) -> str:
    value = fields.get(name)
    return _CLEANERS[name](value) if isinstance(value, str) else ""


def _parts(fields: Mapping[str, Scalar]) -> tuple[tuple[str, ...], ...]:
    """Return the texts to hash by kind, the strongest first; () for one that is missing."""
    linkedin, email = _cleaned(fields, "linkedin_url"), _cleaned(fields, "email")
    return ("linkedin", linkedin) if linkedin else (), ("email", email) if email else (), _name(fields)


def _name(fields: Mapping[str, Scalar]) -> tuple[str, ...]:
    domain = _cleaned(fields, "domain")
    if not domain:
        return ()
    first, last = _cleaned(fields, "first_name").casefold(), _cleaned(fields, "last_name").casefold()
    return ("name", domain, first, last) if first and last else ()


def _former(parts: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    number = len(current().keys) - 1
    if not number:
        return ()
    return tuple(zip(*(former_digests(*each) if each else ("",) * number for each in parts), strict=True))


def company_domain(fields: Mapping[str, Scalar]) -> str:
    """Return the domain of the person's company: the given one, else the e-mail's unless it is free mail; else ""."""
    given, email = fields.get("domain"), fields.get("email")
    domain = clean_domain(given) if isinstance(given, str) else ""
    if not domain and isinstance(email, str):
        domain = clean_domain(clean_email(email).rpartition("@")[2])
    return domain


def company(fields: Mapping[str, Scalar]) -> str:
    """Return the hash of the company of these fields; "" if unknown."""
    domain = company_domain(fields)
    return digest("company", domain) if domain else ""


_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MADE_ID: Final = re.compile(r"[hp]-[A-Za-z0-9_-]{22}|record:.*")


def is_plain_id(text: str) -> bool:
    """Return True if `identify` may have made this id: it is valid as a key and is no address or URL."""
    return _PLAIN_ID.fullmatch(text) is not None


def home_partition(workspace: str, partitions: int, pins: Mapping[str, int]) -> int:
    """Return the partition of a workspace: its pin, else the one of Kafka's default partitioner."""
    pin = pins.get(workspace)
    return pin if pin is not None else (murmur2(workspace.encode()) & 0x7FFFFFFF) % partitions


def clay_row(
    fields: Mapping[str, Scalar], columns: Mapping[str, str], echo: Mapping[str, str]
) -> dict[str, Scalar] | Unreadable:
    """Return the flat object to send to Clay: cleaned fields under column names, and what its callback must echo.

    Args:
        fields: The lead's fields.
        columns: Lead field -> Clay column; other fields are left out. Empty: every field goes under its own name.
        echo: Column -> value (`lead_id`, `callback_token` ...). It replaces a field of the same name.
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
        return Unreadable("nothing_to_send", "No field of the lead has a column at this destination")
    return {**row, **echo}
