"""Messages for people: what a receiver gets, what its answers mean, and what a message holds."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from stream_app.clay import Egress
from stream_app.client import messages
from stream_app.client.messages import (
    MAX_LINES,
    Alert,
    MessageFormat,
    MessageReceiver,
    NotDelivered,
    body_of,
    trial_body,
)
from tests.support.partition.virtual import virtual_time

URL = "https://hooks.example.com:8443/services/s3cret"


class Hook:
    """The receiver behind `URL`, and the options of the client that asks it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
        self.requests: list[httpx.Request] = []
        self.options: list[dict[str, Any]] = []
        self._answer = answer
        self._make = httpx.AsyncClient
        monkeypatch.setattr(httpx, "AsyncClient", self._client)

    def _client(self, **options: Any) -> httpx.AsyncClient:
        self.options.append(options)
        return self._make(transport=httpx.MockTransport(self._handle))

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        assert isinstance(answer, httpx.Response)
        return answer


async def post(url: str = URL, egress: Egress | None = None) -> MessageReceiver:
    async with MessageReceiver(url, egress or Egress(tls=True)) as receiver:
        await receiver.post(b'{"text":"x"}')
    return receiver


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_a_message_goes_to_the_url_as_json(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    hook = Hook(monkeypatch, lambda _: httpx.Response(status))
    context = ssl.create_default_context()
    receiver = await post(egress=Egress(tls=context, proxy_url="http://proxy.example:3128"))
    assert receiver.host == "hooks.example.com"
    assert hook.options == [
        {
            "timeout": messages._WITHIN_S,
            "verify": context,
            "proxy": "http://proxy.example:3128",
            "trust_env": False,
        },
    ]
    (request,) = hook.requests
    assert request.method == "POST"
    assert str(request.url) == URL
    assert request.content == b'{"text":"x"}'
    assert request.headers["content-type"] == "application/json"
    assert receiver._http.is_closed


REMEDY = ": check notify.url_env and notify.format"


@pytest.mark.parametrize(
    ("status", "retry_after", "remedy", "wait_ms"),
    [
        (199, None, REMEDY, 0),
        (300, None, REMEDY, 0),
        (302, "5", REMEDY, 5_000),
        (404, None, REMEDY, 0),
        (428, "", REMEDY, 0),
        (429, "120", "", 120_000),
        (430, "-1", REMEDY, 0),
        (499, "soon", REMEDY, 0),
        (500, "7.5", "", 0),
        (503, "0", "", 0),
        (503, "²", "", 0),
        (503, "٣", "", 0),
    ],
)
async def test_an_answer_that_is_no_success_is_told_with_what_to_check(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    retry_after: str | None,
    remedy: str,
    wait_ms: int,
) -> None:
    """A receiver that is busy says when to try again, and nothing has to be checked."""
    headers = [(b"location", b"https://elsewhere.example/")]
    if retry_after is not None:
        headers.append((b"retry-after", retry_after.encode()))
    hook = Hook(monkeypatch, lambda _: httpx.Response(status, headers=headers))
    with pytest.raises(NotDelivered) as error:
        await post()
    assert str(error.value) == f"hooks.example.com answers HTTP {status} to messages{remedy}"
    assert error.value.wait_ms == wait_ms
    assert len(hook.requests) == 1, "no redirect is followed"


@pytest.mark.parametrize(
    "problem",
    [httpx.ConnectError("s3cret"), httpx.InvalidURL("s3cret"), TimeoutError("s3cret")],
)
async def test_without_an_answer_it_says_what_to_check(
    monkeypatch: pytest.MonkeyPatch,
    problem: Exception,
) -> None:
    def fails(_: httpx.Request) -> httpx.Response:
        raise problem

    Hook(monkeypatch, fails)
    with pytest.raises(NotDelivered) as error:
        await post()
    assert str(error.value) == (
        f"hooks.example.com does not take messages ({type(problem).__name__}): check "
        "notify.url_env, and [egress]'s proxy and authority"
    )
    assert error.value.wait_ms == 0


@virtual_time
async def test_a_receiver_that_hangs_is_given_up() -> None:
    async def hangs(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(3_600)
        raise AssertionError("nobody waits for it")

    with pytest.MonkeyPatch.context() as patched:
        Hook(patched, hangs)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(NotDelivered, match="TimeoutError"):
            await post()
        waited_s = asyncio.get_running_loop().time() - began_s
    assert waited_s == pytest.approx(messages._IN_ALL_S)


def test_a_url_without_a_host_has_none_to_name() -> None:
    assert MessageReceiver("not-a-url", Egress(tls=True)).host == ""


def alert(number: int, severity: Any = "critical", **labels: str) -> Alert:
    return Alert(f"code_{number}", severity, labels, f"summary {number}", number)


def test_an_alert_is_known_by_its_name_and_its_workspace() -> None:
    assert alert(1, workspace="acme", other="x").key == ("code_1", "acme")
    assert alert(1, other="x").key == ("code_1", "")


@pytest.mark.parametrize(("more", "left_out"), [(0, 0), (1, 1), (9, 9)])
def test_a_message_names_a_bounded_number_of_alerts_and_counts_the_others(
    more: int,
    left_out: int,
) -> None:
    """Those that begin come first, the critical ones before the others."""
    begun = [alert(0, "warning", workspace="acme"), *map(alert, range(1, MAX_LINES - 1 + more))]
    ended = [alert(99)]
    document = msgspec.json.decode(body_of(begun, ended, "json", 5))
    lines = [*begun[1:], begun[0], *ended]
    assert document == {
        "at_ms": 5,
        "alerts": [
            {
                "status": "resolved" if one is ended[0] else "firing",
                **msgspec.to_builtins(one),
            }
            for one in lines[:MAX_LINES]
        ],
        "left_out": left_out,
    }
    text = msgspec.json.decode(body_of(begun, ended, "slack", 5))["text"]
    assert text.splitlines() == [
        *(
            f":red_circle: *code_{number}* (critical): summary {number}"
            for number in range(1, MAX_LINES - 1 + more)
        ),
        ":large_yellow_circle: *code_0* (warning): summary 0",
        ":white_check_mark: resolved *code_99* (critical): summary 99",
    ][:MAX_LINES] + [f"and {left_out} more: `stream-app explain`"] * bool(left_out)


def test_slack_reads_no_markup_in_a_summary() -> None:
    loud = Alert("a<b", "critical", {}, "<!channel> & co", 0)
    assert msgspec.json.decode(body_of([loud], (), "slack", 5)) == {
        "text": ":red_circle: *a&lt;b* (critical): &lt;!channel&gt; &amp; co",
    }


@pytest.mark.parametrize(
    ("form", "document"),
    [
        ("slack", {"text": "stream-app doctor: a test message. Messages arrive here."}),
        (
            "json",
            {
                "at_ms": 5,
                "alerts": [],
                "left_out": 0,
                "text": "stream-app doctor: a test message. Messages arrive here.",
            },
        ),
    ],
)
def test_a_trial_says_only_that_messages_arrive(
    form: MessageFormat,
    document: dict[str, Any],
) -> None:
    assert msgspec.json.decode(trial_body(form, 5)) == document
