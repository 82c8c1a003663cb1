"""The gateway behind deploy/nginx.conf: what reaches it, what does not, how it is found again."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import structs

from stream_app.client.doctor.gateways import CheckFailed, gateway_answers, proxy_waits
from stream_app.config.model import Gateway as Limits
from stream_app.dev.process import free_port
from stream_app.domain.callback.run_webhook import sign_run
from stream_app.ops.http import serve_http
from tests.gateway.support import RUN_SECRET, RUN_URL, URL, Gateway, good
from tests.support.doctor import settings_for
from tests.support.nginx import Nginx
from tests.support.pace import BUSY, slowness
from tests.support.raw_server import say

pytestmark = pytest.mark.nginx

GOOD = json.dumps(good()).encode()
LIMITS = Limits(max_body_bytes=262_144, read_timeout_s=5)


class Behind:
    """A gateway behind nginx."""

    def __init__(self, gateway: Gateway, nginx: Nginx) -> None:
        self.gateway = gateway
        self.nginx = nginx

    async def say(self, words: bytes) -> tuple[int, bytes]:
        """Send these bytes; return status and answer when nginx has closed the connection."""
        answer = await say(self.nginx.port, words)
        return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0, answer


class FewPlaces(Nginx):
    """nginx with fewer places for each address, so that a test need not take thousands."""

    PLACES = 20

    def configuration(self, folder: Path) -> str:
        text = super().configuration(folder)
        limit = "limit_conn peers 6000;"
        assert limit in text
        return text.replace(limit, f"limit_conn peers {self.PLACES};")


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, Nginx]]:
    port = free_port()
    with Nginx(port) as nginx:
        yield port, nginx


@pytest.fixture
async def behind(ports: tuple[int, Nginx]) -> AsyncIterator[Behind]:
    port, nginx = ports
    gateway = Gateway(limits=LIMITS)
    async with serve_http(gateway.app, "127.0.0.1", port, grace_s=1):
        yield Behind(gateway, nginx)


def request(body: bytes = b"", method: str = "POST", path: str = URL, **headers: str) -> bytes:
    lines = {"host": "leads.example.com", "content-type": "application/json", "connection": "close"}
    lines |= {"content-length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def test_a_callback_is_taken_and_its_answer_comes_back(behind: Behind) -> None:
    status, answer = await behind.say(request(GOOD))
    assert status == 200
    assert b"Received: lead crm-17" in answer
    assert behind.gateway.counted() == {"enriched": 1}


async def test_the_announcement_of_a_run_comes_through_byte_for_byte(behind: Behind) -> None:
    body = b'{"webhookId":"wh_1",  "data":{"routine_run_id":"run-1"}}\n'
    signature = sign_run(body, RUN_SECRET.encode())
    status, answer = await behind.say(request(body, path=RUN_URL, x_clay_signature=signature))
    assert status == 200
    assert b"a run that has finished" in answer
    assert behind.gateway.runs() == ["run-1"]


@pytest.mark.parametrize(
    "path",
    ["/", "/readyz", "/metrics", "/leads/crm-17", "/board", "/callbacks", "/healthz/", "/%2e"],
)
async def test_every_other_path_ends_at_the_proxy(behind: Behind, path: str) -> None:
    assert (await behind.say(request(method="GET", path=path)))[0] == 404
    assert behind.gateway.responses() == {}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b" " * 270_000, 413, b"send fewer or shorter columns"),
        (b" " * 600_000, 413, b"Request Entity Too Large"),
    ],
)
async def test_a_body_that_is_too_large_is_refused_in_words(
    behind: Behind,
    body: bytes,
    status: int,
    words: bytes,
) -> None:
    for _ in range(5):
        answered = await behind.say(request(body))
        assert answered[0] == status
        assert words in answered[1]


async def test_a_refusal_by_the_head_is_seen_behind_a_large_body(behind: Behind) -> None:
    for _ in range(10):
        assert (await behind.say(request(b" " * 260_000, path="/callbacks/acme/none/")))[0] == 404
        assert (await behind.say(request(b" " * 260_000, x_callback_token="x")))[0] == 403


async def test_half_a_head_and_half_a_body_end_in_time_and_reach_nobody(behind: Behind) -> None:
    async def ends_within(words: bytes, seconds: float) -> None:
        began = time.monotonic()
        status, _ = await behind.say(words)
        assert status in (0, 408)
        assert time.monotonic() - began < seconds + 3 * BUSY

    half = request(GOOD)
    await asyncio.gather(ends_within(b"GET / HT", 5), ends_within(half[:-20], 10))
    assert behind.gateway.responses() == {}


async def until_200(behind: Behind, words: bytes) -> float:
    """Send this again and again. Return the seconds until it is taken."""
    began = time.monotonic()
    async with asyncio.timeout(60 * BUSY):
        while (await behind.say(words))[0] != 200:  # noqa: ASYNC110 - nothing in this process says when
            await asyncio.sleep(0.2)
    return time.monotonic() - began


async def test_a_gateway_that_is_away_is_a_429_and_one_elsewhere_is_found(
    ports: tuple[int, Nginx],
) -> None:
    port, nginx = ports
    gateway = Gateway(limits=LIMITS)
    before = Behind(gateway, nginx)
    status, answer = await before.say(request(GOOD))
    assert status == 429, "which a Clay column repeats by itself"
    assert b"Retry-After: 30" in answer
    assert b"no gateway answers" in answer
    assert (await before.say(request(method="GET", path="/healthz")))[0] == 502, (
        "elsewhere the status stays what it is"
    )
    nginx.names.hosts["gateway"] = ("127.0.0.77",)
    try:
        async with serve_http(gateway.app, "127.0.0.77", port, grace_s=1):
            assert await until_200(before, request(GOOD)) < 15 * BUSY, (
                "nginx asks its name server again every 2 s"
            )
    finally:
        nginx.names.hosts["gateway"] = ("127.0.0.1",)
        async with serve_http(gateway.app, "127.0.0.1", port, grace_s=1):
            await until_200(before, request(method="GET", path="/healthz"))
    assert gateway.counted()["enriched"] == 1


async def test_a_connection_that_one_gateway_refuses_goes_to_the_other(
    ports: tuple[int, Nginx],
) -> None:
    port, nginx = ports
    gateway = Gateway(limits=LIMITS)
    both = Behind(gateway, nginx)
    nginx.names.hosts["gateway"] = ("127.0.0.1", "127.0.0.78")
    try:
        async with serve_http(gateway.app, "127.0.0.78", port, grace_s=1):
            await until_200(both, request(method="GET", path="/healthz"))
            for _ in range(20):
                assert (await both.say(request(GOOD)))[0] == 200
    finally:
        nginx.names.hosts["gateway"] = ("127.0.0.1",)


async def test_one_address_has_a_bounded_number_of_places_and_no_other_address_loses_by_it() -> (
    None
):
    async def stalled(address: str) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(
            "127.0.0.1",
            nginx.port,
            local_addr=(address, 0),
        )
        writer.write(request(GOOD)[:-20])
        await writer.drain()
        return writer

    async def ask(address: str) -> int:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            nginx.port,
            local_addr=(address, 0),
        )
        writer.write(request(GOOD))
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1])

    port = free_port()
    gateway = Gateway(limits=LIMITS)
    with FewPlaces(port, shared="127.0.0.1/32") as nginx:
        async with serve_http(gateway.app, "127.0.0.1", port, grace_s=1):
            held = [await stalled("127.0.0.5") for _ in range(FewPlaces.PLACES)]
            while await ask("127.0.0.5") != 429:  # noqa: ASYNC110 - nothing in this process says when
                await asyncio.sleep(0.05)
            assert await ask("127.0.0.6") == 200
            shared = [await stalled("127.0.0.1") for _ in range(FewPlaces.PLACES)]
            assert await ask("127.0.0.1") == 200, "a balancer's address is that of many peers"
            for writer in [*held, *shared]:
                writer.close()


@pytest.mark.parametrize(("path", "status", "within_s"), [(URL, 429, 5), ("/nothing", 404, 15)])
async def test_a_refused_peer_cannot_keep_its_connection_with_a_slow_body(
    path: str,
    status: int,
    within_s: float,
) -> None:
    """Its refusals would otherwise take the connections that the limit of places leaves."""
    port = free_port()
    with FewPlaces(port, shared="127.0.0.1/32") as nginx:

        async def slow(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1",
                nginx.port,
                local_addr=("127.0.0.2", 0),
            )
            writer.write(request(path=path, content_length="50000", connection="keep-alive"))
            return reader, writer

        taken = [await slow(URL) for _ in range(nginx.PLACES)]
        async with asyncio.timeout(30 * BUSY):
            while True:
                reader, writer = await slow(path)
                with suppress(TimeoutError):
                    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 1)
                    break
                # nginx had not seen all of the others: now this one has a place, too.
                taken.append((reader, writer))
        assert answer.startswith(f"HTTP/1.1 {status}".encode()), answer
        began = time.monotonic()
        times = slowness()
        with suppress(ConnectionError):
            while not reader.at_eof():
                assert time.monotonic() - began < within_s * times, "it keeps its connection"
                writer.write(b" ")
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(4_096), 0.5)
        for _, one in [*taken, (reader, writer)]:
            one.close()


async def test_doctor_knows_whether_a_proxy_answers(
    behind: Behind,
    ports: tuple[int, Nginx],
    tmp_path: Path,
) -> None:
    async def is_proxied(port: int) -> bool:
        settings = settings_for(
            tmp_path,
            "127.0.0.1:1",
            "x.",
            public_url=f"http://127.0.0.1:{port}",
        )
        return await gateway_answers(settings, settings.make_egress(), 10 * BUSY)

    assert await is_proxied(behind.nginx.port)
    assert not await is_proxied(ports[0])


async def test_the_proxy_is_seen_to_wait_as_long_as_the_gateway_holds(
    ports: tuple[int, Nginx],
    tmp_path: Path,
) -> None:
    port, nginx = ports
    hold_s = 1.0
    gateway = Gateway(limits=structs.replace(LIMITS, hold_s=hold_s))
    settings = settings_for(
        tmp_path,
        "127.0.0.1:1",
        "x.",
        public_url=f"http://127.0.0.1:{nginx.port}",
    )
    held = structs.replace(settings.gateway, hold_s=hold_s)
    async with serve_http(gateway.app, "127.0.0.1", port, grace_s=1):
        text = await proxy_waits(
            structs.replace(settings, gateway=held),
            "people",
            settings.make_egress(),
        )
    assert text.endswith("waits 1 s for an answer, as long as the gateway holds a callback")
    assert not gateway.inbox.records


class ShortWait(Nginx):
    """nginx that waits for the gateway for a shorter time than it holds a callback."""

    def configuration(self, folder: Path) -> str:
        text = super().configuration(folder)
        waits = "proxy_read_timeout 60s; # longer than gateway.hold_s"
        assert waits in text
        return text.replace(waits, "proxy_read_timeout 1s;")


async def test_a_proxy_that_waits_for_a_shorter_time_is_told(tmp_path: Path) -> None:
    port = free_port()
    gateway = Gateway(limits=structs.replace(LIMITS, hold_s=30.0))
    with ShortWait(port) as nginx:
        settings = settings_for(
            tmp_path,
            "127.0.0.1:1",
            "x.",
            public_url=f"http://127.0.0.1:{nginx.port}",
        )
        held = structs.replace(settings.gateway, hold_s=30.0)
        async with serve_http(gateway.app, "127.0.0.1", port, grace_s=1):
            with pytest.raises(CheckFailed, match=r"is cut after [0-9.]+ s \(HTTP 429\)"):
                await proxy_waits(
                    structs.replace(settings, gateway=held),
                    "people",
                    settings.make_egress(),
                )
