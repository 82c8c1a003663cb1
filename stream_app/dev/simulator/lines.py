"""The lines of the ledger: one per event. Tests compare the system with them.

Every line has `seq` (from 1, without gaps), `at_ms` (epoch, UTC) and `kind`: `start` · `request` · `row` (the end of a
row's run) · `charge` · `refund` · `callback` (one attempt) · `control` (a control call) · `listener` (refuse began or
ended) · `stop`. No line holds a token, a URL, or a field of a payload except the two echo fields. Absent values are
left out.
"""

from __future__ import annotations

import msgspec


class Line(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="kind", tag=str.lower):
    """Base of all lines. The ledger sets `seq`, and `at_ms` if the writer did not."""

    seq: int = 0
    at_ms: int = 0
    workspace: str | None = None


class Start(Line):
    """The simulator started."""

    seed: int


class Stop(Line):
    """The simulator stopped."""


class Request(Line):
    """A request to a webhook. `at_ms` is its arrival.

    `status` is the HTTP status of the response, or "hang", "reset" or "garbage". `rows` is the number of its rows (0 if
    it could not be read), `accepted` the number that became rows. A payload that is an array has its echo fields in
    `elements`, one [lead_id, delivery_id] each. `fault` is the fault that was played; `full` is true beyond the
    webhook's lifetime.
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
    """The end of a row. `state`: `done`, `errors`, `out_of_credits`, `not_run` (auto-run is off) or `deduped`."""

    webhook: str
    row: int
    run: int
    state: str
    filled: int = msgspec.field(default=0, name="found")
    lead_id: str | None = None
    delivery_id: str | None = None


class Charge(Line):
    """The charge of a column when it starts. `column` is "callback" for the HTTP column."""

    webhook: str
    row: int
    column: str
    credits: int = 0
    actions: int = 0
    lead_id: str | None = None


class Refund(Charge):
    """The refund of a column that failed."""


class Callback(Line):
    """One attempt to report a row.

    `status` is the HTTP status of the response, "timeout", "error" (no response; `error` names it), "lost",
    "out_of_actions" or "condition_not_met" (nothing was sent). `cell` is the beginning of the response body, which Clay
    shows in the cell.
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
    """A control call, with what it did."""

    did: str


class Listener(Line):
    """The webhooks' port opened or closed."""

    listening: bool
