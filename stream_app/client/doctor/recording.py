"""A recording of what Clay sends about one test lead, without secrets and without a value.

What the simulator sends is kept in the same form, in `simulated.json`, so the two can be compared.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import IO, Final

import msgspec

from stream_app import __version__
from stream_app.clay.client import answer_of, described_answer, proxy_secrets
from stream_app.clay.runs import ApiEndpoint, api_request, results_path, run_path
from stream_app.client.doctor.round_trip import BACK, round_trip_lead
from stream_app.config import Settings
from stream_app.config.reload import apis_of
from stream_app.domain.model.addresses import secret_part
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.seen import Seen, without

VERSION: Final = 1
_WITHIN_S: Final = 10.0
_NO_JSON: Final = b'{"lead_id":'
"""A body that no webhook can make a row of."""
_NO_TOKEN: Final = "not-the-token-of-this-webhook"
_NO_WEBHOOK: Final = "doctor-asks-for-no-such-webhook"
_NO_KEY: Final = "not-the-key-of-this-workspace"
_NO_ROUTINE: Final = "function:t_doctor_asks_for_no_such_one"
_NO_RUN: Final = "doctor-asks-for-no-such-run"
_PAUSE_S: Final = 0.25  # Clay takes 300 requests a minute, and the worker has just sent some
_OUTPUTS: Final = "data[].result."


class CalledBack(msgspec.Struct, frozen=True):
    """A callback.

    Attributes:
        after_ms: From the acceptance by Clay to its event, in ms; 0 if there was none.
        body: The kind of each value, by name (`domain/model/seen.py`).
    """

    after_ms: int
    body: dict[str, str]


class Recording(msgspec.Struct, frozen=True):
    """What Clay sent about a test lead.

    Attributes:
        version: Of this form.
        app: The version of stream-app that wrote it.
        date: The day on which it was recorded, UTC, YYYY-MM-DD.
        answers: The answers of the webhook, by what was sent: `lead`, the test lead; `broken_json`;
            `wrong_token`; `unknown_webhook`. Of a routine those of the API: `me`; `balance`;
            `results`, of the lead's run; `broken_run`; `wrong_key`; `unknown_routine`;
            `unknown_run`.
        callbacks: The callbacks of the lead, or the results of its run.
    """

    version: int
    app: str
    date: str
    answers: dict[str, list[Seen]]
    callbacks: list[CalledBack]


def also_asked(settings: Settings, alias: str) -> str:
    """Return what is sent besides the test lead, for people."""
    if settings.destinations[alias].routine is None:
        return "up to 3 requests that no webhook can make a row of"
    return "7 requests to Clay's API that run nothing"


async def further_answers(
    settings: Settings,
    alias: str,
    events: Sequence[StatusEvent],
) -> dict[str, Seen]:
    """Send what costs nothing, and return the answers by what was sent.

    `events` are those of the test lead: they name the run of a routine.
    """
    if settings.destinations[alias].routine is None:
        return await refusals(settings, alias)
    run = next((event.run for event in reversed(events) if event.run), None)
    return await _answers_of_api(settings, alias, run)


async def _answers_of_api(settings: Settings, alias: str, run: str | None) -> dict[str, Seen]:
    """Ask the Public API what it answers. No body is JSON, so none can become a run."""
    endpoint = apis_of(settings)[alias]
    stranger = ApiEndpoint(endpoint.url, _NO_KEY)
    routine = settings.destinations[alias].routine or ""
    asked: dict[str, tuple[ApiEndpoint, str, bytes | None]] = {
        "me": (endpoint, "me", None),
        "balance": (endpoint, "credits/balance", None),
    }
    if run is not None:
        asked["results"] = (endpoint, results_path(run), None)
    asked |= {
        "broken_run": (endpoint, run_path(routine), _NO_JSON),
        "wrong_key": (stranger, "me", None),
        "unknown_routine": (endpoint, run_path(_NO_ROUTINE), _NO_JSON),
        "unknown_run": (endpoint, results_path(_NO_RUN), None),
    }
    egress = settings.make_egress()
    answers: dict[str, Seen] = {}
    for name, (api, path, body) in asked.items():
        await asyncio.sleep(_PAUSE_S)
        request = api_request(api, path, body)
        known = [endpoint.key, *proxy_secrets(egress)]
        answer = await described_answer(request, known, egress, _WITHIN_S)
        if answer is not None:
            answers[name] = _without_outputs(answer)
    return answers


def _without_outputs(answer: Seen) -> Seen:
    """Leave out the outputs of a routine: their author has named them, and `callbacks` has them."""
    body = {name: kind for name, kind in answer.body.items() if not name.startswith(_OUTPUTS)}
    if len(body) < len(answer.body):
        body[_OUTPUTS.rstrip(".")] = "object"
    return msgspec.structs.replace(answer, body=body)


async def refusals(settings: Settings, alias: str) -> dict[str, Seen]:
    """Send what Clay refuses, and return its answers by what was sent.

    No body is JSON, so none can become a row, whatever Clay does with the rest of the request.
    """
    destination = settings.destinations[alias]
    url = settings.secrets[destination.webhooks_env[0]]
    token = settings.secrets.get(destination.token_env)
    asked = {"broken_json": (url, token)}
    if token is not None:
        asked["wrong_token"] = (url, _NO_TOKEN)
    asked["unknown_webhook"] = (_unknown(url), None)
    egress = settings.make_egress()
    answers: dict[str, Seen] = {}
    for name, (address, sent) in asked.items():
        answer = await answer_of(address, sent, _NO_JSON, egress, _WITHIN_S)
        if answer is not None:
            answers[name] = answer
    return answers


def _unknown(url: str) -> str:
    """Return the URL of a webhook that does not exist, at the same host."""
    steps = url.split("/")
    from_end = steps[::-1].index(secret_part(url)) + 1
    steps[-from_end] = _NO_WEBHOOK
    return "/".join(steps)


def recording_of(
    settings: Settings,
    alias: str,
    number: int,
    others: dict[str, Seen],
    events: Sequence[StatusEvent],
) -> Recording:
    """Return what was seen of a test lead.

    Args:
        settings: The settings.
        alias: The destination.
        number: That of the test lead.
        others: The `further_answers`.
        events: Those of the test lead.
    """
    destination = settings.destinations[alias]
    lead = round_trip_lead(alias, destination.workspace, number, 0)
    known = [str(value) for value in (*lead.fields.values(), lead.lead_id)]
    for name in destination.webhooks_env:
        known += [settings.secrets[name], secret_part(settings.secrets[name])]
    if token := settings.secrets.get(destination.token_env):
        known.append(token)
    if (api := apis_of(settings).get(alias)) is not None:
        known.append(api.key)
    answered = [event.seen for event in events if event.seen is not None and event.seen.status]
    accepted_ms = next((event.at_ms for event in events if event.status == "accepted"), None)
    called_back = [
        CalledBack(
            0 if accepted_ms is None else event.at_ms - accepted_ms,
            without(event.seen, known).body,
        )
        for event in events
        if event.seen is not None and event.status in BACK
    ]
    answers = {"lead": answered} | {name: [seen] for name, seen in others.items()}
    return Recording(
        VERSION,
        __version__,
        datetime.now(UTC).date().isoformat(),
        {name: [without(seen, known) for seen in sent] for name, sent in answers.items() if sent},
        called_back,
    )


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Make a file that only its owner may read. It is removed if nothing was written to it.

    Raises:
        SettingsError: It exists, or cannot be made.
    """
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise SettingsError(
            [f"--record {path}: it exists and is not overwritten; name another file"],
        ) from None
    except OSError as error:
        raise SettingsError([f"--record {path}: cannot make it ({error.strerror})"]) from None
    with file:
        try:
            yield file
        finally:
            if not file.tell():
                path.unlink(missing_ok=True)


