"""Headers of other programs, of any name, number and size: each lead is sent once, and the books balance."""

import json

import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.delivery.envelope import HEADERS, Envelope
from stream_app.domain.record import Headers, Record
from tests.e2e.pipeline import Pipeline

_FORGED = Envelope(origin="web/1/1", seq=3, way="replayed", destination="nowhere", replay=9, hops=1)


def foreign(topic: str, home: int) -> dict[str, Headers]:
    """Return headers by what is unusual about them."""
    return {
        "no_way": (("origin", b"web/1/1"), (HEADERS["origin"], b"web/1/1")),
        "no_way_again": (("origin", b"web/1/1"), (HEADERS["origin"], b"web/1/1")),
        "a_way": _FORGED.to_headers(),
        "of_another_record": msgspec.structs.replace(_FORGED, origin=f"{topic}/{home}/0", way="rerouted").to_headers(),
        "a_dead_letter": msgspec.structs.replace(_FORGED, way="", disposition="failed").to_headers(),
        "many": tuple((f"name-{number % 50}", b"x") for number in range(20_000)),
        "huge": (("blob", b"\xff" * 700_000),),
        "long_name": (("n" * 30_000, b""),),
        "no_text": ((HEADERS["origin"], b"\xff\xfe"), (HEADERS["seq"], b"9" * 5_000), ("", b"")),
    }


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_headers_of_other_programs_change_nothing(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2) as line:
        names, home = line.settings.names, line.settings.home("w0")
        astray = (home + 1) % line.settings.kafka.partitions
        records = []
        for number, headers in enumerate(foreign(names.leads, home).values()):
            hot = msgspec.structs.replace(line.lead(number, "w0"), headers=headers)
            bulk = msgspec.structs.replace(line.lead(100 + number, "w0"), headers=headers, topic=names.bulk)
            stray = msgspec.structs.replace(line.lead(200 + number, "w0"), headers=headers, partition=astray)
            poison = Record(names.leads, b"w0", b"\xff", headers, home)
            records += [hot, bulk, stray, poison]
        await line.publish(records)
        worker = line.start("worker")
        ends = {"accepted": len(records) * 3 // 4, "rejected_invalid": len(records) // 4}
        await line.until(lambda: line.last() == ends, 60, "all of them")
        await line.stop(worker)

        line.check_histories()
        assert set(line.summary()["leads"].values()) == {1}
        assert {record.topic for record in await line.read(names.retry)} == {names.retry}, "strays go home by it"
        code, said = await line.run("books", "--json")
        books = json.loads(said)
        assert (code, books["balanced"], books["records"]) == (0, True, len(records))
