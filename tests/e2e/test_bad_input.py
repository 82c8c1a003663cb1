"""Any bytes, any size, any JSON, any headers: each record is one lead or one rejection, and the
next is processed.
"""

import json

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from stream_app.dev.kafka import Broker
from stream_app.domain.delivery.envelope import HEADERS, Envelope, pseudonymous_key
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import Headers, Record
from tests.e2e.pipeline import Pipeline

TRACE_ID = "a1" * 16
GOOD = {"email": "ada@example.com", "first_name": "Ada"}


def lead(**changes: object) -> bytes:
    return json.dumps({"fields": GOOD, "workspace": "w0", **changes}).encode()


CASES: dict[str, tuple[bytes | None, bytes | None, str, str]] = {
    # name: (key, value, status, reason)
    "not_utf8": (b"w0", b"\xff\xfe", "rejected_invalid", "not_json"),
    "empty": (b"w0", b"", "rejected_invalid", "empty"),
    "tombstone": (b"w0", None, "without_value", "no_value"),
    "long_key": (b"k" * 10_000, b"{", "rejected_invalid", "not_json"),
    "one_mb": (
        b"w0",
        b'{"fields":{"email":"' + b"x" * 1_000_000 + b'"}}',
        "rejected_invalid",
        "oversize",
    ),
    "just_over_100_kb": (b"w0", lead(source="s").ljust(102_401), "rejected_invalid", "oversize"),
    "nested": (b"w0", b"[" * 10_000 + b"]" * 10_000, "rejected_invalid", "nested_too_deep"),
    "array": (b"w0", b"[1, 2]", "rejected_invalid", "not_an_object"),
    "nan": (b"w0", b'{"fields": {"email": NaN}}', "rejected_invalid", "not_json"),
    "no_identity": (
        b"w0",
        json.dumps({"fields": {"title": "CEO"}}).encode(),
        "rejected_invalid",
        "no_identity",
    ),
    "nested_field": (b"w0", lead(fields={"email": {"a": 1}}), "rejected_invalid", "invalid_lead"),
    "unknown_workspace": (
        b"nowhere",
        lead(workspace="nowhere"),
        "rejected_invalid",
        "unknown_workspace",
    ),
    "unknown_destination": (
        b"w0",
        lead(destination="nowhere"),
        "rejected_invalid",
        "unknown_destination",
    ),
    "expired": (
        b"w0",
        lead(not_after_ms=1, lead_id="too-late", fields={"title": "CEO"}),
        "expired",
        "not_after",
    ),
    "number_as_string": (
        b"w0",
        lead(not_after_ms="99999999999999", lead_id="string"),
        "accepted",
        "",
    ),
    "null_key": (
        None,
        lead(lead_id="null-key", fields={"email": "null@example.com"}),
        "accepted",
        "",
    ),
    "unknown_names": (
        b"w0",
        lead(lead_id="names", fields={"email": "n@example.com"}, more={"a": [1]}),
        "accepted",
        "",
    ),
    "duplicate_keys": (
        b"w0",
        b'{"workspace":"w0","lead_id":"first","lead_id":"last","fields":{"email":"k@example.com"}}',
        "accepted",
        "",
    ),
    "same_lead_again": (b"w0", lead(lead_id="string"), "duplicate", "same_lead_id"),
    "same_person": (b"w0", lead(lead_id="another-id"), "duplicate", "same_person"),
}


_FORGED = Envelope(origin="web/1/1", seq=3, way="replayed", destination="nowhere", replay=9, hops=1)


TOO_MUCH = {"many", "huge", "long_name"}
"""Headers of `foreign` that no record may have: it is a dead letter without them."""


