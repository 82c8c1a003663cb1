"""A receiver of traces or of messages whose certificate is not trusted, or is of another name: clear words."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from stream_app.clay.egress import Egress
from stream_app.dev.process import LOOPBACK
from stream_app.notify.receiver import NotDelivered, Receiver
from stream_app.trace.otlp import OtlpClient, ReceiverUnavailable

CA = trustme.CA()


async def _refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A TLS server with a certificate of another name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CA.issue_cert("other.example.com").configure_cert(context)
    server = await asyncio.start_server(_refuse, LOOPBACK, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_the_trace_process_names_the_receiver_and_the_reason(port: int) -> None:
    async with OtlpClient(f"https://{LOOPBACK}:{port}/v1/traces", {}, "1", "here") as client:
        with pytest.raises(ReceiverUnavailable, match=r"CERTIFICATE_VERIFY_FAILED.*check trace\.endpoint"):
            await client.send([])


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
