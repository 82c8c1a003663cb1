"""What the simulator sends about a test lead, as `doctor --record` would write it of Clay.

`python -m tests.unit.simulator.recorded` writes it to stream_app/client/doctor/simulated.json, with
which `doctor` compares a recording.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import msgspec

from stream_app.clay import Egress
from stream_app.clay import client as clay_http
from stream_app.clay.client import ClayClient
from stream_app.clay.runs import ClayApi
from stream_app.client.doctor import recording
from stream_app.client.doctor.recording import CalledBack, Recording
from stream_app.config import Settings
from stream_app.config.reload import apis_of
from stream_app.config.secret_files import Secrets
from stream_app.dev.simulator import Simulator, parse_script
from stream_app.dev.simulator.workflow import WORKFLOW_ROUTE
from stream_app.domain.callback.body import BadBody, callback_of, read_body
from stream_app.domain.model.addresses import WEBHOOK_PATH
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.outcome import Accepted
from stream_app.domain.model.run import RunUnfinished
from stream_app.domain.model.seen import Seen
from stream_app.domain.plan import Destination, Workspace
from tests.support.kafka import until
from tests.support.raw_server import OK, READ, serve
from tests.unit.simulator.conftest import wait_until

FILE = Path(recording.__file__).with_name("simulated.json")
SCRIPT = """
[table.latency]
scale = 0
[table.callback.body]
lead_id = "{{lead_id}}"
callback_token = "{{callback_token}}"
title = "{{title}}"
phone = "{{phone}}"
employees = "{{employees}}"
[[table.columns]]
name = "title"
credits = 1
values = ["CTO"]
[[table.columns]]
name = "phone"
credits = 1
miss_share = 1.0
[[table.columns]]
name = "employees"
credits = 1
values = [38]
"""
_STRICT = 'auto_create = false\nwebhooks.acme--people.token = "right"\n'
_TABLE = f"{WEBHOOK_PATH}acme--people"
_WORKFLOW = WORKFLOW_ROUTE.format(slug="acme--people")
_VARIANTS = (
    (_TABLE, _STRICT),
    (_TABLE, _STRICT + "limits.accepted_status = 202\n"),
    (_TABLE, _STRICT + "table.callback.typed = true\n"),
    (_TABLE, ""),
    (_WORKFLOW, _STRICT),
)
"""Each kind of webhook, with a script.

Clay documents two statuses of an accepted row, and a column may send values as text or typed. What
is refused is no JSON. Where any token and any webhook will do, that alone is said of it, as by a
server that reads the body first.
"""
_BODIES = range(6)
"""The simulator chooses the body of an acceptance by the length of the request."""


_ROUTINE = "function:t_people"
_RUNS = f"""
table.latency.scale = 0
limits.api_burst = 1000
api_keys.acme = "right"
workspaces.acme.credits = 100
workspaces.acme.actions = 100
[routines."{_ROUTINE}"]
workspace = "acme"
columns = [{{ name = "Title", credits = 1, values = ["CTO"] }}]
"""


@mock.patch.object(clay_http, "_ANSWER_WAIT_S", 60.0)
@mock.patch.object(recording, "_WITHIN_S", 60.0)
async def record() -> Recording:
    """Return what the simulator sends, in all its variants. A busy machine may take its time."""
    accepted: list[Seen] = []
    called_back: list[Seen] = []
    refused = defaultdict[str, list[Seen]](list)
    for path, script in _VARIANTS:
        sim = Simulator(parse_script(script + SCRIPT))
        await sim.start()
        try:
            url = f"{sim.url}{path}"
            for name, answer in (await recording.refusals(_settings(url), "people")).items():
                refused[name].append(answer)
            (answers, callback) = await _sent(url)
        finally:
            await sim.stop()
        accepted += answers
        called_back.append(callback)
    for name, answer in (await _of_api()).items():
        refused[name] += _documented(name, answer)
    return Recording(
        recording.VERSION,
        "",
        "",
        {name: _without_times(answers) for name, answers in (refused | {"lead": accepted}).items()},
        [CalledBack(0, callback.body) for callback in _without_times(called_back)],
    )


def _documented(name: str, answer: Seen) -> list[Seen]:
    """Return an answer in each form that Clay documents: some fields may be null or absent."""
    body = dict(answer.body)
    match name:
        case "me":
            body["user.name"] = "text"
        case "balance":
            del body["action_execution_balance"]
    return [answer, msgspec.structs.replace(answer, body=body)]


async def _of_api() -> dict[str, Seen]:
    """Run a routine with a test lead, and return what the API answers to all that is asked."""
    sim = Simulator(parse_script(_RUNS))
    await sim.start()
    try:
        acme = Workspace("acme", api_key_env="KEY", api_url=f"{sim.url}/public/v0")
        people = Destination("people", "acme", kind="routine", routine=_ROUTINE)
        settings = Settings(
            workspaces={"acme": acme},
            destinations={"people": people},
            secrets=Secrets({"KEY": "right"}),
        )
        endpoint = apis_of(settings)["people"]
        async with _client() as clay:
            api = ClayApi(clay)
            begun = await api.run(endpoint, _ROUTINE, b'{"items":[{"id":"i","inputs":{}}]}')
            assert isinstance(begun, Accepted), begun
            run = begun.run

            async def is_finished() -> bool:
                return await api.results(endpoint, run) != RunUnfinished()

            await wait_until(is_finished)
        event = StatusEvent("o#1", "doctor-1", "accepted", 1, 1, "o", "acme", run=run)
        return await recording.further_answers(settings, "people", [event])
    finally:
        await sim.stop()


def _client() -> ClayClient:
    return ClayClient(
        request_timeout_s=90,
        connect_timeout_s=20,
        pool_timeout_s=20,
        max_connections=1,
        keepalive_s=10,
        egress=Egress.of(),
    )


def _settings(url: str) -> Settings:
    token_env = None if url.endswith(_WORKFLOW) else "TOKEN"
    table = Destination("people", "acme", webhooks_env=("HOOK",), token_env=token_env)
    return Settings(
        workspaces={"acme": Workspace("acme")},
        destinations={"people": table},
        secrets=Secrets({"HOOK": url, "TOKEN": "right"}),
    )


async def _sent(url: str) -> tuple[list[Seen], Seen]:
    """Send test leads of several lengths. Returns the answers, and what one called back with."""
    async with (
        _client() as clay,
        serve(READ, OK.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)) as receiver,
    ):
        answers = []
        for number in _BODIES:
            lead = {
                "note": "x" * number,
                "lead_id": f"doctor-{number}",
                "callback_url": receiver.url,
                "callback_token": "t",
            }
            outcome = await clay.send(url, "right", msgspec.json.encode(lead))
            assert outcome.seen is not None, outcome
            answers.append(outcome.seen)
        await until(lambda: bool(receiver.requests))
        body = read_body(receiver.requests[0][1])
    assert not isinstance(body, BadBody)
    callback = callback_of(body, "acme", "people", 0)
    assert not isinstance(callback, BadBody)
    assert callback.seen is not None
    return answers, callback.seen


def _without_times(several: Iterable[Seen]) -> list[Seen]:
    """Return those that differ, in the order of their text, without how long each took."""
    texts = {msgspec.json.encode(msgspec.structs.replace(seen, latency_ms=0)) for seen in several}
    return [msgspec.json.decode(text, type=Seen) for text in sorted(texts)]


if __name__ == "__main__":
    FILE.write_bytes(recording.written(asyncio.run(record())))
