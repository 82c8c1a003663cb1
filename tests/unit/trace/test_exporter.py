"""The exporter: what it sends, when, and where it starts again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final, cast

import msgspec
import pytest
from aiokafka import TopicPartition
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from structlog.testing import capture_logs

from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.spans import Sampling, Span, spans_of
from stream_app.kafka.readers import Reader
from stream_app.ops import logs
from stream_app.services.trace import batches
from stream_app.trace import Exporter, OtlpClient, Placed, ReceiverUnavailable, SpansRefused
from tests.board.model_records import Made
from tests.support.raw_server import READ, RawServer, serve
from tests.support.traced import CLAY, REPLAYED

ALL = Sampling(ratio=1)
END: Final[tuple[Status, Status]] = ("accepted", "enriched")
"""The status of a lead that goes on, and of one that rests."""


class Collector:
    """Keeps the spans, after some failures."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.spans: list[Span] = []

    async def send(self, spans: Sequence[Span]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.spans += spans


class ExporterBench:
    """An exporter with a clock and its commits."""

    def __init__(self, collector: Collector, sampling: Sampling = ALL) -> None:
        self.now_ms = 0
        self.committed: list[dict[int, int]] = []
        self.counts: Counter[str] = Counter()
        self.exporter = Exporter(
            sampling,
            CLAY,
            60_000,
            collector.send,
            self.commit,
            self.count,
            lambda: self.now_ms,
            logs.get("test"),
        )

    async def commit(self, offsets: dict[int, int]) -> None:
        self.committed.append(offsets)

    def count(self, result: str, number: int) -> None:
        self.counts[result] += number

    async def run(self, *batches: Sequence[Placed]) -> None:
        async def fed() -> AsyncIterator[Sequence[Placed]]:
            for batch in batches:
                yield batch

        await self.exporter.run(fed())


def placed(events: Sequence[StatusEvent], offset: int = 0, partition: int = 0) -> list[Placed]:
    return [(partition, offset + number, event) for number, event in enumerate(events)]


async def test_a_lead_is_exported_when_it_rests_and_not_before() -> None:
    collector = Collector()
    bench = ExporterBench(collector)
    await bench.run(placed(REPLAYED[:-1], 100))
    assert collector.spans == []
    assert bench.committed == [{0: 100}], "after a crash its first event is read again"
    await bench.run(placed(REPLAYED[-1:], 108))
    assert collector.spans == spans_of(REPLAYED, CLAY)
    assert bench.committed[-1] == {0: 109}


async def test_a_lead_that_waits_long_is_exported_in_parts() -> None:
    collector = Collector()
    bench = ExporterBench(collector)
    await bench.run(placed(REPLAYED[:5]))
    bench.now_ms = 60_000
    await bench.run([])
    assert collector.spans == spans_of(REPLAYED[:5], CLAY)
    assert bench.committed[-1] == {0: 5}
    await bench.run(placed(REPLAYED[5:], 5))
    root = collector.spans[0]
    assert {span.parent_id for span in collector.spans[1:]} == {root.span_id}
    assert [span.name for span in collector.spans].count(root.name) == 1


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 40_000)), max_size=40),
    st.integers(1, 4),
)
def test_an_offset_is_done_when_the_leads_before_it_are(
    steps: list[tuple[int, bool, int]],
    in_one_batch: int,
) -> None:
    """Six leads in two partitions go on, come to rest and fall silent in any order."""
    bench = ExporterBench(Collector())
    ends = [0, 0]
    seqs = [0] * 6
    opened = dict[int, tuple[int, int]]()

    async def feed() -> AsyncIterator[Sequence[Placed]]:
        for first in range(0, len(steps), in_one_batch):
            some = steps[first : first + in_one_batch]
            batch = list[Placed]()
            bench.now_ms += some[0][2]
            rested = set[int]()
            for lead, rests, _ in some:
                seqs[lead] += 1
                event = msgspec.structs.replace(
                    REPLAYED[0],
                    seq=seqs[lead],
                    origin=f"leads/{lead % 2}/{lead}",
                )
                batch.append(
                    (lead % 2, ends[lead % 2], msgspec.structs.replace(event, status=END[rests])),
                )
                opened[lead] = (opened.get(lead, (ends[lead % 2], 0))[0], bench.now_ms)
                (rested.add if rests else rested.discard)(lead)
                ends[lead % 2] += 1
            yield batch
            quiet = {
                lead for lead, (_, last_ms) in opened.items() if last_ms <= bench.now_ms - 60_000
            }
            for lead in rested | quiet:
                del opened[lead]
            for number in {lead % 2 for lead, *_ in steps[: first + in_one_batch]}:
                before = [offset for lead, (offset, _) in opened.items() if lead % 2 == number]
                assert bench.committed[-1][number] == min(before, default=ends[number])

    asyncio.run(bench.exporter.run(feed()))


async def test_the_cost_of_a_batch_does_not_grow_with_open_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []

    def is_at_rest(event: StatusEvent) -> bool:
        looked.append(event.origin)
        return False

    monkeypatch.setattr("stream_app.trace.is_at_rest", is_at_rest)
    bench = ExporterBench(Collector())
    many = [
        msgspec.structs.replace(REPLAYED[0], origin=f"leads/0/{number}") for number in range(1_000)
    ]
    await bench.run(placed(many))
    looked.clear()
    await bench.run(
        placed(
            [msgspec.structs.replace(REPLAYED[1], origin="leads/0/7")],
            1_000,
        ),
    )
    assert looked == ["leads/0/7"]


