"""What templates call: the look of numbers and times, addresses of pages, URLs of static files.

Templates print a number in one of three ways. A `count` links to what it counts. A `total` is the
number of what the page or section lists itself. An `amount` cannot be listed: credits, rates,
times, sizes. A test holds them to it.
"""

import gzip
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.resources import files
from typing import Final
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from stream_app.board.access import PATH
from stream_app.board.read_model.query import ListPlace
from stream_app.client.results.answers import Cause
from stream_app.domain.books.records import COLUMN_NAMES
from stream_app.domain.lane.holds import time_words
from stream_app.domain.model.messages import Status
from stream_app.domain.model.text import amount_text, rate_text
from stream_app.domain.views.explain import Finding

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))

STATUS_WORDS: Final[dict[str, str]] = {
    **COLUMN_NAMES,
    "rejected_invalid": "rejected",
    "without_value": "runs without a value",
    "send_uncertain": "uncertain: may be at Clay",
    "no_data": "answered: no data",
    "enrich_error": "answered: Clay failed",
    "partial": "partly enriched",
    "held_budget": "held: budget",
    "held_paused": "held: lane stopped",
    "held_outage": "held: outage",
    "cost_corrected": "cost corrected",
    "replaced": "replaced: published again",
    "confirmed": "at Clay, as an operator says",
    "moves": "runs again",
}
_BAD: Final[tuple[Status, ...]] = (
    *(
        "refused",
        "send_uncertain",
        "callback_overdue",
        "enrich_error",
        "credits_exhausted_suspected",
    ),
    *("dead_lettered", "parked", "rejected_invalid"),
)
_WAITS: Final[tuple[Status, ...]] = ("held_budget", "held_paused", "held_outage", "deferred")
_GOOD: Final[tuple[Status, ...]] = (
    "enriched",
    "partial",
    "no_data",
    "served_from_cache",
    "served_locally",
)


def amount(value: float | None) -> str:
    """Format a number: 1,240; a fraction with at most one decimal; "-" for None."""
    return "-" if value is None else amount_text(value)


def count(value: int, href: str) -> Markup:
    """Return a count with the link to what it counts."""
    return Markup(f'<a class="count" href="{escape(href)}">{amount(value)}</a>')


def total(value: int) -> Markup:
    """Return the number of what the page or section lists itself."""
    return Markup(f'<span class="total">{amount(value)}</span>')


def noun(number: float, one: str, many: str = "") -> str:
    """Return the words that follow a number.

    Args:
        number: The number that they follow.
        one: The words after 1.
        many: The words after any other number; by default `one` with an "s".
    """
    return one if number == 1 else many or f"{one}s"


def duration(ms: float) -> str:
    """Format a duration in its largest unit: 38 min, 2 h, 240 ms."""
    if abs(ms) < 1_000:
        return f"{ms:.0f} ms"
    if abs(ms) < 10_000:
        return f"{ms / 1000:.1f} s"
    seconds = int(abs(ms) / 1000)
    for unit, length in _UNITS:
        if seconds >= 2 * length or length == 1 or (unit == "min" and seconds >= 60):
            return f"{'-' if ms < 0 else ''}{seconds // length} {unit}"
    raise AssertionError("the last unit always fits")


def iso(at_ms: int) -> str:
    """Return the time as `<time datetime>` wants it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def day_of(at_s: int) -> str:
    """Return the day in UTC, such as 2026-09-21."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


def clock(at_ms: int, now_ms: int) -> str:
    """Format a time in UTC, with the date unless it is today."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return at.strftime("%H:%M" if at.date() == now.date() else "%Y-%m-%d %H:%M")


def words(name: str) -> str:
    """Return a status or code in words."""
    return STATUS_WORDS.get(name) or name.replace("_", " ")


def tone(status: str) -> str:
    """Return the tone of a status, a CSS class: ok, bad, warn or idle."""
    tones = (("bad", _BAD), ("warn", _WAITS), ("ok", _GOOD))
    return next((name for name, statuses in tones if status in statuses), "idle")


CAUSE_WORDS: Final = ("kind", "workspace", "destination", "reason", "http_status")
"""What names a cause."""


def lane_path(workspace: str) -> str:
    """Return the path of a lane's page."""
    return f"{PATH}/lanes/{quote(workspace, safe='')}"


def lead_path(lead_id: str) -> str:
    """Return the path of a lead's page."""
    return f"{PATH}/leads/{quote(lead_id, safe='/:')}"


def behind_path(bulk: str, finding: Finding, partition: int = 0, waiting: int = 0) -> str:
    """Return the path of what waits behind a finding.

    `partition` is where its lane is, `waiting` what waits there in all. `bulk`: the topic of bulk
    leads.
    """
    if finding.is_about_replays:
        return leads_path(status="dead_lettered,deferred")
    if not finding.workspace:
        return waiting_path()
    return waiting_path(topic="" if finding.waiting == waiting else bulk, partition=partition)


