"""Plan, send, stop and resume a replay on the board."""

import asyncio
import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.board.replays import Wanted
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import (
    PLAN_LIFE_MS,
    Fate,
    PricedPlan,
    ReplayCommand,
    ReplayPlan,
    ReplayProgress,
    progress_row,
)
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.views.price import Part, Quote
from stream_app.kafka.readers import Progress
from tests.board import orders, scene
from tests.board.client import Client, ClientOf, board_with, plain
from tests.board.clock import NOW_MS
from tests.board.model_records import Made
from tests.board.replays import priced
from tests.board.scene import OPERATOR_TOKEN, Outbox
from tests.support.pace import BUSY

CAUSE = (
    "/board/dead/act/plan?from=dlq&kind=failed&reason=http_503"
    "&workspace=acme&destination=acme-people"
)
CHOSEN = {
    "from": "dlq",
    "kind": "failed",
    "reason": "http_503",
    "workspace": "acme",
    "destination": "acme-people",
}
WHY = {"why": "Clay is up again"}


async def planned(operator: Client, **values: str) -> str:
    """Plan, and return the path of the plan once it is made."""
    answer = await orders.send(operator, "/board/dead/act/plan", **CHOSEN, **values)
    assert answer.status_code == 303, answer.text
    path = str(answer.headers["location"])
    async with asyncio.timeout(60 * BUSY):
        while "<h1>Planning a replay</h1>" in (await operator.get(path)).text:  # noqa: ASYNC110 - a page
            await asyncio.sleep(0.02)
    return path


async def test_a_cause_leads_to_a_plan_with_its_price_and_to_one_replay(
    operator: Client,
    outbox: Outbox,
) -> None:
    dead = (await operator.get("/board/dead")).text
    assert "/board/dead/act/plan?from=dlq&amp;kind=failed&amp;reason=http_503" in dead
    form = (await operator.get(CAUSE)).text
    assert 'value="http_503"' in form
    path = await planned(operator)
    text = (await operator.get(path)).text
    for words in (
        "Send 167 dead letters for up to 1,002 credits",
        "acme/acme-people: 167 leads at about 2 credits each: about 334 credits and 167 actions, "
        "at most 1,002 credits and 167 actions",
        "acme: 1,140 credits of today are left; about 84 s at the rate of replays",
        "41 delivered since",
        "160: <code>http_503</code>",
        (
            "stream-app replay select --from dlq --disposition failed --reason http_503 "
            "--workspace acme"
        ),
    ):
        assert words in text, words
    assert (await orders.send(operator, path)).status_code == 422, "without a reason"
    assert not outbox.records
    for _ in range(2):
        answer = await orders.send(operator, path, **WHY)
        assert answer.headers["location"] == path.replace("/dead/act/plan/", "/replays/r-")
    assert len({record.key for record in outbox.records}) == 1, "the same replay"
    command = json.loads(outbox.records[0].value or b"")
    assert command["who"] == "jane"
    assert command["why"] == WHY["why"]
    assert command["plan"]["dead_letters"] == 167
    assert command["plan"]["credits"] == 1_002
    assert command["plan"]["ends"] == {"0": 231}
    queued = plain((await operator.get(answer.headers["location"])).text)
    assert "no replay process has answered yet" in queued
    assert "if one runs within 10 minutes of the plan" in queued


async def test_an_import_leads_to_a_plan_of_what_failed_of_it(
    operator: Client,
    client_of: ClientOf,
    outbox: Outbox,
) -> None:
    page = (await operator.get("/board/imports?workspace=initech&id=2026-09-21-kfdwzp")).text
    (form,) = re.findall(r'href="([^"]+)">Plan a replay of its dead letters<', page)
    wanted: list[Wanted] = []

    async def survey(*asked: Any) -> tuple[dict[int, int], PricedPlan]:
        wanted.append(asked[1])
        return await priced(*asked)

    planner = await surveyed(client_of, survey, outbox)
    path = html.unescape(form)
    assert 'value="2026-09-21-kfdwzp"' in (await planner.get(path)).text
    values = {"from": "dlq", "workspace": "initech", "import_id": "2026-09-21-kfdwzp"}
    answer = await orders.send(planner, path, **values)
    assert answer.status_code == 303, answer.text
    async with asyncio.timeout(60 * BUSY):
        while not wanted:  # noqa: ASYNC110 - the board sets no event
            await asyncio.sleep(0.02)
    assert wanted[0].filter == Filter(
        workspaces=frozenset({"initech"}),
        imports=frozenset({"2026-09-21-kfdwzp"}),
    )


