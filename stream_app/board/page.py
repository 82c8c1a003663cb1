"""A page as a response: its content within the frame that every page shows.

The content is made once for all requests that ask for the same.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec
from attrs import define, field
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from stream_app import __version__
from stream_app.board.access import PATH, STRANGER, AccessRefused, BoardAccess, Visitor
from stream_app.board.formats import FILTERS, FOR_TEMPLATES, Assets, behind_path, clock
from stream_app.board.read_model.board_query import AnsweredCommand
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.requests import address_of, own_path
from stream_app.board.site import Moment, PageData, Shared, Site
from stream_app.client.lanes.commands import QUEUED_TEXT
from stream_app.domain.commands import REPLAY_RELOAD, TO_ALL, outcome_text
from stream_app.domain.lane.overrides import ORDERS

T = TypeVar("T")

PAGE_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_MAX_WAITING: Final = 64


class Renderer:
    """Renders templates."""

    def __init__(self, assets: Assets) -> None:
        loader = PackageLoader("stream_app.board")
        self._templates = Environment(
            loader=loader,
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= FILTERS
        self._templates.globals |= {"asset": assets.url, "version": __version__, **FOR_TEMPLATES}

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        return self._templates.get_template(template).render(context)


class Threads:
    """Runs blocking work in a single thread.

    Many open boards then take no more of the machine than one does.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "board")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work`. Raises AccessRefused if too much waits already."""
        if self._waiting >= _MAX_WAITING:
            raise AccessRefused(
                503,
                "busy",
                "Too many pages are being made: try again in a few seconds",
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread, after the work that it is at."""
        self._thread.shutdown(cancel_futures=True)


_ID: Final = re.compile(r"c-[0-9a-f]{32}")
_SENT: Final = re.compile(r"[0-9]{1,15}")
_MAX_FOLLOWED: Final = 20


def commands_of(request: Request) -> list[str]:
    """Return the ids of the commands that a page follows."""
    return list(filter(_ID.fullmatch, dict.fromkeys(request.query_params.getlist("command"))))[
        :_MAX_FOLLOWED
    ]


_SOON_MS: Final = 5_000
"""A worker that runs answers within this time: until then nothing is said of workers."""
_ASKED_MS: Final = 60_000
"""How long a page asks for an answer, once a second."""
_SOON_TEXT: Final = "the answer comes within seconds"


def followed_at(path: str, ids: Iterable[str], sent_ms: int) -> str:
    """Return the address of a page that follows commands.

    Args:
        path: The address of the page, with or without a query.
        ids: The ids of the commands.
        sent_ms: When they were sent, in epoch ms.
    """
    query = [("command", name) for name in ids] + [("sent", str(sent_ms))]
    return f"{path}{'&' if '?' in path else '?'}{urlencode(query)}"


def follow(
    site: Site,
    command: str,
    answers: list[AnsweredCommand],
    sent_ms: int,
    now_ms: int,
) -> PageData:
    """Return what a page says of a command that was sent from it.

    `is_open` is True while its answer is still to come.
    """
    is_answered = any(answer.kind != REPLAY_RELOAD for answer in answers)
    if is_answered and all(_is_seen(site, answer, now_ms) for answer in answers):
        return outcome_of(site, command, answers)
    waits_ms = now_ms - sent_ms
    soon = is_answered or waits_ms < _SOON_MS
    return {
        "id": command,
        "state": "sent" if soon else "queued",
        "tone": "idle",
        "kind": "",
        "where": "",
        "text": _SOON_TEXT if soon else QUEUED_TEXT,
        "partly": "",
        "is_open": waits_ms < _ASKED_MS,
    }


def _is_seen(site: Site, answer: AnsweredCommand, now_ms: int) -> bool:
    """Return True if the page already shows the lane after the order that was applied.

    The worker writes both in one transaction, to two topics, and the read model may have read only
    one of them.
    """
    if not answer.applied or answer.kind not in ORDERS or now_ms - answer.at_ms > _SOON_MS:
        return True
    view = site.queries.lane(answer.workspace, now_ms)
    return view is not None and view.at_ms >= answer.at_ms


def outcome_of(site: Site, command: str, answers: list[AnsweredCommand]) -> PageData:
    """Return what became of a command.

    A command to every partition is refused if one of them refused it.
    """
    first = [answer for answer in answers if answer.reason != "repeated"] or answers
    workers = [answer for answer in first if answer.kind != REPLAY_RELOAD]
    if not workers:
        queued = {"state": "queued", "tone": "idle", "text": QUEUED_TEXT}
        return {"id": command, "kind": "", "where": "", "partly": "", "is_open": False, **queued}
    worst = min(first, key=lambda answer: answer.applied)
    answered = len({answer.place[1] for answer in workers})
    every = site.settings.kafka.partitions
    is_partial = workers[0].kind in TO_ALL and answered < every
    return {
        "id": command,
        "state": "applied" if worst.applied else "refused",
        "tone": "ok" if worst.applied else "bad",
        "kind": worst.kind,
        "where": worst.workspace or "all",
        "text": outcome_text(worst.text or worst.reason, worst.under_way),
        "partly": f"by {answered} of {every} partitions" if is_partial else "",
        "is_open": False,
    }


class Content(msgspec.Struct, frozen=True):
    """What a page shows within its frame: `replies` are those to the commands that it follows."""

    html: str
    replies: list[PageData]


Frame = Mapping[str, Any]
"""What every page shows around its content, by name."""
_FOR_ALL: Final = ("operator", "url", "now_ms", "lag", "kafka_known", "is_asking", "is_read")
"""What the content sees of its frame."""
Make = Callable[[], PageData | msgspec.Struct | None]
"""Returns what a template shows; None if the workspace is unknown."""

NAV: Final = (
    ("now", "Now", PATH),
    ("lanes", "Lanes", f"{PATH}/lanes"),
    ("leads", "Leads", f"{PATH}/leads"),
    ("imports", "Imports", f"{PATH}/imports"),
    ("dead", "Dead letters", f"{PATH}/dead"),
    ("books", "Books", f"{PATH}/books"),
    ("money", "Money", f"{PATH}/money"),
    ("audit", "Audit", f"{PATH}/audit"),
    ("system", "System", f"{PATH}/system"),
)
PUBLISH: Final = ("publish", "Publish", f"{PATH}/publish")
"""Only operators have this page."""

PageHandler = Callable[[Request, Moment], Awaitable[Response]]


@define(eq=False, repr=False)
class PageMaker:
    """Makes the responses, in the board's thread."""

    site: Site
    lag: Callable[[], ProjectionLag]
    now_ms: Callable[[], int]
    _access: BoardAccess
    _renderer: Renderer
    threads: Threads = field(init=False, factory=Threads)

    async def page(
        self,
        request: Request,
        moment: Moment,
        name: str,
        title: str,
        make: Make,
        *,
        current: str = "",
        live: bool = True,
        shared: bool = True,
        status: int = 200,
    ) -> Response:
        """Return a page.

        `make` returns what the template `name` shows; None if the workspace is unknown. `current`
        is the page that the navigation marks; default: `name`. A `live` page refreshes itself: then
        what `make` returns is shown to all who ask for it in the same second, unless it is not
        `shared`.

        Raises:
            AccessRefused: `make` returned None.
        """
        frame = self._frame(request, moment, title, current or name, live=live)
        kept = moment.shared if live and shared else None
        body = await self.threads.run(partial(self._html_of, frame, name, make, kept))
        if body is None:
            raise AccessRefused(
                404,
                "unknown_workspace",
                "No workspace with this name is configured or known",
            )
        return HTMLResponse(body, status, PAGE_HEADERS)

    def _html_of(
        self,
        frame: Frame,
        template: str,
        make: Make,
        shared: Shared | None,
    ) -> bytes | None:
        """Return the page; None if `make` returned None.

        `shared` keeps the content for others who ask for the same.
        """
        content = partial(self._content, frame, template, make)
        made = (
            content() if shared is None else shared.once((frame["url"], frame["operator"]), content)
        )
        return None if made is None else self._framed(frame, made)

    def _content(self, frame: Frame, template: str, make: Make) -> Content | None:
        """Render what a page shows within its frame.

        Templates see only what is the same for all of a role.
        """
        # One snapshot: an answer and the state below it are those of one moment.
        with self.site.queries.snapshot():
            replies = [
                follow(
                    self.site,
                    name,
                    self.site.queries.answers(name),
                    frame["sent_ms"],
                    frame["now_ms"],
                )
                for name in frame["commands"]
            ]
            page = make()
        if page is None:
            return None
        context = {
            **{name: frame[name] for name in _FOR_ALL},
            "page": page,
            "clock": partial(clock, now_ms=frame["now_ms"]),
            "behind_path": partial(behind_path, self.site.settings.names.bulk),
        }
        return Content(self._renderer.render(f"{template}.html", context), replies)

    def _framed(self, frame: Frame, content: Content) -> bytes:
        return self._renderer.render("base.html", {"frame": frame, "content": content}).encode()

    def refused(
        self,
        request: Request,
        refused: AccessRefused,
        visitor: Visitor = STRANGER,
    ) -> Response:
        """Return the page that says why a request is not answered."""
        lag = ProjectionLag() if refused.status in (401, 403) else self.lag()
        moment = Moment(self.now_ms(), lag, None, visitor)
        frame = self._frame(request, moment, "Not possible", "", live=False)
        context = {"text": str(refused), "error": refused.error, "status": refused.status}
        body = self._framed(frame, Content(self._renderer.render("refused.html", context), []))
        return HTMLResponse(body, refused.status, PAGE_HEADERS)

    async def login_page(self, request: Request, problem: str = "", status: int = 200) -> Response:
        target = own_path(request.query_params.get("next", ""))
        context = {"problem": problem, "next": target, "access": self._access}
        return HTMLResponse(self._renderer.render("login.html", context), status, PAGE_HEADERS)

    def _frame(
        self,
        request: Request,
        moment: Moment,
        title: str,
        current: str,
        *,
        live: bool,
    ) -> Frame:
        lag = moment.lag
        visitor = moment.visitor
        commands = commands_of(request) if visitor.role == "operator" else []
        sent = request.query_params.get("sent", "")
        age_ms = None if lag.as_of_ms is None else max(0, moment.now_ms - lag.as_of_ms)
        is_operator = visitor.role == "operator"
        return {
            "title": title,
            "current": current,
            "nav": (*NAV, PUBLISH) if is_operator else NAV,
            "url": address_of(request),  # without the host
            "now_ms": moment.now_ms,
            "age_ms": age_ms,  # None if the model was never complete
            "lag": lag.lag,
            "trouble": lag.trouble,
            "stale": not lag.is_read(moment.now_ms) or bool(lag.trouble),
            "kafka_known": moment.kafka is not None,
            # Kafka was asked for the first time, and may still answer
            "is_asking": moment.is_asking,
            "is_read": lag.is_read(moment.now_ms),  # the model holds what is on Kafka now
            "who": visitor.who,
            "live": live,  # the page refreshes itself
            "operator": is_operator,  # the page is shown to an operator
            "has_session": visitor.has_session,
            "may_log_in": bool(visitor.who)
            and not is_operator
            and "operator" in self._access.roles,
            "commands": commands,  # whose answers the page shows
            # When they were sent, in epoch ms; 0 if it is not known.
            "sent_ms": int(sent) if _SENT.fullmatch(sent) else 0,
            "banner": self.site.settings.board.banner,  # the name of the installation; '' for none
        }
