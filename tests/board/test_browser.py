"""The board in Chromium: each page in light and dark, on desktop and phone, with a keyboard, and
without JavaScript.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from stream_app.domain.commands import CommandAnswer
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Actor
from tests.board.browser import context, log_in
from tests.board.client import CAUSE
from tests.board.clock import NOW_MS
from tests.board.model_records import Made, lane, take
from tests.board.scene import HOSTILE, model_of, settings_of
from tests.board.serving import served
from tests.support.pace import slowness

pytestmark = pytest.mark.timeout(600)
expect.set_options(timeout=60_000)

PAGES: Final = {
    "now": "/board",
    "lanes": "/board/lanes",
    "lane": "/board/lanes/acme?command=c-" + "0" * 32,
    "a lane that was never used": "/board/lanes/stark",
    "lanes held in part": "/board/lanes?state=part",
    "a lane held in part, with open runs": "/board/lanes/hooli",
    "leads": "/board/leads?workspace=initech&import_id=2026-09-21-kfdwzp&column=under_way",
    "lead": "/board/leads/crm-17",
    "an unknown lead": "/board/leads/unknown",
    "a waiting lead": "/board/waiting?lead_id=crm-waits",
    "imports": "/board/imports",
    "import": "/board/imports?workspace=initech&id=2026-09-21-kfdwzp",
    "dead letters": "/board/dead",
    "dead letters of a cause": CAUSE,
    "what waits": "/board/waiting",
    "a replay that runs": "/board/replays/r-0b9c40e1f2a",
    "a replay with refused dead letters": "/board/replays/r-2b9c40e1f2a",
    "books": "/board/books",
    "money": "/board/money",
    "audit": "/board/audit",
    "system": "/board/system",
}
"""One of each template, with the most that it can show: operators see its buttons."""
FORMS: Final = {
    "log in": "/board/login",
    "budget": "/board/lanes/acme/act/budget",  # numbers and a choice, each with what it was
    "quota": "/board/lanes/acme/act/quota",  # a choice of long names
    "trip": "/board/lanes/hooli/act/trip",  # from what to what
    "erase": "/board/leads/crm-18/act/erase",  # cannot be undone, and is typed to confirm
    "resolve": "/board/leads/crm-17/act/resolve",
    "suppress": "/board/act/suppress",
    "give up": "/board/dead/act/give-up?record=leads.dlq/0/3",
    "plan a replay": "/board/dead/act/plan?reason=http_503",  # the last one: it is sent
}
"""One of each kind of field: all forms have the same template."""
each_look = pytest.mark.parametrize(
    ("scheme", "width"),
    [("light", 390), pytest.param("dark", 1280, marks=pytest.mark.long)],
)
"""Colours and widths do not depend on each other. The first is where a page is too wide first."""
_CONTROLS: Final = "a[href], button, input:not([type=hidden]), select, summary, [tabindex='0']"
KEYBOARD: Final = """(controls) => {
    window.expected = new Set([...document.querySelectorAll(controls)].filter((each) =>
        each.checkVisibility({ visibilityProperty: true })));
    document.addEventListener("focusin", (event) => window.expected.delete(event.target));
    return window.expected.size;
}"""
"""Notes the controls that the focus has not reached; returns their number."""
SMALL_TARGETS: Final = """[
        ...document.querySelectorAll("a[href], button, summary, select, input:not([type=hidden])")]
    .filter((each) => each.checkVisibility({ visibilityProperty: true }))
    .filter((each) => !each.classList.contains("skip"))
    .filter((each) => {
        const { width, height } = each.getBoundingClientRect();
        return width < 24 || height < 24;
    })
    .map((each) => each.outerHTML)"""
"""What a thumb must hit on a phone, and cannot."""
NOTE_TEXTS: Final = """window.drawn = [];
    const write = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...at) {
        window.drawn.push(text);
        return write.call(this, text, ...at);
    };"""
"""Notes what charts write, which is no text of the page."""


_TITLE: Final = HOSTILE.replace('"', '""')
_ROWS: Final = "".join(f"p{number}@example.com,Ada,x,initech\n" for number in range(300))
CSV: Final = f'E-Mail,Vorname,"{_TITLE}",workspace\n{_ROWS}not one,B,y,initech\n'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A board that everyone on this machine may read, and on which operators log in to act."""
    with served(tmp_path_factory.mktemp("board"), operator=True) as url:
        yield url


