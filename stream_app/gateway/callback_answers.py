"""The gateway's answers to callbacks, and to announcements of runs.

Clay shows the answer to a callback in the row's cell, so it addresses the table's author.
"""

from typing import Final

import msgspec

from stream_app.domain.callback.body import BadBody
from stream_app.domain.model.messages import Callback
from stream_app.domain.model.tokens import TokenProblem
from stream_app.gateway.lead_bound import ONE_MORE_EVERY_S

RETRY_AFTER_S: Final = 30
"""When to call back again where the store or the gateway was the reason."""
UNPROXIED: Final = "stream-app-unproxied"
"""What `doctor` sends in the header Connection, which is for one connection only: a proxy keeps it
to itself.
"""
LATE_HEADER: Final = "x-stream-app-late"
"""With it, `doctor` has a callback that it proves answered after `gateway.hold_s`, as while Kafka
is away.
"""
UNPROXIED_HEADER: Final = "x-stream-app-unproxied"
"""The header of a /healthz that received it all the same."""

_OUTCOMES: Final = {
    "enriched": "enriched",
    "partial": "partly enriched",
    "no_data": "no data was found",
    "enrich_error": "the enrichment failed",
}


class CallbackAnswer(msgspec.Struct, frozen=True):
    """An answer to a callback. No text holds a secret or reveals whether a lead exists.

    Attributes:
        code: A stable word for metrics and logs.
        close: True if the connection closes after it, because the request may not have been read to
            its end.
        retry_after_s: When it makes sense to call back again, in seconds.
    """

    status: int
    code: str
    text: str
    close: bool = False
    retry_after_s: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers in addition to the usual ones."""
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.status == 405:
            headers["allow"] = "POST"
        if self.close:
            headers["connection"] = "close"
        return headers


NOT_POST: Final = CallbackAnswer(
    405,
    "not_post",
    "This address takes POST from Clay: from the HTTP API column of a table, or from the "
    "completion webhook of a routine.",
    close=True,
)
NOT_HERE: Final = CallbackAnswer(
    404,
    "not_here",
    "No table or routine calls back at this address: "
    "compare the URL with what `stream-app clay-setup` prints.",
)
WRONG_TYPE: Final = CallbackAnswer(
    415,
    "wrong_type",
    "Send JSON: set the header Content-Type to application/json.",
)
ENCODED: Final = CallbackAnswer(
    415,
    "encoded",
    "Send the body uncompressed: remove the header Content-Encoding.",
)
TOO_LARGE: Final = CallbackAnswer(
    413,
    "too_large",
    "The body is too large: send fewer or shorter columns.",
    close=True,
)
TOO_SLOW: Final = CallbackAnswer(
    408,
    "too_slow",
    "The body did not arrive in time: try again.",
    close=True,
)
NO_TOKEN: Final = CallbackAnswer(
    401,
    "no_token",
    "The token is missing: add the header x-callback-token with the column "
    "callback_token of this row.",
)
NO_SECRET: Final = CallbackAnswer(
    401,
    "no_secret",
    "The secret is missing: add the header x-callback-secret with the secret of this table.",
)
BAD_SECRET: Final = CallbackAnswer(
    403,
    "bad_secret",
    "The header x-callback-secret does not match the secret of this table: set it again.",
)
TEMPLATE: Final = CallbackAnswer(
    400,
    "template",
    "The header x-callback-token still holds a template {{...}}: insert the column with / instead.",
)
TOO_OFTEN: Final = CallbackAnswer(
    429,
    "too_often",
    "Not received: this row has called back too often. What came before is kept; a row may "
    "call back again in an hour.",
    retry_after_s=ONE_MORE_EVERY_S,
)
NO_SIGNATURE: Final = CallbackAnswer(
    401,
    "no_signature",
    "The signature is missing: only a completion webhook of Clay calls this address, with the "
    "header X-Clay-Signature.",
)
BAD_SIGNATURE: Final = CallbackAnswer(
    403,
    "bad_signature",
    "The signature does not match: put the secret that `clay webhooks create` printed for this "
    "webhook into the variable that run_webhook_secret_env names.",
)
NO_RUN: Final = CallbackAnswer(
    400,
    "no_run",
    "Not received. The body announces no run: it is no JSON with data.routine_run_id.",
)
RUN_TEST: Final = CallbackAnswer(
    200,
    "run_test",
    "Received: a test of this webhook, and its signature is right. Nothing to do.",
)
RUN_ANNOUNCED: Final = CallbackAnswer(
    200,
    "run_announced",
    "Received: a run that has finished. Nothing to do.",
)
RUN_REPEATED: Final = CallbackAnswer(
    200,
    "run_repeated",
    "Received before: this run has been announced often enough. Nothing to do.",
)
# 429, and not 503, where a later call may succeed: a Clay column repeats its call after a 503 only
# if the table's author has set that.
KAFKA_AWAY: Final = CallbackAnswer(
    429,
    "kafka_away",
    "Held in memory: our store does not respond. It is stored as soon as the store responds, "
    "and running this row again in a minute does no harm.",
    retry_after_s=RETRY_AFTER_S,
)
HOLDING_FULL: Final = CallbackAnswer(
    429,
    "holding_full",
    "Not received: our store does not respond, and too many callbacks are held already. Run "
    "this row again when the store responds.",
    retry_after_s=RETRY_AFTER_S,
)
TOO_MANY: Final = CallbackAnswer(
    429,
    "too_many",
    "Not received: too many callbacks at once. Run this row again in a minute.",
    close=True,
    retry_after_s=RETRY_AFTER_S,
)
CRASHED: Final = CallbackAnswer(
    500,
    "crashed",
    "Not received: internal error. Try again later.",
    close=True,
)

REFUSED_TOKEN: Final[dict[TokenProblem, CallbackAnswer]] = {
    "malformed": CallbackAnswer(
        403,
        "malformed_token",
        "The token is malformed: send the column callback_token of this row, whole and unchanged.",
    ),
    "unknown_key": CallbackAnswer(
        403,
        "unknown_key",
        "The key of this token is no longer in use: rows sent from now on have a new token.",
    ),
    "mismatch": CallbackAnswer(
        403,
        "wrong_token",
        "The token belongs to another lead or table: send lead_id and callback_token of one "
        "row to its table's URL.",
    ),
}


def refused(bad: BadBody) -> CallbackAnswer:
    """The answer to a body that is not a callback."""
    return CallbackAnswer(400, bad.code, f"Not received. {bad.text}")


def received(callback: Callback) -> CallbackAnswer:
    """The answer to a callback that is stored."""
    note = (
        " Its JSON was broken and is repaired: let Clay escape the columns in the body."
        if callback.repaired
        else ""
    )
    text = f"Received: lead {callback.lead_id}, {_OUTCOMES[callback.outcome]}. Nothing to do.{note}"
    return CallbackAnswer(200, callback.outcome, text)
