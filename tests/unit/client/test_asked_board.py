"""What is asked of the board, in which order, and what its answers and their absence mean."""

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import httpx
import msgspec
import pytest

from stream_app.client.results import lookup
from stream_app.client.results.answers import FoundImport, FoundLead, ImportsAnswer, RecordHistory
from stream_app.client.results.lookup import (
    check_board,
    find,
    find_dead_letters,
    find_imports,
    paths_of,
    wait_for_import,
    way_in,
)
from stream_app.config import Settings
from stream_app.domain.lead.identity import given_id, people
from stream_app.domain.model.errors import (
    BoardUnavailable,
    ImportUnderWay,
    NotTheBoard,
    SettingsError,
    StreamAppError,
)
from tests.support.partition.virtual import virtual_time

URL = "http://board.example:9107"
SETTINGS = Settings()
LAG = {"as_of_ms": 40, "lag": 3, "trouble": "slow"}
HISTORY = RecordHistory("leads/0/1", "acme", "people", "accepted", "accepted", 5, "", [], [])
LEAD = FoundLead("crm-17", [HISTORY], 1, [])
UNKNOWN = 404, {"error": "unknown_lead", "text": "no such lead"}
WAITING = 200, {"leads": [], "searched": 12, "left": 0, "problem": ""}


