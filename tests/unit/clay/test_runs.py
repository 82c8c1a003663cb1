"""Clay's Public API on real sockets: what each answer means, also the odd ones."""

import asyncio
import json
from base64 import b64encode

import pytest

from stream_app.clay import Egress
from stream_app.clay.client import ClayClient, Endpoint, HostCheck, Webhooks
from stream_app.clay.runs import MAX_RESULT_BYTES, ApiEndpoint, ClayApi, Doors, Routines
from stream_app.dev.simulator import Simulator, parse_script
from stream_app.domain.books.bill import billed_days
from stream_app.domain.limits.balance import Booked, Reading, balance_reading
from stream_app.domain.limits.budget import Budget
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Outcome,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
    WebhookOut,
)
from stream_app.domain.model.run import (
    RunAnswer,
    RunDenied,
    RunFinished,
    RunGone,
    RunItem,
    RunLimited,
    RunTooLarge,
    RunUnfinished,
    RunUnread,
)
from tests.support.forward_proxy import forward_proxy
from tests.support.narrow import of_type
from tests.support.pace import BUSY
from tests.support.raw_server import (
    EGRESS,
    HANG,
    LEAD,
    OK,
    READ,
    RESET,
    RawServer,
    ServerStep,
    client,
    patient,
    serve,
)
from tests.unit.clay.conftest import Authority
from tests.unit.simulator.conftest import wait_until

KEY = "s3cret-key"
ROUTINE = "function:t_people"
ITEM = "abcdefghijklmnopqrstuv"
INPUTS = {"Email": "ada@example.com", "Name": "Ada Lovelace", "Size": 42}
BODY = json.dumps({"items": [{"id": ITEM, "inputs": INPUTS}], "webhook_id": "wh_1"}).encode()
RUN = "r-1"
DONE = {"id": ITEM, "status": "complete", "result": {"Work Email": "ada@acme.test"}}


