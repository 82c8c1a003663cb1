"""The addresses of the board's pages, for templates and redirects."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from stream_app.board.access import PATH
from stream_app.board.read_model.query import Place
from stream_app.client.answers import Cause

CAUSE_WORDS: Final = ("kind", "workspace", "destination", "reason", "http_status")
"""What names a cause."""


def lane_path(workspace: str) -> str:
    """Return the path of a lane's page."""
    return f"{PATH}/lanes/{quote(workspace, safe='')}"


def lanes_path(**words: str) -> str:
    """Return the path of the list of lanes. `words`: state, begins, after."""
    return _path("/lanes", words)


def lead_path(lead_id: str) -> str:
    """Return the path of a lead's page."""
    return f"{PATH}/leads/{quote(lead_id, safe='/:')}"


def leads_path(**words: str) -> str:
    """Return the path of the list of leads. `words`: those of its filter, and `after`."""
    return _path("/leads", words)


def imports_path(**words: str) -> str:
    """Return the path of the list of imports or, with `workspace` and `id`, of one of them."""
    return _path("/imports", words)


def waiting_path(topic: str = "", partition: int | None = None, after: int = 0) -> str:
    """Return the path of what waits on Kafka: of a topic, of a partition, or of all."""
    number = "" if partition is None else str(partition)
    return _path("/waiting", {"topic": topic, "partition": number, "after": str(after or "")})


def dead_path(which: str = "dlq", workspace: str = "", after: int = 0) -> str:
    """Return the path of the causes of dead letters, or of parked leads."""
    source = "" if which == "dlq" else which
    return _path("/dead", {"from": source, "workspace": workspace, "after": str(after or "")})


def cause_path(which: str, cause: Cause, span: str = "", after: Place | None = None) -> str:
    """Return the path of the dead letters of a cause. `span`: `day` for those of the last day."""
    words = {"from": which, **{name: getattr(cause, name) for name in CAUSE_WORDS}, "span": span}
    return _path("/dead/records", words | {"after": f"{after.at_ms}-{after.record}" if after else ""})


def replay_path(replay: str) -> str:
    """Return the path of a replay's page."""
    return f"{PATH}/replays/{quote(replay, safe='')}"


def audit_path(**words: str) -> str:
    """Return the path of the commands. `words`: workspace, id, after."""
    return _path("/audit", words)


def _path(path: str, words: dict[str, str]) -> str:
    given = {name: word for name, word in words.items() if word}
    return f"{PATH}{path}{'?' if given else ''}{urlencode(given)}"


FOR_TEMPLATES: Final = {
    made.__name__: made
    for made in (
        *(lane_path, lanes_path, lead_path, leads_path, imports_path, waiting_path),
        *(dead_path, cause_path, replay_path, audit_path),
    )
}
