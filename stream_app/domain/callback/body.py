"""Parses the body that Clay's HTTP column sends.

Tolerates what Clay does to values, and refuses ambiguous bodies.

The body is one flat JSON object. The names in `RESERVED` have a meaning. Every other one is a
result, at the top level or in an object under `fields` or `data`. The text of a refusal is for the
person who reads it in the cell.
"""

import math
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from stream_app.domain.model.messages import Callback, Scalar
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.seen import Seen, is_test, shape_of
from stream_app.domain.model.untrusted import MAX_LEVELS, NestedTooDeep, check_depth

_KEY: Final = re.compile(r'\s*+"([^"\\\x00-\x1f]{1,200}+)"\s*+:\s*+')
_BARE: Final = re.compile(r"(?:true|false|null|-?\d[\d.eE+-]*+)?(?=\s*+[,}])")
_QUOTE: Final = re.compile(r'\\.|"', re.DOTALL)
_ENDS_TEXT: Final = re.compile(r'"(?=\s*+(?:,\s*+"[^"\\\x00-\x1f]{1,200}+"\s*+:|,?+\s*+\}\s*+\Z))')
_LACKS_COMMA: Final = re.compile(r'"\s*+"[^"\\\x00-\x1f]{1,200}+"\s*+:')
_COMMA: Final = re.compile(r"\s*+(,?+)\s*+")
_END: Final = re.compile(r"\}\s*+\Z")
_OPENS: Final = re.compile(r"\s*+\{")
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
CallbackOutcome = Literal["enriched", "partial", "no_data", "enrich_error"]

RESERVED: Final = frozenset(
    {
        "lead_id",
        "callback_token",
        "callback_url",
        "workspace",
        "destination",
        "status",
        "credits",
        "credits_used",
        "actions",
        "attempt",
        "error",
    },
)
"""Names that are not results.

`callback_url`, `workspace` and `destination` are only echoed. The URL that was called decides.
"""

WORDS: Final[dict[CallbackOutcome, frozenset[str]]] = {
    "enriched": frozenset(
        {"enriched", "success", "succeeded", "successful", "ok", "done", "complete", "completed"},
    ),
    "partial": frozenset({"partial", "partially_enriched", "partial_success", "incomplete"}),
    "no_data": frozenset(
        {"no_data", "not_found", "nothing_found", "no_result", "no_results", "no_match", "empty"},
    ),
    "enrich_error": frozenset({"enrich_error", "error", "errored", "failed", "failure", "timeout"}),
}
"""Values of `status`. Case, blanks and hyphens do not matter. Any other value is ignored."""

MAX_COST: Final = 1_000_000
"""The most credits, and the most Actions, that a callback may say a lead has cost."""
MAX_FIELDS: Final = 500
"""The most values of one callback. A Clay table has far fewer columns, and each becomes a column of
an export.
"""

_OUTCOMES: Final[dict[str, CallbackOutcome]] = {
    word: outcome for outcome, words in WORDS.items() for word in words
}
_NESTED: Final = ("fields", "data")
# Lead ids as domain.lead.identity.identify makes them.
_LEAD_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Names of columns in double braces, with no word or number beside them.
_TEMPLATE: Final = re.compile(r"(?:[^\w{}]*+\{\{[^{}]*+\}\})+[^\w{}]*+")
_WORDS_OR_NUMBERS: Final = ("status", "credits", "credits_used", "actions", "attempt")
_CHEAP_CHARACTERS: Final = 16_384
_MAX_REPAIR_CHARACTERS: Final = 65_536
_VALUE: Final = re.compile(r'\s*+:\s*+("[^"]{0,1024}+"|\{\{[^{}]{0,200}+\}\}|[^\s",{}]*+)')
_json: Final = msgspec.json.Encoder()
_skip: Final = msgspec.json.Decoder(msgspec.Raw)


def repair(text: str) -> str | None:
    """Repair JSON that a template broke with unescaped text, if only one reading is possible.

    A typical HTTP column has the body `{"title": "{{Title}}", "credits": {{Credits}}}`. A title
    with quotes or line breaks, or an empty cell, breaks the JSON. In one flat object these faults
    are repaired:

    - pairs of quotes within a text: `"they said "call me" twice"`. A single quote might be the end
      of the text.
    - line breaks and other control characters within a text.
    - a missing value, which becomes null: `"credits": ,`
    - a comma after the last value.

    Anything else is refused, because a wrong guess would become wrong data. The time is linear in
    the length of the text.

    Returns:
        The text as good JSON. None if it is no flat object, or could be read in two ways.
    """
    opens = _OPENS.match(text)
    if opens is None:
        return None
    at = opens.end()
    members = dict[str, str]()
    while True:
        key = _KEY.match(text, at)
        if key is None or key[1] in members:
            return None
        value = _value(text, key.end())
        if value is None:
            return None
        members[key[1]], at = value
        comma = _COMMA.match(text, at)
        at = comma.end() if comma else at
        if _END.match(text, at):
            return "{" + ",".join(f'"{name}":{member}' for name, member in members.items()) + "}"
        if not (comma and comma[1]):
            return None


