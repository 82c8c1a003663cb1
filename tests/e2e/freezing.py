"""A worker that freezes itself (SIGSTOP) at one station of the line, as soon as a file says so.

It freezes at the first lead that comes to the station once DIRECTORY/freeze exists, and writes
which lead that is to DIRECTORY/<STATION>.lead just before.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stream_app.clay.client import ClayClient
from stream_app.faust_app.stream import PartitionStream
from stream_app.kafka.transactional_state import TransactionalState
from stream_app.partition.lead import LeadPipeline

STATIONS = (
    "before_write_ahead",  # its row and reservation are not committed
    "after_write_ahead",  # they are, and no process has acted on it
    "before_age_check",  # committed, and its POST is about to be started
    "after_age_check",  # nothing is between it and its POST any more
    "request_sent",  # Clay has it, the answer is on its way
    "after_answer",  # answered, and not written down
    "before_settle",  # its outcome waits for its commit
    "after_settle",  # committed, and not acked
    "before_ack",  # about to be acked
)
_REQUEST_UNDER_WAY_S = 0.1

Freeze = Callable[[str], None]
"""Takes the lead's id."""


def install(station: str, directory: Path) -> None:
    """Patch the worker so that it freezes at that step, once."""

    def freeze(lead_id: str) -> None:
        marker = directory / f"{station}.lead"
        if marker.exists() or not (directory / "freeze").exists():
            return
        marker.write_text(lead_id)
        os.kill(os.getpid(), signal.SIGSTOP)

    if station.endswith(("write_ahead", "settle")):
        _at_commit(station, freeze)
    elif station == "before_age_check":
        _at_post(freeze)
    elif station == "before_ack":
        _at_ack(freeze)
    else:
        _at_send(station, freeze)


def _at_commit(station: str, freeze: Freeze) -> None:
    transact = TransactionalState.transact
    status = "sending" if station.endswith("write_ahead") else "accepted"

    async def patched(self: TransactionalState, records: Any) -> None:
        leads = [
            record.key.decode()
            for record in records
            if b'"status":"%s"' % status.encode() in record.value or b""
        ]
        if leads and station.startswith("before"):
            freeze(leads[0])
        await transact(self, records)
        if leads and station.startswith("after"):
            freeze(leads[0])

    TransactionalState.transact = patched  # type: ignore[method-assign]  # the point of this program


def _at_post(freeze: Freeze) -> None:
    post = LeadPipeline._post

    async def patched(self: LeadPipeline, in_flight: Any, recorder: Any, grant: Any) -> Any:
        freeze(recorder.resolved.lead_id)
        return await post(self, in_flight, recorder, grant)

    LeadPipeline._post = patched  # type: ignore[method-assign]  # the point of this program


def _at_send(station: str, freeze: Freeze) -> None:
    send = ClayClient.send

    async def patched(
        self: ClayClient,
        url: str,
        token: str | None,
        body: bytes,
        **options: Any,
    ) -> Any:
        lead_id = json.loads(body)["lead_id"]
        if station == "after_age_check":
            freeze(lead_id)
        if station == "request_sent":
            asyncio.get_running_loop().call_later(_REQUEST_UNDER_WAY_S, freeze, lead_id)
        outcome = await send(self, url, token, body, **options)
        if station == "after_answer":
            freeze(lead_id)
        return outcome

    ClayClient.send = patched  # type: ignore[method-assign, assignment]  # the point of this program


def _at_ack(freeze: Freeze) -> None:
    ack = PartitionStream.ack

    async def patched(self: PartitionStream, consumed: Any) -> None:
        freeze(consumed.record_id)
        await ack(self, consumed)

    PartitionStream.ack = patched  # type: ignore[method-assign]  # the point of this program
