"""A recording of Clay's answers: what is in the file, what is not, and what differs."""

import asyncio
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.client.doctor import recording
from stream_app.client.doctor.recording import CalledBack, Recording, deviations
from stream_app.client.doctor.round_trip import round_trip_lead
from stream_app.config import Settings
from stream_app.config.secret_files import Secrets
from stream_app.domain.callback.body import Body, callback_of, read_body
from stream_app.domain.model import seen as described
from stream_app.domain.model.addresses import WEBHOOK_PATH, secret_part
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.messages import Callback, Status, StatusEvent
from stream_app.domain.model.seen import Seen
from stream_app.domain.plan import Destination, Workspace
from tests.support.narrow import of_type
from tests.support.raw_server import READ, serve

SLUG = "slug-that-is-secret"
TOKEN = "token-that-is-secret"
NUMBER = 1_796_083_140_000
LEAD = f"doctor-{NUMBER}"


def settings_at(host: str, *, token: bool = True) -> Settings:
    return Settings(
        workspaces={"acme": Workspace("acme")},
        destinations={
            "people": Destination(
                "people",
                "acme",
                webhooks_env=("HOOK",),
                token_env="TOKEN" if token else None,
            ),
        },
        secrets=Secrets({"HOOK": f"{host}{WEBHOOK_PATH}{SLUG}", "TOKEN": TOKEN}),
    )


SETTINGS = settings_at("https://api.clay.com")


def event(status: Status, at_ms: int, seen: Seen | None = None) -> StatusEvent:
    return StatusEvent("o#1", LEAD, status, 1, at_ms, "o", "acme", "people", seen=seen)


def recorded(answer: Seen | None, callback: Seen | None) -> Recording:
    events = [
        event("received", 1_000),
        event("accepted", 2_000, answer),
        event("enriched", 9_500, callback),
    ]
    return recording.recording_of(SETTINGS, "people", NUMBER, {"broken_json": Seen(400, 9)}, events)


def test_a_recording_has_the_answers_and_the_callback() -> None:
    answer = Seen(202, 120, {"content-type": "application/json"}, {"success": "true or false"})
    made = recorded(answer, Seen(body={"title": "text"}))
    assert made.answers == {"lead": [answer], "broken_json": [Seen(400, 9)]}
    assert made.callbacks == [CalledBack(7_500, {"title": "text"})]
    assert recorded(None, None).answers == {"broken_json": [Seen(400, 9)]}
    assert recorded(None, None).callbacks == []


def test_a_callback_without_an_acceptance_has_no_time() -> None:
    events = [event("enriched", 9_500, Seen(body={"title": "text"}))]
    made = recording.recording_of(SETTINGS, "people", NUMBER, {}, events)
    assert made.callbacks == [CalledBack(0, {"title": "text"})]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = recorded(Seen(200, 3), Seen(body={"title": "text"}))
    file = tmp_path / "clay.json"
    file.write_bytes(recording.written(made))
    assert recording.read(file) == made
    file.write_bytes(recording.written(msgspec.structs.replace(made, version=2)))
    with pytest.raises(SettingsError, match="of version 2, this program has 1"):
        recording.read(file)
    file.write_text("{}")
    with pytest.raises(SettingsError, match="not a recording of `doctor --record`"):
        recording.read(file)


# What no vocabulary of ours has: a piece of it in the file is a piece of a value.
MARK = "Q7zx"
SENT = [str(value) for value in round_trip_lead("people", "acme", NUMBER, 0).fields.values()]
PRIVATE = [*SENT, LEAD, SLUG, TOKEN, SETTINGS.secrets["HOOK"]]
results = st.text(max_size=10).map(lambda text: f"{MARK}{text}")
scalars = results | st.sampled_from(PRIVATE) | st.none() | st.booleans() | st.integers()


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    values = draw(st.lists(scalars, min_size=1, max_size=5))
    used = [value for value in values if isinstance(value, str)]
    names = st.sampled_from(["title", "Work Email", "status", *used, *PRIVATE])
    body = draw(st.dictionaries(names, st.sampled_from(values), max_size=6))
    return (
        body
        | dict.fromkeys(["one", "two", "three", "four", "five"][: len(values)], "")
        | {f"n{number}": value for number, value in enumerate(values)}
    )


