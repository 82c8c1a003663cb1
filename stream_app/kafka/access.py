"""The first contact with Kafka, the same for all processes and commands: wait for it, or say why it refuses us."""

from __future__ import annotations

import asyncio
from asyncio import sleep
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.errors import KafkaError

from stream_app.domain.errors import BrokerUnavailable, KafkaRefused
from stream_app.kafka.clients import kafka_admin, repeated
from stream_app.kafka.closing import close_admin
from stream_app.kafka.connection import LOOK, lost
from stream_app.kafka.diagnosis import Diagnosis, diagnose

Say = Callable[[str], None]

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0


async def wait_for_kafka(client: Mapping[str, Any], wait_s: float, say: Say) -> None:
    """Return once a broker answers.

    Args:
        client: aiokafka's arguments (`settings.client_options`).
        wait_s: How long to wait, in seconds.
        say: Takes a line for each try that failed.

    Raises:
        KafkaRefused: It answers and refuses us; at once, since waiting does not help.
        BrokerUnavailable: Nothing answered within `wait_s`.
    """
    where, loop = client["bootstrap_servers"], asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    pause_s = _FIRST_PAUSE_S
    cause = "no answer"
    try:
        async with asyncio.timeout_at(deadline):
            while (failure := await refusal_or_silence(client)) is not None:
                cause = failure.text
                say(f"Kafka at {where} does not answer ({cause}); trying again in {pause_s:g} s")
                await sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    except TimeoutError as late:
        raise BrokerUnavailable(f"Kafka at {where} did not answer within {wait_s:g} s ({cause}). {LOOK}") from late


async def refusal_or_silence(client: Mapping[str, Any]) -> Diagnosis | None:
    """Why no broker of kafka.bootstrap answers now; None when one does. Raises KafkaRefused."""
    failure = await diagnose(_security(client), _addresses(client["bootstrap_servers"]))
    if failure is not None and failure.refused:
        raise KafkaRefused(failure.text)
    return failure


@asynccontextmanager
async def admin_of(client: Mapping[str, Any], wait_s: float, say: Say) -> AsyncIterator[Any]:
    """An admin client of a broker that answers; `wait_s` bounds the body, too. Raises as `wait_for_kafka`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    await wait_for_kafka(client, wait_s, say)
    where = client["bootstrap_servers"]
    admin = kafka_admin(**client)
    try:
        async with asyncio.timeout_at(deadline):
            await repeated(admin.start, wait_s)
            yield admin
    except TimeoutError as late:
        raise BrokerUnavailable(f"Kafka at {where} did not answer within {wait_s:g} s. {LOOK}") from late
    except KafkaError as error:
        raise lost(where, error) from error
    finally:
        await close_admin(admin)


def _security(client: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in client.items() if name != "bootstrap_servers"}


def _addresses(bootstrap: str) -> list[tuple[str, int]]:
    pairs = [address.strip().rpartition(":") for address in bootstrap.split(",")]
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]
