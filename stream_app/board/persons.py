"""What needs a person: the same for the page Now and for the messages that the board sends."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from stream_app.domain.lane.holds import REASONS

_OF_NO_LANE: Final[Mapping[str, str]] = {
    "gateway": (
        "The gateway does not answer at gateway.public_url, so callbacks of Clay may be refused."
    ),
    "moved": (
        "The configuration names another partition than the one that its lane "
        "lives in, so its leads wait."
    ),
    "no_replay": "No replay process runs, so dead letters and deferred leads do not come back.",
    "no_worker": "No worker runs, so nothing is sent.",
    "read_model": "The board cannot follow Kafka; its log says why, as projection_stalled.",
    "unreadable": "Its partition has stopped before a record that cannot be read.",
    "wrong_topics": "The topics on Kafka differ from the configuration.",
}
NEEDS_A_PERSON: Final[Mapping[str, str]] = MappingProxyType(
    {**_OF_NO_LANE} | {code: reason.alarm for code, reason in REASONS.items() if reason.alarm},
)
"""Code of a finding -> what to say. Every other finding ends by itself, or is what an operator
wanted.
"""


def for_a_person(code: str) -> str | None:
    """Return what to say to a person of a finding with this code; None if it needs none."""
    return NEEDS_A_PERSON.get("http_*" if code.startswith("http_") else code)
