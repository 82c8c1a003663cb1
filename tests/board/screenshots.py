"""Makes the pictures of the board in docs/images: `python -m tests.board.screenshots [--all FOLDER]`.

With `--all`, every page in light and dark, on a desktop and a phone, goes into the folder, for review. So does every
page with which operators act.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

from tests.board.clock import NOW_MS
from tests.board.serving import chromium, served
from tests.board.test_browser import FORMS, LOOKS, PAGES, context, log_in
from tests.board.test_browser_publish import CSV, to_the_cost

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
PICTURES: Final = {"board-now": "/board", "board-lane": "/board/lanes/initech"}
OF_OPERATORS: Final = {"board-dead": "/board/dead"}
_HEIGHT: Final = {"board-now": None, "board-lane": 800, "board-dead": 780}
"""In pixels; None: the whole page."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    folder: Path | None = parser.parse_args().all
    with (
        tempfile.TemporaryDirectory() as data,
        served(Path(data)) as url,
        served(Path(data), token=True, operator=True) as operators,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        if folder is None:
            for name, path in PICTURES.items():
                shoot(browser, url + path, IMAGES / f"{name}.png", height=_HEIGHT[name])
            for name, path in OF_OPERATORS.items():
                shoot(browser, operators + path, IMAGES / f"{name}.png", height=_HEIGHT[name], operators=operators)
            return
        for scheme, width in LOOKS:
            for name, path in PAGES.items():
                shoot(browser, url + path, folder / f"{name.replace(' ', '-')}-{scheme}-{width}.png", scheme, width)
            shoot_acts(browser, operators, folder, scheme, width)


def shoot_acts(browser: Browser, url: str, folder: Path, scheme: str, width: int) -> None:
    """Take a picture of each page with which operators act, of a plan, and of each step of a publication."""
    made = context(browser, scheme, width)
    page = made.new_page()
    page.clock.set_fixed_time(NOW_MS / 1000)
    log_in(page, url)
    for name, path in FORMS.items():
        page.goto(url + path)
        _save(page, folder / f"act-{name.replace(' ', '-')}-{scheme}-{width}.png")
    page.goto(url + FORMS["plan a replay"])
    page.get_by_role("button", name="Plan").click()
    page.get_by_role("button", name="Send 167 dead letters").wait_for()
    _save(page, folder / f"act-plan-{scheme}-{width}.png")
    page.goto(f"{url}/board/publish")
    page.set_input_files("#file", {"name": "leads.csv", "mimeType": "text/csv", "buffer": CSV.encode()})
    page.get_by_role("button", name="Show the columns").click()
    page.get_by_role("button", name="Check all rows").wait_for()
    _save(page, folder / f"act-columns-{scheme}-{width}.png")
    to_the_cost(page)
    _save(page, folder / f"act-cost-{scheme}-{width}.png")
    page.get_by_role("button", name="Discard the file").click()
    made.close()


def _save(page: Page, file: Path) -> None:
    page.wait_for_timeout(200)
    page.screenshot(path=file, full_page=True)


def shoot(
    browser: Browser,
    url: str,
    file: Path,
    scheme: str = "light",
    width: int = 1280,
    *,
    height: int | None = None,
    operators: str = "",
) -> None:
    """Take a picture of a page: of all of it, or of its first `height` pixels. `operators`: log in to this board."""
    made = context(browser, scheme, width)
    page = made.new_page()
    if height is not None:
        page.set_viewport_size({"width": width, "height": height})
    page.clock.set_fixed_time(NOW_MS / 1000)
    if operators:
        log_in(page, operators)
    page.goto(url)
    page.wait_for_timeout(200)
    page.screenshot(path=file, full_page=height is None)
    made.close()


if __name__ == "__main__":
    main()