def dead_path(which: str = "dlq", workspace: str = "", after: int = 0) -> str:
    """Return the path of the causes of dead letters, or of parked leads."""
    return _path(
        "/dead",
        **{"from": "" if which == "dlq" else which},
        workspace=workspace,
        after=str(after or ""),
    )


def cause_path(
    which: str,
    cause: Cause,
    span: str = "",
    after: ListPlace | None = None,
    state: str = "",
) -> str:
    """Return the path of the dead letters of a cause.

    Args:
        which: `dlq` or `parked`, the topic that they are on.
        cause: Their cause.
        span: `day` for those of the last day only.
        after: The place on Kafka after which the list begins.
        state: The only state to list; '' for all.
    """
    words = {
        "from": which,
        **{name: getattr(cause, name) for name in CAUSE_WORDS},
        "span": span,
        "state": state,
    }
    return _path("/dead/records", **words, after=f"{after.at_ms}-{after.record}" if after else "")


def give_up_path(which: str, cause: Cause, record: str = "") -> str:
    """Return the path of the form that gives up dead letters of a cause.

    Args:
        which: `dlq` or `parked`, the topic that they are on.
        cause: Their cause.
        record: The place on Kafka of the only one to give up; '' for all that are open.
    """
    words = {"from": which, **{name: getattr(cause, name) for name in CAUSE_WORDS}}
    return _path("/dead/act/give-up", **words, record=record)


def plan_path(source: str, **words: str) -> str:
    """Return the path of the form that plans to send dead letters back.

    `source`: the topic that they are on. `words`: what selects them.
    """
    return _path("/dead/act/plan", **{"from": source}, **words)


def replay_path(replay: str) -> str:
    """Return the path of a replay's page."""
    return f"{PATH}/replays/{quote(replay, safe='')}"


def _path(path: str, /, **words: str | int | None) -> str:
    given = {name: word for name, word in words.items() if word not in (None, "")}
    return f"{PATH}{path}{'?' if given else ''}{urlencode(given)}"


lanes_path: Final = partial(_path, "/lanes")
"""Returns the path of the list of lanes; its words are state, begins, after."""
leads_path: Final = partial(_path, "/leads")
"""Returns the path of the list of leads; its words are those of its filter, and after."""
waiting_path: Final = partial(_path, "/waiting")
"""Returns the path of what waits on Kafka; its words are topic, partition, after."""
imports_path: Final = partial(_path, "/imports")
"""Returns the path of the list of imports or, with workspace and id, of one of them."""

FILTERS: Final[dict[str, Callable[..., str]]] = {
    **{made.__name__: made for made in (amount, duration, iso, rate_text, words, tone)},
    "day": day_of,
    "shell": shlex.quote,
}
FOR_TEMPLATES: Final[dict[str, Callable[..., str]]] = {
    **{made.__name__: made for made in (count, total, noun, time_words)},
    **{
        made.__name__: made
        for made in (lane_path, lead_path, dead_path, cause_path, give_up_path, replay_path)
    },
    "lanes_path": lanes_path,
    "leads_path": leads_path,
    "waiting_path": waiting_path,
    "imports_path": imports_path,
    "money_path": partial(_path, "/money"),  # workspace, day
    "audit_path": partial(_path, "/audit"),  # workspace, who, kind, day, id, after
}

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_NAMES: Final = (
    "board.css",
    "board.js",
    "charts.js",
    "icon.svg",
    "vendor/htmx-4.0.1.min.js",
    "vendor/uplot-1.6.32.min.js",
    "vendor/uplot-1.6.32.min.css",
)


class Assets:
    """The files in memory, also compressed."""

    def __init__(self) -> None:
        folder = files("stream_app.board") / "static"
        self._bodies: dict[str, bytes] = {}
        self._urls: dict[str, str] = {}
        for name in _NAMES:
            body = folder.joinpath(*name.split("/")).read_bytes()
            path = f"{sha256(body).hexdigest()[:16]}/{name}"
            self._bodies[path] = body
            self._urls[name] = f"/board/static/{path}"
        self._zipped = {
            path: gzip.compress(body, 9, mtime=0) for path, body in self._bodies.items()
        }

    def url(self, name: str) -> str:
        return self._urls[name]

    async def serve(self, request: Request) -> Response:
        path = str(request.path_params["path"])
        body = self._bodies.get(path)
        if body is None:
            return Response(
                "There is no such file.\n",
                404,
                {"x-content-type-options": "nosniff"},
                "text/plain",
            )
        headers = {
            "cache-control": "public, max-age=31536000, immutable",
            "x-content-type-options": "nosniff",
            "vary": "accept-encoding",
        }
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = self._zipped[path]
            headers = headers | {"content-encoding": "gzip"}
        return Response(body, 200, headers, _TYPES[path.rpartition(".")[2]])
