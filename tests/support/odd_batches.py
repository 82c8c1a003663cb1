"""Compressed bytes that brokers take and Java reads, though they are not what a usual producer
writes.
"""

import gzip
from collections.abc import Callable
from typing import Any, Final

import aiokafka.codec as stock
import cramjam


def lz4_with_a_wrong_checksum(payload: bytes, **_: Any) -> bytes:
    """Compress to an LZ4 frame whose checksum of its content does not match."""
    compressor = cramjam.lz4.Compressor(content_checksum=True, block_linked=False)
    compressor.compress(payload)
    frame = bytearray(bytes(compressor.finish()))
    frame[-1] ^= 0xFF
    return bytes(frame)


def lz4_with_more_behind_it(payload: bytes, **_: Any) -> bytes:
    return bytes(stock.lz4_encode(payload)) + b"more"


def gzip_with_more_behind_it(payload: bytes, **_: Any) -> bytes:
    return gzip.compress(payload) + b"more"


def gzip_in_two_members(payload: bytes, **_: Any) -> bytes:
    return gzip.compress(payload[:20]) + gzip.compress(payload[20:])


def snappy_in_two_streams(payload: bytes, **_: Any) -> bytes:
    return bytes(stock.snappy_encode(payload[:20])) + bytes(stock.snappy_encode(payload[20:]))


def zstd_in_two_frames(payload: bytes, **_: Any) -> bytes:
    return bytes(stock.zstd_encode(payload[:20])) + bytes(stock.zstd_encode(payload[20:]))


ODD: Final[dict[str, tuple[str, Callable[..., bytes]]]] = {
    "a wrong checksum of the content of LZ4": ("lz4", lz4_with_a_wrong_checksum),
    "bytes behind LZ4": ("lz4", lz4_with_more_behind_it),
    "bytes behind gzip": ("gzip", gzip_with_more_behind_it),
    "two members of gzip": ("gzip", gzip_in_two_members),
    "two streams of snappy": ("snappy", snappy_in_two_streams),
    "two frames of zstd": ("zstd", zstd_in_two_frames),
}
"""What it is -> its codec, and a function to use in place of aiokafka's."""
