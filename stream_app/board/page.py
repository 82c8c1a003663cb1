"""A page as a response: its content, made once for all that ask for the same, within what every page shows."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlencode

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from stream_app.board import formats
from stream_app.board.access import PATH, STRANGER, BoardAccess, Refused, Visitor
from stream_app.board.formats import FOR_TEMPLATES, Assets, behind_path, clock
from stream_app.board.read_model.board_query import Order
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.requests import address_of
from stream_app.board.site import Moment, PageData, Shared, Site, Tone
from stream_app.client.commands import QUEUED_TEXT
from stream_app.domain.commands import REPLAY_RELOAD, TO_ALL, outcome_text
from stream_app.version import __version__

T = TypeVar("T")

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_MOST_WAITING: Final = 64


class Renderer:
    """Renders templates."""

    def __init__(self, assets: Assets) -> None:
        self._templates = Environment(
            loader=PackageLoader("stream_app.board"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "amount": formats.amount,
            "duration": formats.duration,
            "iso": formats.iso,
            "day": formats.day_of,
            "words": formats.words,
            "tone": formats.tone,
            "shell": shlex.quote,
        }
        self._templates.globals |= {"asset": assets.url, "version": __version__, **FOR_TEMPLATES}
        self._templates.globals |= {"count": formats.count, "total": formats.total}

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        """Render a template."""
        return self._templates.get_template(template).render(context)


class Threads:
    """Runs blocking work in one thread, so that many boards take no more of the machine than one does."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "board")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work`. Raises Refused if too much waits already."""
        if self._waiting >= _MOST_WAITING:
            raise Refused(503, "busy", "Too many pages are being made: try again in a few seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread, after the work that it is at."""
        self._thread.shutdown(cancel_futures=True)


def html(body: bytes, status: int = 200) -> HTMLResponse:
    """Return the response with the security headers."""
    return HTMLResponse(body, status, HEADERS)


_ID: Final = re.compile(r"c-[0-9a-f]{32}")
_MOST: Final = 20

State = Literal["queued", "applied", "refused"]


class Followed(msgspec.Struct, frozen=True):
    """A command and what became of it.

    Attributes:
        kind: '' until it is answered.
        where: The workspace, or `all`.
        partly: How many partitions answered, if others have not.
    """

    id: str
    state: State
    tone: Tone
    kind: str
    where: str
    text: str
    partly: str = ""


def followed_at(path: str, ids: Iterable[str]) -> str:
    """Return the address of a page that follows these commands."""
    return f"{path}{'&' if '?' in path else '?'}{urlencode([('command', name) for name in ids])}"


def command_ids(request: Request) -> list[str]:
    """Return the ids of the commands that the address names."""
    named = dict.fromkeys(request.query_params.getlist("command"))
    return [name for name in named if _ID.fullmatch(name)][:_MOST]


def follow(site: Site, ids: Iterable[str]) -> list[Followed]:
    """Return what is known of these commands."""
    return [outcome_of(site, name, site.queries.answers(name)) for name in ids]


def outcome_of(site: Site, command: str, answers: list[Order]) -> Followed:
    """Return what became of a command: a command to every partition is refused if one of them refused it."""
    first = [answer for answer in answers if answer.reason != "repeated"] or answers
    workers = [answer for answer in first if answer.kind != REPLAY_RELOAD]
    if not workers:
        return Followed(command, "queued", "idle", "", "", QUEUED_TEXT)
    worst = min(first, key=lambda answer: answer.applied)
    text = outcome_text(worst.text or worst.reason, worst.under_way)
    outcome = Followed(
        command,
        "applied" if worst.applied else "refused",
        "ok" if worst.applied else "bad",
        worst.kind,
        worst.workspace or "all",
        text,
    )
    answered, every = len({answer.place[1] for answer in workers}), site.settings.kafka.partitions
    if workers[0].kind in TO_ALL and answered < every:
        return msgspec.structs.replace(outcome, partly=f"by {answered} of {every} partitions")
    return outcome


class Frame(msgspec.Struct, frozen=True):
    """What every page shows around its content.

    Attributes:
        url: The address of the page, without the host.
        age_ms: None if the model was never complete.
        is_asking: Kafka was asked for the first time, and may still answer.
        is_read: The model holds what is on Kafka now.
        live: The page refreshes itself.
        operator: The page is shown to an operator.
        may_log_in: A login would allow more.
        commands: The ids of commands whose answers the page shows.
        banner: The name of the installation; '' for none.
    """

    title: str
    current: str
    nav: tuple[tuple[str, str, str], ...]
    url: str
    now_ms: int
    age_ms: int | None
    lag: int
    trouble: str
    stale: bool
    kafka_known: bool
    is_asking: bool
    is_read: bool
    who: str
    live: bool
    operator: bool
    has_session: bool
    may_log_in: bool
    commands: list[str]
    banner: str


Make = Callable[[], PageData | msgspec.Struct | None]
"""Returns what a template shows; None if the workspace is unknown."""


class Job(msgspec.Struct, frozen=True):
    """A page to make.

    Attributes:
        shared: Keeps the content for others; None: no one else asks for it.
    """

    frame: Frame
    template: str
    make: Make
    shared: Shared | None


class Pages:
    """Makes pages. Use it from one thread."""

    def __init__(self, site: Site, renderer: Renderer) -> None:
        self._site = site
        self._renderer = renderer

    def html_of(self, job: Job) -> bytes | None:
        """Return the page; None if `make` returned None."""
        content = partial(self._content, job)
        made = content() if job.shared is None else job.shared.once((job.frame.url, job.frame.operator), content)
        return None if made is None else self.framed(job.frame, made, follow(self._site, job.frame.commands))

    def _content(self, job: Job) -> str | None:
        """Render what a page shows within its frame. Templates see only what is the same for all of a role."""
        frame = job.frame
        with self._site.queries.snapshot():
            page = job.make()
        if page is None:
            return None
        context = {
            "page": page,
            "operator": frame.operator,
            "url": frame.url,
            "now_ms": frame.now_ms,
            "lag": frame.lag,
            "kafka_known": frame.kafka_known,
            "is_asking": frame.is_asking,
            "is_read": frame.is_read,
            "clock": partial(clock, now_ms=frame.now_ms),
            "behind_path": partial(behind_path, self._site.settings.names.bulk),
        }
        return self._renderer.render(f"{job.template}.html", context)

    def framed(self, frame: Frame, content: str, answers: list[Followed]) -> bytes:
        """Return a page with this content."""
        return self._renderer.render("base.html", {"frame": frame, "content": content, "answers": answers}).encode()


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

Handler = Callable[[Request, Moment], Awaitable[Response]]


class PageMaker:
    """Makes the responses, in the board's thread."""

    def __init__(
        self,
        site: Site,
        access: BoardAccess,
        assets: Assets,
        lag: Callable[[], ProjectionLag],
        now_ms: Callable[[], int],
    ) -> None:
        self.site = site
        self.threads = Threads()
        self.lag = lag
        self.now_ms = now_ms
        self._access = access
        self._renderer = Renderer(assets)
        self._pages = Pages(site, self._renderer)

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

        `make` returns what the template `name` shows; None if the workspace is unknown. `current` is the page that the
        navigation marks; default: `name`. A `live` page refreshes itself: then what `make` returns is shown to all who
        ask for it in the same second, unless it is not `shared`.

        Raises:
            Refused: `make` returned None.
        """
        frame = self._frame(request, moment, title, current or name, live=live)
        job = Job(frame, name, make, moment.shared if live and shared else None)
        body = await self.threads.run(partial(self._pages.html_of, job))
        if body is None:
            raise Refused(404, "unknown_workspace", "No workspace with this name is configured or known")
        return html(body, status)

    def refused(self, request: Request, refused: Refused, visitor: Visitor | None = None) -> Response:
        """Return the page that says why a request is not answered."""
        lag = ProjectionLag() if refused.status in (401, 403) else self.lag()
        moment = Moment(self.now_ms(), lag, None, visitor or STRANGER)
        frame = self._frame(request, moment, "Not possible", "", live=False)
        context = {"text": str(refused), "error": refused.error, "status": refused.status}
        return html(self._pages.framed(frame, self._renderer.render("refused.html", context), []), refused.status)

    def login_page(self, target: str, problem: str, status: int) -> Response:
        """Return the page with the login."""
        access = self._access
        context = {"problem": problem, "next": target, "roles": access.roles, "asks_name": access.asks_name}
        return html(self._renderer.render("login.html", context).encode(), status)

    def _frame(self, request: Request, moment: Moment, title: str, current: str, *, live: bool) -> Frame:
        lag, visitor = moment.lag, moment.visitor
        age_ms = None if lag.as_of_ms is None else max(0, moment.now_ms - lag.as_of_ms)
        is_operator = visitor.role == "operator"
        return Frame(
            title=title,
            current=current,
            nav=(*NAV, PUBLISH) if is_operator else NAV,
            url=address_of(request),
            now_ms=moment.now_ms,
            age_ms=age_ms,
            lag=lag.lag,
            trouble=lag.trouble,
            stale=not lag.is_read(moment.now_ms) or bool(lag.trouble),
            kafka_known=moment.kafka is not None,
            is_asking=moment.is_asking,
            is_read=lag.is_read(moment.now_ms),
            who=visitor.who,
            live=live,
            operator=is_operator,
            has_session=visitor.has_session,
            may_log_in=bool(visitor.who) and not is_operator and "operator" in self._access.roles,
            commands=command_ids(request),
            banner=self.site.settings.board.banner,
        )
