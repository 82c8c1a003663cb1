"""The simulated Public API, by what Clay's documentation says of it.

Its pages are the OpenAPI file of developers.clay.com (`openapi` at the end of a name), its pages on
errors and rate limits, and Clay's own skill for routines (`skill_routines`).
"""

import asyncio
import hashlib
import hmac
import json
from typing import Any

import pytest

from stream_app.dev.simulator import ScriptError, parse_script
from stream_app.dev.simulator.script import ClayPlan
from stream_app.dev.simulator.world import WorkspaceState
from tests.support.raw_server import OK, READ, RawServer, serve
from tests.unit.simulator.conftest import SimulatorBench, Start, wait_until

ROUTINE = "function:t_people"
SCRIPT = f"""
[api_keys]
acme = "key-acme"
other = "key-other"

[workspaces.acme]
credits = 100
actions = 500

[workspaces.other]

[table.latency]
scale = 0

[routines."{ROUTINE}"]
workspace = "acme"
requires = ["Email"]
columns = [
    {{ name = "Work Email", credits = 2, values = ["jo@acme.test"] }},
    {{ name = "Title", credits = 1, values = ["CTO"] }},
]
"""
Answer = tuple[int, Any, dict[str, str]]


class Api:
    """A client of the Public API with one key."""

    def __init__(self, bench: SimulatorBench, key: str | None = "key-acme") -> None:
        self._bench = bench
        self._headers = {"clay-api-key": key} if key is not None else {}

    async def call(self, method: str, path: str, body: object = None) -> Answer:
        data = None if body is None else json.dumps(body)
        async with self._bench.session.request(
            method,
            f"{self._bench.sim.url}/public/v0{path}",
            data=data,
            headers=self._headers | {"content-type": "application/json"},
        ) as response:
            return response.status, json.loads(await response.read()), dict(response.headers)

    async def run(self, *inputs: dict[str, Any], routine: str = ROUTINE, **more: Any) -> Answer:
        items = [{"id": f"i{number}", "inputs": one} for number, one in enumerate(inputs, 1)]
        return await self.call("POST", f"/routines/{routine}/run", {"items": items, **more})

    async def made(self, *inputs: dict[str, Any], **more: Any) -> str:
        status, body, _ = await self.run(*inputs, **more)
        assert status == 202, body
        return str(body["routine_run_id"])

    async def results(self, run: str, query: str = "limit=100") -> Answer:
        return await self.call("GET", f"/routines/run/{run}/results?{query}")

    async def finished(self, run: str) -> Any:
        answer: list[Any] = []

        async def is_finished() -> bool:
            status, body, _ = await self.results(run)
            answer[:] = [body]
            return status == 200

        await wait_until(is_finished)
        return answer[0]


LEAD = {"Email": "jo@acme.test", "lead_id": "crm-1"}


async def test_a_run_is_202_with_its_id__openapi(start: Start) -> None:
    api = Api(await start(SCRIPT))
    status, body, _ = await api.run(LEAD)
    assert status == 202
    assert body == {"routine_run_id": body["routine_run_id"], "status": "in_progress"}
    assert body["routine_run_id"]


async def test_results_are_202_without_data_until_all_items_have_finished__openapi(
    start: Start,
) -> None:
    bench = await start(SCRIPT + '[[fault]]\nkind = "item_hung"\nshare = 0.5\n')
    api = Api(bench)
    run = await api.made(*({"Email": f"{n}@acme.test", "lead_id": f"crm-{n}"} for n in range(20)))

    async def the_others_ran() -> bool:
        _, body, _ = await api.results(run)
        return int(body["finished"]) > 0

    await wait_until(the_others_ran)
    status, body, _ = await api.results(run)
    assert status == 202
    assert set(body) == {"routine_run_id", "status", "total", "finished"}
    assert body["status"] == "in_progress"
    assert body["total"] == 20
    assert 0 < body["finished"] < 20


