"""Publish a file on the board of a real gateway: the leads are those of `stream-app publish`, and they are followed."""

import asyncio
import re
from contextlib import suppress

import httpx
import pytest

from stream_app.dev.kafka import Broker
from tests.board.client import digest_on, plain
from tests.e2e.pipeline import Pipeline
from tests.integration.test_publish import records
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(300)

TOKEN = "a token for people who act: 51d2e9c4"
OWN = {"sec-fetch-site": "same-origin"}


@pytest.mark.slow
async def test_a_file_goes_through_the_board_to_clay(
    kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPERATOR_TOKEN", TOKEN)
    line = Pipeline(kafka.bootstrap, namespace, 2)
    line._toml = line._toml.replace("[board]", '[board]\noperator_token_env = "OPERATOR_TOKEN"', 1)
    async with line:
        line.start("board")
        rows = "".join(f"L{number},w{number % 2},p{number}@example.com\n" for number in range(400))
        source = line.directory / "leads.csv"
        source.write_text(f"lead_id,workspace,E-Mail\n{rows}L400,w0,not an address\n")
        address = f"http://127.0.0.1:{line.board_port}"
        async with httpx.AsyncClient(base_url=address, headers=OWN, timeout=60) as client:
            await _until(client, "/healthz", "stream-app board")
            await client.post("/board/login", data={"token": TOKEN, "who": "jane"})
            with source.open("rb") as file:
                answer = await client.post("/board/publish", files={"file": ("leads.csv", file)})
            assert answer.status_code == 303, answer.text
            path = answer.headers["location"]
            assert (await client.post(f"{path}/columns", data={"workspace": ""})).status_code == 303
            cost = await _until(client, path, "Publish 400 leads for about")
            form = {"why": "test", "digest": digest_on(cost)}
            assert (await client.post(f"{path}/send", data=form)).status_code == 303
            text = await _until(client, path, "400 of 400 leads published")
            found = re.search(r"id=([\w-]+)\"", text)
            assert found is not None
            of_the_board = await records(line.settings, line.settings.names.leads)

            monkeypatch.setattr("getpass.getuser", lambda: "jane")
            monkeypatch.setenv("LOGNAME", "jane")
            code, said = await line.run("publish", str(source), "--import-id", found[1], "--yes")
            assert code == 1, said
            both = await records(line.settings, line.settings.names.leads)
            for number in {each.partition for each in of_the_board}:
                leads = [each.value for each in of_the_board if each.partition == number]
                assert [each.value for each in both if each.partition == number] == [*leads, *leads]

            line.start("worker")
            await _until(client, f"/board/imports?workspace=w0&id={found[1]}", "200 of 200 leads")  # each once


async def _until(client: httpx.AsyncClient, path: str, text: str) -> str:
    """Return the page as soon as it says this."""
    page = ""
    async with asyncio.timeout(120 * BUSY):
        while text not in plain(page):
            with suppress(httpx.TransportError):
                page = (await client.get(path)).text
            await asyncio.sleep(0.2)
    return page
