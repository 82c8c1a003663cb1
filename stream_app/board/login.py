"""Log in and log out, and the way to the login and back."""

from __future__ import annotations

from collections import defaultdict
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from stream_app.board.access import PATH, RETRY_AFTER_S, BoardAccess, LoginNeeded
from stream_app.board.api_access import Refused
from stream_app.board.frame import PageMaker
from stream_app.board.render import HEADERS
from stream_app.board.requests import address_of, own_path, read_form
from stream_app.ops import logs as log

LOGIN: Final = f"{PATH}/login"


class Login:
    """The handlers. Each login is logged."""

    def __init__(self, access: BoardAccess, maker: PageMaker, logger: log.Logger) -> None:
        self._access = access
        self._maker = maker
        self._log = logger
        # Anyone may try to log in: one line a minute for each reason.
        self._say_refused: defaultdict[str, log.Throttled] = defaultdict(
            lambda: log.Throttled(lambda because: self._log.warning("board_login_refused", because=because))
        )

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(LOGIN, self._form, methods=["GET"]),
            Route(LOGIN, self._login, methods=["POST"]),
            Route(f"{PATH}/logout", self._logout, methods=["POST"]),
        ]

    def needed(self, request: Request) -> Response:
        """Answer a request that has no session."""
        if request.method not in ("GET", "HEAD"):
            return self._maker.refused(
                request, Refused(401, "no_session", "The session has ended: log in and try again")
            )
        path = address_of(request)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A link on another site does not send the cookie; the same page opened by ourselves does.
            return Response("", 200, {**HEADERS, "refresh": f"0; url={path}"}, "text/html")
        target = f"{LOGIN}?next={quote(path, safe='')}"
        if "hx-request" in request.headers:
            return Response("", 401, {**HEADERS, "hx-redirect": target})
        return RedirectResponse(target, 303, HEADERS)

    async def _form(self, request: Request) -> Response:
        return self._page(request, "", 200)

    async def _login(self, request: Request) -> Response:
        try:
            form = await read_form(request)
            cookie, visitor = await self._access.login(request, form.get("token", ""), form.get("who", ""))
        except Refused as refused:
            self._say_refused[refused.error](refused.error)
            response = self._page(request, str(refused), refused.status)
            if refused.status == 429:  # its connection makes room for others at once
                response.headers.update({"retry-after": str(RETRY_AFTER_S), "connection": "close"})
            return response
        self._log.info("board_login", who=visitor.who, role=visitor.role)
        response = RedirectResponse(own_path(form.get("next", "")), 303, HEADERS)
        self._access.set_cookie(response, cookie)
        return response

    async def _logout(self, request: Request) -> Response:
        try:
            self._access.check(request)
        except LoginNeeded:
            pass
        except Refused as refused:
            return self._maker.refused(request, refused)
        response = RedirectResponse(LOGIN, 303, HEADERS)
        self._access.set_cookie(response, "")
        return response

    def _page(self, request: Request, problem: str, status: int) -> Response:
        return self._maker.login_page(own_path(request.query_params.get("next", "")), problem, status)