async def test_a_finished_run_is_200_with_the_outputs_by_item_id__openapi(start: Start) -> None:
    api = Api(await start(SCRIPT))
    run = await api.made(LEAD)
    assert await api.finished(run) == {
        "routine_run_id": run,
        "status": "complete",
        "total": 1,
        "finished": 1,
        "data": [
            {
                "id": "i1",
                "status": "complete",
                "result": {"Work Email": "jo@acme.test", "Title": "CTO"},
            },
        ],
    }


async def test_results_come_in_pages_of_20_by_default_and_100_at_most__openapi(
    start: Start,
) -> None:
    api = Api(await start(SCRIPT))
    run = await api.made(*({"Email": f"{n}@acme.test"} for n in range(33)))
    whole = await api.finished(run)
    assert [item["id"] for item in whole["data"]] == [f"i{n}" for n in range(1, 34)]
    assert "cursor" not in whole
    _, first, _ = await api.results(run, "")
    assert len(first["data"]) == 20
    _, last, _ = await api.results(run, f"cursor={first['cursor']}")
    assert first["data"] + last["data"] == whole["data"]
    assert "cursor" not in last
    for query in ("limit=0", "limit=101", "limit=x", f"cursor={'9' * 5_000}"):
        assert (await api.results(run, query))[0] == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"items": []}, "Invalid request body."),
        ({"items": [{"id": "a", "inputs": {"Email": "x"}}] * 101}, "Invalid request body."),
        ({"items": [{"id": "", "inputs": {"Email": "x"}}]}, "Invalid item id."),
        ({"items": [{"id": "a" * 65, "inputs": {"Email": "x"}}]}, "Invalid item id."),
        ({"items": [{"id": "a", "inputs": {}, "more": 1}]}, "Invalid request body."),
        ({"items": [{"id": "a", "inputs": {}}]}, "Missing required field: Email"),
        (
            {"items": [{"id": "a", "inputs": {"Email": "x"}}], "webhook_id": "wh_9"},
            "Unknown webhook_id.",
        ),
    ],
)
async def test_what_the_api_does_not_take_is_a_400_for_the_whole_run__openapi(
    start: Start,
    body: dict[str, Any],
    message: str,
) -> None:
    bench = await start(SCRIPT)
    answer = await Api(bench).call("POST", f"/routines/{ROUTINE}/run", body)
    assert answer[:2] == (400, {"message": message})
    assert bench.sim.clay.state()["items_unfinished"] == 0


async def test_each_error_is_a_status_with_a_message__openapi(start: Start) -> None:
    closed = '[routines."function:t_closed"]\nworkspace = "acme"\nopen_to_api = false\n'
    bench = await start(SCRIPT + closed)
    api = Api(bench)
    run = await api.made(LEAD)
    answers = [
        await Api(bench, None).run(LEAD),
        await Api(bench, "key-wrong").run(LEAD),
        await Api(bench, "key-other").run(LEAD),
        await api.run(LEAD, routine="function:t_unknown"),
        await api.run(LEAD, routine="function:t_closed"),
        await api.results("r-unknown"),
        await Api(bench, "key-other").results(run),
    ]
    assert [status for status, _, _ in answers] == [401, 401, 403, 404, 403, 404, 404]
    assert all(set(body) == {"message"} for _, body, _ in answers)


async def test_a_bearer_key_is_taken__skill_public_api(start: Start) -> None:
    bench = await start(SCRIPT)
    async with bench.session.get(
        f"{bench.sim.url}/public/v0/me",
        headers={"Authorization": "Bearer key-acme"},
    ) as response:
        assert await response.json() == {
            "user": {"id": "u_1", "name": None},
            "workspace": {"id": "acme"},
        }