def _value(text: str, at: int) -> tuple[str, int] | None:
    """Return the value that begins at this position as JSON, and the position of its end."""
    if text.startswith('"', at):
        end = _end_of_text(text, at + 1)
        return None if end is None else (f'"{_escaped(text[at + 1 : end])}"', end + 1)
    bare = _BARE.match(text, at)
    return None if bare is None else (bare[0] or "null", bare.end())


def _end_of_text(text: str, at: int) -> int | None:
    """Return the position of the closing quote.

    It is the first quote before the next member or the end of the object.
    """
    within = 0
    for match in _QUOTE.finditer(text, at):
        if match[0] != '"':
            continue
        if _ENDS_TEXT.match(text, match.start()):
            return None if within % 2 else match.start()
        if _LACKS_COMMA.match(text, match.start()):
            return None
        within += 1
    return None


def _escaped(content: str) -> str:
    quoted = _QUOTE.sub(lambda match: '\\"' if match[0] == '"' else match[0], content)
    return _CONTROL.sub(lambda match: _ESCAPES.get(match[0], " "), quoted)


class BadBody(msgspec.Struct, frozen=True):
    """Why a body is not a callback: a stable code, and what to change, in words."""

    code: str
    text: str


class Body(msgspec.Struct, frozen=True):
    """A body before it is decoded, with the lead that it names.

    Trust nothing in it before its token is verified.
    """

    lead_id: str
    token: str
    text: str
    broken: bool

    @property
    def costly(self) -> bool:
        """True if `callback_of` takes milliseconds. Then it must not run on an event loop."""
        return self.broken or len(self.text) > _CHEAP_CHARACTERS


class _Claim(msgspec.Struct):
    """The lead that a body is about. All other members are skipped."""

    lead_id: msgspec.Raw = msgspec.Raw()
    callback_token: msgspec.Raw = msgspec.Raw()


_claim: Final = msgspec.json.Decoder(_Claim)


