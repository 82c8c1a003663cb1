"""What a newcomer looks for on the board: who has to act, how to stop a lane, which rows are here,
and what is open.
"""

import re
from pathlib import Path

from playwright.sync_api import Browser, FloatRect

from stream_app.board.persons import for_a_person
from stream_app.domain.model.messages import ImportSummary
from stream_app.domain.model.topics import TopicNames
from tests.board.browser import context
from tests.board.client import Client, board_with, plain
from tests.board.model_records import dead_letter, event, lane
from tests.board.scene import OPERATOR_TOKEN
from tests.board.serving import served

NAMES = TopicNames()


def words(text: str) -> str:
    """What a page says, on one line."""
    return " ".join(plain(text.replace("<", " <")).split())


BUDGET = {"holds": "budget_credits_day", "text": "the day's credits are used up"}


async def test_a_lane_whose_budget_of_the_day_is_used_up_needs_no_person(tmp_path: Path) -> None:
    assert for_a_person("budget_credits_day") is None
    with board_with(tmp_path, lane(NAMES, "acme", **BUDGET)) as client:
        text = words((await client.get("/board")).text)
        assert re.search(r"Needs a person 0 ", text), text
        assert "0 held lanes" in text
        assert "0 held lanes that need a person" in words(
            (await client.get("/board/lanes?state=person")).text,
        )
    stopped = lane(NAMES, "globex", holds="http_401", text="Clay answered 401")
    (tmp_path / "more").mkdir()
    with board_with(tmp_path / "more", lane(NAMES, "acme", **BUDGET), stopped) as client:
        assert re.search(r"Needs a person 1 ", words((await client.get("/board")).text))
        page = (await client.get("/board/lanes?state=person")).text
        assert "1 held lane that needs a person" in words(page)
        assert re.findall(r'<th scope="row"><a href="/board/lanes/(\w+)"', page) == ["globex"]
        assert "2 held lanes" in words((await client.get("/board/lanes?state=held")).text)


async def test_an_empty_board_says_what_comes_first(tmp_path: Path) -> None:
    with board_with(tmp_path) as client:
        leads = words((await client.get("/board/leads")).text)
        assert "No lead was taken yet. stream-app publish leads.csv publishes some" in leads
        assert "No lead matches" not in leads
        assert "No lead matches" in words((await client.get("/board/leads?status=parked")).text)
        money = words((await client.get("/board/money")).text)
        assert "Credits today UTC 0 no lead was enriched today" in money
        # Records wait on the Kafka of these tests.
        now = words((await client.get("/board")).text)
        assert "No waiting lead was taken yet" in now
        assert "no lead has come yet" not in now


async def test_the_emergency_action_is_beside_more_and_not_under_it(
    operator: Client,
    tmp_path: Path,
) -> None:
    text = (await operator.get("/board/lanes/globex")).text
    actions = re.findall(r'<div class="actions" aria-label="Commands".*?</div>', text, re.S)[0]
    before, more = actions.split("<details>")
    assert '<a class="button" href="/board/lanes/globex/act/pause">Pause</a>' in before
    assert "/act/pause" not in more
    paused = lane(NAMES, "acme", holds="paused", text="paused by jane")
    with board_with(tmp_path, paused, token=True, operator=True) as client:
        await client.login(OPERATOR_TOKEN)
        page = (await client.get("/board/lanes/acme")).text
        assert "/act/resume" in page
        assert "/act/pause" not in page


async def test_nothing_is_planned_or_priced_where_all_has_ended(tmp_path: Path) -> None:
    made = [
        dead_letter(
            NAMES.dlq,
            "http_503",
            1_000,
            0,
            http_status="503",
            origin="leads/0/1",
            seq="1",
        ),
        event(NAMES, "crm-1", "dead_lettered", 1, 1, reason="http_503"),
        event(NAMES, "crm-1", "enriched", 2, 1),
    ]
    with board_with(tmp_path, *made, token=True, operator=True) as client:
        await client.login(OPERATOR_TOKEN)
        page = (await client.get("/board/dead")).text
        assert "http_503" in page
        assert "Log out" in page
        assert "/act/plan" not in page
        assert "What sending them back costs" not in page


