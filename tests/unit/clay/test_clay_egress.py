"""Clay through a proxy and in a network that inspects TLS, and whether its host answers."""

import asyncio
import base64
import logging
import ssl
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from stream_app.clay import Egress
from stream_app.clay.client import Endpoint, HostCheck, Webhooks
from stream_app.client.doctor.checks import host_answers
from stream_app.client.doctor.gateways import CheckFailed
from stream_app.dev.process import free_port
from stream_app.domain.model.addresses import WEBHOOK_PATH
from stream_app.domain.model.outcome import Accepted, Denied, Outcome, Poison, Refused, Uncertain
from tests.support.forward_proxy import forward_proxy
from tests.support.raw_server import HANG, LEAD, OK, READ, SLUG, TOKEN, RawServer, client, serve
from tests.unit.clay.conftest import Authority

USER = "ada"
PASSWORD = "s3cret/pass@word"
CREDENTIALS = f"{USER}:{PASSWORD}"
WITH_CREDENTIALS = "ada:s3cret%2Fpass%40word@"


async def send(url: str, egress: Egress, times: int = 1) -> list[Outcome]:
    async with client(
        egress=egress,
        request_timeout_s=12,
        connect_timeout_s=5,
        pool_timeout_s=5,
    ) as clay:
        return [await clay.send(url, TOKEN, LEAD) for _ in range(times)]


def through(
    script: Callable[[RawServer, Egress], Awaitable[None]],
    authority: Authority,
) -> Callable[[], None]:
    async def run() -> None:
        async with (
            forward_proxy(CREDENTIALS) as (proxy, at),
            serve(READ, OK, READ, OK, HANG, tls=authority.tls) as server,
        ):
            await script(server, Egress.of(authority.file, f"http://{WITH_CREDENTIALS}{at}"))
            place = server.url.partition("://")[2].partition("/")[0]
            assert proxy.asked == [(f"CONNECT {place}", 200)]
            assert not [head for head in proxy.heads if SLUG in head or TOKEN in head]

    return lambda: asyncio.run(run())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tls_goes_through_a_tunnel_that_is_kept(loop: str, authority: Authority) -> None:
    async def twice(server: RawServer, egress: Egress) -> None:
        outcomes = await send(server.url, egress, times=2)
        assert [type(outcome) for outcome in outcomes] == [Accepted, Accepted], outcomes
        heads = [head for head, _ in server.requests]
        assert all(
            head.startswith(f"POST {WEBHOOK_PATH}{SLUG} HTTP/1.1\r\n".encode()) for head in heads
        )
        assert all(b"proxy-" not in head.lower() for head in heads)
        assert server.connections == 1
        assert [body for _, body in server.requests] == [LEAD, LEAD]

    run = through(twice, authority)
    if loop == "uvloop":
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        run()
    finally:
        asyncio.set_event_loop_policy(None)


async def test_without_tls_the_proxy_gets_the_whole_url() -> None:
    async with forward_proxy(CREDENTIALS) as (proxy, at), serve(READ, OK) as server:
        (outcome,) = await send(server.url, Egress.of(proxy_url=f"http://{WITH_CREDENTIALS}{at}"))
    assert isinstance(outcome, Accepted)
    assert proxy.asked == [(f"POST {server.url}", 200)]
    assert [body for _, body in server.requests] == [LEAD]


@pytest.mark.parametrize("is_tls", [True, False])
async def test_a_proxy_that_refuses_the_credentials_sent_nothing(
    is_tls: bool,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        forward_proxy("other:one") as (_, at),
        serve(READ, OK, tls=authority.tls if is_tls else None) as server,
    ):
        egress = Egress.of(authority.file, f"http://{WITH_CREDENTIALS}{at}")
        (outcome,) = await send(server.url, egress)
        assert type(outcome) is Refused
        assert outcome.reason == "proxy"
        assert server.requests == []
    assert isinstance(outcome, Refused)
    assert outcome.text == "nothing was sent: the egress proxy refused (HTTP 407)"
    seen = [repr(outcome), repr(egress), *(record.getMessage() for record in caplog.records)]
    assert not [text for text in seen if "s3cret" in text or "czNjcmV0" in text]


async def test_a_407_through_a_tunnel_is_of_the_host_which_has_the_lead(
    authority: Authority,
) -> None:
    answer = b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n"
    async with (
        forward_proxy(CREDENTIALS) as (_, at),
        serve(READ, answer, tls=authority.tls) as server,
    ):
        (outcome,) = await send(
            server.url,
            Egress.of(authority.file, f"http://{WITH_CREDENTIALS}{at}"),
        )
        assert type(outcome) is Denied
        assert outcome.reason == "http_407"
        assert len(server.requests) == 1


async def test_without_tls_an_excerpt_repeats_no_credentials_of_the_proxy() -> None:
    page = b"you are " + base64.b64encode(CREDENTIALS.encode())
    answer = b"HTTP/1.1 422 No\r\ncontent-length: %d\r\n\r\n%b" % (len(page), page)
    async with forward_proxy(CREDENTIALS) as (_, at), serve(READ, answer) as server:
        (outcome,) = await send(server.url, Egress.of(proxy_url=f"http://{WITH_CREDENTIALS}{at}"))
    assert isinstance(outcome, Poison)
    assert outcome.excerpt.startswith("you are ")
    assert page.decode()[8:] not in outcome.excerpt


