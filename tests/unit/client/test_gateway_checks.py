"""What the doctor sends to gateways, byte by byte, and what it makes of any answer."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from stream_app.clay import Egress
from stream_app.client.doctor import gateways
from stream_app.client.doctor.gateways import (
    CheckFailed,
    TableSecret,
    callbacks_come_in,
    gateway_answers,
    table_secrets,
)
from stream_app.config import Settings
from stream_app.config.model import EgressSettings, Gateway
from stream_app.config.secret_files import Secrets
from stream_app.domain.model.tokens import Verified, verify
from stream_app.domain.plan import Destination, Workspace
from stream_app.gateway import callback_answers as answers
from tests.support.partition.virtual import virtual_time

BASE = "https://leads.example.com/clay"
KEY = "a key of the gateway that is long enough: 1"
SETTINGS = Settings(
    workspaces={"acme": Workspace("acme"), "beta": Workspace("beta")},
    destinations={
        "people": Destination(
            "people",
            "acme",
            webhooks_env=("A",),
            callback_secrets_env=("NEW", "OLD"),
        ),
        "firms": Destination(
            "firms",
            "beta",
            webhooks_env=("A",),
            callback_secrets_env=("FIRMS",),
        ),
        "quiet": Destination(
            "quiet",
            "beta",
            webhooks_env=("A",),
            callback_secrets_env=("QUIET",),
            callbacks=False,
        ),
    },
    gateway=Gateway(public_url=f"{BASE}/", token_keys_env=("KEY",)),
    secrets=Secrets({"KEY": KEY, "NEW": "new-secret", "OLD": "old-secret"}),
)
WITHOUT_KEYS = msgspec.structs.replace(SETTINGS, gateway=Gateway(public_url=BASE))
EGRESS = Egress(tls=True)


class Answers:
    """What answers at the public URL, and the requests and the options of the client."""

    def __init__(self, patched: pytest.MonkeyPatch, answer: Callable[[httpx.Request], Any]) -> None:
        self.requests: list[httpx.Request] = []
        self.options: list[dict[str, Any]] = []
        self._answer = answer
        make = httpx.AsyncClient

        def client(**options: Any) -> httpx.AsyncClient:
            self.options.append(options)
            return make(
                transport=httpx.MockTransport(self._handle),
                headers=options["headers"],
                timeout=options["timeout"],
            )

        patched.setattr(httpx, "AsyncClient", client)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        content = answer.content

        async def pieces() -> AsyncIterator[bytes]:
            yield content

        return httpx.Response(answer.status_code, headers=answer.headers, content=pieces())


def says(answer: answers.CallbackAnswer, status: int | None = None) -> httpx.Response:
    return httpx.Response(status or answer.status, text=f"  {answer.text}\n")


async def failed(work: Any) -> str:
    with pytest.raises(CheckFailed) as error:
        await work
    return str(error.value)


# ------------------------------------------------------------------------------- the gateway itself


async def test_each_request_has_a_connection_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no proxy, authority or compression that the settings do not name."""
    asked = Answers(monkeypatch, lambda _: httpx.Response(200, text="ok"))
    context = ssl.create_default_context()
    egress = Egress(tls=context, proxy_url="http://proxy.example:3128")
    assert await gateway_answers(SETTINGS, egress, 5)
    assert asked.options == [
        {
            "timeout": None,
            "verify": context,
            "proxy": "http://proxy.example:3128",
            "trust_env": False,
            "limits": httpx.Limits(max_keepalive_connections=0),
            "headers": {"accept-encoding": "identity"},
        },
    ]
    (request,) = asked.requests
    assert request.method == "GET"
    assert str(request.url) == f"{BASE}/healthz"
    assert request.headers["connection"] == f"close, {answers.UNPROXIED}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.content == b""


@pytest.mark.parametrize(
    ("status", "text"),
    [(200, "ok\n"), (200, "okay"), (200, ""), (201, "ok"), (302, "ok"), (404, "ok"), (503, "ok")],
)
async def test_what_is_no_gateway_is_told_with_what_to_check(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    text: str,
) -> None:
    headers = {"location": "https://elsewhere.example/healthz"}
    asked = Answers(monkeypatch, lambda _: httpx.Response(status, text=text, headers=headers))
    work = gateway_answers(SETTINGS, EGRESS, 5)
    if (status, text) == (200, "ok\n"):
        assert await work
        return
    assert await failed(work) == (
        f"{BASE}/healthz answers {status}, unlike our gateway: is `stream-app gateway` behind it, "
        "and does the proxy forward /healthz and /callbacks/ ?"
    )
    assert len(asked.requests) == 1


@pytest.mark.parametrize(
    ("size", "is_read"),
    [(65_536, True), (65_537, False), (1, True), (10**7, False)],
)
async def test_an_answer_is_read_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    is_read: bool,
) -> None:
    Answers(monkeypatch, lambda _: httpx.Response(200, content=b"x" * size))
    text = await failed(gateway_answers(SETTINGS, EGRESS, 5))
    assert text.startswith(
        f"{BASE}/healthz answers 200, unlike"
        if is_read
        else f"{BASE}/healthz answers with more than 65,536 bytes, unlike our gateway: check "
        "gateway.public_url, and the proxy before it",
    )


