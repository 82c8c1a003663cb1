"""Dead letters as the lead pipeline writes them: every header, by name and value."""

import asyncio

import pytest

from stream_app.domain.dead_letter.replay import redriven, returning
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.model.outcome import Outcome, classify
from stream_app.domain.model.records import ConsumedRecord, Record
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import now_ms, virtual_time

SAID = '{"error": "no Ada at bob@example.com", "code": "row_limit"}'
SCRUBBED = b'{"error": "no [sent] at [email]", "code": "row_limit"}'


async def refused(outcome: Outcome, topic: str) -> tuple[Bench, ConsumedRecord]:
    """One lead whose three POSTs come to `outcome`, each after 100 ms, and its dead letter.

    It comes at once.
    """
    bench = Bench(Setup(callbacks=False), clay_takes_s=0.1)
    bench.clay.first = [outcome] * 3
    bench.publish("id0", "ada")
    await bench.serve_for(30)
    return bench, bench.dead_letters(topic)[-1]


def headers_of(dead_letter: ConsumedRecord, *left_out: str) -> dict[str, bytes]:
    """By name: each is there once. `left_out`: those that are looked at otherwise."""
    headers = dict(dead_letter.headers)
    assert len(headers) == len(dead_letter.headers)
    return {name: value for name, value in headers.items() if name not in left_out}


TIMES = ("stream-app-first-failure-ms", "stream-app-last-failure-ms", "stream-app-not-before-ms")


@virtual_time
async def test_a_failed_one_that_was_replayed() -> None:
    began_ms = now_ms()
    outcome = classify(503, "1", SAID, 100, True, known=["Ada"])
    bench, first = await refused(outcome, "leads.dlq")
    bench.publish("id1", "bob")  # Clay takes this one: it is no outage
    await asyncio.sleep(1)
    bench.clay.first = [outcome] * 3
    await bench.come_back(first, returning(read_envelope(first), first.record_id))
    dead_letter = bench.dead_letters(first.topic)[-1]
    emitted = b"HTTP 503: Clay takes nothing at the moment (Clay said: " + SCRUBBED + b")"
    assert dead_letter.offset > first.offset
    assert dead_letter.key == b"acme"
    assert dead_letter.value == first.value
    assert headers_of(dead_letter, *TIMES) == {
        "stream-app-origin": b"leads/0/0",
        "stream-app-origin-timestamp-ms": b"%d" % began_ms,
        "stream-app-origin-seq": b"14",
        "stream-app-lead-id": b"id0",
        "stream-app-destination": b"acme-main",
        "stream-app-disposition": b"failed",
        "stream-app-reason": b"http_503",
        "stream-app-reason-text": emitted,
        "stream-app-http-status": b"503",
        "stream-app-answer-excerpt": SCRUBBED,
        "stream-app-attempt": b"3",
        "stream-app-replay-count": b"1",
        "stream-app-returns": b"1",
        "stream-app-trace-id": headers_of(first)["stream-app-trace-id"],
        "stream-app-app-version": b"simulation",
        "stream-app-format": b"1",
    }
    before = read_envelope(first)
    now = read_envelope(dead_letter)
    assert began_ms + 100 <= before.first_failure_ms < before.last_failure_ms < began_ms + 30_000
    assert now.first_failure_ms == before.first_failure_ms
    assert now.last_failure_ms > began_ms + 30_000
    pauses_ms = [envelope.not_before_ms - envelope.last_failure_ms for envelope in (before, now)]
    assert pauses_ms == [3_750, 15_000], (
        "5 s, then four times as long; half of it jitter, which is one half here"
    )


@pytest.mark.parametrize(("text", "quote"), [(SAID, b" (Clay said: " + SCRUBBED + b")"), ("", b"")])
@virtual_time
async def test_a_poison_one_has_a_reason_in_words_though_clay_gave_none(
    text: str,
    quote: bytes,
) -> None:
    began_ms = now_ms()
    bench, dead_letter = await refused(
        classify(422, None, text, 100, True, known=["Ada"]),
        "leads.dlq",
    )
    headers = dict(dead_letter.headers)
    envelope = read_envelope(dead_letter)
    assert envelope.disposition == "poison"
    assert envelope.reason == "http_422"
    assert (
        headers["stream-app-reason-text"]
        == b"HTTP 422: Clay refuses this row for what is in it" + quote
    )
    assert headers.get("stream-app-answer-excerpt") == (SCRUBBED if text else None)
    assert began_ms < envelope.first_failure_ms == envelope.last_failure_ms
    assert envelope.not_before_ms == 0
    await bench.order("erase", lead_id="id0", destinations=["acme-main"], for_s=3)
    await bench.come_back(dead_letter, redriven(envelope, dead_letter.record_id))
    assert bench.states()[-1] == "suppressed", "it was erased after the replay's plan"
    assert len(bench.clay.bodies) == 1, "it was erased after the replay's plan"


@virtual_time
async def test_a_lead_parked_as_uncertain_states_the_answer_of_clay() -> None:
    began_ms = now_ms()
    _, dead_letter = await refused(
        classify(500, None, SAID, 100, True, known=["Ada"]),
        "leads.parked",
    )
    envelope = read_envelope(dead_letter)
    assert envelope.reason == "uncertain"
    assert envelope.http_status == 500
    assert envelope.excerpt == SCRUBBED.decode()
    assert (
        envelope.text
        == "it may have reached Clay (http_500); its destination has no callbacks to confirm it"
    )
    assert began_ms < envelope.first_failure_ms <= envelope.last_failure_ms


@virtual_time
async def test_a_lead_rerouted_twice_is_parked_with_its_reason_and_time() -> None:
    bench = Bench()
    began_ms = now_ms()
    beta = b'{"lead_id": "id0", "fields": {"email": "ada@example.com"}}'
    bench.kafka.produce(0, Record("leads", b"beta", beta))
    await bench.serve()
    await asyncio.sleep(1)
    (onward,) = bench.kafka.log("leads.retry", 1).committed()
    assert read_envelope(onward).last_failure_ms == 0, "to have come astray is no failure yet"
    # a worker of other pins sent it here
    came = Envelope(origin="leads/1/7", way="rerouted", hops=1)
    bench.kafka.produce(0, Record("leads.retry", b"beta", beta, came.to_headers()))
    await asyncio.sleep(1)
    dead_letter = bench.dead_letters("leads.parked")[-1]
    envelope = read_envelope(dead_letter)
    assert envelope.disposition == "policy"
    assert envelope.reason == "wrong_partition"
    assert envelope.hops == 2
    assert "lives in partition 1" in envelope.text
    assert dead_letter.value == beta
    assert bench.kafka.log("leads.retry", 1).committed() == [onward]
    assert bench.clay.bodies == []
    assert began_ms < envelope.first_failure_ms == envelope.last_failure_ms
