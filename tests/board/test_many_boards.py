"""Many open boards: they wait for one another, and share what they ask for and what is rendered."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from stream_app.board.page import _MAX_WAITING, Renderer
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.groups import Consumption
from tests.board.client import OWN, Client, ClientOf, plain
from tests.board.scene import OPERATOR_TOKEN, TOKEN, consumers_of
from tests.support.pace import BUSY


async def test_boards_wait_for_one_another_and_not_without_bound(local: Client) -> None:
    """One page is made at a time, beside the event loop, and too many at once are refused."""
    began = threading.Event()
    go_on = threading.Event()
    threads = local.board._maker.threads

    def hold() -> None:
        began.set()
        go_on.wait(120 * BUSY)

    held = asyncio.create_task(threads.run(hold))
    assert await asyncio.to_thread(began.wait, 60 * BUSY)
    waiting = [asyncio.create_task(local.get("/board/audit")) for _ in range(_MAX_WAITING + 10)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=60 * BUSY)
    assert [task.result().status_code for task in done] == [503] * len(done)
    go_on.set()
    await held
    codes = [answer.status_code for answer in await asyncio.gather(*waiting)]
    assert codes.count(503) == 11
    assert codes.count(200) == _MAX_WAITING - 1


async def test_who_changes_something_sees_what_comes_of_it(client_of: ClientOf) -> None:
    consumers = consumers_of()
    client = client_of(consumers=consumers, shared_s=3_600)
    for worker in (ConsumerGroup("Stable", 2), ConsumerGroup("Empty", 0)):
        consumers.now = Consumption(worker, ConsumerGroup("Stable", 1), {})
        assert "3 of 6 lanes are held, 1 more in part" in plain(
            (await client.get("/board")).text,
        ), "others share what was read"
    await client.ask("POST", "/board/leads", data={"text": "crm-17"}, headers=OWN)
    assert "Nothing is sent: no worker runs" in (await client.get("/board")).text


async def test_boards_share_what_is_rendered_and_each_sees_what_its_role_may(
    client_of: ClientOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered: list[str] = []
    render = Renderer.render

    def counted(self: Renderer, template: str, context: Mapping[str, Any]) -> str:
        rendered.append(template)
        return render(self, template, context)

    monkeypatch.setattr(Renderer, "render", counted)
    board = client_of("token", "operator", shared_s=3_600).board
    people = {name: Client(board) for name in ("olga", "otto", "vera", "vito")}
    for name, client in people.items():
        await client.login(OPERATOR_TOKEN if name.startswith("o") else TOKEN, who=name)
    for name, client in people.items():
        for url in ("/board/lanes/acme", "/board/leads/crm-17", "/board/system"):
            text = (await client.get(url)).text
            assert f'title="Logged in as {name}"' in text
            assert ('class="actions"' in text) == name.startswith("o"), (name, url)
    assert rendered.count("base.html") == 12
    for template in ("lane.html", "lead.html", "system.html"):
        assert rendered.count(template) == 2, "once for each role"
