"""Publish a file on the board, step by step, without JavaScript and without Kafka."""

import asyncio
import re
import threading
from typing import Any
from unittest.mock import AsyncMock

import httpx
import msgspec
import pytest

from stream_app.board import uploads
from stream_app.board.uploads import Upload
from stream_app.client.publish.leads import PublishOptions, announced
from stream_app.config import Settings
from stream_app.domain.model.messages import Lead
from tests.board.client import OWN, Client, digest_on
from tests.board.scene import HOSTILE, Outbox
from tests.support.kafka import until
from tests.support.narrow import present
from tests.support.pace import BUSY

CSV = (
    f'E-Mail,"{HOSTILE.replace(chr(34), chr(34) * 2)}",workspace\n'
    f'ada@example.com,"{HOSTILE.replace(chr(34), chr(34) * 2)}",initech\n'
    "bo@example.com,x,hooli\n"
    f'not one,"{HOSTILE.replace(chr(34), chr(34) * 2)}",initech\n'
)


class Kafka:
    """What was published."""

    def __init__(self) -> None:
        self.leads: list[Lead] = []
        self.stops_after = 0
        self.goes_on = threading.Event()

    async def send(
        self,
        batch: Any,
        settings: Settings,
        options: PublishOptions,
        acknowledged: Any,
        summaries: Any,
    ) -> int:
        for lead in announced(batch, summaries):
            self.leads.append(msgspec.json.decode(lead.value, type=Lead))
            acknowledged(0, 0, 1)
            if len(self.leads) == self.stops_after:
                assert await asyncio.to_thread(self.goes_on.wait, 60)
        return len(self.leads)


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    fake = Kafka()
    monkeypatch.setattr(uploads, "send_batch", fake.send)
    monkeypatch.setattr(uploads, "kafka_ready", AsyncMock())
    return fake


async def post(client: Client, path: str, **more: Any) -> httpx.Response:
    return await client.ask("POST", path, headers=OWN, **more)


async def upload(
    client: Client,
    content: str | bytes = CSV,
    name: str = "leads.csv",
) -> httpx.Response:
    raw = content.encode() if isinstance(content, str) else content
    return await post(client, "/board/publish", files={"file": (name, raw, "text/csv")})


async def checked(client: Client, content: str | bytes = CSV, **form: str) -> str:
    """Return the address of a file whose cost is known."""
    answer = await upload(client, content)
    assert answer.status_code == 303, answer.text
    path = answer.headers["location"]
    assert (
        await post(client, f"{path}/columns", data={"workspace": "", **form})
    ).status_code == 303
    await settled(client, path)
    return str(path)


async def send(client: Client, path: str, why: str = "test") -> httpx.Response:
    """Click the button that publishes on the page of a file."""
    return await post(
        client,
        f"{path}/send",
        data={"why": why, "digest": digest_on((await client.get(path)).text)},
    )


async def settled(client: Client, path: str) -> str:
    """Return the page as soon as its file is not worked on."""
    async with asyncio.timeout(60 * BUSY):
        while True:
            text = (await client.get(path)).text
            if "Show the progress now" not in text:
                return text
            await asyncio.sleep(0.01)


async def test_a_file_goes_from_its_columns_to_kafka(
    operator: Client,
    kafka: Kafka,
    capfd: Any,
) -> None:
    path = await checked(operator)
    text = (await operator.get(path)).text
    assert "hooli/hooli-people: 1 lead at about 6 credits each" in text, "the words of the command"
    assert "Publish 2 leads for about 12 credits" in text
    assert re.search(r"<code>bad_email</code>.*Its e-mail is not an e-mail address", text)
    button = digest_on(text)
    answer = await post(
        operator,
        f"{path}/send",
        data={"why": "webinar of march", "digest": button},
    )
    assert answer.headers["location"] == path
    text = await settled(operator, path)
    assert "2 of 2 leads published" in text
    links = re.findall(r'href="/board/imports\?workspace=(\w+)&amp;id=([\w-]+)"', text)
    assert [workspace for workspace, _ in links] == ["hooli", "initech"]
    assert {lead.import_id for lead in kafka.leads} == {links[0][1]}
    assert [lead.fields["email"] for lead in kafka.leads] == ["ada@example.com", "bo@example.com"]
    first = present(kafka.leads[0].import_summary)
    assert first.rows == 3
    assert first.refused == 1
    assert first.leads == 1
    assert first.file == "leads.csv"
    assert first.who == "jane"
    again = await post(operator, f"{path}/send", data={"why": "a second click", "digest": button})
    assert again.headers["location"] == path
    await settled(operator, path)
    assert len(kafka.leads) == 2, "once"
    logged = capfd.readouterr()
    assert "import_published" in logged.out + logged.err
    assert "example.com" not in logged.out + logged.err
    assert "example.com" not in path