class Watched:
    """A page and what its console says.

    A violation of the content security policy is an error there.
    """

    def __init__(self, made: BrowserContext) -> None:
        self.page: Page = made.new_page()
        self.errors: list[str] = []
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def check(self, name: str, *, keyboard: bool) -> None:
        """Check the open page: axe, no horizontal scroll, no error.

        `keyboard`: it reaches each control.
        """
        report = Axe().run(self.page)
        assert report.violations_count == 0, f"{name}: {report.generate_report()}"
        wide, width = self.page.evaluate(
            "[document.documentElement.scrollWidth, window.innerWidth]",
        )
        assert wide <= width, f"{name} is {wide} pixels wide"
        if width < 400:
            assert self.page.evaluate(SMALL_TARGETS) == [], name
        if keyboard:
            expected = self.page.evaluate(KEYBOARD, _CONTROLS)
            for _ in range(expected + 2):
                self.page.keyboard.press("Tab")
            assert self.page.evaluate("[...window.expected].map((each) => each.outerHTML)") == [], (
                name
            )
        assert self.errors == [], name


@each_look
def test_every_page_and_form_can_be_used_by_everyone(
    browser: Browser,
    url: str,
    scheme: str,
    width: int,
) -> None:
    made = context(browser, scheme, width, of=url)
    watched = Watched(made)
    keyboard = scheme == "light"
    page = watched.page
    page.clock.set_fixed_time(NOW_MS / 1000)
    log_in(page, url)
    for name, path in (PAGES | FORMS).items():
        page.goto(url + path)
        watched.check(name, keyboard=keyboard)
    page.get_by_role("button", name="Plan").click()
    send = page.get_by_role("button", name="Send 167 dead letters for up to 1,002 credits")
    send.wait_for()
    watched.check("plan", keyboard=keyboard)
    page.get_by_label("Why").fill("Clay is up again")
    send.click()
    page.wait_for_url("**/board/replays/r-*")
    assert "no replay process has answered yet" in page.locator("#content").inner_text()
    made.close()


def test_a_day_of_money_is_a_day_of_utc_west_of_it_too(browser: Browser, url: str) -> None:
    made = context(browser, of=url, timezone_id="America/New_York")
    page = made.new_page()
    page.clock.set_fixed_time(NOW_MS / 1000)
    page.goto(f"{url}/board/money")
    page.locator("#spent .u-over").hover(position={"x": 8, "y": 20})
    oldest = page.locator("#spent tbody time").first.get_attribute("datetime") or ""
    assert page.locator("#spent figcaption .at").inner_text() == oldest[5:10]
    made.close()


def test_a_wide_table_keeps_its_names_while_it_scrolls_on_a_phone(
    browser: Browser,
    url: str,
) -> None:
    made = context(browser, width=390, of=url)
    page = made.new_page()
    page.goto(f"{url}/board/money")
    table = page.locator(".across").first
    hidden = table.evaluate("box => box.scrollWidth - box.clientWidth")
    assert hidden > 50, "columns are out of sight"
    edges = "box => getComputedStyle(box).backgroundImage.split('gradient').length - 1"
    assert table.evaluate(edges) == 2, "a shadow says that there is more"
    table.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    for names in ("thead th:first-child", "tbody th", "tfoot th"):
        name = table.locator(names).first
        within = name.evaluate(
            "name => name.getBoundingClientRect().left"
            " - name.closest('.across').getBoundingClientRect().left",
        )
        assert 0 <= within < 2, names
    made.close()


def test_a_chart_names_each_day_once_and_whole_leads(browser: Browser, url: str) -> None:
    made = context(browser, of=url, timezone_id="America/New_York")
    page = made.new_page()
    page.add_init_script(NOTE_TEXTS)

    def drawn(path: str) -> list[str]:
        page.goto(f"{url}/board/{path}")
        page.wait_for_function(
            "document.querySelector('.uplot') !== null && window.drawn.length > 0",
        )
        return list(page.evaluate("window.drawn"))

    assert [text for text in drawn("money?workspace=acme") if "-" in text] == ["09-20", "09-21"]
    texts = drawn("lanes/globex")
    assert "10" in texts, "the axis of leads"
    assert [text for text in texts if "." in text] == [], "a lead is whole"
    made.close()


def test_without_javascript_every_page_reads_and_every_form_works(
    browser: Browser,
    url: str,
) -> None:
    made = context(browser, width=900, of=url, java_script_enabled=False)
    page = made.new_page()
    for name, path in PAGES.items():
        page.goto(url + path)
        assert page.locator("h1").inner_text(), name
        assert page.locator("#age").inner_text() == "2.0 s old, lag 0", name
        assert not page.locator("#pause").is_visible(), "a button without an effect"
        assert not page.locator(".stacked time").evaluate_all(
            "all => all.some((at) => at.getClientRects()[1])",
        ), name
    page.goto(f"{url}/board/leads")
    page.get_by_label("Find a lead").fill("crm-17")
    page.get_by_role("button", name="Find").click()
    assert page.url == f"{url}/board/leads/crm-17"
    page.get_by_role("button", name="Show personal data").click()
    assert "ada@example.com" in page.locator(".fields").inner_text()
    made.close()