def answered(status: int, body: object = None, *headers: str) -> bytes:
    """An answer with a whole body. `body`: JSON, or bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(raw)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def page(*items: object, **more: object) -> bytes:
    counts = {"routine_run_id": RUN, "status": "complete", "total": 1, "finished": 1}
    return answered(200, {**counts, "data": items, **more})


def of_server(server: RawServer) -> ApiEndpoint:
    scheme = server.url.partition(":")[0]
    return ApiEndpoint(f"{scheme}://127.0.0.1:{server.port}/public/v0/", KEY)


def as_patient_as_possible(script: tuple[ServerStep, ...]) -> ClayClient:
    return client() if HANG in script else patient()


async def run_once(*script: ServerStep) -> Outcome:
    async with serve(*script) as server, as_patient_as_possible(script) as clay:
        outcome = await ClayApi(clay).run(of_server(server), ROUTINE, BODY)
        assert server.connections == 1, "a second connection would be a second try"
        assert len(server.requests) <= 1
        assert KEY not in repr(outcome)
        return outcome


async def asked_once(*script: ServerStep) -> RunAnswer:
    async with serve(*script) as server, as_patient_as_possible(script) as clay:
        answer = await ClayApi(clay).results(of_server(server), RUN)
        assert KEY not in repr(answer)
        return answer


async def test_the_requests_are_those_of_the_documentation() -> None:
    begun = answered(202, {"routine_run_id": RUN, "status": "in_progress"})
    found_me = answered(200, {"user": {"id": "u"}, "workspace": {"id": "w1"}})
    script = (READ, begun, READ, page(DONE), READ, answered(200, {"balance": 2.5}), READ, found_me)
    async with serve(*script) as server, patient() as clay:
        api = ClayApi(clay)
        endpoint = of_server(server)
        outcome = await api.run(endpoint, ROUTINE, BODY)
        assert isinstance(outcome, Accepted)
        assert outcome.http_status == 202
        assert outcome.run == RUN
        finished = of_type(RunFinished, await api.results(endpoint, RUN))
        assert finished.items == (RunItem(ITEM, "complete", {"Work Email": "ada@acme.test"}),)
        assert await api.balance(endpoint) == 2.5
        assert await api.workspace(endpoint) == "w1"
        assert server.connections == 1, "a connection is kept for the next request"
    lines = [head.split(b"\r\n")[0].decode() for head, _ in server.requests]
    assert lines == [
        f"POST /public/v0/routines/{ROUTINE}/run HTTP/1.1",
        f"GET /public/v0/routines/run/{RUN}/results?limit=100 HTTP/1.1",
        "GET /public/v0/credits/balance HTTP/1.1",
        "GET /public/v0/me HTTP/1.1",
    ]
    assert [body for _, body in server.requests] == [BODY, b"", b"", b""]
    for head, _ in server.requests:
        assert b"\r\nclay-api-key: s3cret-key\r\n" in head
    assert b"\r\ncontent-type: application/json\r\n" in server.requests[0][0]
    assert b"content-length" not in server.requests[1][0]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Poison),
        (413, Poison),
        (422, Poison),
        (401, Denied),
        (402, Denied),
        (403, Denied),
        (409, Denied),
        (418, Denied),
        (302, Denied),
        (404, WebhookOut),
        (429, RateLimited),
        (408, Uncertain),
        (500, Uncertain),
        (503, Uncertain),
    ],
)
async def test_what_the_status_of_a_post_means(status: int, kind: type[Outcome]) -> None:
    outcome = await run_once(READ, answered(status, {"message": "No such thing, Ada Lovelace"}))
    assert type(outcome) is kind
    assert outcome.reason == f"http_{status}"
    if not isinstance(outcome, RateLimited):
        assert "(Clay said: No such thing, [sent])" in getattr(outcome, "text", "")


async def test_an_error_tells_neither_the_lead_nor_the_key() -> None:
    echo = f"Bad inputs {json.dumps(INPUTS)} of key {KEY}"
    poison = of_type(Poison, await run_once(READ, answered(400, {"message": echo})))
    for text in (poison.text, poison.excerpt):
        assert not any(secret in text for secret in ("ada@", "Lovelace", KEY))
    page = answered(502, b"<html>Ada Lovelace, " + KEY.encode())
    uncertain = of_type(Uncertain, await run_once(READ, page))
    assert "Lovelace" not in repr(uncertain)


async def test_a_429_says_when_to_come_back() -> None:
    limited = answered(429, {"message": "Too many requests."}, "retry-after: 7")
    assert of_type(RateLimited, await run_once(READ, limited)).retry_after == "7"
    assert await asked_once(READ, limited) == RunLimited("7")
    assert await asked_once(READ, answered(429)) == RunLimited(None)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([b'HTTP/1.1 202 X\r\ncontent-length: 99\r\n\r\n{"routine_run'], id="cut"),
        pytest.param(
            [b"HTTP/1.1 202 X\r\ncontent-length: 99\r\n\r\n{", RESET],
            id="reset in the body",
        ),
        pytest.param([b"HTTP/1.1 202 X\r\ncontent-length: 99\r\n\r\n{", HANG], id="never ends"),
        pytest.param([answered(200, b"")], id="nothing"),
        pytest.param([answered(202, b"ok")], id="no JSON"),
        pytest.param([answered(202, b'{"routine_run_id":"')], id="half of it"),
        pytest.param([answered(202, {"routine_run_id": 7})], id="a number"),
        pytest.param([answered(202, {"routine_run_id": "../../me x"})], id="no id"),
        pytest.param([answered(202, {"routine_run_id": ".."})], id="a step of a path"),
        pytest.param([answered(202, b"[" * 4000)], id="nested"),
        pytest.param(
            [answered(202, {"pad": "x" * 5000, "routine_run_id": RUN})],
            id="more than is read",
        ),
        pytest.param(
            [answered(202, {"routine_run_id": RUN}, "content-encoding: gzip")],
            id="compressed",
        ),
    ],
)
async def test_a_2xx_is_accepted_whatever_its_body_is(answer: list[ServerStep]) -> None:
    accepted = of_type(Accepted, await run_once(READ, *answer))
    assert accepted.run == ""


@pytest.mark.parametrize(
    ("reason", "script"),
    [
        ("reset", [READ, RESET]),
        ("reset", [READ]),
        ("request_timeout", [READ, HANG]),
        ("broken_answer", [READ, b"\0garbage\r\n\r\n"]),
    ],
)
async def test_without_a_status_a_post_is_uncertain_and_a_poll_has_learnt_nothing(
    reason: str,
    script: list[ServerStep],
) -> None:
    assert of_type(Uncertain, await run_once(*script)).reason == reason
    assert of_type(RunUnread, await asked_once(*script)).reason == reason


async def test_nothing_is_sent_without_a_connection() -> None:
    async with serve(READ, HANG) as server, patient(max_connections=1, pool_timeout_s=0.2) as clay:
        api = ClayApi(clay)
        endpoint = of_server(server)
        first = asyncio.create_task(api.run(endpoint, ROUTINE, BODY))
        await asyncio.wait_for(server.arrived.wait(), 10 * BUSY)
        # The connections of webhooks and of the API have one bound.
        assert of_type(Refused, await clay.send(server.url, None, LEAD)).reason == "pool_timeout"
        assert of_type(Refused, await api.run(endpoint, ROUTINE, BODY)).reason == "pool_timeout"
        assert of_type(RunUnread, await api.results(endpoint, RUN)).reason == "pool_timeout"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(server.requests) == 1
    async with client() as clay:
        gone = ApiEndpoint("http://nosuch.invalid/v0", KEY)
        refused = of_type(Refused, await ClayApi(clay).run(gone, ROUTINE, BODY))
        assert refused.reason in ("dns", "connect_timeout")
        assert isinstance(await ClayApi(clay).results(gone, RUN), RunUnread)
        assert isinstance(await ClayApi(clay).balance(gone), RunUnread)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RunGone),
        (404, RunGone),
        (410, RunGone),
        (422, RunGone),
        (302, RunDenied),
        (401, RunDenied),
        (402, RunDenied),
        (403, RunDenied),
        (409, RunDenied),
        (408, RunUnread),
        (500, RunUnread),
        (503, RunUnread),
    ],
)
async def test_what_the_status_of_a_poll_means(status: int, kind: type[RunAnswer]) -> None:
    words = {"message": f"No such thing, {KEY}"}
    answer = await asked_once(READ, answered(status, words, "location: /elsewhere"))
    assert type(answer) is kind
    assert isinstance(answer, RunGone | RunDenied | RunUnread)
    assert answer.text.startswith(f"HTTP {status}: ")
    assert "(Clay said: No such thing, [sent])" in answer.text


async def test_a_run_that_goes_on_is_202_even_if_its_body_is_cut() -> None:
    running = {"routine_run_id": RUN, "status": "in_progress", "total": 1, "finished": 0}
    assert await asked_once(READ, answered(202, running)) == RunUnfinished()
    cut = b"HTTP/1.1 202 X\r\ncontent-length: 99\r\n\r\n{"
    assert await asked_once(READ, cut) == RunUnfinished()
    assert await asked_once(READ, answered(200, running)) == RunUnfinished()


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (DONE, RunItem(ITEM, "complete", {"Work Email": "ada@acme.test"})),
        ({"id": ITEM, "status": "complete", "result": {}}, RunItem(ITEM, "complete")),
        ({"id": ITEM, "status": "complete"}, RunItem(ITEM, "complete")),
        ({"id": ITEM, "status": "complete", "result": None}, RunItem(ITEM, "complete")),
        (
            {"id": ITEM, "status": "complete", "result": [1]},
            RunItem(ITEM, "complete", {"result": [1]}),
        ),
        (
            {"id": ITEM, "status": "complete", "result": {"A": {"b": [1.5, None]}}},
            RunItem(ITEM, "complete", {"A": {"b": [1.5, None]}}),
        ),
        (
            {"id": ITEM, "status": "failed", "error": {"message": "No e-mail for jo@acme.test"}},
            RunItem(ITEM, "failed", text="No e-mail for [email]"),
        ),
        (
            {"id": ITEM, "status": "failed", "error": f"it broke at {KEY}"},
            RunItem(ITEM, "failed", text="it broke at [sent]"),
        ),
        ({"id": ITEM, "status": "failed"}, RunItem(ITEM, "failed", text="Clay gives no reason")),
        ({"id": ITEM, "status": "skipped"}, RunItem(ITEM, "unknown", text="skipped")),
        ({"id": ITEM}, RunItem(ITEM, "unknown")),
    ],
)
async def test_what_an_item_says(item: object, expected: RunItem) -> None:
    assert await asked_once(READ, page(item)) == RunFinished((expected,))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([b"HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\n{"], id="cut"),
        pytest.param([answered(200, b"")], id="nothing"),
        pytest.param([answered(200, b"<html>ok</html>")], id="no JSON"),
        pytest.param([answered(200, {"status": "complete"})], id="no items"),
        pytest.param([answered(200, {"status": "complete", "data": [7]})], id="an item of 7"),
        pytest.param([answered(200, b'{"data":[{"id":"\xff"}]}')], id="no UTF-8"),
        pytest.param([answered(200, {}, "content-encoding: gzip")], id="compressed"),
    ],
)
async def test_a_broken_answer_says_nothing_of_a_run(answer: list[ServerStep]) -> None:
    assert of_type(RunUnread, await asked_once(READ, *answer)).reason == "broken_answer"


async def test_a_result_is_read_within_bounds() -> None:
    def result(size: int) -> bytes:
        return page({**DONE, "result": {"Research": "x" * size}})

    large = of_type(RunFinished, await asked_once(READ, result(MAX_RESULT_BYTES - 1000)))
    assert len(large.items[0].outputs["Research"]) == MAX_RESULT_BYTES - 1000
    huge = of_type(RunTooLarge, await asked_once(READ, result(MAX_RESULT_BYTES)))
    assert huge.text == "its results have more than 2,097,152 bytes"
    endless: list[ServerStep] = [READ, b"HTTP/1.1 200 X\r\n\r\n[", *[b" " * 65_536] * 64, HANG]
    async with serve(*endless) as server, patient() as clay:
        answer = await ClayApi(clay).results(of_server(server), RUN)
        assert isinstance(answer, RunTooLarge)
    deep = answered(200, b'{"data":[{"id":"a","result":' + b"[" * 200_000)
    nested = of_type(RunTooLarge, await asked_once(READ, deep))
    assert nested.text == (
        "its results cannot be read: it is nested too deep (more than 100 levels)"
    )


async def test_all_pages_of_a_run_are_read() -> None:
    first = page({"id": "a", "status": "complete"}, cursor="x/1 &")
    second = page({"id": "b", "status": "complete"}, cursor="")
    async with serve(READ, first, READ, second) as server, patient() as clay:
        answer = of_type(RunFinished, await ClayApi(clay).results(of_server(server), RUN))
        assert [item.id for item in answer.items] == ["a", "b"]
        assert b"/results?limit=100&cursor=x%2F1%20%26 " in server.requests[1][0]
    loop: list[ServerStep] = [READ, first] * 20
    async with serve(*loop) as server, patient() as clay:
        endless = of_type(RunTooLarge, await ClayApi(clay).results(of_server(server), RUN))
        assert endless.text == "its results have more than 10 pages"
        assert len(server.requests) == 10
    half = page({**DONE, "result": {"x": "y" * (MAX_RESULT_BYTES // 2)}}, cursor="1")
    halves: list[ServerStep] = [READ, half] * 4
    assert isinstance(await asked_once(*halves), RunTooLarge)


async def test_a_poll_takes_no_longer_than_a_request_may() -> None:
    def late(cursor: str) -> list[ServerStep]:
        return [READ, 0.3, page(cursor=cursor)]

    quick = client(request_timeout_s=0.6, connect_timeout_s=0.3, pool_timeout_s=0.2)
    async with serve(*late("1"), *late("2"), *late("3"), READ, HANG) as server, quick as clay:
        answer = await ClayApi(clay).results(of_server(server), RUN)
        assert answer == RunUnread("request_timeout", "sent, but no response came in time")
        assert len(server.requests) <= 3, "a page has only what the ones before left of the time"


async def test_a_run_cannot_lead_to_another_address() -> None:
    async with serve(READ, answered(404)) as server, patient() as clay:
        await ClayApi(clay).results(of_server(server), "../me?x=%2F#y")
        [(head, _)] = server.requests
        assert head.startswith(b"GET /public/v0/routines/run/..%2Fme%3Fx%3D%252F%23y/results?limit")


@pytest.mark.parametrize(
    "answer",
    [answered(200, b"x"), answered(200, {"balance": "7"}), answered(401), answered(503), RESET],
)
async def test_a_balance_that_cannot_be_read_is_none(answer: ServerStep) -> None:
    async with serve(READ, answer) as server, patient() as clay:
        routines = Routines(
            ClayApi(clay),
            {},
            {"acme": of_server(server)},
            lambda *_: None,
        )
        assert await routines.balance("acme") is None
        assert await routines.balance("other") is None


async def test_a_408_of_an_idle_connection_is_not_taken_for_an_answer() -> None:
    bye = b"HTTP/1.1 408 Request Time-out\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbye"
    running = answered(202, {"routine_run_id": RUN})
    async with serve(READ, running, bye) as server, patient() as clay:
        for number in range(1, 4):
            outcome = await ClayApi(clay).run(of_server(server), ROUTINE, BODY)
            assert of_type(Accepted, outcome).run == RUN
            assert server.connections == number
            await asyncio.wait_for(server.ended.wait(), 10 * BUSY)
            server.ended.clear()


async def test_certificates_are_verified(authority: Authority) -> None:
    async with serve(READ, page(DONE), tls=authority.tls) as server:
        async with client() as clay:
            unknown = of_type(RunUnread, await ClayApi(clay).results(of_server(server), RUN))
            assert unknown.reason == "tls"
        async with client(egress=Egress.of(authority.file)) as clay:
            assert isinstance(await ClayApi(clay).results(of_server(server), RUN), RunFinished)


async def test_the_api_is_asked_through_the_proxy_as_webhooks_are(authority: Authority) -> None:
    login = "ada:s3cret-proxy"
    echo = answered(500, b"the proxy sent Basic " + b64encode(login.encode()))
    script = (READ, page(DONE), READ, echo)
    async with forward_proxy(login) as (proxy, at), serve(*script, tls=authority.tls) as server:
        egress = Egress.of(authority.file, f"http://{login}@{at}")
        async with patient(egress=egress) as clay:
            api = ClayApi(clay)
            assert isinstance(await api.results(of_server(server), RUN), RunFinished)
            failed = of_type(RunUnread, await api.results(of_server(server), RUN))
            assert failed.text == "HTTP 500: Clay failed (Clay said: the proxy sent Basic [sent])"
        assert proxy.asked == [(f"CONNECT 127.0.0.1:{server.port}", 200)]
        assert not [head for head in proxy.heads if KEY in head]
        other = Egress.of(authority.file, f"http://ada:s3cret-other@{at}")
        async with patient(egress=other) as clay:
            refused = of_type(Refused, await ClayApi(clay).run(of_server(server), ROUTINE, BODY))
            assert refused.text == "nothing was sent: the egress proxy refused (HTTP 407)"


async def test_each_destination_has_its_door() -> None:
    running = answered(202, {"routine_run_id": RUN})
    posted: list[tuple[str, str]] = []

    def on_post(destination: str, outcome: Outcome, trace_id: str) -> None:
        posted.append((destination, f"{type(outcome).__name__} {trace_id}"))

    async with serve(READ, running, READ, OK, READ, page(DONE)) as server, patient() as clay:
        webhook = Endpoint({"h1": server.url}, None, unavailable_is_refused=True)
        check = HostCheck(EGRESS)
        routines = Routines(
            ClayApi(clay),
            {"people": of_server(server)},
            {},
            on_post,
        )
        doors = Doors(Webhooks(clay, {"firms": webhook}, on_post, check), routines)
        assert of_type(Accepted, await doors.send("people", ROUTINE, BODY, "t1")).run == RUN
        assert isinstance(await doors.send("firms", "h1", LEAD, "t2"), Accepted)
        assert isinstance(await routines.results("people", RUN), RunFinished)
        assert of_type(RunUnread, await routines.results("firms", RUN)).reason == "no_routine"
        assert posted == [("people", "Accepted t1"), ("firms", "Accepted t2")]
    async with serve(READ, OK) as server, patient() as clay:
        routines = Routines(
            ClayApi(clay),
            {"people": of_server(server)},
            {},
            on_post,
        )
        doors = Doors(Webhooks(clay, {}, on_post, check), routines)
        assert await doors.host_answers("people") is True
        [(head, _)] = server.requests
        assert head.startswith(b"HEAD / ")
        assert KEY.encode() not in head
    await check.close()


SCRIPT = f"""
[api_keys]
acme = "{KEY}"
[completion_webhooks.wh_1]
url = "http://127.0.0.1:9/"
secret = "only for this test"
[workspaces.acme]
credits = 100
actions = 500
[table.latency]
scale = 0
[routines."{ROUTINE}"]
workspace = "acme"
requires = ["Email"]
columns = [{{ name = "Work Email", credits = 2, values = ["jo@acme.test"] }}]
"""


async def test_it_speaks_with_the_simulator() -> None:
    sim = Simulator(parse_script(SCRIPT))
    await sim.start()
    try:
        async with patient() as clay:
            api = ClayApi(clay)
            endpoint = ApiEndpoint(f"{sim.url}/public/v0", KEY)
            assert await api.workspace(endpoint) == "acme"
            assert await api.balance(endpoint) == 100
            run = of_type(Accepted, await api.run(endpoint, ROUTINE, BODY)).run
            outputs = {"Work Email": "jo@acme.test"}
            expected = RunFinished((RunItem(ITEM, "complete", outputs),))

            async def is_finished() -> bool:
                answer = await api.results(endpoint, run)
                assert answer in (RunUnfinished(), expected)
                return answer == expected

            await wait_until(is_finished)
            assert await api.balance(endpoint) == 98
            assert of_type(RunGone, await api.results(endpoint, "r-2")).http_status == 404
            gone = of_type(WebhookOut, await api.run(endpoint, "function:t_other", BODY))
            assert gone.text == (
                "HTTP 404: Clay does not know this routine: compare its id, and switch the API on "
                "in its details (Clay said: Routine not found.)"
            )
            nameless = BODY.replace(b"Email", b"email").replace(b', "webhook_id": "wh_1"', b"")
            poison = of_type(Poison, await api.run(endpoint, ROUTINE, nameless))
            assert "Missing required field: Email" in poison.text
            stranger = ApiEndpoint(endpoint.url, "another-key")
            assert of_type(Denied, await api.run(stranger, ROUTINE, BODY)).http_status == 401
            assert of_type(RunDenied, await api.results(stranger, run)).http_status == 401
            assert of_type(RunDenied, await api.workspace(stranger)).text == (
                "HTTP 401: Clay refuses the workspace's API key: make one in Clay and put it into "
                "the variable of api_key_env (Clay said: Invalid API key.)"
            )
    finally:
        await sim.stop()


async def test_the_simulated_balance_agrees_with_the_books_and_names_what_others_take() -> None:
    script = SCRIPT.replace('requires = ["Email"]', 'requires = ["Email"]\ncost_output = "credits"')
    sim = Simulator(parse_script(script))
    await sim.start()
    try:
        async with patient() as clay:
            endpoint = ApiEndpoint(f"{sim.url}/public/v0", KEY)
            routines = Routines(
                ClayApi(clay),
                {"people": endpoint},
                {"acme": endpoint},
                lambda *_: None,
            )

            async def cost_of_a_lead() -> int:
                outcome = await routines.api.run(endpoint, ROUTINE, BODY)
                run = of_type(Accepted, outcome).run

                async def is_finished() -> bool:
                    return isinstance(await routines.results("people", run), RunFinished)

                await wait_until(is_finished)
                finished = of_type(RunFinished, await routines.results("people", run))
                return of_type(int, finished.items[0].outputs["credits"])

            async def read(last: Reading | None, booked: Booked) -> Reading:
                left = of_type(float, await routines.balance("acme"))
                at_ms = 0 if last is None else last.at_ms + 600_000
                return balance_reading(last, at_ms, left, booked, booked, Budget())

            booked = Booked()
            readings = [await read(None, booked)]
            for _ in range(3):
                booked = booked.reported(20, await cost_of_a_lead())
            readings.append(await read(readings[-1], booked))
            [day] = billed_days(readings)
            assert day.taken == sim.ledger.tally.workspaces()["acme"].credits_charged
            assert day.taken == 6
            assert day.booked == 6
            assert day.verdict == "agrees"
            await cost_of_a_lead()  # of another program, which nobody here books
            readings.append(await read(readings[-1], booked))
            [day] = billed_days(readings)
            assert day.taken == sim.ledger.tally.workspaces()["acme"].credits_charged
            assert day.taken == 8
            assert day.drift == 2
            assert day.unexplained == 2
            assert day.verdict == "more"
    finally:
        await sim.stop()