class Board:
    """Answers by path, and keeps which were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Any] = answers
        monkeypatch.setattr(lookup, "_client", lambda _: self.client())

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=URL, transport=httpx.MockTransport(self._handle))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        self.asked.append(path)
        answer = self.answers[path.split("/")[1].partition("?")[0]]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, list):
            answer = answer.pop(0)
        status, body = answer
        return httpx.Response(status, content=json.dumps(LAG | body).encode())


def answer_with(*leads: FoundLead) -> tuple[int, dict[str, Any]]:
    return 200, {"leads": msgspec.to_builtins(list(leads))}


def test_a_person_is_asked_for_before_the_id_and_before_what_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = Board(monkeypatch, leads=[answer_with(), UNKNOWN], waiting=WAITING)
    search = find(SETTINGS, " Ada@Acme.example ", "acme")
    assert board.asked[0].startswith("/leads?person=")
    assert board.asked[1].startswith("/leads/")
    person = board.asked[0].removeprefix("/leads?")
    assert board.asked[2:] == [f"/waiting?{person}&workspace=acme"]
    assert not any("ada" in path.lower() for path in board.asked), "no address is in a URL"
    assert search.leads == []
    assert search.waiting is not None
    assert search.waiting.searched == 12
    assert search.as_of_ms == 40
    assert search.lag == 3
    assert search.trouble == "slow"


def test_what_is_found_of_a_person_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    other = msgspec.structs.replace(LEAD, lead_id="crm-18")
    board = Board(monkeypatch, leads=[answer_with(LEAD, other)])
    search = find(SETTINGS, "https://www.linkedin.com/in/ada")
    assert [lead.lead_id for lead in search.leads] == ["crm-17", "crm-18"]
    assert search.waiting is None, "it was not needed"
    assert len(board.asked) == 1


def test_a_lead_id_that_waits_is_asked_for_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch, leads=UNKNOWN, waiting=WAITING)
    find(SETTINGS, "crm:17")
    find(SETTINGS, "crm 17/a", "acme")
    assert board.asked[:2] == ["/leads/crm:17", "/waiting?lead_id=crm%3A17"]
    stored = board.asked[2].removeprefix("/leads/")
    assert stored.startswith("h-"), "an id that no key may hold is stored as its hash"
    assert board.asked[3:] == [f"/waiting?lead_id={stored}&workspace=acme"]


def test_a_rejected_record_is_found_by_its_place_and_waits_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = Board(monkeypatch, leads=UNKNOWN)
    search = find(SETTINGS, "record:leads/0/7")
    assert board.asked == ["/leads/record:leads/0/7"]
    assert search.waiting is None


def test_without_a_lead_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    with pytest.raises(SettingsError, match="no lead given: pass a lead id, an e-mail"):
        find(SETTINGS, "  ")
    assert board.asked == []


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (httpx.ConnectError("no"), BoardUnavailable, f"{URL} does not respond (ConnectError)"),
        (httpx.ReadTimeout("no"), BoardUnavailable, f"{URL} does not respond (ReadTimeout)"),
        ((404, {"error": "no_page", "text": ""}), NotTheBoard, f"answers at {URL} is not"),
        ((404, {"error": "unknown_lead", "text": ""}), NotTheBoard, "(HTTP 404)"),
        ((503, {"error": "busy", "text": "try later"}), StreamAppError, "request: try later"),
        ((503, {"error": "not_read_yet", "text": "9 left"}), BoardUnavailable, "yet: 9 left ("),
        ((200, {"nothing": "of ours"}), NotTheBoard, "(HTTP 200)"),
    ],
)
def test_an_answer_that_is_none_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    kind: type[StreamAppError],
    says: str,
) -> None:
    """Imports are never unknown, so that an unknown lead is no answer of a board either."""
    Board(monkeypatch, imports=answer, dlq=answer)
    asks: list[Callable[[Settings], object]] = [find_imports, find_dead_letters]
    for ask in asks:
        with pytest.raises(kind) as error:
            ask(SETTINGS)
        assert says in str(error.value)
        assert type(error.value) is kind


def test_imports_are_asked_for_by_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch, imports=(200, {"imports": [], "more": False}))
    find_imports(SETTINGS)
    find_imports(SETTINGS, "may 1")
    find_imports(SETTINGS, workspace="acme")
    find_imports(SETTINGS, "may", "acme")
    assert board.asked == [
        "/imports?",
        "/imports?import_id=may+1",
        "/imports?workspace=acme",
        "/imports?import_id=may&workspace=acme",
    ]
    with pytest.raises(SettingsError, match=r"import ada@acme.example: .* `stream-app status"):
        find_imports(SETTINGS, "ada@acme.example")
    assert len(board.asked) == 4


def entry(at_rest: int, moving: int, workspace: str = "acme") -> FoundImport:
    """Of a file of 9 rows, of which one was refused."""
    columns = {"enriched": at_rest, "under_way": moving}
    published = at_rest + moving
    return FoundImport("may", workspace, 1, 2, "", "", 9, 1, published, columns, 0)


async def waited(
    monkeypatch: pytest.MonkeyPatch,
    *looks: list[FoundImport] | Exception,
    workspace: str | None = None,
    timeout_s: float = 0.2,
) -> list[FoundImport]:
    """The last look is repeated for ever."""
    left = list(looks)

    def look(settings: Settings, import_id: str, named: str | None) -> ImportsAnswer:
        assert import_id == "may"
        assert named == workspace
        seen = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(seen, Exception):
            raise seen
        return ImportsAnswer(as_of_ms=1, lag=0, trouble="", imports=seen, more=False)

    monkeypatch.setattr(lookup, "find_imports", look)
    monkeypatch.setattr(lookup, "_LOOK_EVERY_S", 0.01)
    return await wait_for_import(SETTINGS, "may", workspace, timeout_s)


async def test_an_import_is_at_rest_when_each_of_its_rows_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moving = [entry(3, 2)]
    partly = [entry(5, 0)]
    whole = [*partly, entry(3, 0, "beta")]
    away = BoardUnavailable("away")
    assert await waited(monkeypatch, [], away, moving, partly, whole, timeout_s=9) == whole
    assert await waited(monkeypatch, partly, workspace="acme") == partly, (
        "of one workspace the rows of others are not awaited"
    )
    for last, says in (
        ([], "none of its leads is known after 0.2 s"),
        (moving, "5 of 8 leads are under way after 0.2 s"),
        (partly, "3 of 8 leads are under way after 0.2 s"),
    ):
        with pytest.raises(ImportUnderWay, match=f"import may: {says}"):
            await waited(monkeypatch, last)
    with pytest.raises(BoardUnavailable, match="away"):
        await waited(monkeypatch, away)
    with pytest.raises(NotTheBoard, match="another"):
        await waited(monkeypatch, NotTheBoard("another"), whole, timeout_s=9)


def test_a_ticket_is_only_a_way_in_if_the_board_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch, board=(200, {"path": "/board/in?ticket=x"}))
    assert way_in(SETTINGS) == f"{SETTINGS.board_url}/board/in?ticket=x"
    assert board.asked == ["/board/ticket"]
    for answer in ((200, {"path": ""}), (403, {"path": "/board", "text": "no"})):
        board.answers["board"] = answer
        with pytest.raises(StreamAppError, match=f"board at {SETTINGS.board_url} rejected"):
            way_in(SETTINGS)
    board.answers["board"] = (200, {"path": 5})
    with pytest.raises(NotTheBoard, match=SETTINGS.board_url):
        way_in(SETTINGS)
    board.answers["board"] = httpx.ConnectError("no")
    with pytest.raises(BoardUnavailable, match=f"{SETTINGS.board_url} does not respond"):
        way_in(SETTINGS)


def test_another_server_on_the_port_is_not_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[httpx.Response | Exception] = []

    def get(url: str, **options: Any) -> httpx.Response:
        assert url == f"{URL}/healthz"
        assert options["timeout"] == 3
        assert options["trust_env"] is True
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(httpx, "get", get)
    answers.append(httpx.Response(200, text="stream-app board\n"))
    check_board(URL, 3)
    for response in (
        httpx.Response(200, text="ok"),
        httpx.Response(503, text="stream-app board"),
    ):
        answers.append(response)
        with pytest.raises(NotTheBoard, match=f"HTTP {response.status_code}"):
            check_board(URL, 3)
    answers.append(httpx.ConnectError("no"))
    with pytest.raises(BoardUnavailable, match=f"{URL} does not respond"):
        check_board(URL, 3)


# ---------------------------------------------------------------- bounds, and what exactly is told


def row_of(workspace: str, leads: int, moving: int, **more: Any) -> FoundImport:
    counts = {"rows": None, "refused": None, "published": None, **more}
    columns = {"enriched": leads - moving, "held": moving // 2, "under_way": moving - moving // 2}
    return FoundImport("may", workspace, 1, 2, "", "", columns=columns, credits=0, **counts)


DUPLICATES: Final = FoundImport("may", "acme", 1, 2, "", "", 2, 0, 2, {"duplicate": 2}, 0)


@pytest.mark.parametrize(
    ("imports", "workspace", "says"),
    [
        ([], None, "none of its leads is known"),
        ([row_of("acme", 0, 0)], None, "none of its leads is known"),
        ([row_of("acme", 5, 0)], None, ""),
        ([DUPLICATES], None, ""),
        ([row_of("acme", 5, 3)], None, "3 of 5 leads are under way"),
        ([row_of("acme", 2_500, 1_000)], None, "1,000 of 2,500 leads are under way"),
        ([row_of("acme", 5, 1), row_of("beta", 4, 2)], None, "3 of 9 leads are under way"),
        ([row_of("acme", 5, 0, rows=9, refused=4, published=5)], None, ""),
        ([row_of("acme", 5, 0, rows=9, refused=3, published=5)], None, "1 of 6 leads are"),
        ([row_of("acme", 5, 0, rows=9, published=5)], None, "4 of 9 leads are"),
        ([row_of("acme", 5, 0, rows=9, refused=3)], None, "6 of 11 leads are"),
        ([row_of("acme", 5, 0, rows=9, refused=3, published=5)], "acme", ""),
        ([row_of("acme", 5, 0, rows=9, refused=0, published=12)], None, ""),
        (
            [
                row_of("acme", 5, 0, rows=9, refused=1, published=5),
                row_of("beta", 3, 0, rows=8, refused=4, published=3),
                row_of("crm", 1, 1),
            ],
            None,
            "1 of 9 leads are under way",
        ),
    ],
)
async def test_rows_that_no_worker_has_taken_are_awaited_too(
    monkeypatch: pytest.MonkeyPatch,
    imports: list[FoundImport],
    workspace: str | None,
    says: str,
) -> None:
    if not says:
        went = await waited(monkeypatch, imports, workspace=workspace, timeout_s=0)
        assert went == imports
        return
    with pytest.raises(ImportUnderWay) as error:
        await waited(monkeypatch, imports, workspace=workspace, timeout_s=0)
    assert str(error.value).startswith(f"import may: {says}")
    assert str(error.value).endswith(
        " after 0 s: wait longer; `stream-app imports may` shows where they are, and `stream-app "
        "explain` what holds them",
    )


@virtual_time
async def test_it_looks_each_second_and_for_the_last_time_when_the_next_look_were_too_late() -> (
    None
):
    looks: list[float] = []
    loop = asyncio.get_running_loop()

    async def at_once(*_: object) -> ImportsAnswer:
        looks.append(loop.time())
        return ImportsAnswer(as_of_ms=1, lag=0, trouble="", imports=[row_of("a", 2, 1)], more=False)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lookup, "time", SimpleNamespace(monotonic=loop.time))
        patched.setattr(asyncio, "to_thread", at_once)
        began_s = loop.time()
        for timeout_s, expected in ((5.0, 6), (5.5, 6), (0.5, 1)):
            looks.clear()
            began_s = loop.time()
            with pytest.raises(ImportUnderWay, match=f"after {timeout_s:g} s"):
                await wait_for_import(SETTINGS, "may", None, timeout_s)
            assert [at - began_s for at in looks] == list(range(expected))


@pytest.mark.parametrize(
    ("who", "paths"),
    [
        ("record:leads/0/7", ["/leads/record:leads/0/7"]),
        (" record:leads/0/7 x ", ["/leads/record:leads/0/7%20x"]),
        ("crm:17", ["/leads/crm:17"]),
        ("https://www.linkedin.com/company/acme", ["/leads/h-{id}"]),
        ("crm 17", ["/leads/h-{id}"]),
        ("ada@example.com", ["/leads?person={email}", "/leads/h-{id}"]),
        (" LinkedIn.com/in/Ada ", ["/leads?person={linkedin}", "/leads/h-{id}"]),
        ("p-" + "A" * 22, ["/leads/p-" + "A" * 22, "/leads/h-{id}"]),
        ("@", ["/leads/h-{id}"]),
    ],
)
def test_what_is_asked_for_holds_no_personal_data(who: str, paths: list[str]) -> None:
    (email,) = people({"email": "ada@example.com"})
    (linkedin,) = people({"linkedin_url": "https://www.linkedin.com/in/ada"})
    known_by = given_id(who.strip()).removeprefix("h-")
    expected = [path.format(id=known_by, email=email, linkedin=linkedin) for path in paths]
    assert paths_of(who) == expected


def test_an_id_that_may_be_an_address_is_refused_with_what_to_do() -> None:
    for import_id in ("ada@example.com", "x" * 201):
        with pytest.raises(SettingsError) as error:
            find_imports(SETTINGS, import_id)
        assert str(error.value) == (
            f"import {import_id}: an id with an @ or more than 200 characters is not followed; "
            "use `stream-app status LEAD`"
        )


def test_where_the_board_does_not_answer_it_says_what_to_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = Board(monkeypatch, imports=httpx.ConnectError("s3cret"))
    with pytest.raises(BoardUnavailable) as error:
        find_imports(SETTINGS)
    assert str(error.value) == (
        f"the board at {URL} does not respond (ConnectError): start it with: stream-app board; if "
        "it runs elsewhere, set board.url"
    )
    board.answers["imports"] = 502, {"error": "x", "text": 5}
    with pytest.raises(NotTheBoard) as other:
        find_imports(SETTINGS)
    assert str(other.value) == (
        f"this is not the board: what answers at {URL} is not `stream-app board` of this version "
        "(HTTP 502); check board.url, and the proxy before it"
    )


def settings_with(url: str, token_env: str | None = None, **secrets: str) -> Settings:
    board = msgspec.structs.replace(SETTINGS.board, url=url, token_env=token_env)
    return msgspec.structs.replace(SETTINGS, board=board, secrets=secrets)


@pytest.mark.parametrize(
    ("url", "through_proxies"),
    [(URL, True), ("http://127.0.0.1:9107", False), ("http://localhost:9107", False)],
)
def test_the_client_has_the_token_and_asks_this_machine_directly(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    through_proxies: bool,
) -> None:
    monkeypatch.setattr(lookup, "token_of_reader", lambda *_: "t0ken")
    with lookup._client(settings_with(url)) as client:
        assert str(client.base_url).rstrip("/") == url
        assert client.headers["authorization"] == "Bearer t0ken"
        assert client.timeout == httpx.Timeout(lookup._WITHIN_S)
        assert client.trust_env is through_proxies
    monkeypatch.setattr(lookup, "token_of_reader", lambda *_: None)
    with lookup._client(settings_with(url)) as client:
        assert "authorization" not in client.headers
    asked: list[dict[str, Any]] = []

    def get(_: str, **options: Any) -> httpx.Response:
        asked.append(options)
        return httpx.Response(200, text="stream-app board")

    monkeypatch.setattr(httpx, "get", get)
    check_board(url)
    assert asked == [{"timeout": lookup._ANSWERS_WITHIN_S, "trust_env": through_proxies}]


def test_a_board_with_a_configured_token_has_a_form_to_log_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = Board(monkeypatch)
    assert way_in(settings_with(URL, "TOKEN")) == f"{URL}/board"
    assert board.asked == []
