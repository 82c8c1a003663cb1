"""How the answer to an operator's command comes onto the page, with the state after it."""

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec

from stream_app.domain.commands import CommandAnswer
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Actor
from tests.board.client import Client, plain
from tests.board.clock import HOUR_MS, NOW_MS
from tests.board.model_records import Made, lane, take
from tests.board.orders import send
from tests.board.scene import (
    HOSTILE,
    OPERATOR_TOKEN,
    Outbox,
    board_of,
    model_of,
    settings_of,
)

NAMES = TopicNames()
POLLS = 'hx-trigger="every 1s"'
_WHY = {"why": "table is being rebuilt"}


def resumed(command: str, at_ms: int) -> Made:
    """Return the record of a worker's answer that it has resumed the lane of acme."""
    answer = CommandAnswer(
        command,
        applied=True,
        at_ms=at_ms,
        partition=0,
        kind="resume",
        workspace="acme",
        text="resumed",
    )
    return Made(NAMES.audit, b"acme", msgspec.json.encode(answer))


async def test_the_page_follows_the_answer(folder: Path, tmp_path: Path) -> None:
    settings = settings_of(folder, operator=True)
    path = tmp_path / "model.sqlite"
    outbox = Outbox()
    shutil.copy(folder / "model.sqlite", path)
    client = Client(board_of(settings, path, outbox=outbox))
    await client.login(OPERATOR_TOKEN, who=HOSTILE)

    def answered(number: int, partition: int = 0, **more: Any) -> None:
        command = outbox.commands[-1]
        values: dict[str, Any] = {"kind": command.kind, "applied": True, "text": "paused", **more}
        answer = CommandAnswer(
            command.id,
            at_ms=NOW_MS + number,
            partition=partition,
            workspace=command.workspace,
            who=command.who,
            why=command.why,
            **values,
        )
        model = model_of(path, settings)
        take(
            model,
            Made(settings.names.audit, b"acme", msgspec.json.encode(answer), partition, number),
        )
        model.close()

    def published(at_ms: int, **view: Any) -> None:
        model = model_of(path, settings)
        take(model, lane(settings.names, "acme", at_ms=NOW_MS + at_ms, **view))
        model.close()

    shown = await send(client, "/board/lanes/acme/act/pause", why=HOSTILE)
    page = shown.headers["location"]
    first = (await client.get(page)).text
    assert '<span class="pill idle">sent</span>' in first
    assert "worker" not in plain(first.split("</h1>")[0].split('<main id="content"')[1])
    answered(1_000, under_way=2)
    published(1_001, paused_by=Actor("jane", "", NOW_MS))
    text = (await client.get(page)).text
    assert re.search(
        r'pill ok">applied</span>.*Pause, acme</strong>: paused; 2 requests in progress',
        text,
    )
    answered(
        1_001,
        applied=False,
        reason="repeated",
        text="command was answered before: nothing was done again",
    )
    assert (await client.get(page)).text.count("answered before") == 0, (
        "a second click changes nothing"
    )
    assert outbox.commands[-1].id in (await client.get("/board/audit?workspace=acme")).text
    page = (await send(client, "/board/lanes/acme/act/resume", **_WHY)).headers["location"]
    answered(1_002, applied=False, reason="refused", text=HOSTILE)
    text = (await client.get(page)).text
    assert 'pill bad">refused</span>' in text
    assert HOSTILE not in text
    page = (await send(client, "/board/act/reload", **_WHY)).headers["location"]
    answered(1_003, partition=2, text="the configuration is as before")
    assert "by 1 of 6 partitions" in (await client.get(page)).text
    every = outbox.commands[-1].id
    for partition in (0, 4):
        answered(1_004 + partition, partition=partition, text="the configuration is as before")
    audit = (await client.get("/board/audit")).text
    assert audit.count(every) == 2, (
        "one row a command, whose short id has the whole one as its title and its link"
    )
    assert "the configuration is as before (by 3 of 6 partitions)" in plain(audit)
    assert len(re.findall("<tr><th", (await client.get(f"/board/audit?id={every}")).text)) == 1 + 3
    answered(1_010, partition=3, kind="replay reload", text="the configuration has no changes")
    assert "by 3 of 6 partitions" in (await client.get(page)).text, "a replay process is no worker"
    answered(
        1_011,
        partition=3,
        kind="replay reload",
        applied=False,
        reason="bad_configuration",
        text="no such key",
    )
    assert re.search(r'pill bad">refused</span>.*no such key', (await client.get(page)).text)
    for command in ("c-1", HOSTILE, "c-" + "0" * 32):
        assert (await client.get("/board", params={"command": command})).status_code == 200
    client.board.close()


async def test_an_answer_is_asked_for_each_second_and_comes_with_the_state_after_it(
    folder: Path,
    tmp_path: Path,
) -> None:
    """The answer and the lane are on two topics, and the page may read the model between them."""
    settings = settings_of(folder, operator=True)
    path = tmp_path / "model.sqlite"
    outbox = Outbox()
    model = model_of(path, settings)
    paused = Actor("jane", "rebuilt", NOW_MS - HOUR_MS)
    take(
        model,
        lane(
            NAMES,
            "acme",
            holds="paused",
            text="paused by jane",
            paused_by=paused,
            at_ms=NOW_MS - HOUR_MS,
        ),
    )
    client = Client(board_of(settings, path, outbox=outbox, shared_s=60))
    await client.login(OPERATOR_TOKEN)
    page = (await send(client, "/board/lanes/acme/act/resume", **_WHY)).headers["location"]
    command = outbox.commands[-1]
    assert f"sent={command.at_ms}" in page
    at_once = page.replace(f"sent={command.at_ms}", f"sent={NOW_MS - 4_999}")
    later = page.replace(f"sent={command.at_ms}", f"sent={NOW_MS - 5_000}")
    much_later = page.replace(f"sent={command.at_ms}", f"sent={NOW_MS - 61_000}")
    without = page.partition("&sent=")[0]
    for url, state, says, polls in (
        (at_once, "sent", "the answer comes within seconds", True),
        (later, "queued", "no worker has answered yet", True),
        (much_later, "queued", "no worker has answered yet", False),
        (without, "queued", "no worker has answered yet", False),
    ):
        text = (await client.get(url)).text
        assert f'<span class="pill idle">{state}</span>' in text, url
        assert says in text, url
        assert (POLLS in text) == polls, url
    take(model, resumed(command.id, NOW_MS - 700))
    text = (await client.get(at_once)).text
    assert "applied" not in plain(text), "the lane below it is still that of before"
    assert POLLS in text
    take(model, lane(NAMES, "acme", at_ms=NOW_MS - 700))
    text = (await client.get(at_once)).text
    assert '<span class="pill ok">applied</span>' in text
    assert "paused by jane" not in text, "nothing that others were shown within the same second"
    assert POLLS not in text
    model.close()
    client.board.close()


async def test_an_answer_is_shown_though_its_lane_is_never_published(
    folder: Path,
    tmp_path: Path,
) -> None:
    settings = settings_of(folder, operator=True)
    path = tmp_path / "model.sqlite"
    outbox = Outbox()
    model = model_of(path, settings)
    client = Client(board_of(settings, path, outbox=outbox))
    await client.login(OPERATOR_TOKEN)
    page = (await send(client, "/board/lanes/acme/act/resume", **_WHY)).headers["location"]
    take(model, resumed(outbox.commands[-1].id, NOW_MS - 5_001))
    assert '<span class="pill ok">applied</span>' in (await client.get(page)).text
    model.close()
    client.board.close()
