"""Takes over a transactional id: looks, and does the next step of `domain.model.stranded`, until the id is ours."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple, Protocol

from stream_app.domain.model.errors import StateStoreError
from stream_app.domain.model.stranded import LastTransaction, Stranded, next_step, refusal, timeout_with_verdict

_PAUSE_S: Final = 0.02
_FRESH_S: Final = 5.0  # a process that was frozen for longer may have had successors


class Producer(NamedTuple):
    """The producer after a fence. Every producer of an earlier epoch is fenced."""

    producer_id: int
    epoch: int


class Transactions(Protocol):
    """The requests for one transactional id. A request that failed may still have been carried out."""

    @property
    def transactional_id(self) -> str: ...

    async def look(self) -> tuple[LastTransaction, Stranded]:
        """The last transaction and the partitions where it is open, both at one moment; none, if `is_decided`."""

    async def open_places(self, producer_id: int) -> Stranded:
        """The partitions where the producer has an open transaction."""

    async def fence(self, timeout_ms: int) -> Producer | None:
        """InitProducerId. None when Kafka is busy: it may be aborting the ongoing transaction."""

    async def end(self, last: LastTransaction, stranded: Stranded, *, committed: bool) -> None:
        """Add the partitions to a transaction of the epoch of `last`, and end it."""


async def take_over(kafka: Transactions, timeout_ms: int) -> Producer:
    """Fence every earlier producer, after each of their transactions has ended in all partitions as it was decided.

    Args:
        kafka: The requests.
        timeout_ms: The transaction timeout of the new producer. It must not be one of those that carry a verdict.

    Raises:
        StateStoreError: An operator has to decide. Errors of the requests are raised as they are.
    """
    now = asyncio.get_running_loop().time
    while True:
        began_s = now()
        last, stranded = await kafka.look()
        if now() - began_s > _FRESH_S:
            continue
        step = next_step(last, stranded=bool(stranded))
        match step.do:
            case "end":
                await kafka.end(last, stranded, committed=step.committed)
            case "fence_verdict":
                await kafka.fence(timeout_with_verdict(last.epoch + 1, committed=step.committed))
            case "fence":
                if (producer := await kafka.fence(timeout_ms)) is None:
                    await asyncio.sleep(_PAUSE_S)
                # The earlier owner may have ended one more transaction between the look and the fence.
                elif not last.state or not await kafka.open_places(producer.producer_id):
                    return producer
            case "wait":
                await asyncio.sleep(_PAUSE_S)
            case _:
                raise StateStoreError(refusal(step, kafka.transactional_id, stranded))
