"""Messages for people as a receiver gets them, and when the board process sends them."""

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
import trustme

from stream_app.board.notify import gateway_answers
from stream_app.clay import Egress
from stream_app.client.doctor.checks import message_check
from stream_app.client.messages import MessageReceiver, NotDelivered
from stream_app.config import Settings, load_settings
from stream_app.dev.kafka import Broker
from stream_app.dev.process import LOOPBACK, free_port
from tests.gateway.support import NEW_KEY, OLD_KEY
from tests.support.doctor import in_groups, settings_for
from tests.support.kafka import create_planned, until
from tests.support.raw_server import HANG, OK, READ, RawServer, serve

SECRET = "T0P-S3CR3T"


def settings_to(directory: Path, port: int, body_format: str = "json") -> Settings:
    config = directory / "stream_app.toml"
    config.write_text(
        f'[notify]\nurl_env = "URL"\nformat = "{body_format}"\n'
        "[workspaces.acme.budget]\nunlimited = true\n"
        '[destinations.people]\nworkspace = "acme"\nwebhooks_env = ["WEBHOOK"]\ncallbacks = '
        "false\n",
    )
    environ = {
        "URL": f"http://{LOOPBACK}:{port}/{SECRET}",
        "WEBHOOK": "https://api.clay.com/v3/sources/webhook/x",
    }
    return load_settings(config, environ, ("clay", "notify"))


@pytest.mark.parametrize("body_format", ["json", "slack"])
async def test_doctor_sends_a_test_message(tmp_path: Path, body_format: str) -> None:
    async with serve(READ, OK) as receiver:
        check = await message_check(settings_to(tmp_path, receiver.port, body_format), Egress.of())
    assert check.name == "notify"
    assert check.verdict == "ok"
    assert check.text == f"{LOOPBACK} took a test message"
    ((head, body),) = receiver.requests
    assert SECRET.encode() in head.partition(b"\r\n")[0]
    assert (
        msgspec.json.decode(body)["text"]
        == "stream-app doctor: a test message. Messages arrive here."
    )
    async with serve(READ, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n") as receiver:
        check = await message_check(settings_to(tmp_path, receiver.port, body_format), Egress.of())
    assert check.verdict == "failed"
    assert (
        check.text
        == f"{LOOPBACK} answers HTTP 404 to messages: check notify.url_env and notify.format"
    )


async def test_a_certificate_of_another_name_names_the_host_and_what_to_check(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example.com").configure_cert(context)
    says = r"check notify\.url_env, and \[egress\]'s proxy and authority"
    async with (
        serve(tls=context) as server,
        MessageReceiver(
            f"https://{LOOPBACK}:{server.port}/{SECRET}",
            Egress.of(str(file)),
        ) as receiver,
    ):
        with pytest.raises(NotDelivered, match=says) as caught:
            await receiver.post(b"{}")
    assert SECRET not in str(caught.value)


async def test_a_busy_receiver_says_how_long_to_wait() -> None:
    async with (
        serve(READ, b"HTTP/1.1 429 X\r\nRetry-After: 7\r\ncontent-length: 0\r\n\r\n") as server,
        MessageReceiver(f"http://{LOOPBACK}:{server.port}/{SECRET}", Egress.of()) as receiver,
    ):
        with pytest.raises(NotDelivered, match=r"HTTP 429 to messages$") as refused:
            await receiver.post(b"{}")
    assert refused.value.wait_ms == 7_000


@pytest.mark.parametrize(
    ("answer", "is_ours"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", False),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\n" + b"o" * 32 + b"\r\n",
            False,
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nok\n", False),
        (b"no HTTP\r\n\r\n", False),
    ],
)
async def test_the_gateway_answers_if_its_own_words_come_back(answer: bytes, is_ours: bool) -> None:
    async with serve(READ, answer, HANG) as server, httpx.AsyncClient(trust_env=False) as http:
        assert await gateway_answers(http, f"http://{LOOPBACK}:{server.port}/leads/") is is_ours
    assert server.requests[0][0].startswith(b"GET /leads/healthz ")


ROOT = Path(__file__).parents[2]
WITHIN_S = 60
IN_HASTE = """
import sys
from stream_app.board import notify
from stream_app.cli.main import main
times = {"LOOK_EVERY_S": 0.2, "BEGUN_S": 0.5, "ENDED_S": 1, "_FIRST_RETRY_S": 0.2}
for name, seconds in times.items():
    assert hasattr(notify, name), name
    setattr(notify, name, seconds)
sys.exit(main(sys.argv[1:]))
"""
CONFIG = """
[notify]
url_env = "URL"
format = "json"
interval_s = 1
watch_gateway = true
[http]
board_port = {port}
board_ops_port = 0
[board]
read_model_path = "{folder}/model.sqlite"
"""


@contextmanager
def board(folder: Path, receiver: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process. Its log is beside its configuration."""
    env = {
        "URL": f"http://{LOOPBACK}:{receiver}/services/{SECRET}",
        "KEY": NEW_KEY,
        "OLD_KEY": OLD_KEY,
    }
    argv = [sys.executable, "-c", IN_HASTE, "board", "--config", str(folder / "stream_app.toml")]
    with (folder / "board.log").open("ab") as log:
        process = subprocess.Popen(argv, stderr=log, env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def changes(receiver: RawServer) -> set[tuple[str, str]]:
    """What was reported.

    The read model needs longer to start than this test lets a trouble last.
    """
    messages = [msgspec.json.decode(body) for _, body in receiver.requests]
    reported = {
        (shown["status"], shown["name"]) for message in messages for shown in message["alerts"]
    }
    return {(status, name) for status, name in reported if name != "read_model"}


def names_kept(file: Path) -> set[str]:
    """The names of the alerts that the process has recorded as sent."""
    return {alert["name"] for alert in json.loads(file.read_bytes())} if file.exists() else set()


@pytest.mark.timeout(100)
async def test_each_change_is_sent_once_over_a_kill_and_while_the_receiver_fails(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    status = 500

    def answer(_: RawServer) -> bytes:
        return b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status

    async with serve(READ, answer) as receiver:
        public_url = f"http://{LOOPBACK}:{free_port()}"  # no gateway listens there
        more = CONFIG.format(port=free_port(), folder=tmp_path)
        settings = settings_for(
            tmp_path,
            kafka.bootstrap,
            namespace,
            public_url=public_url,
            more=more,
        )
        await create_planned(settings)
        with board(tmp_path, receiver.port):
            await until(
                lambda: "message_not_sent" in (tmp_path / "board.log").read_text(),
                within_s=WITHIN_S,
            )
            status = 200
            receiver.requests.clear()
            begun = {("firing", "no_worker"), ("firing", "gateway")}
            await until(lambda: changes(receiver) == begun, within_s=WITHIN_S)
            # a kill between the message and its record would report it once more
            kept = {name for _, name in begun}
            await until(
                lambda: kept <= names_kept(tmp_path / "model.messages.json"),
                within_s=WITHIN_S,
            )
        receiver.requests.clear()
        async with in_groups(settings):
            with board(tmp_path, receiver.port) as process:
                await until(lambda: bool(changes(receiver)), within_s=WITHIN_S)
                assert process.poll() is None
        assert changes(receiver) == {("resolved", "no_worker")}, (
            "what was sent before the kill is not sent again"
        )
    log = (tmp_path / "board.log").read_text()
    assert "127.0.0.1 answers HTTP 500 to messages" in log
    assert SECRET not in log