async def test_300_requests_a_minute_for_all_endpoints_of_a_workspace__public_docs_functions(
    start: Start,
) -> None:
    assert parse_script("").limits.api_per_minute == 300
    slow = "[limits]\napi_per_minute = 0.001\napi_burst = 3\n"
    bench = await start(slow + SCRIPT)
    api = Api(bench)
    run = await api.made(LEAD)
    assert (await api.results(run))[0] in (200, 202)
    assert (await api.call("GET", "/me"))[0] == 200
    for path in ("/me", "/credits/balance", f"/routines/run/{run}/results"):
        status, body, headers = await api.call("GET", path)
        assert status == 429
        assert set(body) == {"message"}
        assert headers["Retry-After"] == "1"
    assert (await api.run(LEAD))[0] == 429
    assert (await Api(bench, "key-other").call("GET", "/me"))[0] == 200


async def test_the_simulator_counts_the_most_requests_of_a_minute(start: Start) -> None:
    """Refused ones count, and those of another workspace do not."""
    bench = await start("[limits]\napi_burst = 2\n" + SCRIPT)
    for key in ("key-acme",) * 5 + ("key-other", "key-wrong"):
        await Api(bench, key).call("GET", "/me")
    state = (await bench.get("/control"))["workspaces"]
    assert state["acme"]["api_most_a_minute"] == 5
    assert state["other"]["api_most_a_minute"] == 1


@pytest.mark.parametrize(("times_s", "most"), [([0, 59, 59.9], 3), ([0, 59, 60, 61, 119], 3)])
def test_a_minute_begins_at_any_time(times_s: list[float], most: int) -> None:
    state = WorkspaceState("acme", ClayPlan(), 0, 0, 0, 0)
    for at_s in times_s:
        state.count_api(at_s)
    assert state.api_most_a_minute == most


async def test_a_routine_may_report_what_an_item_cost(start: Start) -> None:
    script = SCRIPT.replace('requires = ["Email"]', 'requires = ["Email"]\ncost_output = "credits"')
    api = Api(await start(script))
    (item,) = (await api.finished(await api.made(LEAD)))["data"]
    assert item["result"] == {"Work Email": "jo@acme.test", "Title": "CTO", "credits": 3}


async def test_the_balance_falls_by_what_a_run_costs(start: Start) -> None:
    api = Api(await start(SCRIPT))
    before = (await api.call("GET", "/credits/balance"))[1]
    assert before == {"balance": 100, "action_execution_balance": 500}
    await api.finished(await api.made(LEAD))
    assert (await api.call("GET", "/credits/balance"))[1]["balance"] == 97


@pytest.mark.parametrize("what", ["failed", "hung", "refused"])
async def test_without_credits_items_fail_hang_or_are_refused_as_the_script_says(
    start: Start,
    what: str,
) -> None:
    limits = f'[limits]\nno_credits = "{what}"\n'
    poor = SCRIPT.replace("credits = 100", "credits = 3").replace(
        "[api_keys]",
        limits + "[api_keys]",
    )
    api = Api(await start(poor))
    await api.finished(await api.made(LEAD))
    status, body, _ = await api.run(LEAD)
    if what == "refused":
        assert status == 402
        return
    run = body["routine_run_id"]
    if what == "hung":
        await asyncio.sleep(0.2)
        assert (await api.results(run))[0] == 202
        return
    (item,) = (await api.finished(run))["data"]
    assert item == {"id": "i1", "status": "failed", "error": {"message": "Insufficient credits."}}


async def test_results_are_gone_a_day_after_the_run_finished__skill_routines(start: Start) -> None:
    assert parse_script("").limits.results_kept_s == 86_400
    bench = await start(SCRIPT)
    api = Api(bench)
    run = await api.made(LEAD)
    await api.finished(run)
    await bench.control("limits", {"results_kept_s": 0})
    assert (await api.results(run))[0] == 404


@pytest.mark.parametrize(
    ("fault", "data"),
    [
        (
            "item_failed",
            {"status": "failed", "error": {"message": "Internal error, please contact support."}},
        ),
        ("item_status_unknown", {"status": "skipped"}),
        ("result_empty", {"status": "complete", "result": {}}),
        (
            "result_nested",
            {
                "status": "complete",
                "result": {
                    "Work Email": {"value": "jo@acme.test", "sources": ["jo@acme.test"]},
                    "Title": {"value": "CTO", "sources": ["CTO"]},
                },
            },
        ),
    ],
)
async def test_a_fault_of_an_item_shows_in_its_result(
    start: Start,
    fault: str,
    data: dict[str, Any],
) -> None:
    api = Api(await start(SCRIPT + f'[[fault]]\nkind = "{fault}"\n'))
    assert (await api.finished(await api.made(LEAD)))["data"] == [{"id": "i1", **data}]