def foreign(topic: str, home: int) -> dict[str, Headers]:
    """Return headers by what is unusual about them."""
    return {
        "no_way": (("origin", b"web/1/1"), (HEADERS["origin"], b"web/1/1")),
        "no_way_again": (("origin", b"web/1/1"), (HEADERS["origin"], b"web/1/1")),
        "a_way": _FORGED.to_headers(),
        "of_another_record": msgspec.structs.replace(
            _FORGED,
            origin=f"{topic}/{home}/0",
            way="rerouted",
        ).to_headers(),
        "a_dead_letter": msgspec.structs.replace(
            _FORGED,
            way="",
            disposition="failed",
        ).to_headers(),
        "many": tuple((f"name-{number % 50}", b"x") for number in range(20_000)),
        "huge": (("blob", b"\xff" * 700_000),),
        "long_name": (("n" * 30_000, b""),),
        "no_text": ((HEADERS["origin"], b"\xff\xfe"), (HEADERS["seq"], b"9" * 5_000), ("", b"")),
    }


@pytest.mark.timeout(120)
async def test_bad_input_does_not_stop_the_good_leads(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2) as line:
        topic = line.settings.names.leads
        home = line.settings.home("w0")
        records = [Record(topic, key, value, (), home) for key, value, _, _ in CASES.values()]
        origins = {name: f"{topic}/{home}/{offset}" for offset, name in enumerate(CASES)}
        junk = ((f"h{n}", b"\xff\x00" * 50) for n in range(20))
        records[0] = msgspec.structs.replace(
            records[0],
            headers=(("traceparent", f"00-{TRACE_ID}-{'b' * 16}-01".encode()),),
        )
        records.append(
            Record(
                topic,
                b"w0",
                line.lead(7, "w0").value,
                (("stream-app-origin", b"\xfe/x/-1"), ("stream-app-way", b"?"), *junk),
                home,
            ),
        )
        origins["junk_headers"] = f"{topic}/{home}/{len(CASES)}"
        astray = (home + 1) % 4
        records.append(
            Record(
                topic,
                b"w0",
                lead(lead_id="astray", fields={"email": "astray@example.com"}),
                (),
                astray,
            ),
        )
        for number, (name, headers) in enumerate(foreign(topic, home).items()):
            records += [
                msgspec.structs.replace(
                    line.lead(100 + number, "w0"),
                    headers=headers,
                    partition=astray,
                ),
                Record(topic, b"w0", b"\xff", headers, astray),
            ]
            origins[f"stray {name}"] = f"{topic}/{astray}/{2 * number + 1}"
            origins[f"poison {name}"] = f"{topic}/{astray}/{2 * number + 2}"
        await line.publish(records)
        await _publish_compressed(
            kafka.bootstrap,
            topic,
            home,
            b'{"fields":{"email":"' + b"x" * 3_000_000 + b'"}}',
        )
        origins["compressed"] = f"{topic}/{home}/{len(CASES) + 1}"
        await _publish_nothing(kafka.bootstrap, topic, home)
        origins["nothing"] = f"{topic}/{home}/{len(CASES) + 2}"
        await line.publish([line.lead(1, "w0")])
        origins["the_next_lead"] = f"{topic}/{home}/{len(CASES) + 3}"
        worker = line.start("worker")
        await line.until_over(len(origins) + 1, 40)
        rerouted = [
            f"{topic}/{astray}/0",
            *(
                origin
                for name, origin in origins.items()
                if name.startswith("stray ") and name.removeprefix("stray ") not in TOO_MUCH
            ),
        ]
        sent = [line.histories[origin] for origin in rerouted]
        await line.until(
            lambda: all(history[-1].status == "accepted" for history in sent),
            40,
            "they came home",
        )
        assert await worker.get("/healthz") == "ok\n"
        await worker.stop()

        line.check_histories()
        ends = {name: line.histories[origin][-1] for name, origin in origins.items()}
        for name, (_, _, status, reason) in CASES.items():
            assert ends[name].status == status, (name, ends[name])
            assert reason in ends[name].reason, (name, ends[name])
        assert ends["junk_headers"].status == "accepted"
        assert ends["the_next_lead"].status == "accepted"
        assert ends["compressed"].reason == "oversize"
        assert ends["nothing"].status == "without_value"
        assert ends["nothing"].records == 1
        for origin in rerouted:
            path = [event.status for event in line.histories[origin]]
            assert path == ["rerouted", "received", "sending", "accepted"], origin
        for name, event in ends.items():
            kind, _, unusual = name.partition(" ")
            if unusual in TOO_MUCH:
                assert event.reason == "too_many_headers", name
            elif kind == "poison":
                assert event.reason == "not_json", name
        assert set(line.summary()["leads"].values()) == {1}
        books = await line.books_balance()
        assert books["without_value"] == 2
        assert books["records"] + books["without_value"] == len(line.histories)
        _check_log(worker.log.read_text(), ends)
        await _check_dead_letters(line, origins, ends)
        for reason in ("unknown_workspace", "unknown_destination"):
            reported = ends[reason].text.partition("then: stream-app ")[2].replace("select", "plan")
            code, output = await line.ask(*reported.split())
            # The command finds that one dead letter. It cannot be sent before the configuration
            # knows the workspace.
            assert code == 1, output
            assert output["fates"] == {"cannot_go": 1}, output


