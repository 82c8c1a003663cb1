"""Sends a form of the board, as a page does."""

import re
from typing import Any

from tests.board.client import OWN, Client


async def nonce_of(client: Client, url: str) -> str:
    """Open a form; returns the random number that it carries."""
    answer = await client.get(url)
    assert answer.status_code == 200, answer.text
    (nonce,) = re.findall(r'name="form" value="([0-9a-f]{32})"', answer.text)
    return str(nonce)


async def send(client: Client, url: str, nonce: str = "", **values: str) -> Any:
    """Open and send a form."""
    data = {"form": nonce or await nonce_of(client, url), **values}
    return await client.ask("POST", url, data=data, headers=OWN)