async def test_a_form_that_cannot_be_planned_is_shown_again(operator: Client) -> None:
    for values, words in (
        ({"workspace": "wayne"}, "there is no workspace wayne"),
        ({"import_id": "a@b"}, "names no import"),
        ({"limit": "0"}, "Enter a whole number above 0"),
        ({"from": "deferred", "kind": "failed"}, "deferred has only the disposition deferred"),
    ):
        answer = await orders.send(operator, "/board/dead/act/plan", **{**CHOSEN, **values})
        assert answer.status_code == 422, answer.text
        assert words in answer.text, answer.text


async def test_an_expired_or_unknown_plan_is_refused(
    operator: Client,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = await planned(operator)
    nonce = re.findall(r'name="form" value="([0-9a-f]{32})"', (await operator.get(path)).text)[0]
    monkeypatch.setattr(scene, "NOW_MS", NOW_MS + PLAN_LIFE_MS + 1)
    for answer in (await operator.get(path), await orders.send(operator, path, nonce, **WHY)):
        assert answer.status_code == 404
        assert "older than 10 minutes" in answer.text
    assert (await operator.get("/board/dead/act/plan/nothing")).status_code == 404
    assert not outbox.records


async def surveyed(client_of: ClientOf, survey: Any, outbox: Outbox) -> Client:
    """An operator whose plans are made by `survey`."""
    client = client_of("token", "operator", outbox=outbox, survey=survey)
    await client.login(OPERATOR_TOKEN)
    return client


async def test_what_costs_more_than_is_left_is_sent_only_if_the_operator_says_so(
    client_of: ClientOf,
    outbox: Outbox,
) -> None:
    async def dear(
        settings: Settings,
        wanted: Wanted,
        progress: Progress,
    ) -> tuple[dict[int, int], PricedPlan]:
        ends, plan = await priced(settings, wanted, progress)
        return ends, msgspec.structs.replace(
            plan,
            quotes=[msgspec.structs.replace(plan.quotes[0], left={"credits_day": 100})],
        )

    client = await surveyed(client_of, dear, outbox)
    path = await planned(client)
    figures = (
        "acme: 167 leads cost about 334 credits and 167 actions, and 100 credits of today are left"
    )
    answer = await orders.send(client, path, over_budget="", **WHY)
    assert answer.status_code == 422
    assert figures in answer.text
    assert len(outbox.records) == 0
    assert (await orders.send(client, path, over_budget="yes", **WHY)).status_code == 303
    assert json.loads(outbox.records[0].value or b"")["plan"]["over_budget"] is True


async def test_a_plan_of_nothing_and_a_plan_that_failed_can_be_made_again(
    client_of: ClientOf,
    outbox: Outbox,
) -> None:
    async def nothing(
        settings: Settings,
        wanted: Wanted,
        progress: Progress,
    ) -> tuple[dict[int, int], PricedPlan]:
        return {}, PricedPlan(0, Counter(), Counter(), [])

    async def fails(
        settings: Settings,
        wanted: Wanted,
        progress: Progress,
    ) -> tuple[dict[int, int], PricedPlan]:
        raise StreamAppError("Kafka at 127.0.0.1 does not answer")

    for survey, words in (
        (nothing, "0 dead letters match, and none can be sent"),
        (fails, "does not answer"),
    ):
        client = await surveyed(client_of, survey, outbox)
        path = await planned(client)
        assert words in (await client.get(path)).text
        again = await orders.send(client, path)
        assert again.status_code == 303
        assert again.headers["location"] != path
    assert not outbox.records


@pytest.mark.parametrize(
    ("kind", "replay"),
    [("stop", "r-0b9c40e1f2a"), ("resume", "r-1b9c40e1f2a")],
)
async def test_a_replay_is_stopped_and_resumed_with_a_reason(
    operator: Client,
    outbox: Outbox,
    kind: str,
    replay: str,
) -> None:
    page = f"/board/replays/{replay}"
    assert f'href="{page}/act/{kind}"' in (await operator.get(page)).text
    assert (await orders.send(operator, f"{page}/act/{kind}")).status_code == 422
    answer = await orders.send(operator, f"{page}/act/{kind}", **WHY)
    command = json.loads(outbox.records[0].value or b"")
    assert command["kind"] == kind
    assert command["replay"] == replay
    assert command["who"] == "jane"
    assert answer.headers["location"] == f"{page}?asked={command['id']}"
    assert "has not applied it yet" in (await operator.get(answer.headers["location"])).text
    assert (await operator.get(f"/board/replays/r-9/act/{kind}")).status_code == 404


def ordered(outbox: Outbox) -> list[ReplayCommand]:
    """The commands to the replay process so far."""
    return [
        msgspec.json.decode(record.value or b"", type=ReplayCommand) for record in outbox.records
    ]


async def test_the_open_dead_letters_of_a_cause_are_given_up(
    operator: Client,
    outbox: Outbox,
) -> None:
    page = (await operator.get("/board/dead")).text
    forms = re.findall(r"/board/dead/act/give-up\?[^\"]*", page)
    assert forms
    url = html.unescape(forms[0])
    cause = url.replace("act/give-up", "records")
    listed = (await operator.get(f"{cause}&state=open")).text
    records = re.findall(r"<code>(leads\.dlq/\d+/\d+)</code>", listed)
    form = (await operator.get(url)).text
    assert "this cannot be undone" in form
    assert (await orders.send(operator, url, typed="give up")).status_code == 422, (
        "without a reason"
    )
    assert (await orders.send(operator, url, **WHY)).status_code == 422, "without the word"
    answer = await orders.send(operator, url, typed="give up", **WHY)
    assert answer.status_code == 303
    (command,) = ordered(outbox)
    assert command.kind == "give_up"
    assert command.who == "jane"
    assert command.why == WHY["why"]
    assert command.id == command.replay
    assert records
    assert set(records) <= set(command.dead_letters)
    assert answer.headers["location"].endswith(f"command={command.id}&sent={command.at_ms}")


async def test_one_dead_letter_is_given_up_by_its_place(operator: Client, outbox: Outbox) -> None:
    url = "/board/dead/act/give-up?from=dlq&kind=poison&record=leads.dlq/0/3"
    assert (await orders.send(operator, url, typed="give up", **WHY)).status_code == 303
    assert ordered(outbox)[0].dead_letters == ("leads.dlq/0/3",)
    for place in ("leads.parked/0/3", "leads.dlq/99/3", "leads/0/3", "x"):
        assert (await operator.get(url.replace("leads.dlq/0/3", place))).status_code == 404, place
    assert (
        await operator.get("/board/dead/act/give-up?from=dlq&kind=poison&reason=unheard_of")
    ).status_code == 404


async def test_one_dead_letter_and_one_credit_are_told_in_the_singular(
    client_of: ClientOf,
    tmp_path: Path,
) -> None:
    async def of_one(
        settings: Settings,
        wanted: Wanted,
        progress: Progress,
    ) -> tuple[dict[int, int], PricedPlan]:
        progress(1, 1)
        part = Part("acme-people", 1, 1.0, 1, 1, 1, 1)
        price = Quote("acme", [part], {"credits_day": 1_140}, True, 1.0)
        fates = Counter[Fate]({"goes": 1})
        return {0: 1}, PricedPlan(1, fates, Counter({"http_503": 1}), [price], {"acme": 2.0})

    operator = client_of("token", "operator", survey=of_one)
    await operator.login(OPERATOR_TOKEN)
    text = (await operator.get(await planned(operator))).text
    assert ">Send 1 dead letter for up to 1 credit<" in text
    plan = ReplayPlan(NOW_MS, "dlq", Filter(), {0: 1}, 1, 1, 1)
    runs = ReplayProgress("r-1", "running", "jane", "up again", NOW_MS, plan, total=1)
    key, value = progress_row(runs)
    record = Made(TopicNames().replay_state, key, value)
    with board_with(tmp_path, record, token=True, operator=True) as client:
        await client.login(OPERATOR_TOKEN)
        form = plain((await client.get("/board/replays/r-1/act/stop")).text)
    assert "0 of 1 dead letter is sent." in form