async def test_an_unsampled_trace_is_done_without_a_request() -> None:
    collector = Collector()
    bench = ExporterBench(collector, Sampling(ratio=0, always=()))
    events = [event for event in REPLAYED if event.seq > 1]
    await bench.run(placed(events, 1))
    assert collector.spans == []
    assert bench.committed == [{0: 9}]


async def test_nothing_more_is_read_while_the_receiver_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An hour without a receiver costs no memory: the events stay on Kafka."""
    read = 0
    pauses: list[float] = []
    read_while_away: list[int] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        read_while_away.append(read)

    async def fed() -> AsyncIterator[Sequence[Placed]]:
        nonlocal read
        for number in range(3):
            read += 1
            origin = f"leads/0/{number}"
            yield placed(
                [msgspec.structs.replace(event, origin=origin) for event in REPLAYED],
                number * 9,
            )

    monkeypatch.setattr("stream_app.trace.asyncio.sleep", sleep)
    collector = Collector(*(ReceiverUnavailable("away") for _ in range(66)))
    bench = ExporterBench(collector)
    with capture_logs() as lines:
        await bench.exporter.run(fed())
    assert pauses == [1, 2, 4, 8, 16, 32, *[60] * 60]
    assert {line["event"] for line in lines} == {"traces_wait"}
    assert set(read_while_away) == {1}
    assert len({span.span_id for span in collector.spans}) == 3 * len(
        spans_of(REPLAYED, CLAY),
    )
    assert bench.committed[-1] == {0: 27}


async def test_spans_that_are_refused_are_counted_and_do_not_stop_the_others() -> None:
    collector = Collector(SpansRefused("HTTP 400"))
    bench = ExporterBench(collector)
    with capture_logs() as lines:
        await bench.run(placed(REPLAYED))
    assert bench.counts == {"refused": 9}
    assert bench.committed == [{0: 9}]
    assert lines[0]["event"] == "traces_refused"


def test_the_body_is_otlp() -> None:
    spans = spans_of(REPLAYED, CLAY)
    raw = OtlpClient("http://x/v1/traces", {}, "1.2.3", "host").encoded(spans)
    request = json_format.Parse(raw, ExportTraceServiceRequest())
    (scope,) = request.resource_spans[0].scope_spans
    assert [span.name for span in scope.spans] == [span.name for span in spans]
    assert [span.start_time_unix_nano for span in scope.spans] == [
        span.start_ms * 10**6 for span in spans
    ]
    assert [span.kind for span in scope.spans][:3] == [1, 5, 3]
    assert scope.spans[2].status.message == "http_503"
    assert len(scope.spans[6].links) == 1
    assert {attribute.key for attribute in request.resource_spans[0].resource.attributes} == {
        *("service.name", "service.version", "service.instance.id"),
    }


async def test_an_unavailable_receiver_and_a_refusal_raise_different_errors() -> None:
    statuses = iter([503, 429, 400, 200])

    def answer(_: RawServer) -> bytes:
        return b"HTTP/1.1 %d x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}" % next(statuses)

    async with (
        serve(READ, answer) as server,
        OtlpClient(server.url, {"x-token": "secret"}, "1", "host") as client,
    ):
        for _ in range(2):
            with pytest.raises(ReceiverUnavailable, match="later"):
                await client.send(
                    spans_of(REPLAYED, CLAY),
                )
        with pytest.raises(SpansRefused, match="HTTP 400"):
            await client.send(spans_of(REPLAYED, CLAY))
        await client.send(spans_of(REPLAYED, CLAY))
    assert b"x-token: secret" in server.requests[0][0]
    async with OtlpClient("http://127.0.0.1:1/v1/traces", {}, "1", "host") as client:
        with pytest.raises(ReceiverUnavailable, match=r"check trace\.endpoint"):
            await client.send(spans_of(REPLAYED, CLAY))


class OneBatch:
    """A reader of a partition of events that not all can be read."""

    async def follow(
        self,
        starts: dict[TopicPartition, int],
        *,
        pass_unreadable: bool,
    ) -> AsyncIterator[dict[TopicPartition, list[Made]]]:
        good = (
            b'{"id":"a#1","lead_id":"a","status":"received","seq":1,"at_ms":1,"origin":"leads/0/1"}'
        )
        bad = [
            None,
            b"",
            b"[]",
            good.replace(b'"a"', b'"\xff"'),
            b'{"of a later version":' + b"[" * 100_000,
        ]
        values = [*bad, good]
        yield {
            place: [Made("leads.status", None, value, 0, at) for at, value in enumerate(values)]
            for place in starts
        }


async def test_an_event_that_cannot_be_read_is_skipped_and_logged() -> None:
    reader = cast(Reader, OneBatch())
    starts = {TopicPartition("leads.status", 0): 0}
    with capture_logs() as entries:
        (batch,) = [batch async for batch in batches(reader, starts, logs.get("trace"))]
    assert [(offset, event.lead_id) for _, offset, event in batch] == [(5, "a")]
    assert [(entry["event"], entry["offset"]) for entry in entries] == [
        ("event_unreadable", at) for at in range(5)
    ]
