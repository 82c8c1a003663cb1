"""Decompression of batches with a bound, which reads what Kafka's own client reads.

aiokafka 0.14.0 decompresses a batch to whatever size it has. 32 KB of zstd become a gigabyte, and
the process is killed, again at each start. It also refuses two kinds of bytes that brokers take and
Java reads: gzip with bytes after its end, and an LZ4 frame with a wrong checksum of its content,
which Java never looks at. These functions replace aiokafka's, also in its extension in C. All of
them stop inside the codec at `MAX_UNPACKED_BYTES`. Checksums within LZ4 are not checked, because
the checksum of the batch covers the same bytes.

`install` is called once, where `Consumer` is defined, so that it holds for everything that reads
Kafka.

Reports: docs/reference/upstream/no-bound-on-decompression.md,
docs/reference/upstream/batches-that-java-reads.md.

Tests: tests/unit/kafka/test_codecs.py, which also shows stock aiokafka, and
tests/e2e/test_hostile.py.
Remove this when aiokafka's decoders have a bound and pass both.
"""

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiokafka.record.default_records
import aiokafka.record.legacy_records
import cramjam

from stream_app.domain.model.topics import MAX_UNPACKED_BYTES

_FIRST_TRY: Final = 65_536
_GROWTH: Final = 8
_FIRST_PIECE: Final = 512
_GZIP: Final = b"\x1f\x8b\x08"
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_BYTES: Final = 16
_LZ4: Final = b"\x04\x22\x4d\x18"
_LZ4_UNPACKED: Final = 1 << 31
_LZ4_BLOCK_BYTES: Final = {4: 1 << 16, 5: 1 << 18, 6: 1 << 20, 7: 1 << 22}


class BatchTooLarge(ValueError):
    """A batch has more bytes than it may have once it is decompressed."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"it has more than {max_bytes >> 20} MiB once it is decompressed")


class BrokenBatch(ValueError):
    """Compressed bytes that Kafka's own client does not read either."""


