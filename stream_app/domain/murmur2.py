"""Kafka's hash of a key. Kafka's default partitioner places records by it."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(4096)
def murmur2(key: bytes) -> int:
    """Return Kafka's hash of a key, unsigned 32 bits (org.apache.kafka.common.utils.Utils.murmur2)."""
    mix, mask = 0x5BD1E995, 0xFFFFFFFF
    body = len(key) & ~3
    value = 0x9747B28C ^ len(key)
    for at in range(0, body, 4):
        word = int.from_bytes(key[at : at + 4], "little") * mix & mask
        word = (word ^ word >> 24) * mix & mask
        value = value * mix & mask ^ word
    if tail := key[body:]:
        value = (value ^ int.from_bytes(tail, "little")) * mix & mask
    value = (value ^ value >> 13) * mix & mask
    return value ^ value >> 15
