"""The head of an answer counts however it is cut into packets, and whatever is wrong with what follows it."""

import asyncio
from unittest.mock import Mock

from hypothesis import example, given
from hypothesis import strategies as st

from stream_app.clay.protocol import ClayProtocol

HEADS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
    b"HTTP/1.1 201 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 202 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"\r\nHTTP/1.1 503 X\r\ncontent-length: 1\r\n\r\n",
]


def packets(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


def status_of(answer: list[bytes]) -> int:
    async def read() -> int:
        protocol = ClayProtocol(asyncio.get_running_loop())
        protocol.connection_made(Mock())
        protocol.expect_answer(read_until_eof=True, auto_decompress=False)
        for data in answer:
            protocol.data_received(data)
        while 100 <= (message := (await asyncio.wait_for(protocol.read(), 5))[0]).code <= 199:
            pass
        protocol.connection_lost(None)
        return message.code

    return asyncio.run(read())


@given(head=st.sampled_from(HEADS), rest=st.binary(max_size=40), cuts=st.lists(st.integers(0, 200), max_size=6))
@example(head=HEADS[1], rest=b"zz\r\n", cuts=[])
@example(head=HEADS[0], rest=b"okHTTP/1.1 408 X\r\n\r\n", cuts=[])
@example(head=HEADS[3], rest=b"\0junk\r\n\r\n", cuts=[30])
def test_a_status_counts_with_any_body(head: bytes, rest: bytes, cuts: list[int]) -> None:
    whole = status_of([head])
    assert status_of(packets(head + rest, cuts)) == whole
