"""The commands to lanes in words: one source for the command line and the board."""

from __future__ import annotations

from typing import Final

from stream_app.domain.lane_messages import CommandKind

SIMPLE: Final[dict[CommandKind, str]] = {
    "pause": "Send no more leads of a lane until `resume`. They wait in Kafka.",
    "resume": "End a pause, or the suspension of a lane whose leads Clay rejected.",
    "trip": "Force the circuit breaker open.",
    "close": "Force the circuit breaker closed, regardless of Clay's answers.",
    "shadow": "Let the breaker report its decisions without holding leads.",
    "auto": "Let the breaker decide again.",
    "reset": "Reset the breaker and its window, and end a suspension.",
}
"""Commands without arguments."""

LANE_KINDS: Final[tuple[CommandKind, ...]] = (*SIMPLE, "budget", "correct", "rate", "quota")
"""The commands to one lane."""

BUDGET: Final = "Change caps live, from the next lead on. N, `none` for no limit, or `configured`."
CORRECT: Final = "Book credits or actions that were spent elsewhere, or (below 0) returned by Clay."
RATE: Final = "Change the rate live."
QUOTA: Final = "Retire a webhook or use it again, or set its count of submissions."
SUPPRESS: Final = "Add people to the list. Their leads then end as suppressed, in every workspace."
ERASE: Final = (
    "Erase a lead, or all leads of a person, from results, cache and look-up. The person is never sent again, not even "
    "from a dead letter. Clay's rows cannot be deleted from here; the command lists them."
)
RELOAD: Final = "Have every worker reload its configuration and secrets, with new webhooks, tokens and workspaces."
