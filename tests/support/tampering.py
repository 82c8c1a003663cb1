"""Damages what a consumer fetches, between the broker and the consumer."""

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from aiokafka import TopicPartition
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.util import calc_crc32c

from stream_app.kafka.consumer import Consumer

_CRC_AT = 17
_ATTRIBUTES_AT = 21
_RECORDS_AT = 61

Damage = Callable[[bytearray], None]
"""Changes a batch in place."""


def tamper(consumer: Consumer, damages: Mapping[tuple[TopicPartition, int], Damage]) -> None:
    """Damage the batches that begin at these offsets, for as long as they are in `damages`."""
    send = consumer._send

    async def tampering(node_id: int, request: Any, **options: Any) -> Any:
        answer = await send(node_id, request, **options)
        if isinstance(request, FetchRequest):
            for topic, partitions in answer.topics:
                for i, (number, *rest, raw) in enumerate(partitions):
                    place = TopicPartition(topic, number)
                    damage_at = {
                        offset: damage
                        for (where, offset), damage in damages.items()
                        if where == place
                    }
                    partitions[i] = (number, *rest, damaged(raw or b"", damage_at))
        return answer

    consumer._send = tampering


@contextmanager
def tampered(damages: Mapping[tuple[TopicPartition, int], Damage]) -> Iterator[None]:
    """Do the same for every consumer that starts meanwhile."""
    start = Consumer.start

    async def tampered_start(consumer: Consumer) -> None:
        await start(consumer)
        tamper(consumer, damages)

    with patch.object(Consumer, "start", tampered_start):
        yield


def damaged(raw: bytes, damages: Mapping[int, Damage]) -> bytes:
    """Return the bytes of batches, some damaged by their first offset."""
    changed = bytearray()
    at = 0
    while at + _RECORDS_AT <= len(raw):
        base, length = struct.unpack_from(">qi", raw, at)
        batch = bytearray(raw[at : at + 12 + length])
        if base in damages:
            damages[base](batch)
        changed += batch
        at += 12 + length
    return bytes(changed + raw[at:])


def signed(batch: bytearray) -> None:
    """Give a changed batch the checksum that it needs."""
    struct.pack_into(">I", batch, _CRC_AT, calc_crc32c(bytes(batch[_ATTRIBUTES_AT:])))


def bad_checksum(batch: bytearray) -> None:
    batch[-1] ^= 0xFF


def unknown_codec(batch: bytearray) -> None:
    batch[_ATTRIBUTES_AT + 1] |= 0x07
    signed(batch)


def broken_bytes(batch: bytearray) -> None:
    """The batch says that it is compressed with lz4 and is not, as a producer with a bug would
    write it.
    """
    batch[_ATTRIBUTES_AT + 1] |= 0x03
    signed(batch)


def no_utf8(batch: bytearray) -> None:
    """Header names as a C or Go client may write them."""
    at = batch.index(b"a-name")
    batch[at : at + 2] = b"\xff\xfe"
    signed(batch)
