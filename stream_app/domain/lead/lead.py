"""A lead from the bytes of a record: read it, clean it, say who it is, where it lives, what Clay is sent.

Nothing here raises on bad input: whatever the bytes are, the answer is a `Lead` or an `Unreadable`.
Rules of cleaning and identity: clay-facts, "Lead data".
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
from stream_app.domain.murmur2 import murmur2

MAX_LEAD_BYTES: Final = 102_400
"""What one payload to Clay may hold (clay-facts, inbound)."""

MAX_CELL_BYTES: Final = 8_192
"""What an ordinary cell of a Clay table may hold, as UTF-8 (clay-facts, inbound)."""


class Unreadable(msgspec.Struct, frozen=True):
    """Why a record is no lead. `text` is for people and never repeats anything of the input.

    workspace  whose it would be, where the record says so itself; else its key may.
    lead_id    by which its sender may look for it, where that can be read.
    """

    reason: str
    text: str
    workspace: str = ""
    lead_id: str = ""


class Identity(msgspec.Struct, frozen=True):
    """Who a lead is: its id, and a hash of the person (None where only an id is known). No personal data.

    people      `hashes` of the person.
    former      the same under each former pepper, for look-ups.
    former_ids  ids that the lead may have had under former peppers.
    """

    lead_id: str
    person: str | None
    people: tuple[str, ...] = ()
    former: tuple[tuple[str, ...], ...] = ()
    former_ids: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------ read


def read_lead(value: bytes | None, key: bytes | None, max_bytes: int = MAX_LEAD_BYTES) -> Lead | Unreadable:
    """Read a record's value. The lead that comes back has cleaned fields, a workspace and an identity.

    Unknown top-level names are ignored, the last of duplicate keys wins, `not_after_ms` may be a string of
    digits.
    """
    document = _document(value, max_bytes)
    if isinstance(document, Unreadable):
        return document
    try:
        lead = msgspec.convert(document, Lead, strict=False)
    except msgspec.ValidationError as exc:
        # msgspec names the place and the types, never the value; a field's own name shows as [...].
        return Unreadable("invalid_lead", f"Not a valid lead: {exc}")
    workspace, told_id = lead.workspace or _text(key), plain_id(lead.lead_id.strip()) if lead.lead_id else ""
    if not workspace:
        text = "No workspace: neither in the lead nor as the record's key"
        return Unreadable("no_workspace", text, lead_id=told_id)
    if not _WORKSPACE.fullmatch(workspace):
        return Unreadable("bad_workspace", "A workspace is 1 to 64 of A-Z a-z 0-9 . _ -", lead_id=told_id)
    if not all(_fits(value) for value in (*lead.fields.values(), lead.not_after_ms)):
        return Unreadable("number_out_of_range", "A number has more than 64 bits: send it as text", workspace, told_id)
    lead = msgspec.structs.replace(lead, workspace=workspace, fields=normalise(lead.fields))
    if not _says_who(lead):
        return Unreadable(
            "no_identity",
            "No identity: give linkedin_url, email, domain + first_name + last_name, or lead_id and a field",
            workspace,
            told_id,
        )
    return lead


def _document(value: bytes | None, max_bytes: int) -> dict[str, Any] | Unreadable:
    """The JSON object in the bytes, or why there is none."""
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
    """A key as text; what is not UTF-8 turns into characters that no workspace may have."""
    return (raw or b"").decode("utf-8", "replace")


def _fits(value: Scalar) -> bool:
    """Whether other JSON readers can hold it: Python's whole numbers have any size, theirs 64 bits."""
    return not isinstance(value, int) or -(2**63) <= value < 2**64


_WORKSPACE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

# ----------------------------------------------------------------------------------------------------- clean