@given(bodies(), bodies(), st.booleans())
def test_no_secret_and_no_value_of_the_lead_or_of_its_result_is_in_the_file(
    answer: dict[str, Any],
    called: dict[str, Any],
    is_nested: bool,
) -> None:
    """The lead and its result by way of what the client and the gateway make of them."""
    headers = [("content-type", f"{MARK}/{TOKEN}"), ("retry-after", SENT[0]), (f"x-{MARK}", MARK)]
    sent = [*PRIVATE, "acme"]
    document = {"data": [answer]} if is_nested else answer
    answered = described.shape_of_answer(200, 5, headers, msgspec.json.encode(document), sent)
    body = of_type(Body, read_body(msgspec.json.encode(called | {"lead_id": LEAD})))
    callback = callback_of(body, "acme", "people", 5)
    seen = callback.seen if isinstance(callback, Callback) else None
    file = recording.written(recorded(answered, seen)).decode().casefold()
    assert MARK.casefold() not in file
    # "US" and "Test" are in other words, too: as a value or a name they would stand in quotes.
    for value in PRIVATE:
        assert f'"{value}"'.casefold() not in file, value
        assert len(value) < 8 or value.casefold() not in file, value


def test_the_file_is_new_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "clay.json"
    with recording.new_file(path) as file:
        file.write(b"{}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    opened = "it was opened"
    exists = r"clay\.json: it exists and is not overwritten"
    with pytest.raises(SettingsError, match=exists), recording.new_file(path):
        raise AssertionError(opened)
    assert path.read_bytes() == b"{}"
    cannot = "cannot make it .No such file or directory"
    nowhere = tmp_path / "none" / "clay.json"
    with pytest.raises(SettingsError, match=cannot), recording.new_file(nowhere):
        raise AssertionError(opened)


def test_a_file_to_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "clay.json"
    with recording.new_file(path):
        pass
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), recording.new_file(path):
        raise KeyboardInterrupt
    assert not path.exists()


NO = b"HTTP/1.1 400 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("token", [True, False])
async def test_what_clay_refuses_is_no_json_and_has_the_token_of_its_webhook_alone(
    monkeypatch: pytest.MonkeyPatch,
    *,
    token: bool,
) -> None:
    monkeypatch.setattr(recording, "_WITHIN_S", 60.0)
    async with serve(READ, NO) as server:
        host = server.url.removesuffix(f"{WEBHOOK_PATH}secret-slug")
        answers = await recording.refusals(settings_at(host, token=token), "people")
        heads = [head.decode().lower() for head, _ in server.requests]
        bodies = [body for _, body in server.requests]
    wrong = ["wrong_token"] if token else []
    assert list(answers) == ["broken_json", *wrong, "unknown_webhook"]
    assert {answer.status for answer in answers.values()} == {400}
    for body in bodies:
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(body)
    assert [TOKEN in head for head in heads] == [token, *([False] if token else []), False]
    assert [SLUG in head for head in heads] == [True, *([True] if token else []), False]


