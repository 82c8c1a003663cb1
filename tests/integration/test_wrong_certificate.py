"""A receiver of traces or of messages whose certificate is not trusted, or is of another name: clear words."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from stream_app.clay.egress import Egress
from stream_app.client.doctor import trace_check
from stream_app.client.messages import NotDelivered, Receiver
from stream_app.config import Settings, load_settings
from stream_app.dev.process import LOOPBACK
from stream_app.trace import OtlpClient, ReceiverUnavailable
from tests.support.raw_server import READ, serve

CA = trustme.CA()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A TLS server with a certificate of another name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CA.issue_cert("other.example.com").configure_cert(context)
    async with serve(tls=context) as server:
        yield server.port


async def test_the_trace_process_names_the_receiver_and_the_reason(port: int) -> None:
    async with OtlpClient(f"https://{LOOPBACK}:{port}/v1/traces", {}, "1", "here") as client:
        with pytest.raises(ReceiverUnavailable, match=r"CERTIFICATE_VERIFY_FAILED.*check trace\.endpoint"):
            await client.send([])


def with_receiver(folder: Path, endpoint: str, headers: str = "", variable: str | None = None) -> Settings:
    folder.joinpath("stream_app.toml").write_text(
        f"[trace]\nendpoint = '{endpoint}'\n{headers}\n[workspaces.acme]\n[destinations.people]\n"
        "workspace = 'acme'\nwebhooks_env = ['WEBHOOK']\ncallbacks = false\n"
    )
    environ = {} if variable is None else {"HEADERS": variable}
    return load_settings(folder / "stream_app.toml", environ, ())


async def test_doctor_says_what_is_wrong_with_the_receiver_of_traces(port: int, tmp_path: Path) -> None:
    check = await trace_check(with_receiver(tmp_path, f"https://{LOOPBACK}:{port}/v1/traces"))
    assert (check.name, check.verdict) == ("traces", "advice"), "leads need no traces"
    assert "CERTIFICATE_VERIFY_FAILED" in check.text
    assert "check trace.endpoint" in check.text


@pytest.mark.parametrize(
    ("status", "verdict", "text"),
    [
        ("200 OK", "ok", "/v1/traces takes traces"),
        ("404 Not Found", "advice", "(HTTP 404): check trace.endpoint, whose path is usually /v1/traces, and trace."),
    ],
)
async def test_doctor_sends_the_headers_of_the_receiver(status: str, verdict: str, text: str, tmp_path: Path) -> None:
    answer = f"HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}".encode()
    named = "headers_env = 'HEADERS'"
    async with serve(READ, answer) as server:
        endpoint = f"http://{LOOPBACK}:{server.port}/v1/traces"
        without = await trace_check(with_receiver(tmp_path, endpoint, named))
        check = await trace_check(with_receiver(tmp_path, endpoint, named, "x-token=s3cret"))
    assert (without.verdict, without.text) == ("skipped", "it needs HEADERS, the headers of the trace process")
    assert (check.verdict, text in check.text, "s3cret" in check.text) == (verdict, True, False)
    assert [b"x-token: s3cret" in head for head, _ in server.requests] == [True]


async def test_a_message_names_the_host_and_what_to_check(port: int, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(authority)
    for egress in (Egress.of(), Egress.of(str(authority))):
        async with Receiver(f"https://{LOOPBACK}:{port}/s3cret", egress) as receiver:
            with pytest.raises(
                NotDelivered, match=r"check notify\.url_env, and \[egress\]'s proxy and authority"
            ) as caught:
                await receiver.post(b"{}")
        assert "s3cret" not in str(caught.value)
