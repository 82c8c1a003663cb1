"""The HTTP column: what arrives at the callback URL, and what does not."""

import json
from typing import Any

import pytest

from tests.support.kafka import until
from tests.support.raw_server import RawServer
from tests.unit.simulator.conftest import SimulatorBench, Start

COLUMNS = """
[table.latency]
scale = 0
[[table.columns]]
name = "company"
credits = 1
values = ["Bob \\"the\\" Builder"]
[[table.columns]]
name = "employees"
credits = 1
values = [38]
[[table.columns]]
name = "phone"
credits = 1
miss_share = 1.0
"""
BODY = """
[table.callback.body]
lead_id = "{{lead_id}}"
employees = "{{employees}}"
phone = "{{ phone }}"
try = "{{clay_attempt}}"
spent = "{{clay_credits}}"
nested = { note = "{{company}} has {{employees}}", fixed = 3 }
"""


async def called_back(
    start: Start,
    receiver: RawServer,
    script: str,
    count: int = 1,
) -> SimulatorBench:
    """Start a simulator, submit a lead to it, and wait for that many callbacks."""
    bench = await start(script)
    lead = {"lead_id": "lead-1", "callback_url": receiver.url, "callback_token": "t0ken"}
    assert await bench.post(lead) == 200
    await until(lambda: len(receiver.requests) >= count)
    assert len(receiver.requests) == count
    return bench


def bodies(receiver: RawServer) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in receiver.requests]


async def test_echoes_come_back_as_text_and_cost_one_action(
    start: Start,
    receiver: RawServer,
) -> None:
    headers = '[table.callback]\nheaders = { x-token = "{{callback_token}}" }\n'
    bench = await called_back(start, receiver, headers + BODY + COLUMNS)
    assert bodies(receiver) == [
        {
            "lead_id": "lead-1",
            "employees": "38",
            "phone": "",
            "try": "1",
            "spent": "3",
            "nested": {"note": 'Bob "the" Builder has 38', "fixed": 3},
        },
    ]
    assert b"x-token: t0ken" in receiver.requests[0][0].lower()
    (line,) = await bench.of_kind("callback", 1)
    assert line["status"] == 200
    assert line["cell"] == "ok"
    assert (await bench.get("/control"))["workspaces"]["acme"]["actions"] == 15_000 - 1


async def test_without_a_template_all_columns_come_and_typed_keeps_types(
    start: Start,
    receiver: RawServer,
) -> None:
    await called_back(start, receiver, "[table.callback]\ntyped = true\n" + COLUMNS)
    (body,) = bodies(receiver)
    assert body.keys() == {"lead_id", "delivery_id", "company", "employees", "phone"}
    assert body["employees"] == 38
    assert body["phone"] is None


async def test_run_condition_not_met_on_a_miss(start: Start, receiver: RawServer) -> None:
    columns = '[table.latency]\nscale = 0\n[[table.columns]]\nname = "a"\nmiss_share = 1.0\n'
    bench = await called_back(start, receiver, columns, 0)
    (line,) = await bench.of_kind("callback", 1)
    assert line["status"] == "condition_not_met"
    assert receiver.requests == []
    assert (await bench.get("/control"))["workspaces"]["acme"]["actions"] == 15_000


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "gopher://x", "not a url"])
async def test_an_url_that_leads_nowhere_is_an_error(start: Start, url: str) -> None:
    bench = await start(f"[table.callback]\nretry = {{ enabled = false }}\n{COLUMNS}")
    await bench.post({"callback_url": url})
    (line,) = await bench.of_kind("callback", 1)
    assert line["status"] == "error"
    assert line["error"]


def fault(kind: str, more: str = "") -> str:
    return f'{COLUMNS}{BODY}[[fault]]\nkind = "{kind}"\n{more}\n'


@pytest.mark.parametrize(
    ("more", "employees"),
    [
        ('column = "employees"', ""),
        ('column = "phone"', "38"),
        ('column = "employees"\nworkspace = "other"', "38"),
        ('column = "employees"\nshare = 0', "38"),
    ],
)
async def test_a_provider_that_fails_is_charged_and_finds_nothing(
    start: Start,
    receiver: RawServer,
    more: str,
    employees: str,
) -> None:
    always = BODY.replace("[table", '[table.callback]\nrun_if = "always"\n[table', 1)
    bench = await called_back(
        start,
        receiver,
        f'{COLUMNS}{always}[[fault]]\nkind = "provider_fails"\n{more}\n',
    )
    (body,) = bodies(receiver)
    assert body["employees"] == employees
    assert body["spent"] == "3"
    charges = await bench.of_kind("charge", 4)
    assert [line["column"] for line in charges if line.get("credits")] == [
        "company",
        "employees",
        "phone",
    ]


async def test_late_without_holding_up_the_end(start: Start, receiver: RawServer) -> None:
    bench = await called_back(start, receiver, fault("callbacks_late", "delay_s = 400000"), 0)
    await bench.of_kind("row", 1)
    assert (await bench.get("/control"))["callbacks_pending"] == 1
    # The fixture stops it: a hang there would be this test's time-out.


async def test_attempt_two_before_attempt_one(start: Start, receiver: RawServer) -> None:
    await called_back(start, receiver, fault("callbacks_reordered", "delay_s = 0.02"), 2)
    assert [body["try"] for body in bodies(receiver)] == ["2", "1"]


async def test_broken_json_with_an_old_secret(start: Start, receiver: RawServer) -> None:
    old = fault(
        "callbacks_old_secret",
        'headers = { x-token = "old" }\n[[fault]]\nkind = "callbacks_broken_json"',
    )
    await called_back(start, receiver, '[table.callback]\nheaders = { x-token = "new" }\n' + old)
    assert b"x-token: old" in receiver.requests[0][0].lower()
    with pytest.raises(json.JSONDecodeError):
        bodies(receiver)


async def test_missing_extra_and_wrong_keys(start: Start, receiver: RawServer) -> None:
    kinds = ("callbacks_missing_keys", "callbacks_extra_keys", "callbacks_wrong_lead")
    await called_back(
        start,
        receiver,
        COLUMNS + BODY + "".join(f'[[fault]]\nkind = "{kind}"\n' for kind in kinds),
    )
    (body,) = bodies(receiver)
    assert "nested" not in body
    assert "_clay_meta" in body
    assert body["lead_id"] not in ("", "lead-1")