def _check_log(output: str, ends: dict[str, StatusEvent]) -> None:
    """The log is JSON only, has a line for each rejected record with lead id and trace id, and no
    personal data.
    """
    lines = [json.loads(text) for text in output.splitlines()]
    rejected = [event for event in ends.values() if event.status == "rejected_invalid"]
    reported = sorted(
        (line["lead_id"], line["trace_id"]) for line in lines if line["event"] == "rejected_invalid"
    )
    assert reported == sorted((event.lead_id, event.trace_id) for event in rejected)
    assert ends["not_utf8"].trace_id == TRACE_ID, "the record's own traceparent"
    assert "example.com" not in output
    assert "Ada" not in output


async def _check_dead_letters(
    line: Pipeline,
    origins: dict[str, str],
    ends: dict[str, StatusEvent],
) -> None:
    """Each rejected record is one dead letter: its raw bytes (cut if there are too many), the rest
    in headers.
    """
    rejected = {name for name, event in ends.items() if event.status == "rejected_invalid"}
    dead_letters = {
        dict(record.headers)["stream-app-origin"].decode(): record
        for record in await line.read(line.settings.names.dlq)
    }
    assert set(dead_letters) == {origins[name] for name in rejected}
    for name in rejected & CASES.keys():
        headers = dict(dead_letters[origins[name]].headers)
        assert dead_letters[origins[name]].value == CASES[name][1]
        assert headers["stream-app-reason"].decode() == ends[name].reason
        assert headers["stream-app-disposition"] == (
            b"policy" if "unknown_" in ends[name].reason else b"poison"
        )
        assert (
            int(headers["stream-app-last-failure-ms"])
            >= int(headers["stream-app-first-failure-ms"])
            > 0
        )
        assert b"example.com" not in b"".join(headers.values()), "no personal data in headers"
    cut = dead_letters[origins["compressed"]]
    assert int(dict(cut.headers)["stream-app-cut-bytes"]) > 1_900_000
    assert cut.value.startswith(b'{"fields":{"email":"xxx')
    long_key = dead_letters[origins["long_key"]]
    assert long_key.key == pseudonymous_key(b"k" * 10_000, ())
    assert origins["nothing"] not in dead_letters, "there is nothing that anyone could want back"


async def _publish_compressed(bootstrap: str, topic: str, partition: int, value: bytes) -> None:
    """Publish a batch that is small on the wire and larger than any topic accepts once it is
    unpacked.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        compression_type="gzip",
        max_request_size=8 * 2**20,
    )
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, b"w0", partition=partition)
    finally:
        await producer.stop()


async def _publish_nothing(bootstrap: str, topic: str, partition: int) -> None:
    """Publish a record with neither key nor value, as other clients may write it."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        batch = producer.create_batch()
        batch.append(timestamp=None, key=None, value=None)
        await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await producer.stop()
