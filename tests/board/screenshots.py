"""Makes the pictures of the board in docs/images: `python -m tests.board.screenshots [--all FOLDER]`.

With `--all`, every page in light and dark, on a desktop and a phone, goes into the folder, for review.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, sync_playwright

from tests.board.clock import NOW_MS
from tests.board.serving import chromium, served
from tests.board.test_browser import LOOKS, PAGES, context

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
PICTURES: Final = {"board-now": "/board", "board-lane": "/board/lanes/initech", "board-dead": "/board/dead"}
_HEIGHT: Final = {"board-now": None, "board-lane": 800, "board-dead": 770}
"""In pixels; None: the whole page."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    folder: Path | None = parser.parse_args().all
    with tempfile.TemporaryDirectory() as data, served(Path(data)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        if folder is None:
            for name, path in PICTURES.items():
                shoot(browser, url + path, IMAGES / f"{name}.png", height=_HEIGHT[name])
            return
        for scheme, width in LOOKS:
            for name, path in PAGES.items():
                shoot(browser, url + path, folder / f"{name.replace(' ', '-')}-{scheme}-{width}.png", scheme, width)


def shoot(
    browser: Browser, url: str, file: Path, scheme: str = "light", width: int = 1280, *, height: int | None = None
) -> None:
    """Take a picture of a page: of all of it, or of its first `height` pixels."""
    made = context(browser, scheme, width)
    page = made.new_page()
    if height is not None:
        page.set_viewport_size({"width": width, "height": height})
    page.clock.set_fixed_time(NOW_MS / 1000)
    page.goto(url)
    page.wait_for_timeout(200)
    page.screenshot(path=file, full_page=height is None)
    made.close()


if __name__ == "__main__":
    main()
