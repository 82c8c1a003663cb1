"""The spans of a lead, made from what a partition has written of it, for each door to Clay."""

import asyncio
import dataclasses
from typing import Any

import pytest

from stream_app.domain.spans import clay_of, spans_of
from stream_app.trace import OtlpClient
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.routines import SETUP, Routines
from tests.support.partition.virtual import now_ms, virtual_time

RUNS_S = 5.0
"""How long Clay works on the lead. Its run is polled for the second time 12 s after the POST."""


@pytest.mark.parametrize(
    ("routine", "posted"),
    [
        (False, {"http.response.status_code": 200}),
        (True, {"http.response.status_code": 202, "stream_app.run_id": "run_1"}),
    ],
    ids=["webhook", "routine"],
)
@virtual_time
async def test_a_trace_has_the_post_and_the_wait_for_the_answer(
    posted: dict[str, Any],
    *,
    routine: bool,
) -> None:
    bench = Routines() if routine else Bench(dataclasses.replace(SETUP, routines=False), 0.1)
    published_ms = now_ms()
    bench.publish("id0", "p0")
    await bench.serve_for(RUNS_S)
    called_back_ms = now_ms()
    if not routine:
        bench.call_back(at_ms=called_back_ms)
    await asyncio.sleep(10.0)
    destination = bench.plan.destinations["acme-main"]
    spans = spans_of(bench.events(LEAD), {destination.alias: clay_of(destination.allowed_hosts)})
    root, process, post, wait = spans
    assert [span.name for span in spans] == [
        "lead acme-main",
        "process leads",
        "POST",
        "wait callback",
    ]
    assert {span.parent_id for span in (process, post, wait)} == {root.span_id}
    assert {span.trace_id for span in spans} == {bench.row().trace_id}

    answered_ms = called_back_ms
    if isinstance(bench, Routines):
        [began_ms] = bench.clay.posts_ms
        assert post.start_ms <= began_ms <= post.start_ms + 20, "Clay got it when the span begins"
        assert wait.end_ms - wait.start_ms > RUNS_S * 1000
        answered_ms = bench.clay.polls["run_1"][-1] + round(bench.clay.poll_s * 1000)
    assert published_ms <= root.start_ms <= published_ms + 20
    assert process.start_ms == root.start_ms
    assert post.start_ms == process.end_ms
    assert 100 <= post.end_ms - post.start_ms <= 120, "Clay's answer takes 0.1 s"
    assert wait.start_ms == post.end_ms
    assert answered_ms <= wait.end_ms <= answered_ms + 20
    assert root.end_ms == wait.end_ms

    at_clay = {
        "http.request.method": "POST",
        "server.address": "api.clay.com",
        "server.port": 443,
        "url.full": "https://api.clay.com/REDACTED",
    }
    assert post.attributes == at_clay | posted
    assert post.kind == "client"
    assert root.attributes["stream_app.status"] == "enriched"
    assert root.attributes["stream_app.credits"] == 7
    sent = OtlpClient("http://127.0.0.1:9", {}, "1", "test").encoded(spans)
    assert b"stream_app.lead_id" in sent
    for secret in ("p0@example.com", "CTO", *destination.webhook_ids):
        assert secret.encode() not in sent