async def test_the_reason_is_logged_without_personal_data(
    operator: Client,
    kafka: Kafka,
    capfd: Any,
) -> None:
    path = await checked(operator)
    await send(
        operator,
        path,
        "asked by ada@example.com, +49 170 1234567, see https://crm.example.com/x?key=1",
    )
    await settled(operator, path)
    logged = "".join(capfd.readouterr())
    assert "asked by [email]" in logged
    assert not [text for text in ("ada@", "1234567", "crm.example.com") if text in logged]


async def test_columns_can_be_corrected_and_left_out(operator: Client, kafka: Kafka) -> None:
    path = await checked(
        operator,
        "one,two,three\nada@example.com,Ada,secret\n",
        **{
            "workspace": "initech",
            "bulk": "yes",
            "column-0": "email",
            "column-1": "=",
            "column-2": "",
        },
    )
    await send(operator, path, "test")
    await settled(operator, path)
    assert [lead.fields for lead in kafka.leads] == [{"email": "ada@example.com", "two": "Ada"}]


@pytest.mark.parametrize(
    "other",
    [
        {"workspace": "hooli"},
        {"workspace": "initech", "bulk": "yes"},
        {"workspace": "initech", "column-1": ""},
        {"workspace": "initech", "destination": "initech-people"},
    ],
)
async def test_a_tab_publishes_what_it_shows_and_nothing_else(
    operator: Client,
    kafka: Kafka,
    other: dict[str, str],
) -> None:
    """Two tabs show one file: the button of the first must not publish what the second chose."""
    path = await checked(operator, "email,title\nada@example.com,CTO\n", workspace="initech")
    first = digest_on((await operator.get(path)).text)
    await post(operator, f"{path}/columns", data=other)
    await settled(operator, path)
    answer = await post(operator, f"{path}/send", data={"why": "the first tab", "digest": first})
    assert answer.status_code == 409
    assert "Open the page of the file again, and look at its cost" in answer.text
    assert kafka.leads == []
    assert (await post(operator, f"{path}/send", data={"why": "no digest"})).status_code == 409
    await send(operator, path)
    assert "1 of 1 lead published" in await settled(operator, path)
    assert (
        await post(operator, f"{path}/send", data={"why": "late", "digest": first})
    ).status_code == 409
    assert len(kafka.leads) == 1


async def test_the_button_follows_the_price(operator: Client, kafka: Kafka) -> None:
    """The same choice, checked again, is the same publication; another price is another one."""
    path = await checked(operator, "email\nada@example.com\n", workspace="initech")
    first = digest_on((await operator.get(path)).text)
    await post(operator, f"{path}/columns", data={"workspace": "initech"})
    assert digest_on(await settled(operator, path)) == first
    upload = next(iter(present(operator.board._publish)._uploads._uploads.values()))
    upload.quotes = [msgspec.structs.replace(quote, seconds=9_999) for quote in upload.quotes]
    assert digest_on((await operator.get(path)).text) not in ("", first)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"column-0": "password"}, 422),
        ({"workspace": "unknown"}, 422),
        ({"destination": "unknown"}, 422),
        ({"workspace": ""}, 422),
        ({f"x{number}": "y" for number in range(1_000)}, 400),
        ({"column-0": "x" * 100_000}, 413),
    ],
)
async def test_a_form_that_cannot_be_is_answered(
    operator: Client,
    form: dict[str, str],
    status: int,
) -> None:
    path = (await upload(operator, "email\nada@example.com\n")).headers["location"]
    answer = await post(operator, f"{path}/columns", data=form)
    assert answer.status_code == status
    if form == {"workspace": ""}:
        assert "choose one for all rows" in answer.text, "asked before the rows are checked"