async def test_an_answer_that_is_no_text_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, lambda _: httpx.Response(200, content=b"\xff"))
    assert "answers 200, unlike our gateway" in await failed(gateway_answers(SETTINGS, EGRESS, 5))


@virtual_time
async def test_an_answer_that_does_not_come_is_given_up_after_the_time() -> None:
    async def late(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(3_600)
        raise AssertionError("nobody waits for it")

    with pytest.MonkeyPatch.context() as patched:
        Answers(patched, late)
        began_s = asyncio.get_running_loop().time()
        text = await failed(gateway_answers(SETTINGS, EGRESS, 2.5))
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(2.5)
        assert text == (
            f"{BASE}/healthz did not answer within 2.5 s: is gateway.public_url right, does the "
            "gateway run, and are [egress]'s proxy and authority right?"
        )


async def test_a_url_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, lambda _: httpx.ConnectError("s3cret"))
    assert await failed(gateway_answers(SETTINGS, EGRESS, 5)) == (
        f"{BASE}/healthz cannot be reached from here (ConnectError): is gateway.public_url right, "
        "does the gateway run, and are [egress]'s proxy and authority right?"
    )


# ------------------------------------------------------------------------------- a forged callback


MISMATCH = answers.REFUSED_TOKEN["mismatch"]
UNKNOWN_KEY = answers.REFUSED_TOKEN["unknown_key"]
URL = f"{BASE}/callbacks/acme/people"


@pytest.mark.parametrize(
    ("settings", "answer", "text"),
    [
        (SETTINGS, says(MISMATCH), ""),
        (WITHOUT_KEYS, says(answers.NO_SECRET), ""),
        (
            SETTINGS,
            says(MISMATCH, 404),
            f"{URL} answers 404: the proxy does not forward /callbacks/, or the gateway has "
            "another configuration",
        ),
        *(
            (
                settings,
                says(unknown),
                f"{URL} does not know our key: give worker and gateway the same "
                "gateway.token_keys_env",
            )
            for settings in (SETTINGS, WITHOUT_KEYS)
            for unknown in (UNKNOWN_KEY, answers.NO_TOKEN)
        ),
        *(
            (
                settings,
                says(other),
                f"{URL} answers {other.status}, unlike our gateway: check the proxy before it",
            )
            for settings, other in (
                (SETTINGS, answers.NO_SECRET),
                (WITHOUT_KEYS, MISMATCH),
                (SETTINGS, answers.WRONG_TYPE),
            )
        ),
    ],
)
async def test_a_gateway_refuses_the_token_of_another_lead(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    answer: httpx.Response,
    text: str,
) -> None:
    asked = Answers(monkeypatch, lambda _: answer)
    work = callbacks_come_in(settings, "people", EGRESS, 5)
    if text:
        assert await failed(work) == text
    else:
        assert await work == f"{URL} answers, and refuses a forged callback"
    (request,) = asked.requests
    assert request.method == "POST"
    assert str(request.url) == URL
    assert request.headers["content-type"] == "application/json"
    document = msgspec.json.decode(request.content)
    assert document.keys() == {"lead_id", "callback_token"}
    assert document["lead_id"] == "doctor"
    token = document["callback_token"]
    if settings is WITHOUT_KEYS:
        assert token == ""
    else:
        keys = settings.callback_keys
        assert isinstance(verify(keys, token, "acme", "people", "not-doctor"), Verified)
        assert verify(keys, token, "acme", "people", "doctor") == "mismatch"


# --------------------------------------------------------------------------- the secrets of tables


FIRMS_URL = f"{BASE}/callbacks/beta/firms"


class Tables:
    """Gateways that have these secrets, of which the first answers are `odd` ones."""

    def __init__(self, **secrets_of: set[str]) -> None:
        self.secrets_of = secrets_of
        self.asked = Counter[str]()
        self.odd: list[httpx.Response | Exception] = []

    def __call__(self, request: httpx.Request) -> httpx.Response | Exception:
        alias = request.url.path.rpartition("/")[2]
        secret = request.headers["x-callback-secret"]
        self.asked[secret if alias == "people" else alias] += 1
        document = msgspec.json.decode(request.content)
        workspace = SETTINGS.destinations[alias].workspace
        assert document == {"lead_id": "doctor", "workspace": f"not-{workspace}"}
        if self.odd:
            return self.odd.pop()
        if secret in self.secrets_of[alias]:
            return httpx.Response(422, text=gateways._answer_to(document, workspace, alias))
        return says(answers.BAD_SECRET if self.secrets_of[alias] else answers.NOT_HERE)


def told_of(secrets: list[TableSecret]) -> list[tuple[str, str, str, str]]:
    return [(one.destination, one.variable, one.state, one.text) for one in secrets]


def lacks(alias: str, variable: str, missing: int, url: str) -> tuple[str, str, str, str]:
    text = (
        f"{alias}: a gateway lacks {variable} and refuses this table's callbacks ({missing} of 8 "
        f"answers at {url}): give each gateway the configuration and its file in secrets_dir, or "
        "the variable and a restart"
    )
    return alias, variable, "missing", text


