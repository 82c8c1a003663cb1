"""Makes the pictures of the board in docs/images: `python -m tests.board.screenshots`."""

import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, sync_playwright

from tests.board.browser import context, log_in
from tests.board.clock import NOW_MS
from tests.board.serving import served
from tests.support.programs import find_browser

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
PICTURES: Final = {"board-now": ("/board", None), "board-lane": ("/board/lanes/initech", 800)}
OF_OPERATORS: Final = {"board-dead": ("/board/dead", 780)}
"""Page, and height in pixels; None: the whole page."""


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as data,
        served(Path(data)) as url,
        served(Path(data), token=True, operator=True) as operators,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for name, picture in PICTURES.items():
            shoot(context(browser, of=url).new_page(), url, name, *picture)
        page = context(browser).new_page()
        log_in(page, operators)
        for name, picture in OF_OPERATORS.items():
            shoot(page, operators, name, *picture)


def shoot(page: Page, url: str, name: str, path: str, height: int | None) -> None:
    """Take a picture of a page: of all of it, or of its first pixels."""
    if height is not None:
        page.set_viewport_size({"width": 1280, "height": height})
    page.clock.set_fixed_time(NOW_MS / 1000)
    page.goto(url + path)
    page.wait_for_timeout(200)
    page.screenshot(path=IMAGES / f"{name}.png", full_page=height is None)


if __name__ == "__main__":
    main()