async def test_an_import_shows_its_own_rows_and_those_of_the_file(tmp_path: Path) -> None:
    summary = ImportSummary(rows=300, refused=4, leads=150, file="march.csv")
    alone = ImportSummary(rows=9, refused=2, leads=7, file="april.csv")
    made = [
        event(NAMES, "crm-1", "received", 1, 1, import_id="march", import_summary=summary),
        event(NAMES, "crm-2", "received", 1, 2, import_id="april", import_summary=alone),
    ]
    with board_with(tmp_path, *made) as client:
        page = (await client.get("/board/imports")).text
        rows = re.findall(
            r'id=(march|april)">.*?data-label="Rows" class="num">(.*?)</td>',
            page,
            re.S,
        )
        assert {name: words(cell) for name, cell in rows} == {
            "march": "150 of 300 in the file",
            "april": "9",
        }
        one = words((await client.get("/board/imports?workspace=acme&id=march")).text)
        assert (
            "150 rows of 300 in the file, which has leads of other workspaces, too; 4 of "
            "them refused"
        ) in one
        other = words((await client.get("/board/imports?workspace=acme&id=april")).text)
        assert "9 rows 2 refused, 7 published here" in other
        assert "duplicate" not in other


async def test_the_rows_of_an_import_are_leads_and_their_duplicates(tmp_path: Path) -> None:
    summary = ImportSummary(rows=6, refused=1, leads=5, file="march.csv")
    of = {"import_id": "march"}
    made = [
        event(NAMES, "crm-1", "received", 1, 1, **of, import_summary=summary),
        event(NAMES, "crm-2", "received", 1, 2, **of),
        event(NAMES, "crm-1", "duplicate", 1, 3, **of),
        event(NAMES, "crm-1", "duplicate", 1, 4, **of),
    ]
    with board_with(tmp_path, *made) as client:
        one = words((await client.get("/board/imports?workspace=acme&id=march")).text)
        assert "6 rows 1 refused, 5 published here 5 records: 3 leads and 2 duplicates" in one
        page = (await client.get("/board/imports")).text
        names = ("Rows", "Refused", "Duplicates", "Leads")
        cells = {
            name: re.findall(rf'data-label="{name}" class="num">(.*?)</td>', page, re.S)
            for name in names
        }
        assert {name: words(cell) for name, (cell,) in cells.items()} == {
            "Rows": "6",
            "Refused": "1",
            "Duplicates": "2",
            "Leads": "3",
        }


def test_a_phone_shows_that_there_are_more_links(browser: Browser, tmp_path: Path) -> None:
    """The shadows at the edges are in the background, and covers that scroll with the links hide
    them at an end.
    """
    shown = {}
    with served(tmp_path) as url:
        page = context(browser, width=390, of=url).new_page()
        page.goto(f"{url}/board/lanes")
        nav = page.locator("nav")
        assert nav.evaluate("each => each.scrollWidth > each.clientWidth"), "the links do not fit"
        box = nav.bounding_box()
        assert box is not None
        for where in ("start", "end"):
            nav.evaluate(
                "(each, left) => { each.scrollLeft = left }",
                0 if where == "start" else 9_999,
            )
            page.wait_for_timeout(100)
            for side, x in (("left", box["x"]), ("right", box["x"] + box["width"] - 4)):
                clip: FloatRect = {"x": x, "y": box["y"] + 1, "width": 4, "height": 3}
                shown[where, side] = page.screenshot(clip=clip)
        page.close()
    assert shown["start", "right"] != shown["end", "right"], "a shadow where links are cut off"
    assert shown["start", "left"] != shown["end", "left"]
