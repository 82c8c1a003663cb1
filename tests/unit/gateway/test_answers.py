"""Every answer of the gateway as its caller gets it: status, headers and words."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import pytest
from starlette.types import ASGIApp, Message, Scope

from stream_app.config.model import Gateway as Limits
from stream_app.domain.callback.run_webhook import sign_run
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.tokens import Keys, sign
from stream_app.gateway import callback_answers as answers
from stream_app.gateway import holding, lead_bound, receiver
from stream_app.gateway.callback_answers import CallbackAnswer
from stream_app.gateway.receiver import refuse_more
from tests.gateway.support import (
    GONE_KEY,
    OLD_KEY,
    RUN_SECRET,
    RUN_URL,
    SECRET,
    URL,
    Gateway,
    announcement,
    good,
    scope_of,
)

STATIC: Final = "/callbacks/beta/static"
FORGED: Final = sign(Keys([OLD_KEY]), "acme", "people", "crm-18")
UNKNOWN: Final = sign(Keys([GONE_KEY]), "acme", "people", "crm-17")
LIMITS: Final = Limits(max_body_bytes=5_000, read_timeout_s=0.1, hold_s=0.05)
RUN: Final = json.dumps(announcement()).encode()
NOT_STORED: Final = frozenset({"run_test", "run_repeated"})
"""Codes of good answers to what adds nothing to what is stored."""
ALWAYS: Final = {
    "content-type": "text/plain; charset=utf-8",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}
CLOSES: Final = {"connection": "close"}
SOON: Final = {"retry-after": "30"}


class Got(NamedTuple):
    """An answer as a client sees it."""

    status: int
    headers: dict[str, str]
    text: str


async def got(app: ASGIApp, scope: Scope, body: bytes | None) -> Got:
    """Ask an app. A body that is None never comes."""
    sent: list[Message] = []

    async def receive() -> Message:
        if body is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    with suppress(RuntimeError):  # a crash is answered, and then raised for the server's log
        await app(scope, receive, send)
    start, *rest = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    text = b"".join(message["body"] for message in rest)
    assert headers.pop("content-length") == str(len(text))
    return Got(start["status"], headers, text.decode())


async def ask(
    gateway: Gateway,
    body: bytes | None = b"",
    url: str = URL,
    method: str = "POST",
    **headers: str,
) -> Got:
    lines = {"content_type": "application/json"} | headers
    as_bytes = ((name.replace("_", "-"), value.encode()) for name, value in lines.items())
    return await got(gateway.app, scope_of(url, as_bytes, method), body)


def callback(**more: Any) -> bytes:
    return json.dumps(good(**more)).encode()


Ask = Callable[[Gateway], Awaitable[Got]]
CASES: Final[dict[str, tuple[int, dict[str, str], str, Ask]]] = {
    "not_post": (
        405,
        CLOSES | {"allow": "POST"},
        "takes POST",
        lambda gateway: ask(gateway, method="GET"),
    ),
    "not_here": (404, {}, "clay-setup", lambda gateway: ask(gateway, url="/callbacks/acme")),
    "wrong_type": (
        415,
        {},
        "Content-Type to application/json",
        lambda gateway: ask(gateway, content_type="text/plain"),
    ),
    "encoded": (
        415,
        {},
        "remove the header Content-Encoding",
        lambda gateway: ask(gateway, content_encoding="gzip"),
    ),
    "too_large": (
        413,
        CLOSES,
        "send fewer or shorter columns",
        lambda gateway: ask(gateway, b" " * 5_001),
    ),
    "too_slow": (408, CLOSES, "did not arrive in time", lambda gateway: ask(gateway, None)),
    "empty": (400, {}, "Not received. The body is empty", ask),
    "no_token": (
        401,
        {},
        "add the header x-callback-token",
        lambda gateway: ask(gateway, callback(callback_token="")),
    ),
    "no_secret": (
        401,
        {},
        "add the header x-callback-secret",
        lambda gateway: ask(gateway, b'{"lead_id": "crm-17"}', STATIC),
    ),
    "bad_secret": (
        403,
        {},
        "does not match the secret of this table",
        lambda gateway: ask(gateway, b'{"lead_id": "crm-17"}', STATIC, x_callback_secret="wrong"),
    ),
    "template": (
        400,
        {},
        "insert the column with /",
        lambda gateway: ask(gateway, x_callback_token="{{callback_token}}"),
    ),
    "malformed_token": (
        403,
        {},
        "whole and unchanged",
        lambda gateway: ask(gateway, callback(callback_token="x")),
    ),
    "unknown_key": (
        403,
        {},
        "no longer in use",
        lambda gateway: ask(gateway, callback(callback_token=UNKNOWN)),
    ),
    "wrong_token": (
        403,
        {},
        "belongs to another lead or table",
        lambda gateway: ask(gateway, callback(callback_token=FORGED)),
    ),
    "too_often": (
        429,
        {"retry-after": "2880"},
        "a row may call back again in an hour",
        lambda gateway: ask_without(lead_bound, "AT_ONCE", gateway),
    ),
    "kafka_away": (429, SOON, "Held in memory", lambda gateway: ask_while_away(gateway)),
    "holding_full": (
        429,
        SOON,
        "too many callbacks are held already",
        lambda gateway: ask_without(holding, "MAX_CALLBACKS", gateway),
    ),
    "too_many": (
        429,
        CLOSES | SOON,
        "too many callbacks at once",
        lambda gateway: ask_without(receiver, "_MAX_READ_BYTES", gateway),
    ),
    "crashed": (500, CLOSES, "internal error", lambda gateway: ask_while_broken(gateway)),
    "enriched": (
        200,
        {},
        "Received: lead crm-17, enriched. Nothing to do.",
        lambda gateway: ask(gateway, callback()),
    ),
    "partial": (
        200,
        {},
        "Received: lead crm-17, partly enriched. Nothing to do.",
        lambda gateway: ask(gateway, callback(status="partial")),
    ),
    "no_data": (
        200,
        {},
        "Received: lead crm-17, no data was found. Nothing to do.",
        lambda gateway: ask(gateway, callback(status="not found")),
    ),
    "enrich_error": (
        200,
        {},
        "Received: lead crm-17, the enrichment failed. Nothing to do.",
        lambda gateway: ask(gateway, callback(status="error")),
    ),
    "no_signature": (
        401,
        {},
        "with the header X-Clay-Signature",
        lambda gateway: ask(gateway, RUN, RUN_URL),
    ),
    "bad_signature": (
        403,
        {},
        "run_webhook_secret_env",
        lambda gateway: ask(gateway, RUN, RUN_URL, x_clay_signature=f"sha256={'0' * 64}"),
    ),
    "no_run": (400, {}, "Not received. The body announces", lambda gateway: ask_run(gateway, b"")),
    "run_test": (
        200,
        {},
        "a test of this webhook",
        lambda gateway: ask_run(gateway, b'{"data": {}}'),
    ),
    "run_announced": (200, {}, "a run that has finished", lambda gateway: ask_run(gateway, RUN)),
    "run_repeated": (
        200,
        {},
        "announced often enough",
        lambda gateway: ask_run_without(lead_bound, "AT_ONCE", gateway),
    ),
}
"""By code: status, headers beside those that each answer has, words, and how to get it."""


async def ask_run(gateway: Gateway, body: bytes) -> Got:
    """Announce a run, or what the body says, with the right signature."""
    return await ask(gateway, body, RUN_URL, x_clay_signature=sign_run(body, RUN_SECRET.encode()))


async def ask_run_without(module: Any, name: str, gateway: Gateway) -> Got:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, 0)
        return await ask_run(gateway, RUN)


async def ask_without(module: Any, name: str, gateway: Gateway) -> Got:
    """Post a good callback to a gateway that has no room at all for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, 0)
        return await ask(gateway, callback())


