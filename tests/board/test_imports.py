"""The pages of imports: their numbers are those of the lists that they link to."""

import re
import shlex
from html import unescape

import pytest

from stream_app.board.formats import words
from tests.board.client import OWN, Client, plain
from tests.board.scene import HOSTILE, OPERATOR_TOKEN, TOKEN, Outbox

MARCH = "/board/imports?workspace=initech&id=2026-09-21-kfdwzp"


async def test_all_imports_are_listed_with_their_progress(local: Client) -> None:
    text = (await local.get("/board/imports")).text
    assert [text.index(name) for name in ("2026-09-21-kfdwzp", "webinar", "alert(1)")] == sorted(
        text.index(name) for name in ("2026-09-21-kfdwzp", "webinar", "alert(1)")
    )
    assert "93, 51 %" in plain(text)
    assert "183" in text
    assert HOSTILE not in text
    only = (await local.get("/board/imports?workspace=hooli")).text
    assert "webinar" in only
    assert "kfdwzp" not in only


async def test_an_import_links_each_number_to_its_leads(local: Client) -> None:
    text = (await local.get(MARCH)).text
    assert "93 of 180 leads" in plain(text)
    found = re.findall(r'<a class="count" href="(/board/leads\?[^"]*column=(\w+)[^"]*)">([\d,]+)</a>', text)
    assert {column: number for _, column, number in found} == {
        "enriched": "70",
        "served_from_cache": "12",
        "rejected": "3",
        "duplicate": "6",
        "parked": "2",
        "held": "17",
        "under_way": "14",
    }
    for link, column, number in found:
        listed, seen = link.replace("&amp;", "&"), 0
        while listed:
            page = (await local.get(listed)).text
            assert f"{number} {words(column)} in initech of import 2026-09-21-kfdwzp\n" in plain(page)
            seen += page.count('<tr><th scope="row">')
            more = re.search(r'rel="next" href="([^"]*)"', page)
            listed = more[1].replace("&amp;", "&") if more else ""
        assert seen == int(number)


async def test_an_import_says_how_to_take_its_results_joined_to_its_file(local: Client) -> None:
    """A producer chooses the file's name: it is quoted for a shell, and can be no option."""
    (command,) = re.findall(r"<pre>([^<]*)</pre>", (await local.get(MARCH)).text)
    words = ["--workspace", "initech", "--join", "./leads march.csv", "-o", "enriched.csv"]
    assert shlex.split(unescape(command)) == ["stream-app", "results", *words]
    link, *_ = re.findall(r'href="([^"]*id=[^"]*alert[^"]*)"', (await local.get("/board/imports")).text)
    assert "<pre>" not in (await local.get(unescape(link))).text, "its file is no CSV"


@pytest.mark.parametrize("name", ["unknown", "..", "a/b?c#d", HOSTILE[:20], "x" * 10_000])
async def test_an_unknown_import_is_answered(local: Client, name: str) -> None:
    answer = await local.get("/board/imports", params={"workspace": "initech", "id": name})
    assert answer.status_code == 200
    assert "No lead of this import is known" in answer.text


async def test_leads_of_an_unknown_import_are_none(local: Client) -> None:
    answer = await local.get("/board/leads?workspace=initech&import_id=unknown&column=enriched")
    assert "No lead matches" in answer.text


CANCEL = "/board/imports/act/cancel?workspace=initech&id=2026-09-21-kfdwzp"


async def test_an_operator_cancels_an_import(with_operator: Client, outbox: Outbox) -> None:
    await with_operator.login(OPERATOR_TOKEN)
    assert CANCEL.replace("&", "&amp;") in (await with_operator.get(MARCH)).text
    form = (await with_operator.get(CANCEL)).text
    assert "87" in form
    nonce = re.search(r'name="form" value="(\w+)"', form)
    assert nonce is not None
    given = {"form": nonce[1], "why": "wrong file"}
    answer = await with_operator.ask("POST", CANCEL, data={**given, "typed": "acme"}, headers=OWN)
    assert answer.status_code == 422
    for _ in range(2):
        answer = await with_operator.ask("POST", CANCEL, data={**given, "typed": "initech"}, headers=OWN)
        assert answer.status_code == 303
    first, second = outbox.commands
    assert first.id == second.id, "a second click is the same command"
    assert (first.kind, first.workspace, first.why) == ("cancel_import", "initech", "wrong file")
    assert first.args == {"import_id": "2026-09-21-kfdwzp"}
    followed = (await with_operator.get(answer.headers["location"])).text
    assert "Import 2026-09-21-kfdwzp" in followed
    assert first.id in followed


async def test_a_viewer_has_no_button(with_operator: Client) -> None:
    await with_operator.login(TOKEN)
    assert "/act/" not in (await with_operator.get(MARCH)).text


@pytest.mark.parametrize("query", ["", "?workspace=initech&id=unknown", "?workspace=absent&id=webinar"])
async def test_an_import_that_is_not_there_is_not_cancelled(with_operator: Client, query: str) -> None:
    await with_operator.login(OPERATOR_TOKEN)
    assert (await with_operator.get(f"/board/imports/act/cancel{query}")).status_code == 404
