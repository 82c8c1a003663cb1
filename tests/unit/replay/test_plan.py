"""Which dead letters can be sent back as they are."""

import json
from typing import Any

import pytest

from stream_app.config import Settings
from stream_app.domain.policy import Destination, Workspace
from stream_app.replay.plan import never_sent, sendable

SETTINGS = Settings(
    workspaces={"acme": Workspace("acme", "people")},
    destinations={
        "people": Destination("people", "acme", columns={"email": "Email", "mail": "Mail", "title": "Title"}),
        "all": Destination("all", "acme"),
    },
)
LEAD = {"workspace": "acme", "lead_id": "crm-1", "fields": {"mail": "ada@example.com", "title": "CEO"}}
NOW_MS = 1_790_000_000_000


def encoded(lead: Any) -> bytes:
    return json.dumps(lead).encode()


@pytest.mark.parametrize(
    ("value", "named", "says"),
    [
        (encoded(LEAD), "people", ""),
        (encoded({**LEAD, "not_after_ms": NOW_MS + 1}), "people", ""),
        (encoded({**LEAD, "not_after_ms": NOW_MS}), "people", "too old"),
        (b"no JSON", "people", "JSON"),
        (encoded({"workspace": "acme", "fields": {}}), "people", "identity"),
        (encoded({**LEAD, "destination": "gone"}), "", "no such workspace or destination"),
        (encoded({**LEAD, "workspace": "gone"}), "", "no such workspace or destination"),
    ],
)
def test_never_sent_gives_the_reason(value: bytes, named: str, says: str) -> None:
    why = never_sent(value, b"acme", named, sendable(SETTINGS), NOW_MS)
    assert says in why
    assert bool(why) == bool(says)
