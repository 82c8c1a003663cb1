"""The forms of operators: each command of the command line, and what goes wrong."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.board.site import remedy_of
from stream_app.domain.lane.overrides import ORDERS
from stream_app.domain.limits.meters import Meter
from stream_app.domain.limits.webhook_quota import Webhook
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Actor, Change
from stream_app.domain.views.explain import Finding
from stream_app.domain.views.lane import DestinationView, LaneView, PartHold
from tests.board.client import OWN, Client, board_with, plain
from tests.board.clock import NOW_MS
from tests.board.model_records import lane
from tests.board.orders import nonce_of, send
from tests.board.scene import (
    HASH,
    HOSTILE,
    OPERATOR_TOKEN,
    OTHER_HASH,
    Outbox,
)

NAMES = TopicNames()
_WHY = {"why": "table is being rebuilt"}


async def test_the_remedy_is_a_button_on_the_card_that_names_the_trouble(
    operator: Client,
    with_token: Client,
) -> None:
    text = (await operator.get("/board")).text
    cards = re.findall(r'<div class="notice.*?</a></div>', text, re.S)
    buttons = [
        re.findall(r'<a class="button main" href="/board/lanes/([^"]+)">([^<]+)<', card)
        for card in cards
    ]
    assert [("acme/act/resume", "Resume")] in buttons
    assert [("globex/act/budget", "Budget")] in buttons
    for href, _ in (button for card in buttons for button in card):
        form = (await operator.get(f"/board/lanes/{href.replace('&amp;', '&')}")).text
        assert 'name="why"' in form, href
    form = (await operator.get("/board/lanes/acme/act/quota?webhook=w-gone&use=use")).text
    assert all(f'<option value="{value}" selected>' in form for value in ("w-gone", "use"))
    assert "w-gone: 9 submissions, suspended: gone (404)<" in form
    assert "w-1f2e: 41,200 submissions, in use<" in form
    assert set(re.findall(r'/act/(\w+)"', (await operator.get("/board/lanes/globex")).text)) >= set(
        ORDERS,
    )
    await with_token.login()
    assert "/act/" not in (await with_token.get("/board")).text, "a reader has none"


def _words(text: str) -> str:
    """What a page says, on one line."""
    return " ".join(plain(text.replace("<", " <")).split())


async def test_the_forms_name_the_destination_that_alone_is_held(tmp_path: Path) -> None:
    seen = lane(
        NAMES,
        "acme",
        partly=(
            PartHold(("people",), "yield_fell", "Clay finds no e-mail"),
            PartHold(("firms",), "destination_fails", "destination firms fails by itself"),
        ),
        destinations={
            "people": DestinationView(98, "healthy"),
            "firms": DestinationView(12, "unhealthy", breaker="half_open"),
        },
        webhooks={"w-1": Webhook(1)},
    )
    with board_with(tmp_path, seen, token=True, operator=True) as client:
        await client.login(OPERATOR_TOKEN)
        forms = {
            name: _words((await client.get(f"/board/lanes/acme/act/{name}")).text)
            for name in ("resume", "reset", "quota")
        }
    held = "Leads of people Clay finds no e-mail \u2192 to no longer held, if it is a suspension"
    assert held in forms["resume"]
    assert "Circuit breaker closed \u2192 to closed, with an empty window" in forms["reset"]
    assert "Circuit breaker of firms half open \u2192 to closed" in forms["reset"]
    assert "Circuit breaker of people" not in forms["reset"]
    assert "w-1: 1 submission, in use" in forms["quota"]


def test_each_hold_has_the_command_that_ends_it() -> None:
    webhooks = {"w-1": Webhook(3, "used up"), "w-2": Webhook(9, "used up")}
    view = msgspec.json.decode(lane(NAMES, "acme", webhooks=webhooks).value or b"", type=LaneView)
    back = ("Put the webhook back", "quota?webhook=w-2&use=use")
    auto = ("Let the breaker decide", "auto")
    for code, remedy in (("webhook_out", back), ("forced_open", auto), ("rate_limited", None)):
        assert remedy_of(Finding(code, "webhook w-2 takes no leads"), view) == remedy


@pytest.mark.parametrize(
    ("kind", "values", "args"),
    [
        ("pause", {}, {}),
        ("budget", {"credits_per_day": "8000"}, {"caps": {"credits_per_day": 8000}}),
        (
            "budget",
            {"credits_per_day": "none", "actions_per_month": "configured", "shadow": "off"},
            {"caps": {"credits_per_day": None, "actions_per_month": "configured"}, "shadow": False},
        ),
        ("correct", {"credits": "-120", "period": "month"}, {"credits": -120, "period": "month"}),
        (
            "rate",
            {"per_second": "4.5", "burst": "configured"},
            {"rate_per_s": 4.5, "burst": "configured"},
        ),
        ("quota", {"webhook": "w-1f2e", "use": "retire"}, {"webhook_id": "w-1f2e", "use": False}),
        ("quota", {"webhook": "w-gone", "use": "use"}, {"webhook_id": "w-gone", "use": True}),
        (
            "quota",
            {"webhook": "w-77aa", "count": "12,000"},
            {"webhook_id": "w-77aa", "count": 12_000},
        ),
    ],
)
async def test_each_command_of_a_lane(
    operator: Client,
    outbox: Outbox,
    kind: str,
    values: dict[str, str],
    args: dict[str, object],
) -> None:
    answer = await send(
        operator,
        f"/board/lanes/acme/act/{kind}",
        **values,
        **_WHY,
    )
    (command,) = outbox.commands
    assert command.kind == kind
    assert command.workspace == "acme"
    assert command.who == "jane"
    assert command.why == _WHY["why"]
    assert command.args == args
    (record,) = outbox.records
    assert record.topic == "leads.commands"
    assert record.key == b"acme"
    assert record.partition == 0
    assert answer.status_code == 303
    assert (
        answer.headers["location"] == f"/board/lanes/acme?command={command.id}&sent={command.at_ms}"
    )
    text = (await operator.get(answer.headers["location"])).text
    assert "the answer comes within seconds" in text
    assert command.id in text


async def test_a_reload_goes_to_every_partition(operator: Client, outbox: Outbox) -> None:
    answer = await send(operator, "/board/act/reload", **_WHY)
    assert [record.partition for record in outbox.records] == list(range(6))
    assert len({command.id for command in outbox.commands}) == 1
    assert answer.headers["location"].startswith("/board/system?command=c-")


@pytest.mark.parametrize("workspace", ["acme", ""])
async def test_an_audit_without_commands_names_the_buttons_that_give_them(
    workspace: str,
    tmp_path: Path,
) -> None:
    path = f"/board/lanes/{workspace}" if workspace else "/board/lanes"
    link = f'<a href="{path}">{"its page" if workspace else "the page of a lane"}</a>'
    url = f"/board/audit?workspace={workspace}"
    line = f"lanes pause {workspace or 'WORKSPACE'} --why"
    with board_with(tmp_path, token=True, operator=True) as client:
        await client.login()
        assert f"with the buttons on {link} (log in to act)" in (await client.get(url)).text
        await client.login(OPERATOR_TOKEN)
        acting = (await client.get(url)).text
        assert f"with the buttons on {link}, such as Pause, or on the command line:" in acting
        assert line in acting
    with board_with(tmp_path, token=True) as client:
        await client.login()
        text = (await client.get(url)).text
        assert "buttons" not in text, "a board without operators has none"
        assert line in text


async def test_a_form_shows_the_rate_in_force_which_an_operator_changed(operator: Client) -> None:
    assert re.search(r'class="was">6 ', (await operator.get("/board/lanes/acme/act/rate")).text)


async def test_a_form_shows_all_digits_of_a_rate(tmp_path: Path) -> None:
    slowed = Change("rate.rate_per_s", 10.0, 0.05, Actor("jane", "slower", NOW_MS - 2_000))
    made = lane(NAMES, "acme", at_ms=NOW_MS - 1_000, changes=(slowed,))
    with board_with(tmp_path, made, token=True, operator=True) as client:
        await client.login(OPERATOR_TOKEN)
        text = (await client.get("/board/lanes/acme/act/rate")).text
    assert 'class="was">0.05 ' in text


async def test_a_correction_shows_what_is_booked_in_the_day_that_is_now(tmp_path: Path) -> None:
    yesterday = Meter("2026-09-20", NOW_MS - 1, 1_000, 300)
    today = Meter("2026-09-21", NOW_MS + 1, 1_000, 40)
    meters = {"credits_day": yesterday, "actions_day": today}
    made = lane(NAMES, "acme", at_ms=NOW_MS - 1_000, meters=meters)
    with board_with(tmp_path, made, token=True, operator=True) as client:
        await client.login(OPERATOR_TOKEN)
        text = (await client.get("/board/lanes/acme/act/correct")).text
    assert re.findall(r'class="was">(\d+) booked', text) == ["0", "40"]


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        ("pause", {"why": "   "}, "Enter the reason"),
        ("budget", _WHY, "Nothing was sent: name something to change"),
        (
            "budget",
            {"credits_per_day": "many", **_WHY},
            "is not a whole number, none or configured, from 0",
        ),
        ("budget", {"shadow": HOSTILE, **_WHY}, "Choose one of these"),
        ("correct", {"credits": "1.5", **_WHY}, "is not a whole number"),
        (
            "rate",
            {"per_second": "nan", **_WHY},
            "is not a number or configured, from 0.01 to 1,000",
        ),
        ("quota", {"use": "use", **_WHY}, "Enter webhook"),
        ("quota", {"webhook": "w-other", "use": "use", **_WHY}, "Choose one of these"),
    ],
)
async def test_what_is_wrong_stands_beside_its_field(
    operator: Client,
    outbox: Outbox,
    kind: str,
    values: dict[str, str],
    problem: str,
) -> None:
    answer = await send(operator, f"/board/lanes/acme/act/{kind}", **values)
    assert answer.status_code == 422
    assert problem in answer.text
    assert outbox.records == []
    for value in values.values():
        assert HOSTILE not in answer.text
        assert value != "many" or f'value="{value}"' in answer.text, "what was entered stays"


async def test_a_second_click_is_the_same_command_and_a_changed_form_is_another(
    operator: Client,
    outbox: Outbox,
) -> None:
    url = "/board/lanes/acme/act/rate"
    nonce = await nonce_of(operator, url)
    for per_second in ("4", "4", "5"):
        await send(operator, url, nonce, per_second=per_second, **_WHY)
    first, second, third = outbox.commands
    assert first.id == second.id != third.id
    await send(operator, url, per_second="4", **_WHY)
    assert outbox.commands[3].id != first.id, "the form was opened again: it is meant again"


async def test_kafka_away_is_a_sentence_and_the_same_form_again(
    operator: Client,
    outbox: Outbox,
) -> None:
    url = "/board/lanes/acme/act/rate"
    nonce = await nonce_of(operator, url)
    outbox.is_away = True
    answer = await send(operator, url, nonce, per_second="4", **_WHY)
    assert answer.status_code == 503
    assert "Kafka did not confirm the command" in answer.text
    assert f'value="{nonce}"' in answer.text, "sent again it is the same command"
    assert 'value="4"' in answer.text
    outbox.is_away = False
    assert (await send(operator, url, nonce, per_second="4", **_WHY)).status_code == 303


async def test_bad_requests(operator: Client, outbox: Outbox) -> None:
    for path in ("/board/lanes/unknown/act/pause", "/board/lanes/acme/act/nothing"):
        assert (await operator.get(path)).status_code == 404
    url = "/board/lanes/acme/act/pause"
    for nonce in ("x", "0" * 31, HOSTILE):
        assert (
            await operator.ask("POST", url, data={"form": nonce, **_WHY}, headers=OWN)
        ).status_code == 400
    many = {f"field{number}": "x" for number in range(100)}
    assert (await operator.ask("POST", url, data=many, headers=OWN)).status_code == 400
    assert outbox.records == []


async def test_a_command_of_another_site_is_refused(operator: Client, outbox: Outbox) -> None:
    """test_access.py has what a browser says of another site."""
    url = "/board/lanes/acme/act/pause"
    data = {"form": await nonce_of(operator, url), **_WHY}
    assert (
        await operator.ask("POST", url, data=data, headers={"sec-fetch-site": "cross-site"})
    ).status_code == 403
    assert outbox.records == []


async def test_a_reason_keeps_no_personal_data(operator: Client, outbox: Outbox) -> None:
    await send(
        operator,
        "/board/lanes/acme/act/pause",
        why="ada@example.com asked for it",
    )
    assert "ada@" not in outbox.commands[0].why


async def test_cancel_a_lead_with_its_id_typed(operator: Client, outbox: Outbox) -> None:
    url = "/board/leads/crm-17/act/cancel"
    entered = {"workspace": "initech", **_WHY}
    for typed in ("", "crm-1", "CRM-17", HOSTILE):
        answer = await send(operator, url, typed=typed, **entered)
        assert answer.status_code == 422
        assert "Type crm-17 to confirm" in answer.text
        assert outbox.records == []
    answer = await send(operator, url, typed="crm-17", **entered)
    (command,) = outbox.commands
    assert command.kind == "cancel_lead"
    assert command.workspace == "initech"
    assert command.args == {"lead_id": "crm-17"}
    assert (
        answer.headers["location"]
        == f"/board/leads/crm-17?command={command.id}&sent={command.at_ms}"
    )
    assert (
        "the answer comes within seconds" in (await operator.get(answer.headers["location"])).text
    )


@pytest.mark.parametrize(
    ("entered", "args"),
    [
        ({"how": "at_clay", "credits": "4"}, {"lead_id": "crm-17", "credits": 4}),
        ({"how": "not_at_clay", "credits": "4"}, {"lead_id": "crm-17", "not_at_clay": True}),
        ({"how": "give_up"}, {"lead_id": "crm-17", "give_up": True}),
    ],
)
async def test_a_parked_lead_is_settled(
    operator: Client,
    outbox: Outbox,
    entered: dict[str, str],
    args: dict[str, Any],
) -> None:
    url = "/board/leads/crm-17/act/resolve"
    values = {"workspace": "initech", "typed": "crm-17", **entered, **_WHY}
    assert (
        await send(
            operator,
            url,
            **(values | {"how": "at_clay", "credits": "-1"}),
        )
    ).status_code == 422
    assert (await send(operator, url, **values)).status_code == 303
    (command,) = outbox.commands
    assert command.kind == "resolve"
    assert command.workspace == "initech"
    assert command.args == args


async def test_a_lead_that_still_waits_can_be_cancelled(operator: Client, outbox: Outbox) -> None:
    """The read model does not know it, so the operator chooses the workspace."""
    url = "/board/leads/crm-waits/act/cancel"
    assert (
        await send(operator, url, typed="crm-waits", workspace="other", **_WHY)
    ).status_code == 422
    assert (
        await send(operator, url, typed="crm-waits", workspace="acme", **_WHY)
    ).status_code == 303
    assert outbox.commands[0].args == {"lead_id": "crm-waits"}


async def test_erase_suppresses_the_person_first(operator: Client, outbox: Outbox) -> None:
    url = "/board/leads/crm-17/act/erase"
    text = (await operator.get(url)).text
    assert "this cannot be undone" in text
    assert "The person is never sent again" in text
    nonce = await nonce_of(operator, url)
    entered = {"workspace": "initech", "typed": "crm-17", **_WHY}
    for _ in range(2):
        answer = await send(operator, url, nonce, **entered)
    both = zip(outbox.commands, outbox.records, strict=True)
    sent = [(command.kind, command.workspace, record.partition) for command, record in both]
    once = [*(("suppress", "", number) for number in range(6)), ("erase", "initech", 3)]
    assert sent == once * 2
    ids = [command.id for command in outbox.commands]
    assert ids[: len(once)] == ids[len(once) :], "a second click is the same commands"
    assert set(re.findall("c-[0-9a-f]{32}", answer.headers["location"])) == set(ids)
    assert "ada@" not in "".join(str(command) for command in outbox.commands)
    answer = await send(
        operator,
        "/board/leads/unknown/act/erase",
        workspace="acme",
        typed="unknown",
        **_WHY,
    )
    assert answer.status_code == 422
    assert "Nothing found to erase" in answer.text


@pytest.mark.parametrize(
    ("entered", "erased", "suppressed"),
    [
        ("none", ["crm-18"], [HASH]),
        ("initech/l-2", ["crm-18", "l-2"], [HASH]),
        ("initech/l-1 initech/l-2", ["crm-18", "l-1", "l-2"], [HASH, OTHER_HASH]),
    ],
)
async def test_linked_leads_are_shown_and_erased_if_they_are_entered(
    operator: Client,
    outbox: Outbox,
    entered: str,
    erased: list[str],
    suppressed: list[str],
) -> None:
    """A producer may name two people in one lead: the leads of the second are asked for apart."""
    url = "/board/leads/crm-18/act/erase"
    form = {"workspace": "initech", "typed": "crm-18", **_WHY}
    for wrong in ("", "initech/unknown", "none initech/l-1", "initech/crm-18"):
        answer = await send(operator, url, linked=wrong, **form)
        assert answer.status_code == 422
        assert "initech/l-1 initech/l-2: linked to the person" in answer.text
        assert outbox.commands == []
    assert (await send(operator, url, linked=entered, **form)).status_code == 303
    assert {
        tuple(command.args["people"]) for command in outbox.commands if command.kind == "suppress"
    } == {tuple(suppressed)}
    leads = [command.args for command in outbox.commands if command.kind == "erase"]
    assert [lead["lead_id"] for lead in leads] == erased
    assert [sorted(lead["people"]) for lead in leads] == [suppressed] * len(erased)


async def test_suppress_a_person(
    operator: Client,
    outbox: Outbox,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = "/board/act/suppress"
    entered = {"typed": "suppress", "why": "ada@example.com objected"}
    answer = await send(operator, url, person="someone", **entered)
    assert answer.status_code == 422
    assert "is neither an e-mail nor a LinkedIn URL" in answer.text
    answer = await send(operator, url, person="ada@example.com", **entered)
    assert answer.headers["location"].startswith("/board/leads?command=c-")
    assert "ada@" not in answer.headers["location"]
    assert [record.partition for record in outbox.records] == list(range(6))
    assert outbox.commands[0].args["people"]
    assert b"ada@" not in b"".join(record.value or b"" for record in outbox.records)
    assert "ada@" not in "".join(capfd.readouterr())