async def ask_while_away(gateway: Gateway) -> Got:
    gateway.inbox.fails_with = BrokerUnavailable("away")
    return await ask(gateway, callback())


async def ask_while_broken(gateway: Gateway) -> Got:
    gateway.inbox.fails_with = RuntimeError("a bug")
    return await ask(gateway, callback())


@pytest.mark.parametrize("code", CASES)
async def test_each_answer_has_its_status_headers_and_words(code: str) -> None:
    status, headers, words, asking = CASES[code]
    gateway = Gateway(limits=LIMITS)
    answer = await asking(gateway)
    assert answer.status == status
    assert answer.headers == ALWAYS | headers
    assert words in answer.text
    assert answer.text.endswith("\n")
    assert answer.text.count("\n") == 1, "it is shown in a cell"
    assert gateway.counted() == {code: 1}
    assert gateway.responses() == {str(status): 1}
    assert gateway.receiver._read_bytes == 0, "what was read is released"
    assert len(gateway.inbox.records) == (status == 200 and code not in NOT_STORED)


def test_no_answer_is_left_out() -> None:
    made = [*vars(answers).values(), *answers.REFUSED_TOKEN.values()]
    assert {answer.code for answer in made if isinstance(answer, CallbackAnswer)} <= CASES.keys()
    assert answers._OUTCOMES.keys() | {"run_announced", *NOT_STORED} == receiver._RECEIVED
    assert CASES.keys() >= receiver._RECEIVED