@pytest.mark.parametrize("status", [301, 407, 503])
async def test_a_proxy_that_makes_no_tunnel_sent_nothing(status: int, authority: Authority) -> None:
    async with (
        forward_proxy(refuse=status) as (_, at),
        serve(READ, OK, tls=authority.tls) as server,
    ):
        (outcome,) = await send(server.url, Egress.of(authority.file, f"http://{at}"))
        assert type(outcome) is Refused
        assert outcome.reason == "proxy"
        assert server.connections == 0
        assert f"HTTP {status}" in repr(outcome)


async def test_a_proxy_that_is_not_there_sent_nothing(authority: Authority) -> None:
    for proxy, says in (
        (f"127.0.0.1:{free_port()}", "cannot be reached"),
        ("nosuch.invalid:1", "cannot be resolved"),
    ):
        for scheme in ("http", "https"):
            url = f"{scheme}://127.0.0.1:1{WEBHOOK_PATH}x"
            (outcome,) = await send(url, Egress.of(authority.file, f"http://{proxy}"))
            assert type(outcome) is Refused
            assert outcome.reason == "proxy"
            assert says in repr(outcome)


async def test_a_host_behind_the_proxy_that_is_not_trusted_got_nothing(
    authority: Authority,
) -> None:
    async with forward_proxy() as (_, at), serve(READ, OK, tls=authority.tls) as server:
        (outcome,) = await send(server.url, Egress.of(proxy_url=f"http://{at}"))
        assert type(outcome) is Refused
        assert outcome.reason == "tls"
        assert server.requests == []


async def test_a_tunnel_that_breaks_after_the_request_is_uncertain(authority: Authority) -> None:
    async with forward_proxy() as (_, at), serve(READ, tls=authority.tls) as server:
        (outcome,) = await send(server.url, Egress.of(authority.file, f"http://{at}"))
        assert type(outcome) is Uncertain
        assert len(server.requests) == 1


async def test_doctor_connects_as_the_worker_does(authority: Authority) -> None:
    async with forward_proxy(CREDENTIALS) as (proxy, at), serve(HANG, tls=authority.tls) as server:
        url = server.url.partition("/v3")[0]
        good = f"http://{WITH_CREDENTIALS}{at}"
        assert "through the proxy" in await host_answers(url, Egress.of(authority.file, good), 5)
        with pytest.raises(CheckFailed, match=r"egress\.ca_file"):
            await host_answers(url, Egress.of(proxy_url=good), 5)
        with pytest.raises(CheckFailed, match=r"egress\.proxy_env") as caught:
            await host_answers(url, Egress.of(authority.file, f"http://ada:s3cret@{at}"), 5)
        assert "s3cret" not in str(caught.value)
        assert not server.requests
        assert [status for _, status in proxy.asked] == [200, 200, 407]


@pytest.mark.parametrize(
    ("status", "answers"),
    [(200, True), (302, True), (404, True), (405, True), (501, True), (500, False), (503, False)],
)
async def test_a_server_error_is_no_answer(status: int, answers: bool) -> None:
    answer = b"HTTP/1.1 %d X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n" % status
    async with serve(READ, answer, HANG) as server:
        endpoints = {"people": Endpoint({"first": server.url}, None, True)}
        webhooks = Webhooks(client(), endpoints, lambda *_: None, HostCheck(Egress.of()))
        assert set(await asyncio.gather(*(webhooks.host_answers("people") for _ in range(5)))) == {
            answers,
        }
    ((head, _),) = server.requests
    assert head.startswith(b"HEAD / HTTP/1.1\r\n"), "one request, without the webhook's secret path"


def test_clients_that_need_a_context_trust_the_same_authorities(authority: Authority) -> None:
    usual = Egress.of().tls_context
    own = Egress.of(authority.file)
    assert usual.verify_mode == ssl.CERT_REQUIRED
    assert usual.check_hostname is True
    assert own.tls_context is own.tls


async def test_a_closed_port_or_a_host_that_hangs_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not await HostCheck(Egress.of())(f"http://127.0.0.1:{free_port()}{WEBHOOK_PATH}{SLUG}")
    monkeypatch.setattr("stream_app.clay.client._HOST_WITHIN_S", 0.2)
    async with serve(HANG) as server:
        assert not await HostCheck(Egress.of())(server.url)


async def test_who_stops_waiting_for_a_host_takes_the_answer_from_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    answered = asyncio.Event()

    async def answers(_: HostCheck, host: object) -> bool:
        asked.append(host)
        await answered.wait()
        return True

    monkeypatch.setattr(HostCheck, "_answers", answers)
    check = HostCheck(Egress.of())
    url = f"https://api.clay.com{WEBHOOK_PATH}{SLUG}"
    first = asyncio.create_task(check(url))
    second = asyncio.create_task(check(url))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    answered.set()
    assert await second
    assert len(asked) == 1


@pytest.mark.parametrize("is_tls", [True, False])
async def test_a_proxy_that_refuses_the_credentials_is_no_answer_of_the_host(
    is_tls: bool,
    authority: Authority,
) -> None:
    answer = b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n"
    async with (
        forward_proxy(CREDENTIALS) as (proxy, at),
        serve(READ, answer, HANG, tls=authority.tls if is_tls else None) as server,
    ):
        good = Egress.of(authority.file, f"http://{WITH_CREDENTIALS}{at}")
        bad = Egress.of(authority.file, f"http://ada:other@{at}")
        assert await HostCheck(good)(server.url)
        assert not await HostCheck(bad)(server.url)
        assert [status for _, status in proxy.asked] == [200, 407]
        assert len(server.requests) == 1
