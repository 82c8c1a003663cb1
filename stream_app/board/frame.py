"""What every page shows around its content, and how a page becomes a response."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stream_app.board.access import PATH, STRANGER, BoardAccess, Visitor
from stream_app.board.assets import Assets
from stream_app.board.commands import Followed, command_ids, follow
from stream_app.board.formats import clock
from stream_app.board.pages.leads import lead_path
from stream_app.board.render import Renderer, Threads, html
from stream_app.board.requests import address_of
from stream_app.board.site import STALE_MS, Moment, Site
from stream_app.gateway.access import Refused
from stream_app.gateway.read_model.follow import ProjectionLag

NAV: Final = (
    ("now", "Now", PATH),
    ("lanes", "Lanes", f"{PATH}/lanes"),
    ("leads", "Leads", f"{PATH}/leads"),
    ("imports", "Imports", f"{PATH}/imports"),
    ("dead", "Dead letters", f"{PATH}/dead"),
    ("books", "Books", f"{PATH}/books"),
    ("audit", "Audit", f"{PATH}/audit"),
    ("system", "System", f"{PATH}/system"),
)
PUBLISH: Final = ("publish", "Publish", f"{PATH}/publish")
"""Only operators have this page."""


class Frame(msgspec.Struct, frozen=True):
    """What every page shows around its content.

    Attributes:
        url: The address of the page, without the host.
        age_ms: None if the model was never complete.
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
    who: str
    live: bool
    operator: bool
    has_session: bool
    may_log_in: bool
    commands: list[str]
    banner: str


class PageMaker:
    """Makes the responses. Reading the model and rendering run in the board's thread."""

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

    async def page(
        self,
        request: Request,
        moment: Moment,
        name: str,
        title: str,
        make: Callable[[], msgspec.Struct | None],
        *,
        current: str = "",
        live: bool = True,
        status: int = 200,
    ) -> Response:
        """Return a page.

        Args:
            request: The request.
            moment: What it sees.
            name: The name of its template.
            title: The title of the browser's window.
            make: Returns what the template shows; None if the workspace is unknown. It runs in the board's thread.
            current: The page that the navigation marks; default: `name`.
            live: The page refreshes itself.
            status: The HTTP status.

        Raises:
            Refused: `make` returned None.
        """
        frame = self._frame(request, moment, title, current or name, live=live)
        content = partial(self._content, frame, name, make)
        if live:
            content = partial(moment.shared.once, (frame.url, frame.operator), content)
        body = await self.threads.run(partial(self._whole, frame, content))
        if body is None:
            raise Refused(404, "unknown_workspace", "No workspace with this name is configured or known")
        return html(body, status)

    def refused(self, request: Request, refused: Refused, visitor: Visitor | None = None) -> Response:
        """Return the page that says why a request is not answered."""
        lag = ProjectionLag() if refused.status in (401, 403) else self.lag()
        moment = Moment(self.now_ms(), lag, None, visitor or STRANGER)
        frame = self._frame(request, moment, "Not possible", "", live=False)
        context = {"text": str(refused), "error": refused.error, "status": refused.status}
        return html(self._framed(frame, self._renderer.render("refused.html", context), []), refused.status)

    def login_page(self, target: str, problem: str, status: int) -> Response:
        """Return the page with the login."""
        access = self._access
        context = {"problem": problem, "next": target, "roles": access.roles, "asks_name": access.asks_name}
        return html(self._renderer.render("login.html", context), status)

    def _whole(self, frame: Frame, content: Callable[[], str | None]) -> str | None:
        made = content()
        return None if made is None else self._framed(frame, made, follow(self.site, frame.commands))

    def _content(self, frame: Frame, name: str, make: Callable[[], msgspec.Struct | None]) -> str | None:
        """Render what a page shows within its frame. Templates see only what is the same for all of a role."""
        with self.site.queries.snapshot():
            page = make()
        if page is None:
            return None
        context = {
            "page": page,
            "operator": frame.operator,
            "url": frame.url,
            "now_ms": frame.now_ms,
            "lag": frame.lag,
            "kafka_known": frame.kafka_known,
            "clock": partial(clock, now_ms=frame.now_ms),
            "lead_path": lead_path,
        }
        return self._renderer.render(f"{name}.html", context)

    def _framed(self, frame: Frame, content: str, answers: list[Followed]) -> str:
        return self._renderer.render("base.html", {"frame": frame, "content": content, "answers": answers})

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
            stale=age_ms is None or age_ms > STALE_MS or bool(lag.trouble),
            kafka_known=moment.kafka is not None,
            who=visitor.who,
            live=live,
            operator=is_operator,
            has_session=visitor.has_session,
            may_log_in=bool(visitor.who) and not is_operator and "operator" in self._access.roles,
            commands=command_ids(request),
            banner=self.site.settings.gateway.banner,
        )