async def test_a_repaired_callback_is_stored_and_its_author_told() -> None:
    gateway = Gateway(limits=LIMITS)
    broken = callback()[:-1] + b', "note": "a "b" c"}'
    answer = await ask(gateway, broken)
    assert answer.status == 200
    assert answer.text == (
        "Received: lead crm-17, enriched. Nothing to do. "
        "Its JSON was broken and is repaired: let Clay escape the columns in the body.\n"
    )
    gateway.inbox.fails_with = BrokerUnavailable("away")
    assert (await ask(gateway, broken.replace(b"CEO", b"CTO"))).status == 429
    repaired = "stream_app_callbacks_repaired_total"
    assert gateway.registry.get_sample_value(repaired, {"destination": "people"}) == 2, (
        "a held one, too"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holding, "MAX_CALLBACKS", 0)
        assert (await ask(gateway, broken)).status == 429
    assert gateway.registry.get_sample_value(repaired, {"destination": "people"}) == 2
    assert gateway.counted() == {"enriched": 1, "kafka_away": 1, "holding_full": 1}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_encoding": "identity"}, 200),
        ({"content_encoding": ""}, 200),
        ({"content_encoding": "deflate"}, 415),
        ({"content_type": ""}, 200),
        ({"content_type": " Application/JSON ; charset=utf-8"}, 200),
        ({"content_type": "application/vnd.clay+json"}, 200),
        ({"content_type": "application/json-patch"}, 415),
        ({"content_type": "text/vnd.clay+json"}, 415),
        ({"content_type": "text/plain; application/json"}, 415),
        ({"content_length": "5000"}, 200),
        ({"content_length": "5001"}, 413),
        ({"content_length": "1".zfill(18)}, 200),
        ({"content_length": "1".zfill(19)}, 413),
        ({"content_length": "9" * 5_000}, 413),
        ({"content_length": "many"}, 200),
    ],
)
async def test_which_heads_are_good(headers: dict[str, str], status: int) -> None:
    assert (await ask(Gateway(limits=LIMITS), callback(), **headers)).status == status


async def test_a_callback_without_a_content_type_is_json() -> None:
    assert (await got(Gateway().app, scope_of(URL, []), callback())).status == 200


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
async def test_a_body_may_have_the_most_bytes_and_not_one_more(more: int, status: int) -> None:
    body = callback()
    whole = body + b" " * (5_000 - len(body) + more)
    assert (await ask(Gateway(limits=LIMITS), whole)).status == status


async def test_a_token_of_the_header_counts_before_that_of_the_body() -> None:
    token = good()["callback_token"]
    body = callback(callback_token="x")
    gateway = Gateway()
    assert (await ask(gateway, body, x_callback_token=f" {token} ")).status == 200
    assert (await ask(gateway, callback(), x_callback_token=FORGED)).status == 403
    assert gateway.counted() == {"enriched": 1, "wrong_token": 1}


async def test_a_template_is_told_before_the_secret_is_looked_at() -> None:
    gateway = Gateway(keys=None)
    answer = await ask(gateway, b"{}", STATIC, x_callback_token="{{callback_token}}")
    assert "template" in answer.text
    right = b'{"lead_id": "crm-17", "title": "CEO"}'
    assert (await ask(gateway, right, STATIC, x_callback_secret=SECRET)).status == 200


async def test_the_refusal_of_a_connection_is_counted_and_read_from_nothing() -> None:
    gateway = Gateway()
    metrics = gateway.receiver._metrics
    answer = await got(refuse_more(metrics), scope_of(URL, []), None)
    assert answer == Got(429, ALWAYS | CLOSES | SOON, f"{answers.TOO_MANY.text}\n")
    assert gateway.counted() == {"too_many": 1}
    assert gateway.responses() == {"429": 1}
    labels = {"destination": "other", "answer": "too_many"}
    assert gateway.registry.get_sample_value("stream_app_callbacks_total", labels) == 1
    assert gateway.registry.get_sample_value("stream_app_callback_seconds_count") == 1
    assert gateway.registry.get_sample_value("stream_app_callback_seconds_sum") == 0


@pytest.mark.parametrize(
    ("connection", "is_told"),
    [
        (answers.UNPROXIED, True),
        (f"close,{answers.UNPROXIED} , x", True),
        (f"x-{answers.UNPROXIED}", False),
        ("", False),
    ],
)
async def test_healthz_says_whether_the_word_of_doctor_came_through(
    connection: str,
    is_told: bool,
) -> None:
    gateway = Gateway()
    answer = await ask(gateway, b"", "/healthz", "GET", connection=connection)
    assert answer.status == 200
    assert answer.text == "ok\n"
    plain = {"content-type": ALWAYS["content-type"]}
    assert answer.headers == plain | ({answers.UNPROXIED_HEADER: "1"} if is_told else {})
    assert gateway.responses() == {"200": 1}
    assert gateway.counted() == {}, "it is no callback"


@pytest.mark.parametrize("url", ["/healthz/", "/", "/metrics", "/readyz", "/callbacks"])
async def test_there_is_nothing_else(url: str) -> None:
    gateway = Gateway()
    assert (await ask(gateway, b"", url, "GET")).status == 404
    assert gateway.responses() == {"404": 1}
