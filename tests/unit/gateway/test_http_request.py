"""Requests in the bytes of a connection: the same ones however the bytes are cut, and never more than the bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.gateway.http.request import Bounds, NotHttpError, OverrunError, Requests

BOUNDS = Bounds(within_s=1, head_bytes=300, head_lines=8, framing_bytes=60)
PIECES = [
    *(b"GET / HTTP/1.1\r\n", b"POST /a%20b?c HTTP/1.1\r\n", b"HEAD http://x HTTP/1.0\r\n", b"host: x\r\n", b"\r\n"),
    *(b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"upgrade: h2c\r\n"),
    *(b"3\r\nabc\r\n", b"0\r\n", b"a: b\r\n", b"abc", b"\n", b"\x00", b"1;x\r\n", b"y" * 50),
]
streams = st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join)


def parsed(pieces: list[bytes]) -> list[Any]:
    """What comes out: (method, path, body) of each whole request, then the error, if there is one."""
    requests, body = Requests(BOUNDS), b""
    found: list[Any] = []
    try:
        for piece in pieces:
            requests.add(piece)
            while True:
                if not requests.head_done:
                    requests.parse_head()
                if not requests.head_done:
                    break
                requests.parse_body()
                body += requests.take_body()
                if not requests.whole:
                    break
                scope = requests.scope()
                found.append((scope["method"], scope["path"], body))
                if requests.last:
                    return found
                requests.next()
                body = b""
            assert requests.rest_bytes <= BOUNDS.head_bytes + len(piece)
    except (NotHttpError, OverrunError) as error:
        found.append(type(error).__name__)
    return found


@given(streams, st.lists(st.integers(1, 400), max_size=10))
def test_the_same_requests_are_parsed_from_any_cut_of_the_bytes(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    cut = [stream[at:to] for at, to in pairwise(places)]
    whole, by_cut = parsed([stream]), parsed(cut)
    if "chunked" not in stream.decode("latin-1"):
        assert by_cut == whole
    else:  # behind a whole chunked body the connection ends where another request came with it
        shorter, longer = sorted(
            ([each for each in one if isinstance(each, tuple)] for one in (whole, by_cut)), key=len
        )
        assert longer[: len(shorter)] == shorter


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(PIECES)), max_size=40))
def test_any_bytes_are_requests_or_one_of_two_errors(pieces: list[bytes]) -> None:
    parsed(pieces)


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        ([b"GET / HTTP/1.1\r\n\r\n" * 3], [("GET", "/", b"")] * 3),
        (
            [b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET /b HTTP/1.1\r\n\r\n"],
            [("POST", "/", b"abc"), ("GET", "/b", b"")],
        ),
        (
            [b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\na: b\r\n\r\n"],
            [("POST", "/", b"abc")],
        ),
        ([b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * 16], ["OverrunError"]),
        ([b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 8], ["OverrunError"]),
        ([b"GET /" + b"y" * 300], ["OverrunError"]),
        ([b"GET / HTTP/1.1\r\nconnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n"], [("GET", "/", b"")]),
        (
            [b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"],
            [("POST", "/", b"")],
        ),
        ([b"POST / HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\nabc"], ["NotHttpError"]),
    ],
)
def test_requests(stream: list[bytes], found: list[Any]) -> None:
    assert parsed(stream) == found
