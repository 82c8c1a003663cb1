"""What every page shows around its content, and how a page becomes a response."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stream_app.board.access import PATH, STRANGER, BoardAccess, Visitor
from stream_app.board.api_access import Refused
from stream_app.board.assets import Assets
from stream_app.board.commands import command_ids
from stream_app.board.page import Frame, Job, Pages
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.render import Renderer, Threads, html
from stream_app.board.requests import address_of
from stream_app.board.site import STALE_MS, Moment, Site

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
        make: Callable[[], msgspec.Struct | None],
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
            stale=age_ms is None or age_ms > STALE_MS or bool(lag.trouble),
            kafka_known=moment.kafka is not None,
            who=visitor.who,
            live=live,
            operator=is_operator,
            has_session=visitor.has_session,
            may_log_in=bool(visitor.who) and not is_operator and "operator" in self._access.roles,
            commands=command_ids(request),
            banner=self.site.settings.board.banner,
        )