async def test_text_of_the_file_is_shown_as_text(operator: Client, kafka: Kafka) -> None:
    answer = await upload(operator, name=f"{HOSTILE}.csv")
    path = answer.headers["location"]
    pages = [(await operator.get(path)).text]
    await post(operator, f"{path}/columns", data={"workspace": ""})
    pages.append(await settled(operator, path))
    for text in pages:
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert "<script>alert(1)" not in text


async def test_refused_rows_are_downloaded_and_that_is_logged(operator: Client, capfd: Any) -> None:
    path = await checked(operator)
    answer = await operator.get(f"{path}/rejected.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="20')
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.splitlines()[0] == "line,reason,text,row"
    assert "not one" in answer.text
    logged = capfd.readouterr()
    assert "rejected_rows_downloaded" in logged.out + logged.err
    assert "not one" not in logged.out + logged.err


async def test_a_publication_is_stopped_and_what_was_published_is_cancelled(
    operator: Client,
    kafka: Kafka,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = Upload.stop

    def stop_and_go_on(upload: Upload) -> None:
        stop(upload)
        kafka.goes_on.set()

    monkeypatch.setattr(Upload, "stop", stop_and_go_on)
    path = await checked(
        operator,
        "email\n" + "".join(f"a{n}@example.com\n" for n in range(500)),
        workspace="initech",
    )
    kafka.stops_after = 100
    await send(operator, path, "test")
    await until(lambda: len(kafka.leads) == 100, 60)
    assert "100 of 500 leads are on Kafka" in (await operator.get(path)).text
    answer = await post(operator, f"{path}/stop", data={"why": "wrong file"})
    assert answer.headers["location"].startswith(f"{path}?command=c-")
    text = (await operator.get(answer.headers["location"])).text
    assert "100 of 500 leads published" in text
    assert "The other 400 were not" in text
    (command,) = outbox.commands
    assert command.kind == "cancel_import"
    assert command.who == "jane"
    assert command.why == "wrong file"
    assert command.workspace == "initech"
    assert command.args == {"import_id": kafka.leads[0].import_id}


@pytest.mark.parametrize("step", ["send", "stop"])
async def test_a_reason_is_needed(operator: Client, kafka: Kafka, step: str) -> None:
    path = await checked(operator)
    assert (await post(operator, f"{path}/{step}", data={"why": " "})).status_code == 422
    assert kafka.leads == []


async def test_a_discarded_file_is_gone_in_words(operator: Client) -> None:
    path = await checked(operator)
    assert (await post(operator, f"{path}/discard")).headers["location"] == "/board/publish"
    answer = await operator.get(path)
    assert answer.status_code == 404
    assert "Choose it again on the page Publish" in answer.text


RESULTS = "/board/imports/act/results?workspace={}&id=2026-09-21-kfdwzp"


async def test_the_results_of_an_import_are_downloaded_joined_to_its_file(
    operator: Client,
    with_token: Client,
) -> None:
    page = (await operator.get("/board/imports?workspace=initech&id=2026-09-21-kfdwzp")).text
    assert 'action="/board/imports/act/results?workspace=initech&amp;id=2026-09-21-kfdwzp"' in page
    file = {"file": ("leads.csv", b"email\nada@example.com\nbo@example.com\n", "text/csv")}
    answer = await post(operator, RESULTS.format("initech"), files=file)
    assert answer.status_code == 200
    assert answer.text == "ada@example.com,CTO\nbo@example.com,\n"
    assert answer.headers["content-disposition"] == 'attachment; filename="enriched.csv"'
    await with_token.login()
    assert (await post(with_token, RESULTS.format("initech"), files=file)).status_code == 405, (
        "only operators"
    )
    none = await post(operator, RESULTS.format("acme"), files=file)
    assert none.status_code == 422
    assert "No row of leads.csv has a result in acme: is it the file of this import?" in none.text
    twice = {"file": ("leads.csv", b"email,email\na,b\n", "text/csv")}
    bad = await post(operator, RESULTS.format("initech"), files=twice)
    assert bad.status_code == 422
    assert "leads.csv: " in bad.text
    assert (await post(operator, RESULTS.format("nowhere"), files=file)).status_code == 422