def written(recording: Recording) -> bytes:
    """Return a recording as the content of a file."""
    return msgspec.json.format(msgspec.json.encode(recording), indent=2) + b"\n"


def read(path: Path) -> Recording:
    """Read a recording.

    Raises:
        SettingsError: It is not one, or of another version.
    """
    try:
        recording = msgspec.json.decode(path.read_bytes(), type=Recording)
    except (OSError, ValueError) as error:
        raise SettingsError([f"{path}: not a recording of `doctor --record` ({error})"]) from None
    if recording.version != VERSION:
        raise SettingsError(
            [f"{path}: a recording of version {recording.version}, this program has {VERSION}"],
        )
    return recording


def simulated() -> Recording:
    """Return what the simulator sends. Where it varies, there is more than one answer."""
    content = (files(__package__) / "simulated.json").read_bytes()
    return msgspec.json.decode(content, type=Recording)


def deviations(recording: Recording, expected: Recording) -> list[str]:
    """Return what differs from what is expected, one line for each. Times do not count."""
    lines = [
        f"{name}: {difference}"
        for name, answers in recording.answers.items()
        for seen in answers
        if (difference := _difference(seen, expected.answers.get(name, [])))
    ]
    kinds = {kind for callback in expected.callbacks for kind in callback.body.values()}
    for callback in recording.callbacks:
        lines += [
            f"callback: {name} is {kind}; expected: {', '.join(sorted(kinds))}"
            for name, kind in callback.body.items()
            if kind not in kinds
        ]
    return list(dict.fromkeys(lines))


def _difference(seen: Seen, expected: Sequence[Seen]) -> str:
    """Return how an answer differs from each expected one, or "". The status counts most."""
    statuses = list(dict.fromkeys(other.status for other in expected))
    if seen.status not in statuses:
        return f"status {seen.status}; expected: {' or '.join(map(str, statuses)) or 'no request'}"
    alike = [other for other in expected if other.status == seen.status]
    if all(other.headers != seen.headers for other in alike):
        either = _either(other.headers for other in alike)
        return f"{seen.status} with headers {_shown(seen.headers)}; expected: {either}"
    alike = [other for other in alike if other.headers == seen.headers]
    if all(other.body != seen.body for other in alike):
        either = _either(other.body for other in alike)
        return f"{seen.status} with body {_shown(seen.body)}; expected: {either}"
    return ""


def _either(shapes: Iterable[Mapping[str, str]]) -> str:
    return " or ".join(dict.fromkeys(map(_shown, shapes)))


def _shown(shape: Mapping[str, str]) -> str:
    words = ", ".join(f"{name}: {kind}" if name else kind for name, kind in shape.items())
    return f"({words})" if words else "(none)"
