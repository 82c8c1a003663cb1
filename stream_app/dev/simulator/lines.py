"""The lines of the ledger: one for everything that happened, the truth that tests compare against.

Every line has `seq` (from 1, gap-free), `at_ms` (epoch, UTC) and `kind`:
`start` · `request` · `row` (a row's run ended) · `charge` · `refund` · `callback` (one attempt) ·
`control` (what a control call did) · `listener` (refuse began or ended) · `stop`.
No line holds a token, a URL or any other field of a payload than the two echo fields. Values that are
absent are left out of a line.
"""

from __future__ import annotations

import msgspec


class Line(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="kind", tag=str.lower):
    """Base of all lines. The ledger sets `seq` and, unless the writer knew better, `at_ms`."""

    seq: int = 0
    at_ms: int = 0
    workspace: str | None = None


class Start(Line):
    seed: int


class Stop(Line):
    pass


class Request(Line):
    """A request to a webhook. `at_ms` is its arrival.

    `status` is the HTTP status that was answered, or "hang", "reset" or "garbage". `rows` is what it carried
    (0 when it could not be read), `accepted` how many became rows. A payload that is an array has its echo
    fields in `elements` instead, one [lead_id, delivery_id] each. `fault` is what was played on it, `full`
    says that the webhook was beyond its lifetime.
    """

    webhook: str
    rows: int
    status: int | str
    accepted: int
    lead_id: str | None = None
    delivery_id: str | None = None
    elements: list[tuple[str | None, str | None]] | None = None
    fault: str | None = None
    full: bool = False


class Row(Line):
    """A row's end. `state`: `done`, `errors`, `out_of_credits`, `not_run` (auto-run is off) or `deduped`."""

    webhook: str
    row: int
    run: int
    state: str
    found: int = 0
    lead_id: str | None = None
    delivery_id: str | None = None


class Charge(Line):
    """What a column cost as it started. `column` is "callback" for the HTTP column."""

    webhook: str
    row: int
    column: str
    credits: int = 0
    actions: int = 0
    lead_id: str | None = None


class Refund(Charge):
    """What came back because the column failed."""


class Callback(Line):
    """One attempt to report a row.

    `status` is the HTTP status that came back, "timeout", "error" (no answer; `error` names it), "lost",
    "out_of_actions" or "condition_not_met" (nothing was sent). `cell` is the beginning of the answer's body,
    which a person sees in the Clay cell.
    """

    webhook: str
    row: int
    run: int
    attempt: int
    status: int | str
    ms: int = 0
    faults: list[str] = []
    error: str | None = None
    cell: str | None = None
    lead_id: str | None = None
    delivery_id: str | None = None


class Control(Line):
    did: str


class Listener(Line):
    listening: bool