PRESENT = [
    ("people", name, "present", f"people: 8 answers at {URL} accept {name}")
    for name in ("NEW", "OLD")
]
FIRMS_UNKNOWN = (
    "firms",
    "FIRMS",
    "unknown",
    "firms: the gateways have a secret of this table; FIRMS is not set here, so it was not tried",
)


async def test_each_secret_is_tried_over_several_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = Tables(people={"new-secret", "old-secret"}, firms={"unknown here"})
    asked = Answers(monkeypatch, tables)
    secrets = await table_secrets(SETTINGS, 0)
    assert told_of(secrets) == [*PRESENT, FIRMS_UNKNOWN]
    assert tables.asked == {"new-secret": 8, "old-secret": 8, "firms": 8}
    guessed = {
        request.headers["x-callback-secret"]
        for request in asked.requests
        if str(request.url) == FIRMS_URL
    }
    assert all(len(guess) == 36 and guess.startswith("not-") for guess in guessed)
    assert len(asked.options) == 1
    guesses = set(guessed)
    await table_secrets(SETTINGS, 0)
    assert not guesses >= {
        request.headers["x-callback-secret"]
        for request in asked.requests
        if str(request.url) == FIRMS_URL
    }, "nobody can have it by chance"


async def test_an_answer_of_one_gateway_that_lacks_a_secret_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = Tables(people={"new-secret", "old-secret"}, firms=set())
    Answers(monkeypatch, tables)
    for lacking in (answers.NOT_HERE, answers.NO_TOKEN, answers.BAD_SECRET):
        tables.odd = [says(lacking), says(answers.WRONG_TYPE), says(lacking)]
        assert told_of(await table_secrets(SETTINGS, 0)) == [
            lacks("people", "NEW", 2, URL),
            PRESENT[1],
            lacks("firms", "FIRMS", 8, FIRMS_URL),
        ]
    tables.odd = [says(answers.WRONG_TYPE)]
    (new, old, _) = told_of(await table_secrets(SETTINGS, 0))
    unlike = f"people: NEW was not tried: {URL} answers unlike our gateway: check the proxy before"
    assert new == ("people", "NEW", "unknown", f"{unlike} it")
    assert old == PRESENT[1]


@virtual_time
async def test_a_gateway_that_lacks_a_secret_is_asked_again_for_a_time() -> None:
    tables = Tables(people={"old-secret"}, firms={"unknown here"})
    loop = asyncio.get_running_loop()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gateways, "time", SimpleNamespace(monotonic=loop.time))
        Answers(patched, tables)
        began_s = loop.time()
        secrets = await table_secrets(SETTINGS, 1.2)
        assert loop.time() - began_s == pytest.approx(1.5), "at 0, 0.5, 1.0 and 1.5 s"
        assert told_of(secrets) == [lacks("people", "NEW", 8, URL), PRESENT[1], FIRMS_UNKNOWN]
        assert tables.asked == {"new-secret": 32, "old-secret": 8, "firms": 8}

        async def gets_it() -> None:
            await asyncio.sleep(0.7)
            tables.secrets_of["people"].add("new-secret")

        tables.asked.clear()
        meanwhile = asyncio.create_task(gets_it())
        began_s = loop.time()
        assert told_of(await table_secrets(SETTINGS, 60)) == [*PRESENT, FIRMS_UNKNOWN]
        await meanwhile
        assert loop.time() - began_s == pytest.approx(1.0)
        assert tables.asked == {"new-secret": 24, "old-secret": 8, "firms": 8}


async def test_secrets_that_cannot_be_tried_are_told_with_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = [("people", "NEW"), ("people", "OLD"), ("firms", "FIRMS")]

    def not_tried(why: str) -> list[tuple[str, str, str, str]]:
        return [
            (alias, name, "unknown", f"{alias}: {name} was not tried: {why}")
            for alias, name in places
        ]

    asked = Answers(monkeypatch, lambda _: httpx.ConnectError("s3cret"))
    secrets = told_of(await table_secrets(SETTINGS, 60))
    assert secrets == not_tried(
        f"{URL} cannot be reached from here (ConnectError): is gateway.public_url right, does the "
        "gateway run, and are [egress]'s proxy and authority right?",
    )
    assert len(asked.options) == 1
    egress = EgressSettings(proxy_env="PROXY")
    settings = msgspec.structs.replace(SETTINGS, egress=egress)
    assert told_of(await table_secrets(settings, 60)) == not_tried(
        "PROXY, the URL of the proxy, is not set here",
    )
    secrets_of = {"KEY": KEY, "NEW": "n", "OLD": "o", "PROXY": "http://proxy.example:3128"}
    await table_secrets(msgspec.structs.replace(settings, secrets=Secrets(secrets_of)), 0)
    assert asked.options.pop()["proxy"] == "http://proxy.example:3128"
    none = msgspec.structs.replace(
        SETTINGS,
        destinations={"quiet": SETTINGS.destinations["quiet"]},
    )
    assert await table_secrets(none, 60) == []
    assert len(asked.options) == 1, "nobody was asked"