def test_a_page_refreshes_itself_and_takes_nothing_away(browser: Browser, url: str) -> None:
    made = context(browser, of=url)
    watched = Watched(made)
    asked: list[str] = []
    page = watched.page
    page.on(
        "request",
        lambda request: asked.append(request.url) if "hx-request" in request.headers else None,
    )

    def refreshes() -> bool:
        asked.clear()
        page.clock.run_for(5_100)
        page.wait_for_timeout(0)
        return bool(asked)

    page.clock.install(time=NOW_MS / 1000)
    page.goto(f"{url}/board")
    page.wait_for_function("document.querySelector('.uplot') !== null")
    page.locator("#age a").focus()
    with page.expect_response(lambda answer: "hx-request" in answer.request.headers) as answered:
        page.clock.run_for(5_100)
    assert answered.value.ok
    page.clock.run_for(200)
    page.wait_for_function("document.querySelectorAll('.uplot').length === 1")
    assert page.locator("#pause").count() == 1
    assert page.locator("#age a").evaluate("each => each === document.activeElement"), (
        "the keyboard stays where it was"
    )
    page.locator("#done summary").click()
    assert not refreshes(), "a table is open"
    page.locator("#done summary").click()
    page.get_by_role("button", name="Pause").click()
    assert not refreshes(), "the reader paused it"
    page.get_by_role("button", name="Paused").click()
    with page.expect_request(lambda request: "hx-request" in request.headers):
        page.clock.run_for(5_100)
    page.goto(f"{url}/board/leads")
    page.get_by_label("Find a lead").fill("crm-1")
    assert not refreshes(), "a form is being filled"
    assert watched.errors == []
    made.close()


@pytest.mark.slow
@each_look
def test_every_step_of_publishing_a_file_can_be_used_by_everyone(
    browser: Browser,
    url: str,
    tmp_path: Path,
    scheme: str,
    width: int,
) -> None:
    file = tmp_path / "leads of march.csv"
    file.write_text(CSV)
    made = context(browser, scheme, width, of=url)
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
    page.get_by_role("button", name="Check all rows").click()
    while not page.get_by_role("heading", name="What it will cost").is_visible():
        page.wait_for_timeout(500)
        page.goto(page.url)
    expect(
        page.get_by_role("button", name="Publish 300 leads for about 1,800 credits"),
    ).to_be_visible()
    expect(page.locator("main")).to_contain_text("Vorname -> last_name")
    expect(page.locator("main")).to_contain_text("bad_email")
    watched.check("cost", keyboard=scheme == "light")
    page.get_by_role("button", name="Discard the file").click()
    page.wait_for_url(f"{url}/board/publish")
    made.close()


def test_a_page_asks_each_second_for_the_answer_of_a_command_and_then_rests(
    browser: Browser,
    tmp_path: Path,
) -> None:
    command = "c-" + "5" * 32
    names = TopicNames()
    settings = settings_of(tmp_path, operator=True)
    with (
        served(tmp_path, operator=True) as url,
        closing(context(browser)) as made,
    ):
        watched = Watched(made)
        log_in(watched.page, url)
        asked: list[float] = []
        path = f"/board/lanes/acme?command={command}&sent={NOW_MS - 1_000}"
        watched.page.goto(f"{url}{path}")
        watched.page.on(
            "request",
            lambda request: asked.append(time.monotonic()) if path in request.url else None,
        )
        expect(watched.page.locator(".answer .pill")).to_have_text("sent")
        began_s = time.monotonic()
        watched.page.wait_for_timeout(4_300 * slowness())
        elapsed_s = time.monotonic() - began_s
        assert 3 <= len(asked) <= 1.2 * elapsed_s, (
            "once a second, and at most once more each 5 seconds"
        )
        answer = CommandAnswer(
            command,
            applied=True,
            at_ms=NOW_MS - 500,
            partition=0,
            kind="pause",
            workspace="acme",
            text="paused",
        )
        model = model_of(tmp_path / "model.sqlite", settings)
        take(model, Made(names.audit, b"acme", msgspec.json.encode(answer), 0, 77))
        paused = {
            "holds": "paused",
            "text": "paused by jane",
            "paused_by": Actor("jane", "", NOW_MS - 500),
        }
        take(model, lane(names, "acme", at_ms=NOW_MS - 500, **paused))
        model.close()
        began_s = time.monotonic()
        expect(watched.page.locator(".answer .pill")).to_have_text("applied")
        assert time.monotonic() - began_s < 2.5 * slowness()
        expect(watched.page.locator("h1 .pill")).to_have_text("held")
        assert watched.page.locator("#follow").count() == 0
        asked.clear()
        watched.page.wait_for_timeout(4_000)
        assert len(asked) <= 1, "the page refreshes itself as before"
        assert watched.errors == []
