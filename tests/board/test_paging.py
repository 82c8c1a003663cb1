"""Each list has fifty rows a page, and a link to the next page if there is one more, which has the rest."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.board.read_model.store import ReadModel, Sources
from stream_app.domain.commands import CommandAnswer
from tests.board.client import Client
from tests.board.clock import NOW_MS
from tests.board.model_records import Made, dead_letter, event, take
from tests.board.scene import board_of, settings_of

ROWS = 50


def made(names: Any, number: int) -> list[Made]:
    """One more row for each list but the one of a cause."""
    at_ms, name = NOW_MS - number, f"{number:03}"
    more = {"workspace": f"w-{name}", "import_id": f"import-{name}", "at_ms": at_ms}
    what: dict[str, Any] = {
        "kind": "pause",
        "workspace": f"w-{name}",
        "who": f"who-{name}",
        "why": "a test",
        "text": "done",
    }
    answer = CommandAnswer(id=f"c-{name}", partition=0, applied=True, at_ms=at_ms, **what)
    return [
        event(names, f"crm-{name}", "received", 1, number, **more),
        dead_letter(names.dlq, f"reason-{name}", timestamp=at_ms),
        Made(names.audit, b"acme", msgspec.json.encode(answer), offset=number),
    ]


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS, ROWS + 1])
@pytest.mark.parametrize(
    ("page", "row"),
    [
        ("/board/leads", r'href="/board/leads/(crm-\d+)'),
        ("/board/imports", r"(import-\d+)<"),
        ("/board/books", r"(w-\d+)<"),
        ("/board/audit", r"<code>(c-\d+)<"),
        ("/board/dead", r"(reason-\d+)"),
    ],
)
async def test_a_list_has_fifty_rows_a_page_and_each_row_once(tmp_path: Path, page: str, row: str, rows: int) -> None:
    settings = settings_of(tmp_path)
    model = ReadModel(
        tmp_path / "model.sqlite", Sources(settings.names, 6, settings.topics, frozenset(settings.workspaces))
    )
    take(model, *(record for number in range(rows) for record in made(settings.names, number)))
    model.close()
    board = board_of(settings, tmp_path / "model.sqlite")
    pages, url = [], page
    while url:
        text = (await Client(board).get(url)).text
        pages.append(list(dict.fromkeys(re.findall(row, text))))
        following = re.findall(rf'href="({page}\?[^"]*after=[^"]+)"', text)
        url = unescape(following[-1]) if following else ""
        assert len(pages) < 4
    board.close()
    assert [len(listed) for listed in pages] == [min(rows, ROWS)] + [1] * (rows > ROWS), pages
    assert len({listed for some in pages for listed in some}) == rows
