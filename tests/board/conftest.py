"""The board over the scene, with and without a token, and a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.board.client import Client
from tests.board.scene import OPERATOR_TOKEN, Outbox, board_of, fill, settings_of
from tests.board.serving import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    fill(folder / "model.sqlite", settings_of(folder))
    return folder


@pytest.fixture
def local(folder: Path) -> Iterator[Client]:
    board = board_of(settings_of(folder), folder / "model.sqlite")
    yield Client(board)
    board.close()


@pytest.fixture
def with_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("stream_app.board.access._FAILURE_S", 0)
    board = board_of(settings_of(folder, token=True), folder / "model.sqlite")
    yield Client(board)
    board.close()


@pytest.fixture
def outbox() -> Outbox:
    """What the operator's commands go to."""
    return Outbox()


@pytest.fixture
def with_operator(folder: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("stream_app.board.access._FAILURE_S", 0)
    board = board_of(settings_of(folder, token=True, operator=True), folder / "model.sqlite", outbox=outbox)
    yield Client(board)
    board.close()


@pytest.fixture
async def operator(with_operator: Client) -> Client:
    """An operator who has logged in."""
    await with_operator.login(OPERATOR_TOKEN)
    return with_operator
