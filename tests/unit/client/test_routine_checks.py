"""What `doctor` and `clay-setup` say of routines, against the simulated Public API."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from stream_app.clay.runs import ApiEndpoint
from stream_app.cli.setup import _routine_lines
from stream_app.client.doctor import checks as doctor
from stream_app.client.doctor import gateways, routines
from stream_app.client.doctor.gateways import CheckFailed, announcements_come_in
from stream_app.client.doctor.routines import advice, apis_to_try, balance_suffices, key_works
from stream_app.client.doctor.setup import clay_setup
from stream_app.config import Settings
from stream_app.config.model import Gateway as GatewayKeys
from stream_app.config.secret_files import Secrets
from stream_app.dev.simulator import Simulator, parse_script
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.plan import Destination, Workspace
from tests.gateway.support import RUN_SECRET, Gateway
from tests.support.raw_server import EGRESS

KEY = "s3cret-key"
HOOK_SECRET = "s3cret-of-the-completion-webhook"
SETTINGS = Settings(
    workspaces={
        "acme": Workspace("acme", partition=1, rate=RatePolicy(rate_per_s=4), api_key_env="KEY"),
        "beta": Workspace("beta", partition=2),
    },
    destinations={
        "people": Destination(
            "people",
            "acme",
            kind="routine",
            routine="function:t_people",
            callback_grace_s=72_000,
            columns={"email": "Email", "first_name": "First Name"},
        ),
        "firms": Destination("firms", "beta", webhooks_env=("HOOK",), callbacks=False),
    },
    secrets=Secrets(
        {"KEY": KEY, "HOOK": "https://api.clay.com/v3/s3cret", "SIGNS": HOOK_SECRET},
    ),
)
SCRIPT = f"""
[api_keys]
acme = "{KEY}"
[workspaces.acme]
credits = 19
actions = 500
[routines."function:t_people"]
workspace = "acme"
"""
WITHIN_S = 20.0


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    sim = Simulator(parse_script(SCRIPT))
    await sim.start()
    yield sim
    await sim.stop()


@pytest.fixture
def api(sim: Simulator) -> ApiEndpoint:
    return ApiEndpoint(f"{sim.url}/public/v0", KEY)


def of_people(**changes: Any) -> Settings:
    people = msgspec.structs.replace(SETTINGS.destinations["people"], **changes)
    destinations = {**SETTINGS.destinations, "people": people}
    return msgspec.structs.replace(SETTINGS, destinations=destinations)


ANNOUNCED = msgspec.structs.replace(
    of_people(run_webhook="wh_1", run_webhook_secret_env="SIGNS"),
    gateway=GatewayKeys(public_url="https://leads.example.com"),
)


async def test_the_key_of_each_workspace_with_routines_is_tried(api: ApiEndpoint) -> None:
    assert apis_to_try(SETTINGS) == {"acme": ApiEndpoint(SETTINGS.workspaces["acme"].api_url, KEY)}
    text = await key_works("acme", api, EGRESS, WITHIN_S)
    assert text == "the API key of acme is for the workspace acme of Clay"
    with pytest.raises(CheckFailed) as refused:
        await key_works("acme", ApiEndpoint(api.url, "s3cret-other"), EGRESS, WITHIN_S)
    assert str(refused.value) == (
        "workspace acme: HTTP 401: Clay refuses the workspace's API key: make one in Clay and put "
        "it into the variable of api_key_env (Clay said: Invalid API key.)"
    )
    with pytest.raises(CheckFailed, match="; compare api_url of the workspace"):
        await key_works("acme", ApiEndpoint(f"{api.url}/nothing", KEY), EGRESS, WITHIN_S)


async def test_a_balance_below_one_lead_is_told(api: ApiEndpoint) -> None:
    with pytest.raises(CheckFailed) as low:
        await balance_suffices(SETTINGS, "acme", api, EGRESS, WITHIN_S)
    assert str(low.value) == (
        "acme has 19 credits left at Clay, and one lead may cost 20 "
        "(destinations.people.ceiling_credits): buy credits, or lower the ceiling"
    )
    enough = of_people(ceiling_credits=19)
    text = await balance_suffices(enough, "acme", api, EGRESS, WITHIN_S)
    assert text == "acme has 19 credits left at Clay"
    stranger = ApiEndpoint(api.url, "s3cret-other")
    with pytest.raises(CheckFailed, match="the credits of acme are not known: HTTP 401"):
        await balance_suffices(SETTINGS, "acme", stranger, EGRESS, WITHIN_S)


@pytest.mark.parametrize(
    ("left", "says"),
    [(1, "acme has 1 credit left at Clay"), (1_234_567, "acme has 1,234,567 credits left at")],
)
async def test_a_balance_is_told_exactly_and_in_the_right_number(
    sim: Simulator,
    api: ApiEndpoint,
    left: int,
    says: str,
) -> None:
    sim.clay.workspace("acme").credits = left
    enough = of_people(ceiling_credits=1)
    assert (await balance_suffices(enough, "acme", api, EGRESS, WITHIN_S)).startswith(says)
    dear = of_people(ceiling_credits=2_000_000)
    with pytest.raises(CheckFailed, match=f"^{says}"):
        await balance_suffices(dear, "acme", api, EGRESS, WITHIN_S)


async def test_doctor_asks_both_and_advises(
    api: ApiEndpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routines, "apis_to_try", lambda _: {"acme": api})
    lines = [check async for check in doctor._routines(SETTINGS, EGRESS)]
    assert [(check.name, check.verdict) for check in lines] == [
        ("api key", "ok"),
        ("balance", "advice"),
        ("routines", "advice"),
    ]
    other = {"acme": ApiEndpoint(api.url, "s3cret-other")}
    monkeypatch.setattr(routines, "apis_to_try", lambda _: other)
    lines = [check async for check in doctor._routines(SETTINGS, EGRESS)]
    assert [(check.name, check.verdict) for check in lines][:2] == [
        ("api key", "failed"),
        ("balance", "skipped"),
    ]
    assert "s3cret" not in repr(lines)


def test_the_host_of_the_api_is_reached_for_as_those_of_webhooks_are() -> None:
    assert doctor._webhook_hosts(SETTINGS) == ["https://api.clay.com"]
    acme = msgspec.structs.replace(SETTINGS.workspaces["acme"], api_url="http://127.0.0.1:9/v0")
    workspaces = {**SETTINGS.workspaces, "acme": acme}
    settings = msgspec.structs.replace(SETTINGS, workspaces=workspaces)
    assert doctor._webhook_hosts(settings) == ["http://127.0.0.1:9", "https://api.clay.com"]


def test_what_could_be_set_better_is_advice() -> None:
    [alone] = advice(SETTINGS)
    assert alone.startswith("people without run_webhook: a result comes when it is next asked for")
    assert list(advice(ANNOUNCED)) == []
    [grace, _] = advice(of_people(callback_grace_s=86_400))
    assert grace == (
        "destinations.people.callback_grace_s = 86400: Clay keeps the results of a run for about "
        "a day, so set 72000 at most"
    )
    fast = msgspec.structs.replace(SETTINGS.workspaces["acme"], rate=RatePolicy(rate_per_s=6))
    settings = msgspec.structs.replace(SETTINGS, workspaces={"acme": fast})
    [rate, _] = advice(settings)
    assert rate.startswith("workspaces.acme.rate.rate_per_s = 6: Clay names 300 requests a minute")


def announcing(alias: str) -> Settings:
    """Settings in which the destination `alias` has a completion webhook, whose secret is SIGNS."""
    destination = msgspec.structs.replace(ANNOUNCED.destinations["people"], alias=alias)
    return msgspec.structs.replace(ANNOUNCED, destinations={alias: destination})


async def test_the_secret_of_a_completion_webhook_is_tried_at_the_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = Gateway()
    monkeypatch.setattr(
        gateways,
        "_client",
        lambda _: httpx.AsyncClient(transport=httpx.ASGITransport(gateway.app)),
    )
    ours = msgspec.structs.replace(announcing("finder"), secrets=Secrets({"SIGNS": RUN_SECRET}))
    # The home of a pinned workspace is in the URL, as in that of callbacks.
    url = "https://leads.example.com/callbacks/acme/finder/run?partition=1"
    text = await announcements_come_in(ours, "finder", EGRESS, WITHIN_S)
    assert text == f"{url} answers, and accepts what the completion webhook signs"
    with pytest.raises(CheckFailed) as refused:
        await announcements_come_in(announcing("finder"), "finder", EGRESS, WITHIN_S)
    assert str(refused.value) == (
        f"{url} has another secret: give doctor and the gateways the same SIGNS"
    )
    with pytest.raises(CheckFailed, match="answers 404, unlike our gateway: give it this config"):
        await announcements_come_in(announcing("unknown"), "unknown", EGRESS, WITHIN_S)
    assert gateway.runs() == [], "nothing is written"


def test_the_set_up_of_a_routine_is_told_with_its_names() -> None:
    described = clay_setup(SETTINGS, "people")
    assert set(described) == set(clay_setup(SETTINGS, "firms")), "a program can rely on the keys"
    routine = described["routine"]
    assert routine["id"] == "function:t_people"
    assert routine["key_variable"] == "KEY"
    assert [one["name"] for one in routine["inputs"]] == ["Email", "First Name"]
    assert described["webhook"] is None
    text = "\n".join(_routine_lines(described))
    for words in ("switch the API on", "function:t_people", "Email       the lead's email", "KEY"):
        assert words in text
    assert "Set no run condition there" in text
    assert "It needs gateway.public_url, which is not set" in text
    assert "clay webhooks create" not in text
    assert max(map(len, text.splitlines())) < 160
    workflow = clay_setup(of_people(routine="workflow:wf_1"), "people")
    assert "Give the workflow a manual trigger, publish it" in workflow["routine"]["open"]


def test_the_set_up_names_the_command_that_makes_the_completion_webhook() -> None:
    url = "https://leads.example.com/callbacks/acme/people/run?partition=1"
    command = f"clay webhooks create '{url}'"
    told = "\n".join(_routine_lines(clay_setup(ANNOUNCED, "people")))
    assert command in told
    assert "into SIGNS. The configuration names wh_1." in told
    assert "clay webhooks test wh_1" in told
    people = {"people": SETTINGS.destinations["people"]}
    unset = msgspec.structs.replace(ANNOUNCED, destinations=people)
    told = "\n".join(_routine_lines(clay_setup(unset, "people")))
    assert command in told
    assert "into a variable that `run_webhook_secret_env` names" in told