async def test_what_the_api_is_asked_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_WITHIN_S", 60.0)
    monkeypatch.setattr(recording, "_PAUSE_S", 0.0)
    people = Destination("people", "acme", kind="routine", routine="function:t_1")
    async with serve(READ, NO) as server:
        acme = Workspace("acme", api_key_env="KEY", api_url=f"http://127.0.0.1:{server.port}/v0")
        settings = Settings(
            workspaces={"acme": acme},
            destinations={"people": people},
            secrets=Secrets({"KEY": TOKEN}),
        )
        accepted = msgspec.structs.replace(event("accepted", 1), run="r-1")
        answers = await recording.further_answers(settings, "people", [event("received", 1)])
        assert "results" not in answers, "no run is known"
        server.requests.clear()
        answers = await recording.further_answers(settings, "people", [accepted])
        asked = {
            head.decode().split(" HTTP")[0]: (TOKEN in head.decode(), body)
            for head, body in server.requests
        }
    assert len(asked) + 1 == len(answers), "that of another key is the same address"
    for request, (has_key, body) in asked.items():
        assert has_key is (not request.endswith("/me")), request
        if request.startswith("POST"):
            with pytest.raises(msgspec.DecodeError):
                msgspec.json.decode(body)
    assert "GET /v0/routines/run/r-1/results?limit=100" in asked
    made = recording.recording_of(settings, "people", NUMBER, answers, [accepted])
    assert TOKEN not in recording.written(made).decode()
    assert recording.also_asked(settings, "people") == "7 requests to Clay's API that run nothing"


def test_the_outputs_of_a_routine_are_told_as_one() -> None:
    answer = Seen(200, 5, {}, {"status": "text", "data[].id": "text"})
    whole = msgspec.structs.replace(answer, body={**answer.body, "data[].result": "object"})
    outputs = {"data[].result.Title": "text", "data[].result.Size": "number"}
    named = msgspec.structs.replace(answer, body={**answer.body, **outputs})
    assert recording._without_outputs(named) == whole
    assert recording._without_outputs(answer) == answer


@pytest.mark.parametrize(
    ("url", "secret", "unknown"),
    [
        ("https://a.example/v3/sources/webhook/x", "x", "https://a.example/v3/sources/webhook/{}"),
        (
            "https://a.example/v3/tc-workflows/streams/wfrs_1/webhook",
            "wfrs_1",
            "https://a.example/v3/tc-workflows/streams/{}/webhook",
        ),
        ("https://a.example/v3/sources/webhook/webhook", "webhook", None),
    ],
)
def test_the_secret_part_of_a_url_is_replaced(url: str, secret: str, unknown: str | None) -> None:
    assert secret_part(url) == secret
    if unknown is not None:
        assert recording._unknown(url) == unknown.format(recording._NO_WEBHOOK)


async def test_a_host_that_does_not_answer_leaves_no_answers() -> None:
    nobody = settings_at("http://127.0.0.1:1")
    assert await asyncio.wait_for(recording.refusals(nobody, "people"), 60) == {}


EXPECTED = Recording(
    1,
    "",
    "",
    {
        "lead": [
            Seen(200, 0, {"content-type": "text/plain"}, {"": "text"}),
            Seen(202, 0, {"content-type": "application/json"}, {"success": "true or false"}),
        ],
    },
    [CalledBack(0, {"title": "text", "credits": "number"})],
)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Seen(200, 77, {"content-type": "text/plain"}, {"": "text"}), None),
        (Seen(403, 1), "lead: status 403; expected: 200 or 202"),
        (
            Seen(202, 1, {}, {"success": "true or false"}),
            "lead: 202 with headers (none); expected: (content-type: application/json)",
        ),
        (
            Seen(200, 1, {"content-type": "text/plain"}, {"": "nothing"}),
            "lead: 200 with body (nothing); expected: (text)",
        ),
    ],
)
def test_an_answer_that_is_not_expected_is_a_difference(answer: Seen, line: str | None) -> None:
    made = Recording(1, "", "", {"lead": [answer, answer]}, [])
    assert deviations(made, EXPECTED) == ([line] if line else [])


def test_a_request_that_nobody_expected_is_a_difference() -> None:
    made = Recording(1, "", "", {"other": [Seen(404, 1)]}, [])
    assert deviations(made, EXPECTED) == ["other: status 404; expected: no request"]


def test_kinds_of_values_that_no_callback_has_are_a_difference() -> None:
    made = Recording(1, "", "", {}, [CalledBack(5, {"title": "number", "x": "list", "y": "text"})])
    assert deviations(made, EXPECTED) == ["callback: x is list; expected: number, text"]
