"""The rows of a lead by which benchmarks fill a topic are those that a partition writes."""

import asyncio

import msgspec
import pytest

from benchmarks.lead_rows import lead_of, rows_of_lead
from stream_app.domain.delivery.state_machine import Delivery
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import now_ms, virtual_time

_row = msgspec.json.Decoder(Delivery)


@pytest.mark.parametrize("linkedin", [False, True])
@pytest.mark.parametrize("awaiting", [False, True])
@virtual_time
async def test_a_lead_has_as_many_rows_and_as_many_bytes_as_in_a_benchmark(
    linkedin: bool,
    awaiting: bool,
) -> None:
    bench = Bench()
    lead = lead_of(17, linkedin=linkedin)
    bench.produce(msgspec.to_builtins(lead))
    await bench.serve_for(5.0)
    if not awaiting:
        bench.call_back(lead_id=lead.lead_id or "")
        await asyncio.sleep(5.0)
    rows = bench.partition.state.rows
    written = {key: rows[key] for key in rows if key.startswith((b"d/", b"p/"))}
    filled = dict(
        rows_of_lead(17, "acme", "acme-main", now_ms(), linkedin=linkedin, awaiting=awaiting),
    )
    assert filled.keys() == written.keys()
    for key, value in filled.items():
        if key.startswith(b"p/"):
            assert value == written[key]
            continue
        ours = _row.decode(value)
        theirs = _row.decode(written[key])
        same = ("state", "seq", "final", "results", "person", "company", "people")
        assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
        assert abs(len(value) - len(written[key])) < 20
