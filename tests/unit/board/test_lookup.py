"""The look-up API without Kafka: who may ask, what is answered, and that the document says so."""

import hmac
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette

from stream_app.board.access import Access
from stream_app.board.lookup import Lookup
from stream_app.board.read_model.follow import STALE_MS, ProjectionLag
from stream_app.board.read_model.on_kafka import FoundRecord, Search
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.domain.books.records import STATES
from stream_app.domain.model.errors import UnreadableBatch
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.backlog import Waiting as Unread
from stream_app.kafka.groups import Consumption
from tests.board.model_records import (
    NOW_MS,
    dead_letter,
    event,
    history,
    lane,
    person,
    result,
    sources,
    take,
)
from tests.unit.board.waiting import Waiting, fetch_result

TOKEN = "a token that cannot be guessed, for tests"
HASH = "AbCdEfGhIjKlMnOpQrStUv"
NAMES = sources().names


class Api:
    """The API over a model of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lag = ProjectionLag(NOW_MS, 7)
        self.records = Waiting()

    async def get(
        self,
        url: str,
        *,
        token: str = TOKEN,
        given: str | bytes | None = f"Bearer {TOKEN}",
        made_here: bool = False,
        headers: Mapping[str, str] = {},
    ) -> httpx.Response:
        """One request, which has `given`, to a board that has `token`, and may have made it."""

        async def kafka() -> Consumption:
            return Consumption(
                ConsumerGroup("Stable", 1),
                ConsumerGroup("Stable", 1),
                {("leads", 0): Unread(12)},
            )

        queries = Queries(self.path, {"firms"})
        access = Access(token, made_here=made_here)
        about = queries, lambda: self.lag, fetch_result, kafka, NAMES
        lookup = Lookup(*about, access, self.records.find, lambda: NOW_MS)
        sent: dict[str, Any] = {**headers, **({} if given is None else {"authorization": given})}
        app = Starlette(routes=lookup.routes())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport,
            base_url="http://127.0.0.1:9107",
        ) as client:
            return await client.get(url, headers=sent)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ReadModel]:
    model = ReadModel(tmp_path / "model.sqlite", sources())
    take(
        model,
        *history(NAMES, "crm-1", "received", "sending", "accepted", "enriched", trace_id="ab" * 16),
        *history(NAMES, "crm-2", "received", "sending", "accepted", offset=1, destination="firms"),
        *history(NAMES, "crm-3", "received", "held_budget", offset=2),
        event(
            NAMES,
            "record:leads/0/3",
            "rejected_invalid",
            1,
            3,
            workspace="",
            destination="",
            reason="not_json",
        ),
        result(NAMES, "crm-1"),
        person(NAMES, HASH, "crm-1"),
        lane(NAMES, holds="budget", text="The day's budget is spent"),
        dead_letter(NAMES.dlq),
        dead_letter(NAMES.dlq, offset=1),
        dead_letter(NAMES.parked),
    )
    yield model
    model.close()


@pytest.fixture
def api(model: ReadModel, tmp_path: Path) -> Api:
    return Api(tmp_path / "model.sqlite")


async def test_who_reads_personal_data_is_logged_as_on_the_board(
    api: Api,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for url in ("/leads/crm-1", f"/leads?person={HASH}"):
        capfd.readouterr()
        assert "ada@example.com" in (await api.get(url)).text
        logged = "".join(capfd.readouterr())
        assert all(word in logged for word in ("personal_data_shown", "look-up API", "crm-1")), url
        assert "ada@example.com" not in logged
    addresses = ("/leads/ada@example.com", "/leads?person=ada@example.com")
    for url in ("/lanes", "/books", "/dlq", "/leads/unknown", *addresses):
        await api.get(url)
    await api.get("/leads/crm-1", given="Bearer wrong")
    logged = "".join(capfd.readouterr())
    assert "personal_data_shown" not in logged, "nothing was shown"
    assert "ada@" not in logged


STATUS = {None: 200, "no_token": 401}


WRONG = (None, "Bearer wrong", f"Basic {TOKEN}", "Bearer", "Bearer \u00fc".encode())
RIGHT = (f"Bearer {TOKEN}", f"bearer  {TOKEN}")


@pytest.mark.parametrize("made_here", [True, False])
@pytest.mark.parametrize(
    ("given", "error"),
    [*((given, "no_token") for given in WRONG), *((given, None) for given in RIGHT)],
)
async def test_which_requests_are_authorized(
    api: Api,
    given: str | bytes | None,
    error: str | None,
    made_here: bool,
) -> None:
    """test_who_may.py asks each route. Where a request comes from proves nothing."""
    answer = await api.get("/leads/crm-1", given=given, made_here=made_here)
    assert answer.status_code == STATUS[error]
    assert answer.json().get("error") == error
    if error is not None:
        assert set(answer.json()) == {"as_of_ms", "lag", "trouble", "error", "text"}
        assert answer.json()["as_of_ms"] is None, "nothing is reported"
        assert TOKEN not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in answer.headers) == (error == "no_token")
    if error is not None:
        assert ("set board.token_env for everyone else" in answer.json()["text"]) is made_here


@pytest.mark.parametrize("given", [TOKEN, TOKEN[:-1], "wrong"])
async def test_the_token_is_compared_in_constant_time(
    api: Api,
    given: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = Mock(wraps=hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", compared)
    await api.get("/lanes", token=TOKEN, given=f"Bearer {given}")
    compared.assert_called_once_with(given.encode(), TOKEN.encode())


async def test_a_lead(api: Api) -> None:
    answer = (await api.get("/leads/crm-1")).json()
    assert answer["as_of_ms"] == NOW_MS
    assert answer["lag"] == 7
    assert answer["trouble"] == ""
    (reported,) = answer["lead"]["histories"]
    about = [reported[name] for name in ("origin", "status", "column", "trace_id")]
    assert about == ["leads/0/0", "enriched", "enriched", "ab" * 16]
    assert [step["status"] for step in reported["events"]] == [
        "received",
        "sending",
        "accepted",
        "enriched",
    ]
    (answered,) = answer["lead"]["results"]
    assert answered["fields"]["Title"] == "CEO"
    assert answered["source"] == "clay"
    assert answered["version"] == 1
    assert answered["age_s"] == 3
    assert answered["problem"] == ""


async def test_a_lead_says_what_it_waited_for_and_what_its_lane_says_it_waits_for_now(
    api: Api,
    model: ReadModel,
) -> None:
    (ended,) = (await api.get("/leads/crm-1")).json()["lead"]["histories"]
    assert [wait["kind"] for wait in ended["waits"]] == ["rate", "POST", "callback"]
    assert ended["waits"][-1]["end_ms"] == ended["at_ms"], "it is at rest"
    (final,) = (await api.get("/leads/crm-2")).json()["lead"]["histories"]
    assert [wait["kind"] for wait in final["waits"]] == ["rate", "POST"], "no callback comes"
    take(model, event(NAMES, "crm-4", "received", 1, 4, at_ms=NOW_MS + 1_000, queued_ms=60_000))
    (queued,) = (await api.get("/leads/crm-4")).json()["lead"]["histories"]
    first = queued["waits"][0]
    assert first["kind"] == "queue"
    assert first["begin_ms"] == NOW_MS - 59_000
    assert first["end_ms"] == NOW_MS + 1_000
    (held,) = (await api.get("/leads/crm-3")).json()["lead"]["histories"]
    now = held["waits"][-1]
    assert now["kind"] == "budget"
    assert now["limit"] == "budget"
    assert now["text"] == "The day's budget is spent"
    assert now["begin_ms"] == held["at_ms"]
    assert now["end_ms"] is None


async def test_a_record_that_was_no_lead_has_slashes_in_its_id(api: Api) -> None:
    answer = (await api.get("/leads/record:leads/0/3")).json()
    assert answer["lead"]["histories"][0]["events"][0]["reason"] == "not_json"


async def test_an_unknown_lead(api: Api) -> None:
    answer = await api.get("/leads/crm-99")
    assert answer.status_code == 404
    assert answer.json()["error"] == "unknown_lead"
    assert "7 records are still to be read" in answer.json()["text"]
    api.lag = ProjectionLag(NOW_MS, 0)
    assert "still to be read" not in (await api.get("/leads/crm-99")).json()["text"]


@pytest.mark.parametrize("lag", [ProjectionLag(None, 7), ProjectionLag(NOW_MS - STALE_MS - 1, 7)])
async def test_no_lead_is_unknown_before_kafka_has_been_read(api: Api, lag: ProjectionLag) -> None:
    api.lag = lag
    for url in ("/leads/crm-99", f"/leads?person={'y' * 22}"):
        answer = await api.get(url)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"] == "not_read_yet"
        assert "7 records are still to be read" in answer.json()["text"]
        assert answer.headers["retry-after"]
    assert (await api.get("/leads/crm-1")).status_code == 200, "what is read is answered"
    of_person = await api.get(f"/leads?person={HASH}")
    assert of_person.status_code == (503 if lag.as_of_ms is None else 200), (
        "a part of a person's leads is no answer"
    )


async def test_an_address_is_no_id(api: Api) -> None:
    for url in ("/leads/ada@example.com", "/leads/mailto:ada%40example.com", f"/leads/{'x' * 301}"):
        answer = await api.get(url)
        assert answer.status_code == 400
        assert answer.json()["error"] == "no_id"
        assert "ada" not in answer.text


async def test_the_leads_of_a_person(api: Api) -> None:
    assert [
        lead["lead_id"] for lead in (await api.get(f"/leads?person={HASH}")).json()["leads"]
    ] == ["crm-1"]
    assert (await api.get(f"/leads?person={HASH[::-1]}")).json()["leads"] == []
    for query in (
        "",
        "?person=",
        "?person=ada@example.com",
        "?email=ada@example.com",
        f"?person={HASH}x",
    ):
        answer = await api.get(f"/leads{query}")
        assert answer.status_code == 400
        assert answer.json()["error"] == "no_person"


async def test_a_question_for_what_waits_that_names_no_lead_is_told_what_to_name(api: Api) -> None:
    for query in ("", "?workspace=acme", "?lead_id=&person="):
        answer = await api.get(f"/waiting{query}")
        assert answer.status_code == 400
        assert answer.json()["error"] == "no_lead"
        assert "?lead_id=, or ?person=" in answer.json()["text"]
        assert "GET /books counts all that waits" in answer.json()["text"]
    assert (await api.get("/waiting?person=ada@example.com")).json()["error"] == "no_person"
    assert not api.records.asked


async def test_a_waiting_lead_is_shown_with_its_hold(api: Api) -> None:
    blocked = UnreadableBatch("leads", 0, 1, 2, "its checksum does not match")
    record = FoundRecord("crm-9", "acme", "leads", 0, 1234, NOW_MS, 1200, blocked)
    api.records.search = Search([record], ConsumerGroup("Empty", 0), 1250, 50, "some text")
    answer = (await api.get("/waiting?lead_id=crm-9&workspace=acme")).json()
    assert api.records.asked == [("crm-9", "", "acme")]
    assert answer["searched"] == 1250
    assert answer["left"] == 50
    assert answer["problem"] == "some text"
    (lead,) = answer["leads"]
    assert lead["lead_id"] == "crm-9"
    assert lead["workspace"] == "acme"
    assert lead["origin"] == "leads/0/1234"
    assert lead["since_ms"] == NOW_MS
    assert lead["ahead"] == 1200
    findings = [(finding["code"], finding.get("waiting", 0)) for finding in lead["findings"]]
    assert findings == [("no_worker", 12), ("unreadable", 12), ("budget", 12)]
    assert "leads/0 cannot be read at offsets 1 to 2" in lead["findings"][1]["what"]
    assert lead["findings"][2]["what"] == "The day's budget is spent"
    api.records.search = Search()
    answer = (await api.get(f"/waiting?person={HASH}")).json()
    assert answer["leads"] == []
    assert api.records.asked[-1] == ("", HASH, "")


async def test_lanes_books_and_dead_letters(api: Api) -> None:
    lanes = (await api.get("/lanes")).json()
    assert [(row["workspace"], row["holds"], row["text"]) for row in lanes["lanes"]] == [
        ("acme", "budget", "The day's budget is spent"),
    ]
    books = (await api.get("/books")).json()
    columns = {name: count for name, count in books["columns"].items() if count}
    assert columns == dict.fromkeys(("enriched", "accepted_final", "held", "rejected"), 1)
    assert books["waiting"] == {"leads": 12, "leads.bulk": 0}
    assert {
        "workspace": "acme",
        "destination": "people",
        "status": "held_budget",
        "column": "held",
        "leads": 1,
    } in (books["status_counts"])
    dead_letters = (await api.get("/dlq")).json()
    states = [[dead_letters[topic][state] for state in STATES] for topic in ("dlq", "parked")]
    assert states == [[0, 2, 0, 0], [1, 0, 0, 0]], (
        "failed ones come back by themselves, parked ones do not"
    )
    assert dead_letters["dlq"]["causes"][0]["reason"] == "http_503"


async def test_callbacks_that_settle_nothing_and_erasures_are_no_leads(
    api: Api,
    model: ReadModel,
) -> None:
    before = (await api.get("/books")).json()
    take(
        model,
        event(NAMES, "crm-1", "callback_duplicate", 1, origin=f"{NAMES.callbacks}/0/1"),
        event(NAMES, "crm-1", "callback_duplicate", 1, origin=f"{NAMES.callbacks}/0/2"),
        event(NAMES, "crm-9", "callback_unmatched", 1, origin=f"{NAMES.callbacks}/0/3"),
        event(NAMES, "crm-1", "erased", 1, origin=f"{NAMES.commands}/0/0"),
    )
    books = (await api.get("/books")).json()
    assert books["columns"] == before["columns"]
    assert books["not_leads"] == {"callback_duplicate": 2, "callback_unmatched": 1, "erased": 1}
    assert sum(books["columns"].values()) == sum(
        count["leads"] for count in books["status_counts"] if count["column"]
    )


async def test_without_a_model_it_says_why(tmp_path: Path) -> None:
    api = Api(tmp_path / "nothing.sqlite")
    api.lag = ProjectionLag(trouble="Kafka does not answer")
    for url in ("/leads/crm-1", "/lanes", "/books", "/dlq"):
        answer = await api.get(url)
        assert answer.status_code == 503
        assert answer.json()["error"] == "read_model"
        assert "Kafka does not answer" in answer.json()["text"]
        assert answer.headers["retry-after"]


async def test_the_document_is_valid(api: Api) -> None:
    reported = (await api.get("/openapi.json")).json()
    assert reported["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(reported).validate()


@pytest.mark.parametrize(
    ("url", "path", "status"),
    [
        ("/leads/crm-1", "/leads/{lead_id}", 200),
        ("/leads/crm-99", "/leads/{lead_id}", 404),
        ("/leads/a@b", "/leads/{lead_id}", 400),
        (f"/leads?person={HASH}", "/leads", 200),
        ("/leads", "/leads", 400),
        ("/waiting?lead_id=crm-1", "/waiting", 200),
        ("/waiting?lead_id=a@b", "/waiting", 400),
        ("/waiting", "/waiting", 400),
        ("/lanes", "/lanes", 200),
        ("/books", "/books", 200),
        ("/dlq", "/dlq", 200),
    ],
)
async def test_answers_are_as_documented(api: Api, url: str, path: str, status: int) -> None:
    answer = await api.get(url)
    assert answer.status_code == status
    reported = (await api.get("/openapi.json")).json()
    responses = reported["paths"][path]["get"]["responses"]
    schema = {
        **responses[str(status)]["content"]["application/json"]["schema"],
        "components": reported["components"],
    }
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(answer.json())
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(answer.json() | {"lag": "seven"})
