"""The HTTP column: what arrives at the callback URL, and what does not."""

import json

import pytest

from tests.unit.simulator.conftest import Bench, Receiver, Start

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


async def submit(bench: Bench, receiver: Receiver, lead: str = "lead-1") -> None:
    assert await bench.post({"lead_id": lead, "callback_url": receiver.url, "callback_token": "t0ken"}) == 200


async def called_back(start: Start, receiver: Receiver, script: str, count: int = 1) -> Bench:
    """Start a simulator, submit a lead to it, and wait for that many callbacks."""
    bench = await start(script)
    await submit(bench, receiver)
    await receiver.has(count)
    return bench


async def test_echoes_come_back_as_text_and_cost_one_action(start: Start, receiver: Receiver) -> None:
    bench = await called_back(
        start, receiver, '[table.callback]\nheaders = { x-token = "{{callback_token}}" }\n' + BODY + COLUMNS
    )
    assert receiver.json == [
        {
            "lead_id": "lead-1",
            "employees": "38",
            "phone": "",
            "try": "1",
            "spent": "3",
            "nested": {"note": 'Bob "the" Builder has 38', "fixed": 3},
        }
    ]
    assert receiver.headers[0]["x-token"] == "t0ken"
    (line,) = await bench.of_kind("callback", 1)
    assert (line["status"], line["cell"]) == (200, "Thank you, lead received.")
    assert (await bench.get("/control"))["workspaces"]["acme"]["actions"] == 15_000 - 1


async def test_without_a_body_template_all_columns_come_and_typed_keeps_types(start: Start, receiver: Receiver) -> None:
    await called_back(start, receiver, "[table.callback]\ntyped = true\n" + COLUMNS)
    assert receiver.json[0].keys() == {"lead_id", "delivery_id", "company", "employees", "phone"}
    assert (receiver.json[0]["employees"], receiver.json[0]["phone"]) == (38, None)


async def test_run_condition_not_met_on_a_miss(start: Start, receiver: Receiver) -> None:
    columns = '[[table.columns]]\nname = "a"\nmiss_share = 1.0\n'
    bench = await start("[table.latency]\nscale = 0\n" + columns)
    await submit(bench, receiver)
    (line,) = await bench.of_kind("callback", 1)
    assert line["status"] == "condition_not_met"
    assert receiver.bodies == []
    assert (await bench.get("/control"))["workspaces"]["acme"]["actions"] == 15_000


async def test_retries_are_a_setting_and_each_costs_an_action(start: Start, receiver: Receiver) -> None:
    receiver.status = 503
    bench = await start("[table.callback]\nretries = 2\nretry_delay_s = 0.01\n" + COLUMNS)
    await submit(bench, receiver)
    lines = await bench.of_kind("callback", 3)
    assert [(line["attempt"], line["status"]) for line in lines] == [(1, 503), (2, 503), (3, 503)]
    assert (await bench.get("/control"))["workspaces"]["acme"]["actions"] == 15_000 - 3


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "gopher://x", "not a url"])
async def test_an_url_that_leads_nowhere_is_an_error(start: Start, url: str) -> None:
    bench = await start(COLUMNS)
    await bench.post({"callback_url": url})
    (line,) = await bench.of_kind("callback", 1)
    assert line["status"] == "error"
    assert line["error"]


def fault(kind: str, more: str = "") -> str:
    return f'{COLUMNS}{BODY}[[fault]]\nkind = "{kind}"\n{more}\n'


async def test_lost(start: Start, receiver: Receiver) -> None:
    bench = await start(fault("callbacks_lost"))
    await submit(bench, receiver)
    (line,) = await bench.of_kind("callback", 1)
    assert (line["status"], line["faults"], receiver.bodies) == ("lost", ["callbacks_lost"], [])


async def test_doubled_within_milliseconds(start: Start, receiver: Receiver) -> None:
    await called_back(start, receiver, fault("callbacks_doubled"), 2)
    assert receiver.bodies[0] == receiver.bodies[1]


async def test_late_without_holding_up_the_end(start: Start, receiver: Receiver) -> None:
    bench = await start(fault("callbacks_late", "delay_s = 0.3"))
    await submit(bench, receiver)
    (row,) = await bench.of_kind("row", 1)
    (callback,) = await bench.of_kind("callback", 1)
    assert callback["at_ms"] - row["at_ms"] >= 290
    days = await start(fault("callbacks_late", "delay_s = 400000"))
    await submit(days, receiver)
    await days.of_kind("row", 1)
    assert (await days.get("/control"))["callbacks_pending"] == 1
    # The fixture stops it: a hang there would be this test's time-out.


async def test_attempt_two_before_attempt_one(start: Start, receiver: Receiver) -> None:
    await called_back(start, receiver, fault("callbacks_reordered", "delay_s = 0.02"), 2)
    assert [body["try"] for body in receiver.json] == ["2", "1"]


async def test_broken_json_with_an_old_secret(start: Start, receiver: Receiver) -> None:
    old = fault("callbacks_old_secret", 'headers = { x-token = "old" }\n[[fault]]\nkind = "callbacks_broken_json"')
    await called_back(start, receiver, '[table.callback]\nheaders = { x-token = "new" }\n' + old)
    assert receiver.headers[0]["x-token"] == "old"
    with pytest.raises(json.JSONDecodeError):
        json.loads(receiver.bodies[0])


async def test_missing_extra_and_wrong_keys(start: Start, receiver: Receiver) -> None:
    kinds = ("callbacks_missing_keys", "callbacks_extra_keys", "callbacks_wrong_lead")
    await called_back(start, receiver, COLUMNS + BODY + "".join(f'[[fault]]\nkind = "{kind}"\n' for kind in kinds))
    body = receiver.json[0]
    assert "nested" not in body
    assert "_clay_meta" in body
    assert body["lead_id"] not in ("", "lead-1")
