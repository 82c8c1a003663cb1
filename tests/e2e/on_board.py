"""Use the board of a real gateway as a browser without JavaScript."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

from tests.board.client import plain
from tests.e2e.behind import eventually
from tests.support.pace import BUSY

OWN: Final = {"sec-fetch-site": "same-origin"}
"""Headers of a form that our own page sent."""


@asynccontextmanager
async def signed_in(url: str, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that jane has signed in with this token, which the look-up API gets, too."""
    http = httpx.AsyncClient(
        base_url=url,
        follow_redirects=True,
        headers={**OWN, "authorization": f"Bearer {token}"},
        timeout=60 * BUSY,
    )
    async with http as web:
        entered = await web.post("/board/login", data={"token": token, "who": "jane"})
        assert entered.status_code == 200, entered.text
        yield web


async def acted(client: httpx.AsyncClient, path: str, **values: str) -> httpx.Response:
    """Send the form of a page, and return the page after it."""
    page = await client.get(path)
    match = re.search(r'name="form" value="(\w+)"', page.text)
    assert match is not None, page.text
    answer = await client.post(path, data={"form": match[1], **values})
    assert answer.status_code == 200, answer.text
    return answer


async def shown(client: httpx.AsyncClient, path: str, text: str) -> None:
    """Wait until a page says this."""

    async def missing() -> str:
        try:
            page = (await client.get(path)).text
        except httpx.TransportError as error:
            return str(error) or "no answer"
        return "" if text in plain(page) else page

    await eventually(missing, 90)