async def test_a_result_may_have_2_mb(start: Start) -> None:
    api = Api(await start(SCRIPT + '[[fault]]\nkind = "result_huge"\n'))
    (item,) = (await api.finished(await api.made(LEAD)))["data"]
    assert len(item["result"]["Research"]) == 2_000_000


async def test_a_run_may_be_unknown_right_after_its_202(start: Start) -> None:
    fault = '[[fault]]\nkind = "run_unknown_at_first"\ndelay_s = 0.3\n'
    api = Api(await start(SCRIPT + fault))
    run = await api.made(LEAD)
    assert (await api.results(run))[0] == 404
    assert (await api.finished(run))["status"] == "complete"


async def test_a_lost_answer_makes_a_run_all_the_same(start: Start) -> None:
    fault = '[[fault]]\nkind = "reset_after_read"\nendpoint = "run"\n'
    bench = await start(SCRIPT + fault)
    api = Api(bench)
    with pytest.raises(Exception, match=r"disconnected|reset"):
        await api.run(LEAD)
    (line,) = await bench.of_kind("run", 1)
    assert line["status"] == "reset"
    assert line["accepted"] == 1
    assert line["lead_id"] == "crm-1"
    assert line["delivery_id"] == "i1"
    assert (await api.finished(line["run_id"]))["finished"] == 1


async def test_a_fault_of_one_endpoint_leaves_the_others(start: Start) -> None:
    bench = await start(SCRIPT + '[[fault]]\nkind = "status_before"\nendpoint = "results"\n')
    api = Api(bench)
    run = await api.made(LEAD)
    assert (await api.results(run))[:2] == (500, {"message": "Something went wrong."})
    assert (await api.call("GET", "/me"))[0] == 200
    assert await bench.post({"lead_id": "crm-2"}) == 200


async def test_an_answer_may_be_cut(start: Start) -> None:
    bench = await start(SCRIPT + '[[fault]]\nkind = "run_answer_cut"\n')
    with pytest.raises(json.JSONDecodeError):
        await Api(bench).run(LEAD)
    (line,) = await bench.of_kind("run", 1)
    assert line["status"] == 202
    assert line["accepted"] == 1


async def test_the_ledger_has_a_line_for_each_item_and_each_question(start: Start) -> None:
    bench = await start(SCRIPT)
    api = Api(bench)
    run = await api.made(LEAD, {"Email": "ann@acme.test"})
    await api.finished(run)
    runs = await bench.of_kind("run", 2)
    assert [(line["lead_id"], line["delivery_id"], line["run_id"]) for line in runs] == [
        ("crm-1", "i1", run),
        ("i2", "i2", run),
    ]
    polls = await bench.of_kind("poll", 1)
    assert {(line["endpoint"], line["run_id"]) for line in polls} == {("results", run)}
    summary = await bench.get("/ledger/summary?leads=all")
    assert summary["leads"] == {"crm-1": 1, "i2": 1}
    assert summary["workspaces"]["acme"]["credits_charged"] == 6
    assert summary["workspaces"]["acme"]["polls"]["200"] == 1


# ---------------------------------------------------------------------------- who is told


def hooked(server: RawServer, fault: str = "") -> str:
    return SCRIPT + f'{fault}[completion_webhooks.wh_1]\nurl = "{server.url}"\nsecret = "whsec_1"\n'