class _Output(bytearray):
    """Collects decompressed bytes up to the bound `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.max_bytes = max_bytes

    @property
    def room(self) -> int:
        return self.max_bytes - len(self)

    def add(self, data: Any) -> None:
        if len(data) > self.room:
            raise BatchTooLarge(self.max_bytes)
        self.extend(data)


def gzip_decode(payload: Any, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """Decompress gzip.

    What follows its end is ignored unless it is gzip too, as Java's GZIPInputStream does.
    """
    output = _Output(max_bytes)
    raw = bytes(payload)
    at = 0
    while True:
        at = _gunzip(raw, at, output)
        if not raw.startswith(_GZIP, at):
            return bytes(output)


def _gunzip(raw: bytes, at: int, output: _Output) -> int:
    """Decompress the member of gzip that begins at `at`, and return where it ends.

    It is given to zlib in pieces that double in size, because zlib copies what follows the end of a
    member: with all of the rest as one piece, a batch of many small members would take quadratic
    time.
    """
    codec = zlib.decompressobj(31)
    size = _FIRST_PIECE
    while not codec.eof:
        piece = raw[at : at + size]
        if not piece:
            raise BrokenBatch("gzip ends too early")
        output.add(codec.decompress(piece, output.room + 1))
        if codec.unconsumed_tail:
            raise BatchTooLarge(output.max_bytes)
        at += len(piece)
        size *= 2
    return at - len(codec.unused_data)


def snappy_decode(payload: Any, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """Decompress snappy, raw or in the blocks of snappy-java."""
    output = _Output(max_bytes)
    raw = bytes(payload)
    if not raw.startswith(_XERIAL):
        _unsnap(raw, output)
        return bytes(output)
    at = _XERIAL_BYTES
    while at + 4 <= len(raw):
        if raw.startswith(_XERIAL, at):  # concatenated streams
            at += _XERIAL_BYTES
            continue
        (size,) = struct.unpack_from(">i", raw, at)
        at += 4
        if not 0 < size <= len(raw) - at:
            raise BrokenBatch("a block of snappy ends too early")
        _unsnap(raw[at : at + size], output)
        at += size
    return bytes(output)


def _unsnap(block: bytes, output: _Output) -> None:
    # The codec writes no more than it declares.
    if cramjam.snappy.decompress_raw_len(block) > output.room:
        raise BatchTooLarge(output.max_bytes)
    output.add(memoryview(cramjam.snappy.decompress_raw(block)))


def lz4_decode(payload: Any, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """Decompress an LZ4 frame as Kafka's KafkaLZ4BlockInputStream does.

    Like that class, it ignores what follows the frame.
    """
    output = _Output(max_bytes)
    raw = bytes(payload)
    try:
        at, block_bytes, checksum_bytes = _lz4_header(raw)
        block = bytearray(block_bytes)
        while True:
            (word,) = struct.unpack_from("<I", raw, at)
            size = word & ~_LZ4_UNPACKED
            at = at + 4
            if not size:
                return bytes(output)
            if size > block_bytes or at + size > len(raw):
                raise BrokenBatch("a block of LZ4 has the wrong size")
            if word & _LZ4_UNPACKED:
                output.add(raw[at : at + size])
            else:
                length = cramjam.lz4.decompress_block_into(raw[at : at + size], block)
                output.add(memoryview(block)[:length])
            at += size + checksum_bytes
    except (struct.error, IndexError) as error:
        raise BrokenBatch("LZ4 ends too early") from error


def _lz4_header(raw: bytes) -> tuple[int, int, int]:
    """Read the header of an LZ4 frame.

    Returns:
        Where the first block begins, the most bytes that a block has, and the bytes of its
        checksum.
    """
    flags = raw[4]
    block_bytes = _LZ4_BLOCK_BYTES.get(raw[5] >> 4)
    has_size = flags & 8
    has_checksums = flags & 16
    independent = flags & 32
    if not raw.startswith(_LZ4) or flags >> 6 != 1 or block_bytes is None:
        raise BrokenBatch("it is not a frame of LZ4")
    if not independent:
        raise BrokenBatch("its blocks of LZ4 depend on each other, which Kafka does not support")
    return 6 + (8 if has_size else 0) + 1, block_bytes, 4 if has_checksums else 0


def zstd_decode(payload: Any, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """Decompress zstd into a buffer that grows up to the bound.

    The codec writes no more than fits into the buffer.
    """
    raw = bytes(payload)
    size = max(_FIRST_TRY, 4 * len(raw))
    while True:
        buffer = bytearray(min(size, max_bytes))
        try:
            length = cramjam.zstd.decompress_into(raw, buffer)
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
            if size >= max_bytes:
                raise BatchTooLarge(max_bytes) from None
            size *= _GROWTH
        else:
            return bytes(memoryview(buffer)[:length])


_DECODERS: Final[dict[int, Callable[[Any, int], bytes]]] = {
    1: gzip_decode,
    2: snappy_decode,
    3: lz4_decode,
    4: zstd_decode,
}


def decompress(codec: int, payload: Any, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """Decompress the records of a batch.

    Args:
        codec: Its number, as the attributes of the batch have it.
        payload: The compressed records.
        max_bytes: The most bytes that they may have.

    Raises:
        BrokenBatch: No version of Kafka has this codec, or the bytes are broken.
        BatchTooLarge: They have more bytes.
        Exception: Errors of all kinds that decoders raise.
    """
    decoder = _DECODERS.get(codec)
    if decoder is None:
        raise BrokenBatch(f"its compression codec {codec} is none of Kafka's")
    return decoder(payload, max_bytes)


def install() -> None:
    """Let aiokafka decompress with these functions, in this process."""
    modules: list[Any] = [aiokafka.record.default_records, aiokafka.record.legacy_records]
    with suppress(ImportError):  # it was built without its extension
        from aiokafka.record._crecords import default_records, legacy_records

        modules += [default_records, legacy_records]
    for module in modules:
        for decoder in _DECODERS.values():
            if hasattr(module, decoder.__name__):
                setattr(module, decoder.__name__, decoder)
