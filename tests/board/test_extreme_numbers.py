"""Numbers that no message of ours has, in every message that the board reads: it counts the record,
and goes on.
"""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final, NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.store import LogPosition, ReadModel
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.dead_letter.orders import PAUSE, PROGRESS, ReplayPause, ReplayProgress
from stream_app.domain.model.messages import Result, StatusEvent
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.views.lane import LaneView
from tests.board.client import HERE, Client
from tests.board.clock import NOW_MS
from tests.board.model_records import Made
from tests.board.scene import board_of, fill, model_of, settings_of
from tests.support.numbers import NUMBERS, Place, document, encode, places, with_number

_NAMES: Final = TopicNames()
_TEXTS: Final = {
    "lead_id": "crm-extreme",
    "workspace": "acme",
    "destination": "acme-people",
    "origin": "leads/0/900001",
    "dead_letter": "",
    "day": "2026-09-21",
    "month": "2026-09",
    "id": "r-extreme",
    "import_id": "extreme",
}


class Kind(NamedTuple):
    """Messages of one topic. `pages`: what shows them."""

    topic: str
    type: type
    key: bytes
    pages: tuple[str, ...]


_LANES: Final = ("/board", "/board/lanes", "/board/lanes/acme", "/board/money")
KINDS: Final = {
    "event": Kind(
        _NAMES.status,
        StatusEvent,
        b"crm-extreme",
        (
            "/board",
            "/board/leads",
            "/board/leads/crm-extreme",
            "/board/books",
            "/board/money",
            "/board/imports",
        ),
    ),
    "result": Kind(_NAMES.enriched, Result, b"acme/acme-people/crm-17", ("/board/leads/crm-17",)),
    "lane": Kind(_NAMES.lanes, LaneView, b"acme", _LANES),
    "answer": Kind(_NAMES.audit, CommandAnswer, b"acme", ("/board/audit", "/board/lanes/acme")),
    "replay": Kind(
        _NAMES.replay_state,
        ReplayProgress,
        PROGRESS + b"r-extreme",
        ("/board/dead", "/board/replays/r-extreme", "/board/system"),
    ),
    "pause": Kind(
        _NAMES.replay_state,
        ReplayPause,
        PAUSE,
        ("/board", "/board/dead", "/board/system"),
    ),
}


class Fed(NamedTuple):
    """A board over a read model that is open for more records."""

    model: ReadModel
    client: Client
    queries: BoardQueries
    offsets: Iterator[int]

    def take(self, kind: Kind, value: Any) -> None:
        """Let the read model read one record."""
        offset = next(self.offsets)
        record = Made(kind.topic, kind.key, encode(value), 0, offset)
        self.model.apply({kind.topic: [record]}, {(kind.topic, 0): LogPosition(offset + 1)}, NOW_MS)

    def unreadable(self) -> dict[str, int]:
        """Return how many records of each topic could not be read."""
        return {counted.topic: counted.records for counted in self.queries.unreadable()}


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    folder = tmp_path_factory.mktemp("numbers")
    path = folder / "model.sqlite"
    settings = settings_of(folder)
    fill(path, settings)
    with closing(model_of(path, settings)) as model, closing(board_of(settings, path)) as board:
        yield Fed(model, Client(board), BoardQueries(path, set()), itertools.count(1_000_000))


def whole(kind: Kind) -> Any:
    return document(kind.type, _TEXTS, NOW_MS)


def cases(kind: Kind) -> st.SearchStrategy[tuple[Place, float]]:
    """Draw a number of the message, and another one for its place.

    The values of a result are the user's own.
    """
    wanted = [place for place in places(whole(kind)) if "fields" not in place]
    return st.tuples(st.sampled_from(wanted), st.sampled_from(NUMBERS))


def assert_shown(client: Client, pages: tuple[str, ...], case: object) -> None:
    transport = httpx.ASGITransport(Starlette(routes=client.board.routes()))

    async def ask() -> None:
        async with httpx.AsyncClient(
            transport=transport,
            base_url=HERE,
            cookies=client.cookies,
        ) as browser:
            for page in pages:
                assert (await browser.get(page)).status_code == 200, (page, case)

    asyncio.run(ask())


@pytest.mark.parametrize("name", KINDS)
def test_every_page_shows_the_rest(fed: Fed, name: str) -> None:
    kind = KINDS[name]
    fed.take(kind, whole(kind))
    assert_shown(fed.client, kind.pages, "the message as it is")

    @given(cases(kind))
    def check(case: tuple[Place, float]) -> None:
        fed.take(kind, with_number(whole(kind), *case))
        assert_shown(fed.client, kind.pages, case)

    check()


@pytest.mark.parametrize("name", ["event", "result", "answer", "replay"])
def test_a_record_that_cannot_be_read_is_counted(fed: Fed, name: str) -> None:
    kind = KINDS[name]
    before = fed.unreadable()
    for number in (2**63, 2**62, 1.5):
        fed.take(kind, with_number(whole(kind), ("at_ms",), number))
    fed.take(kind, whole(kind))
    after = fed.unreadable()
    assert after[kind.topic] == before.get(kind.topic, 0) + 3
