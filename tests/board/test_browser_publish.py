"""Publish a file in Chromium: each step in light and dark, wide and narrow, with and without JavaScript."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from stream_app.board.requests import MAX_FILE_BYTES
from tests.board.clock import NOW_MS
from tests.board.scene import HOSTILE
from tests.board.serving import served
from tests.board.test_browser import Watched, context, each_look, log_in

pytestmark = pytest.mark.timeout(600)
expect.set_options(timeout=60_000)

_TITLE: Final = HOSTILE.replace('"', '""')
_ROWS: Final = "".join(f"p{number}@example.com,Ada,x,initech\n" for number in range(300))
CSV: Final = f'E-Mail,Vorname,"{_TITLE}",workspace\n{_ROWS}not one,B,y,initech\n'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("board"), token=True, operator=True) as url:
        yield url


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "leads of march.csv"
    path.write_text(CSV)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "large.csv"
    with path.open("wb") as out:
        out.write(b"email\n")
        out.truncate(2 * MAX_FILE_BYTES)
    return path


def to_the_cost(page: Page) -> None:
    page.get_by_role("button", name="Check all rows").click()
    cost = page.get_by_role("heading", name="What it will cost")
    for _ in range(120):
        if cost.is_visible():
            return
        page.wait_for_timeout(500)
        page.goto(page.url)
    raise AssertionError("the rows are not checked")


@pytest.mark.slow
@each_look
def test_every_step_can_be_used_by_everyone(browser: Browser, url: str, file: Path, scheme: str, width: int) -> None:
    made = context(browser, scheme, width)
    watched = Watched(made)
    page = watched.page
    page.clock.set_fixed_time(NOW_MS / 1000)
    log_in(page, url, to="/board/publish")
    watched.check("file", keyboard=scheme == "light")
    page.set_input_files("#file", file)
    page.get_by_role("button", name="Show the columns").click()
    expect(page.get_by_label("E-Mail")).to_have_value("email")
    expect(page.get_by_label(HOSTILE, exact=True)).to_have_value("=")
    watched.check("columns", keyboard=scheme == "light")
    page.get_by_label("Vorname").select_option("last_name")
    to_the_cost(page)
    expect(page.get_by_role("button", name="Publish 300 leads for about 1,800 credits")).to_be_visible()
    expect(page.locator("main")).to_contain_text("Vorname -> last_name")
    expect(page.locator("main")).to_contain_text("bad_email")
    watched.check("cost", keyboard=scheme == "light")
    page.get_by_role("button", name="Discard the file").click()
    page.wait_for_url(f"{url}/board/publish")
    made.close()


def test_without_javascript_every_step_works(browser: Browser, url: str, file: Path, large: Path) -> None:
    made = context(browser, java_script_enabled=False)
    page = made.new_page()
    log_in(page, url, to="/board/publish")
    page.set_input_files("#file", file)
    page.get_by_role("button", name="Show the columns").click()
    to_the_cost(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download them").click()
    assert "not one" in download.value.path().read_text()
    page.get_by_role("button", name="Discard the file").click()
    page.set_input_files("#file", large)
    page.get_by_role("button", name="Show the columns").click()
    expect(page.get_by_role("alert")).to_contain_text("The file has more than 50 MB")
    made.close()


def test_a_file_that_is_too_large_is_not_sent_and_one_that_is_dropped_takes_its_place(
    browser: Browser, url: str, large: Path
) -> None:
    made = context(browser)
    watched = Watched(made)
    page = watched.page
    log_in(page, url, to="/board/publish")
    page.set_input_files("#file", large)
    expect(page.get_by_role("alert")).to_contain_text("The file has more than 50 MB")
    page.get_by_role("button", name="Show the columns").click()
    assert page.url == f"{url}/board/publish"
    page.evaluate(
        """() => {
            const dropped = new DataTransfer();
            dropped.items.add(new File(["E-Mail\\nada@example.com\\n"], "dropped.csv", { type: "text/csv" }));
            const form = document.querySelector("form.upload");
            for (const kind of ["dragover", "drop"]) {
                form.dispatchEvent(new DragEvent(kind, { dataTransfer: dropped, bubbles: true, cancelable: true }));
            }
        }"""
    )
    page.get_by_role("button", name="Show the columns").click()
    expect(page.get_by_role("heading", name="dropped.csv")).to_be_visible()
    assert watched.errors == []
    page.get_by_role("button", name="Discard the file").click()
    made.close()
