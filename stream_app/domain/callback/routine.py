"""Reads the results of a routine's run: the item of one lead becomes what a callback is.

The outputs of a routine have the names that its author gave them. `status`, `credits`,
`credits_used`, `actions` and `error` mean what they mean in the body of a callback (`body.py`), if
their values do: authors report failures and costs that way, because Clay's answer has no place for
them. Everything else is a result. It has been paid for, so no value of it is refused: lists and
objects become JSON text.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from stream_app.domain.callback.body import MAX_FIELDS, claimed_by, cost_of, supported_outcome
from stream_app.domain.delivery.state_machine import Reason, forced_origin_of, item_id, lead_of
from stream_app.domain.model.messages import Callback, Scalar
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.run import RunFinished, RunItem
from stream_app.domain.model.seen import Seen, is_test, shape_of
from stream_app.domain.model.text import count

_json: Final = msgspec.json.Encoder()


def callback_of_run(key: bytes, answer: RunFinished, now_ms: int) -> Callback | Reason:
    """Return what the results of a run say of one lead, or why a person must look at them.

    Args:
        key: The row key of the lead.
        answer: The results. A run of ours has one item.
        now_ms: The present time, epoch ms.
    """
    wanted = item_id(key)
    item = next((item for item in answer.items if item.id == wanted), None)
    if item is None:
        others = count(len(answer.items), "item")
        return Reason(
            "result_of_others",
            f"Clay's results of its run have {others} and none of this lead: look at the run in "
            "Clay",
        )
    if item.status == "unknown":
        return Reason(
            "result_unknown_state",
            f"Clay reports a state of its run that this version does not know: {item.text}",
        )
    return _callback(key, item, now_ms)


def _callback(key: bytes, item: RunItem, now_ms: int) -> Callback | Reason:
    workspace, destination, lead_id = lead_of(key)
    fields, meant = _split(item.outputs)
    if len(fields) > MAX_FIELDS:
        return Reason(
            "result_too_large",
            f"its result has {len(fields)} values, more than {MAX_FIELDS}: map fewer outputs in "
            "Clay",
        )
    error = meant.get("error", "")
    texts = [value for value in fields.values() if isinstance(value, str)]
    text = item.text or (scrub(error, known=texts) if error else "")
    failed = item.status == "failed"
    return Callback(
        lead_id=lead_id,
        workspace=workspace,
        destination=destination,
        at_ms=now_ms,
        outcome="enrich_error"
        if failed
        else supported_outcome(claimed_by(meant.get("status")), fields, failed=bool(text)),
        fields=fields,
        credits=cost_of(meant.get("credits", meant.get("credits_used"))),
        actions=cost_of(meant.get("actions")),
        forced_origin=forced_origin_of(key),
        text=text,
        seen=Seen(body=shape_of(item.outputs)) if is_test(lead_id) else None,
    )


def _split(outputs: Mapping[str, Any]) -> tuple[dict[str, Scalar], dict[str, Any]]:
    """Return the results that have a value, and the outputs that have a meaning of their own."""
    fields: dict[str, Scalar] = {}
    meant: dict[str, Any] = {}
    for name, value in outputs.items():
        if _has_meaning(name, value):
            meant[name] = value
        elif value not in (None, "", [], {}):
            fields[name] = _scalar(value)
    return fields, meant


def _has_meaning(name: str, value: Any) -> bool:
    """Return True for an output that is no result: its name and its value are understood."""
    match name:
        case "status":
            return claimed_by(value) is not None
        case "credits" | "credits_used" | "actions":
            return cost_of(value) is not None
        case "error":
            return isinstance(value, str)
        case _:
            return False


def _scalar(value: Any) -> Scalar:
    if isinstance(value, dict | list):
        return _json.encode(value).decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value  # type: ignore[no-any-return]  # what is left of JSON is a scalar