def read_body(raw: bytes) -> Body | BadBody:
    """Return the lead that the body is about.

    Everything else is skipped, so this is cheap for any body.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return BadBody("not_utf8", "The body is not UTF-8 text.")
    if not text or text.isspace():
        return BadBody("empty", "The body is empty: give the column a JSON body.")
    broken = False
    try:
        check_depth(raw)
    except NestedTooDeep:
        return BadBody(
            "nested",
            f"The JSON is nested too deep (more than {MAX_LEVELS} levels): give each value "
            "a name of its own.",
        )
    try:
        try:
            claim = _claim.decode(text)
            lead_id = _scalar(claim.lead_id)
            token = _scalar(claim.callback_token)
        except msgspec.ValidationError:
            _skip.decode(text)
            return BadBody(
                "not_an_object",
                'The body must be one JSON object, like {"lead_id": ..., "email": ...}.',
            )
    except ValueError:
        claimed = [_claimed(text, name) for name in ("lead_id", "callback_token")]
        if claimed[0] is None or len(text) > _MAX_REPAIR_CHARACTERS:
            return _not_json(text)
        (lead_id, token) = claimed
        broken = True
    return _body(lead_id, token, text, broken)


def _body(lead_id: object, token: object, text: str, broken: bool) -> Body | BadBody:
    for name, value in (("lead_id", lead_id), ("callback_token", token)):
        if isinstance(value, str) and "{{" in value:
            return _unfilled(name)
    if lead_id in (None, ""):
        return BadBody(
            "no_lead_id",
            'There is no lead_id: add "lead_id" with the column lead_id of this row.',
        )
    if isinstance(lead_id, int) and not isinstance(lead_id, bool):
        lead_id = str(lead_id)  # an id of digits that lost its quotes
    if not isinstance(lead_id, str) or not _LEAD_ID.fullmatch(lead_id):
        return BadBody(
            "bad_lead_id",
            "The lead_id is not one that was sent: use the column lead_id of this row unchanged.",
        )
    return Body(lead_id, token if isinstance(token, str) else "", text, broken)


def _scalar(raw: msgspec.Raw) -> object:
    """Return the value of a member.

    It is `...` for a list, an object or a number out of range, and None for a missing value.
    """
    member = bytes(raw)
    if member[:1] in (b"[", b"{"):
        return ...
    try:
        return msgspec.json.decode(member) if member else None
    except ValueError:
        return ...


def _claimed(text: str, name: str) -> str | None:
    """Return the value of a member in broken JSON; None if it is missing or occurs twice."""
    quoted = f'"{name}"'
    at = text.find(quoted)
    if at < 0 or text.find(quoted, at + 1) >= 0:
        return None
    match = _VALUE.match(text, at + len(quoted))
    value = match[1] if match else "null"
    return "" if value == "null" else value.strip('"')


def callback_of(
    body: Body,
    workspace: str,
    destination: str,
    at_ms: int,
    forced_origin: str = "",
) -> Callback | BadBody:
    """Return the callback of a body whose token was verified.

    It has the `forced_origin` that the token names.
    """
    document, repaired = _decoded(body)
    if isinstance(document, BadBody):
        return document
    for name, of_url in (("workspace", workspace), ("destination", destination)):
        if document.get(name) not in (None, "", of_url):
            return BadBody(
                "other_address",
                f"The body names another {name} than the URL: use the URL of this table.",
            )
    for name, value in document.items():
        if name in _WORDS_OR_NUMBERS and isinstance(value, str) and "{{" in value:
            return _unfilled(name)
    error = document.get("error")
    if isinstance(error, str) and _TEMPLATE.fullmatch(error):
        return _unfilled("error")
    fields = _fields(document)
    if isinstance(fields, BadBody):
        return fields
    texts = [value for value in fields.values() if isinstance(value, str)]
    text = scrub(error, known=texts) if isinstance(error, str) else ""
    callback = Callback(
        lead_id=body.lead_id,
        workspace=workspace,
        destination=destination,
        at_ms=0,
        outcome=supported_outcome(claimed_by(document.get("status")), fields, failed=bool(text)),
        fields=fields,
        credits=cost_of(document.get("credits", document.get("credits_used"))),
        attempt=cost_of(document.get("attempt")) or 1,
        actions=cost_of(document.get("actions")),
        forced_origin=forced_origin,
        repaired=repaired,
        text=text,
    )
    seen = Seen(body=shape_of(document)) if is_test(body.lead_id) else None
    return msgspec.structs.replace(callback, id=_id(callback), at_ms=at_ms, seen=seen)


def _decoded(body: Body) -> tuple[dict[str, Any] | BadBody, bool]:
    """Return the document or why there is none, and whether it was repaired."""
    try:
        return msgspec.json.decode(body.text, type=dict[str, Any]), False
    except ValueError:
        repaired = repair(body.text) if len(body.text) <= _MAX_REPAIR_CHARACTERS else None
    try:
        document = msgspec.json.decode(repaired or "", type=dict[str, Any])
    except ValueError:
        return _not_json(body.text), False
    # The token was verified for the lead that the broken text names: the repaired one must name the
    # same.
    return (
        (document, True)
        if str(document.get("lead_id")) == body.lead_id
        else (_not_json(body.text), False)
    )


def _not_json(text: str) -> BadBody:
    hint = " A template {{...}} was left unfilled: insert columns with / ." if "{{" in text else ""
    words = (
        "The body is not JSON, and not clear enough to be repaired: put every column between "
        "double quotes, "
        "and let Clay escape the value."
    )
    return BadBody("not_json", words + hint)


def _fields(document: Mapping[str, Any]) -> dict[str, Scalar] | BadBody:
    """Return the results that have a value."""
    merged: dict[str, Any] = {}
    if (
        sum(len(value) if isinstance(value, dict) else 1 for value in document.values())
        > MAX_FIELDS
    ):
        return BadBody(
            "too_many_fields",
            f"There are more than {MAX_FIELDS} values: send fewer columns.",
        )
    for name, value in document.items():
        if name in _NESTED and isinstance(value, dict):
            merged |= value
        elif name not in RESERVED and not name.startswith("_"):  # Clay's own, such as _clay_meta
            merged[name] = value
    fields: dict[str, Scalar] = {}
    for name, value in merged.items():
        if isinstance(value, dict | list):
            kind = "a list" if isinstance(value, list) else "an object"
            return BadBody(
                "nested",
                f"{_named(name)} is {kind}: send each value of it under a name of its own.",
            )
        if isinstance(value, str) and _TEMPLATE.fullmatch(value):
            return _unfilled(name)
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return BadBody(
                "number_out_of_range",
                f"{_named(name)} has more than 64 bits: put quotes around it.",
            )
        if value is not None and value != "":
            fields[name] = value
    return fields


def claimed_by(status: object) -> CallbackOutcome | None:
    """Return the outcome that a status claims (`WORDS`); None if it is no such word."""
    if not isinstance(status, str):
        return None
    return _OUTCOMES.get(re.sub(r"[\s-]+", "_", status.strip().lower()))


def supported_outcome(
    claimed: CallbackOutcome | None,
    fields: Mapping[str, Scalar],
    *,
    failed: bool,
) -> CallbackOutcome:
    """Return the outcome that the status claims, if the results support it.

    Without a status, the results alone decide.
    """
    if claimed in ("no_data", "enrich_error"):
        return claimed
    if not fields:
        # Many templates say "success" whatever was found.
        return "enrich_error" if failed else "no_data"
    return claimed or ("partial" if failed else "enriched")


def cost_of(value: object) -> int | None:
    """Return a cost rounded up; None if the value is not a number.

    It is rounded up so that the budget is never too optimistic.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return math.ceil(number) if 0 <= number <= MAX_COST else None


def _id(callback: Callback) -> str:
    """Return 128 bits that are the same for the same content."""
    return urlsafe_b64encode(blake2b(_json.encode(callback), digest_size=16).digest())[:22].decode(
        "ascii",
    )


def _unfilled(name: str) -> BadBody:
    return BadBody(
        "template",
        f"{_named(name)} still holds a template {{{{...}}}}: insert the column with / "
        "instead of typing it.",
    )


def _named(name: str) -> str:
    return f'"{name if len(name) <= 40 else name[:39] + "…"}"'