def normalise(fields: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The fields as they go to Clay, which matches exactly. Doing it twice changes nothing.

    A known field that has no usable value (blank, not an e-mail, a free-mail domain) is left out; unknown
    fields stay untouched.
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


_remembered: Final = lru_cache(64)  # a lead's values are cleaned as they are read, and again to say who it is


def tidy(text: str) -> str:
    """NFC, without invisible characters, runs of white space as one space: names, titles, phones."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    return " ".join(text.split())


def _lower(text: str) -> str:
    return tidy(tidy(text).lower())


@_remembered
def clean_email(text: str) -> str:
    """A mail address in lower case, or "": no `mailto:`, its domain as punycode."""
    address = _lower(text)
    while address.startswith("mailto:"):
        address = address.removeprefix("mailto:").partition("?")[0].strip()
    local, _, domain = address.rpartition("@")
    host = _host(domain)
    return f"{local}@{host}" if host and _LOCAL_PART.fullmatch(local) else ""


@_remembered
def clean_domain(text: str) -> str:
    """A company's domain as punycode, or "": no scheme, user, path, port, `www.`, and no free-mail."""
    rest = _lower(text)
    rest = rest.rpartition("://")[2] if "://" in rest else rest
    rest = re.split(r"[/?#\\]", rest, maxsplit=1)[0].rpartition("@")[2]
    host = _host(re.sub(r":\d*$", "", rest))
    while host.startswith("www.") and host.count(".") > 1:
        host = host.removeprefix("www.")
    return "" if is_free_mail(host) else host


@_remembered
def clean_linkedin(text: str) -> str:
    """`https://www.linkedin.com/in/<slug>`, or "" when it is not a person's page on LinkedIn."""
    found = _LINKEDIN.match(tidy(text))
    if not found:
        return ""
    slug = _lower(unquote(found[1]) if "%" in found[1] else found[1])
    if not slug or _NOT_IN_SLUG.search(slug):
        return ""
    return f"https://www.linkedin.com/in/{quote(slug, safe='')}"


def _host(text: str) -> str:
    """A host name with at least one dot, its labels as ASCII, or ""."""
    host = text.strip().rstrip(".")
    if not host.isascii():
        # Not the `idna` codec: it is IDNA 2003 and turns straße.de into strasse.de, somebody else's domain.
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
"""No `=` at its start and no `|`: such an address is a spreadsheet's formula (`=cmd|calc@example.com`)."""
_HOST: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+(?!\d+$)[a-z0-9][a-z0-9-]{0,61}[a-z0-9]")
_LINKEDIN: Final = re.compile(r"(?:[a-z]+://)?(?:[a-z0-9-]+\.)*linkedin\.com/(?:mwlite/)?in/([^/?#\s]+)", re.I)
_NOT_IN_SLUG: Final = re.compile(r"[\s/?#\x00-\x1f\x7f\ufffd\ud800-\udfff]")

_CLEANERS: Final[dict[str, Callable[[str], str]]] = {
    "email": clean_email,
    "domain": clean_domain,
    "linkedin_url": clean_linkedin,
    **dict.fromkeys(("first_name", "last_name", "full_name", "company_name", "title", "phone", "country"), tidy),
}

# -------------------------------------------------------------------------------------------------- identity


def identify(lead: Lead) -> Identity | None:
    """Who the lead is, whether its fields were cleaned before or not; None: nobody that can be told apart.

    The person is the first of linkedin_url, email, domain + first + last. The id is `plain_id`, or made of the person.
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
    """Whether `identify` will know, for a lead whose fields were cleaned: it costs a tenth of that."""
    fields = lead.fields
    if fields.get("linkedin_url") or fields.get("email"):
        return True
    if lead.lead_id and lead.lead_id.strip() and _says_something(fields):
        return True
    return all(isinstance(fields.get(name), str) for name in ("domain", "first_name", "last_name"))


def _says_something(fields: Mapping[str, Scalar]) -> bool:
    return any(value not in (None, "") for value in fields.values())


def plain_id(lead_id: str) -> str:
    """The id as rows, keys and events have it. Applying it twice changes nothing.

    It is the id's hash where the id could hold personal data (an address, a URL) or is no good as a key, or where every
    id is to be hashed.
    """
    return f"h-{digest('id', lead_id)}" if _is_hashed(lead_id) else lead_id


def former_ids_of(lead_id: str) -> tuple[str, ...]:
    """What `plain_id` may have been under a former pepper, or before ids were hashed."""
    if not _is_hashed(lead_id):
        return ()
    before = (lead_id,) if _PLAIN_ID.fullmatch(lead_id) else ()
    return (*(f"h-{each}" for each in former_digests("id", lead_id)), *before)


def row_id(lead_id: str) -> str:
    """The id of a command as rows have it: it may be one already, even of a time when ids were not hashed."""
    return lead_id if is_plain_id(lead_id) else plain_id(lead_id)


def _is_hashed(lead_id: str) -> bool:
    if current().hash_lead_ids:
        return _MADE_ID.fullmatch(lead_id) is None
    return _PLAIN_ID.fullmatch(lead_id) is None


def people(fields: Mapping[str, Scalar]) -> tuple[str, ...]:
    """All hashes by which the person of these fields may be known; the first is the one that `identify` takes."""
    return tuple(filter(None, hashes(fields)))


def hashes(fields: Mapping[str, Scalar]) -> tuple[str, ...]:
    """The same three by kind: of the LinkedIn URL, the e-mail, and the name with the domain; '' for what is not there.

    Only the first two tell a person from everybody else: two of one name may work at one company.
    """
    return tuple(digest(*each) if each else "" for each in _parts(fields))


def former_hashes(fields: Mapping[str, Scalar]) -> tuple[tuple[str, ...], ...]:
    """`hashes` as each former pepper made them."""
    return _former(_parts(fields))


def _cleaned(fields: Mapping[str, Scalar], name: str) -> str:
    value = fields.get(name)
    return _CLEANERS[name](value) if isinstance(value, str) else ""


def _parts(fields: Mapping[str, Scalar]) -> tuple[tuple[str, ...], ...]:
    """What is hashed, by kind, the surest first; () for what is not there."""
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
    """The domain of the person's company: as given, else that of the e-mail where it is no free-mail; "" if unknown."""
    given, email = fields.get("domain"), fields.get("email")
    domain = clean_domain(given) if isinstance(given, str) else ""
    if not domain and isinstance(email, str):
        domain = clean_domain(clean_email(email).rpartition("@")[2])
    return domain


def company(fields: Mapping[str, Scalar]) -> str:
    """The hash by which the company of these fields is known; "" if unknown."""
    domain = company_domain(fields)
    return digest("company", domain) if domain else ""


_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MADE_ID: Final = re.compile(r"[hp]-[A-Za-z0-9_-]{22}|record:.*")


def is_plain_id(text: str) -> bool:
    """Whether `identify` may have made this id: it is fit for keys, and no address or URL."""
    return _PLAIN_ID.fullmatch(text) is not None


# ------------------------------------------------------------------------------------------------------ home


def home_partition(workspace: str, partitions: int, pins: Mapping[str, int]) -> int:
    """The partition a workspace lives in: its pin, else where Kafka's default partitioner puts its key."""
    pin = pins.get(workspace)
    return pin if pin is not None else (murmur2(workspace.encode()) & 0x7FFFFFFF) % partitions


# --------------------------------------------------------------------------------------------------- to Clay


def clay_row(
    fields: Mapping[str, Scalar], columns: Mapping[str, str], echo: Mapping[str, str]
) -> dict[str, Scalar] | Unreadable:
    """The flat object that Clay is sent: cleaned fields under column names, and what its callback must echo.

    columns  lead field -> Clay column; other fields are left out. Empty: every field under its own name.
    echo     column -> value (`lead_id`, `delivery_id` ...); wins over a field of the same name.
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
