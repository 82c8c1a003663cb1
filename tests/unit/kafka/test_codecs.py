"""Decompression has a bound, and reads what Java reads."""

import gzip
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiokafka.codec as stock
import aiokafka.record._crecords.default_records as in_c
import cramjam
import pytest
from aiokafka.record.default_records import (
    DefaultRecordBatch,
    DefaultRecordBatchBuilder,
    _DefaultRecordBatchPy,
)
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.model.topics import MAX_INPUT_BYTES, MAX_UNPACKED_BYTES
from stream_app.kafka import codecs
from stream_app.kafka.codecs import BatchTooLarge, BrokenBatch
from stream_app.kafka.consumer import Consumer
from tests.support.cpu import exponent
from tests.support.odd_batches import ODD
from tests.support.pace import BUSY

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": stock.gzip_encode,
    "snappy": stock.snappy_encode,
    "raw snappy": lambda data: bytes(stock.snappy_encode(data, xerial_compatible=False)),
    "lz4": stock.lz4_encode,
    "zstd": stock.zstd_encode,
}
DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": codecs.gzip_decode,
    "snappy": codecs.snappy_decode,
    "raw snappy": codecs.snappy_decode,
    "lz4": codecs.lz4_decode,
    "zstd": codecs.zstd_decode,
}


@pytest.mark.parametrize("codec", ENCODERS)
@given(data=st.binary(max_size=2_000), times=st.sampled_from([1, 100, 5_000]))
def test_whatever_aiokafka_compresses_is_the_same_afterwards(
    codec: str,
    data: bytes,
    times: int,
) -> None:
    whole = (data * times)[:MAX_UNPACKED_BYTES]
    if codec == "raw snappy" and not whole:
        return  # no byte at all
    assert DECODERS[codec](ENCODERS[codec](whole)) == whole


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_batch_may_have_as_many_bytes_as_the_bound_and_no_more(codec: str) -> None:
    assert len(DECODERS[codec](ENCODERS[codec](bytes(MAX_UNPACKED_BYTES)))) == MAX_UNPACKED_BYTES
    with pytest.raises(BatchTooLarge, match="more than 16 MiB once it is decompressed"):
        DECODERS[codec](ENCODERS[codec](bytes(MAX_UNPACKED_BYTES + 1)))


@contextmanager
def allocates_at_most(most_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", ENCODERS)
def test_no_codec_allocates_much_more_than_the_bound(codec: str) -> None:
    bomb = ENCODERS[codec](bytes(4 * MAX_UNPACKED_BYTES))
    with allocates_at_most(3 * MAX_UNPACKED_BYTES), pytest.raises(BatchTooLarge):
        DECODERS[codec](bomb)


def test_a_gigabyte_of_zstd_does_not_reach_the_memory_of_the_process() -> None:
    """Memory that a codec allocates for itself counts too, so a process of its own measures it."""
    code = (
        "import cramjam, resource\n"
        "from stream_app.kafka.codecs import zstd_decode\n"
        "bomb = bytes(cramjam.zstd.compress(bytes(64 << 20))) * 16\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    zstd_decode(bomb)\nexcept ValueError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60 * BUSY,
    )
    assert ran.stdout == "it has more than 16 MiB once it is decompressed\nTrue\n"


@pytest.mark.parametrize("what", ODD)
def test_what_java_reads_is_read(what: str) -> None:
    """tests/integration/test_consumer.py shows that Java reads it."""
    codec, encode = ODD[what]
    assert DECODERS[codec](encode(b"leads" * 100)) == b"leads" * 100


def test_stock_aiokafka_refuses_what_java_reads() -> None:
    """The fault upstream: this test fails when aiokafka has mended it."""
    for decode, what in (
        (stock.lz4_decode, "a wrong checksum of the content of LZ4"),
        (stock.gzip_decode, "bytes behind gzip"),
    ):
        with pytest.raises((cramjam.DecompressionError, gzip.BadGzipFile, zlib.error)):
            decode(ODD[what][1](b"leads" * 100))
    assert (
        len(stock.zstd_decode(stock.zstd_encode(bytes(MAX_UNPACKED_BYTES + 1))))
        > MAX_UNPACKED_BYTES
    ), "no bound"


@pytest.mark.parametrize("codec", ENCODERS)
def test_bytes_that_end_too_early_are_refused(codec: str) -> None:
    whole = ENCODERS[codec](bytes(range(256)) * 100)
    for end in (len(whole) // 2, 7, 4, 1):
        with pytest.raises((BrokenBatch, cramjam.DecompressionError, zlib.error)):
            DECODERS[codec](whole[:end])


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=300))
def test_any_bytes_give_bytes_or_an_error(codec: str, raw: bytes) -> None:
    starts = {
        "gzip": b"\x1f\x8b\x08\x00",
        "snappy": b"\x82SNAPPY\0" + bytes(8),
        "lz4": b"\x04\x22\x4d\x18\x60\x40\x82",
    }
    for start in (b"", starts.get(codec, b"\x28\xb5\x2f\xfd")):
        with suppress(ValueError, cramjam.DecompressionError, zlib.error):
            assert len(DECODERS[codec](start + raw)) <= MAX_UNPACKED_BYTES


CODES = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


@pytest.mark.parametrize("codec", CODES)
@pytest.mark.parametrize("kind", [DefaultRecordBatch, _DefaultRecordBatchPy])
async def test_aiokafkas_batches_decompress_with_the_bound(codec: str, kind: Any) -> None:
    Consumer(bootstrap_servers="localhost:9")  # it installs them
    for size, fits in ((1_000, True), (MAX_UNPACKED_BYTES, False)):
        builder = DefaultRecordBatchBuilder(2, CODES[codec], 0, -1, -1, 0, 1 << 30)
        builder.append(0, 0, b"key", bytes(size), [])
        raw = bytes(builder.build())
        assert len(raw) < 1 << 20
        if not fits:
            with pytest.raises(BatchTooLarge):
                list(kind(raw))
        else:
            assert [len(record.value) for record in kind(raw)] == [size]
    assert in_c.zstd_decode is codecs.zstd_decode, "in C, too"


def test_many_small_members_of_gzip_cost_no_more_than_a_large_one() -> None:
    member = gzip.compress(b"", mtime=0)
    grows, _ = exponent(
        codecs.gzip_decode,
        lambda size: member * (size // len(member)),
        MAX_INPUT_BYTES,
        1.2,
    )
    assert grows <= 1.2
