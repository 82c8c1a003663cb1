"""The board over the scene, with and without a token, and a browser."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.board.client import Client, ClientOf
from tests.board.scene import OPERATOR_TOKEN, Outbox, board_of, fill, settings_of
from tests.support.programs import find_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(),
            args=["--no-sandbox", "--disable-gpu"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    fill(folder / "model.sqlite", settings_of(folder))
    return folder


@pytest.fixture
def client_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientOf]:
    """Makes a client of a board over the scene: which tokens there are, and what else `board_of`
    takes.
    """
    monkeypatch.setattr("stream_app.board.access._FAILURE_S", 0)
    with ExitStack() as boards:

        def make(*tokens: str, **parts: Any) -> Client:
            has: dict[str, Any] = dict.fromkeys(tokens, True)
            board = board_of(settings_of(folder, **has), folder / "model.sqlite", **parts)
            return Client(boards.enter_context(closing(board)))

        yield make


@pytest.fixture
def local(client_of: ClientOf) -> Client:
    return client_of()


@pytest.fixture
def with_token(client_of: ClientOf) -> Client:
    return client_of("token")


@pytest.fixture
def outbox() -> Outbox:
    """What the operator's commands go to."""
    return Outbox()


@pytest.fixture
def with_operator(client_of: ClientOf, outbox: Outbox) -> Client:
    return client_of("token", "operator", outbox=outbox)


@pytest.fixture
async def operator(with_operator: Client) -> Client:
    """An operator who has logged in."""
    await with_operator.login(OPERATOR_TOKEN)
    return with_operator
