"""Makes the pictures of the board in docs/images: `python -m tests.board.screenshots`."""

import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, sync_playwright

from tests.board.clock import NOW_MS
from tests.board.serving import chromium, served
from tests.board.test_browser import context, log_in

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
PICTURES: Final = {"board-now": "/board", "board-lane": "/board/lanes/initech"}
OF_OPERATORS: Final = {"board-dead": "/board/dead"}
_HEIGHT: Final = {"board-now": None, "board-lane": 800, "board-dead": 780}
"""In pixels; None: the whole page."""


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as data,
        served(Path(data)) as url,
        served(Path(data), token=True, operator=True) as operators,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name, path in PICTURES.items():
            shoot(browser, url, path, name)
        for name, path in OF_OPERATORS.items():
            shoot(browser, operators, path, name, is_operator=True)


def shoot(browser: Browser, url: str, path: str, name: str, *, is_operator: bool = False) -> None:
    """Take a picture of a page: of all of it, or of its first pixels."""
    made, height = context(browser), _HEIGHT[name]
    page = made.new_page()
    if height is not None:
        page.set_viewport_size({"width": 1280, "height": height})
    page.clock.set_fixed_time(NOW_MS / 1000)
    if is_operator:
        log_in(page, url)
    page.goto(url + path)
    page.wait_for_timeout(200)
    page.screenshot(path=IMAGES / f"{name}.png", full_page=height is None)
    made.close()


if __name__ == "__main__":
    main()