async def test_a_completion_webhook_is_signed_over_the_raw_body__asyncapi(start: Start) -> None:
    async with serve(READ, OK, READ, OK) as server:
        bench = await start(hooked(server))
        api = Api(bench)
        run = await api.made(LEAD, webhook_id="wh_1")
        (line,) = await bench.of_kind("notify", 1)
        assert line["status"] == 200
        assert line["run_id"] == run
        ((head, raw),) = server.requests
        body = json.loads(raw)
        assert set(body) == {"webhookId", "createdAt", "data"}
        assert body["webhookId"] == "wh_1"
        assert body["data"] == {"routine_run_id": run}
        expected = hmac.new(b"whsec_1", raw, hashlib.sha256).hexdigest()
        assert f"x-clay-signature: sha256={expected}\r\n" in head.decode().lower()


async def test_a_run_without_a_webhook_id_tells_nobody(start: Start) -> None:
    async with serve(READ, OK, READ, OK) as server:
        api = Api(await start(hooked(server)))
        await api.finished(await api.made(LEAD))
        await asyncio.sleep(0.1)
        assert not server.requests


async def test_a_completion_webhook_may_be_made_later(start: Start) -> None:
    async with serve(READ, OK, READ, OK) as server:
        bench = await start(SCRIPT)
        api = Api(bench)
        assert (await api.run(LEAD, webhook_id="wh_1"))[0] == 400
        await bench.control(
            "completion-webhooks",
            {"id": "wh_1", "url": server.url, "secret": "whsec_1"},
        )
        run = await api.made(LEAD, webhook_id="wh_1")
        (line,) = await bench.of_kind("notify", 1)
        assert line["status"] == 200
        assert line["run_id"] == run


@pytest.mark.parametrize(
    ("fault", "data"),
    [
        ("notification_doubled", ["run", "run"]),
        ("notification_test", ["", "run"]),
    ],
)
async def test_a_notification_may_come_twice_or_as_a_test(
    start: Start,
    fault: str,
    data: list[str],
) -> None:
    async with serve(READ, OK, READ, OK) as server:
        bench = await start(hooked(server, f'[[fault]]\nkind = "{fault}"\n'))
        run = await Api(bench).made(LEAD, webhook_id="wh_1")
        await bench.of_kind("notify", 2)
        told = [json.loads(raw)["data"] for _, raw in server.requests]
        assert told == [{"routine_run_id": run} if name else {} for name in data]


async def test_a_notification_may_come_long_after_the_results(start: Start) -> None:
    async with serve(READ, OK) as server:
        late = '[[fault]]\nkind = "notification_late"\ndelay_s = 1.0\n'
        bench = await start(hooked(server, late))
        api = Api(bench)
        run = await api.made(LEAD, webhook_id="wh_1")
        await api.finished(run)
        assert not server.requests
        (line,) = await bench.of_kind("notify", 1)
        assert line["run_id"] == run
        ((_, raw),) = server.requests
        assert json.loads(raw)["data"] == {"routine_run_id": run}


async def test_a_notification_may_be_lost(start: Start) -> None:
    async with serve(READ, OK, READ, OK) as server:
        bench = await start(hooked(server, '[[fault]]\nkind = "notification_lost"\n'))
        await Api(bench).made(LEAD, webhook_id="wh_1")
        (line,) = await bench.of_kind("notify", 1)
        assert line["status"] == "lost"
        assert not server.requests


def test_an_endpoint_belongs_to_faults_of_requests_only() -> None:
    with pytest.raises(ScriptError, match="endpoint: does not belong to 'item_hung'"):
        parse_script('[[fault]]\nkind = "item_hung"\nendpoint = "run"\n')


async def test_a_question_whose_connection_is_cut_is_noted_as_the_same_fault_of_a_run_is(
    start: Start,
) -> None:
    bench = await start(SCRIPT + '[[fault]]\nkind = "reset_after_read"\nendpoint = "me"\n')
    with pytest.raises(Exception, match=r"disconnected|reset"):
        await Api(bench).call("GET", "/me")
    # the client of the test may ask once more, because a GET changes nothing
    lines = await bench.lines("kind=poll")
    assert {line["status"] for line in lines} == {"reset"}
