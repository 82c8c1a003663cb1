"""A partition as a release left it: what its processes wrote to each topic, as text in one file of
the repository.

`record` runs a fixed scenario on a real Kafka with one partition, and returns one record of Kafka a
line. A value that is no text is base64. Topics that Kafka compacts are written as compaction leaves
them.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from stream_app.domain.model.records import ConsumedRecord, Record
from tests.e2e.fleet import Fleet
from tests.e2e.loop import TABLE
from tests.e2e.pipeline import ANSWERED
from tests.upgrade.campaign import LANE

RECORDED: Final = Path(__file__).with_name("recorded")
NAMESPACE: Final = "recorded."
"""Of the topics in a recording. It is part of every record id in it, so it can be replaced by
another one.
"""
MAX_RECORDING_BYTES: Final = 100_000

# For each second of the grace the recording has a record of each uncertain lead. So the grace is
# short, and with it the request and its connection.
_CONFIG: Final = """
[delivery]
max_attempts = 1
request_timeout_s = 4
connect_timeout_s = 3
max_request_start_age_s = 2
commit_timeout_s = 1
uncertain_grace_s = 7
[replay]
max_replays = 1
backoff_base_s = 1
backoff_cap_s = 1
tiers_s = [1, 600]
[workspaces.w1.budget]
credits_per_day = 25
"""
_DOWN: Final = {"kind": "status_before", "status": 503, "share": 1.0}
_SILENT: Final = {"kind": "callbacks_lost", "share": 1.0}
_RESET: Final = {"kind": "reset_after_read", "share": 1.0}
_TOGETHER: Final = 2
"""Leads of each kind."""


class Release(NamedTuple):
    """What a release wrote, topic after topic, each in the order of its offsets."""

    records: list[ConsumedRecord]

    def of(self, topic: str) -> list[ConsumedRecord]:
        """Return the records of a topic, named without the namespace."""
        return [record for record in self.records if record.topic == NAMESPACE + topic]

    @property
    def topics(self) -> set[str]:
        return {record.topic.removeprefix(NAMESPACE) for record in self.records}


def pipeline(bootstrap: str, namespace: str) -> Fleet:
    """Return the system with the configuration of the recordings."""
    return Fleet(
        bootstrap,
        namespace,
        2,
        partitions=1,
        config=_CONFIG,
        lane=LANE,
        script=TABLE,
        callbacks=True,
        workspace="callback_health = { overdue = 1000 }",
        destination="callback_deadline_s = 600\nestimate_credits = 9\nceiling_credits = 20",
    )


async def record(bootstrap: str) -> str:
    """Run the scenario and return what it left.

    Raises ValueError if that is too large for the repository.
    """
    async with pipeline(bootstrap, NAMESPACE) as line:
        await _scenario(line)
        compacted = {
            topic.name
            for topic in line.settings.topic_plan()
            if topic.config["cleanup.policy"] == "compact"
        }
        records: list[Any] = []
        for topic in line.settings.topic_plan():
            taken = await line.read(topic.name)
            records += (
                {kept.key: kept for kept in taken}.values() if topic.name in compacted else taken
            )
    text = "".join(_line(kept) + "\n" for kept in records if kept.value is not None)
    if len(text) > MAX_RECORDING_BYTES:
        raise ValueError(
            f"the recording has {len(text)} bytes of at most {MAX_RECORDING_BYTES}: let the "
            "scenario do less",
        )
    return text


def read(place: Path, namespace: str = NAMESPACE) -> Release:
    """Read a recording. `namespace`: the one that its topics and record ids get."""
    text = place.read_text(encoding="utf-8").replace(NAMESPACE, namespace)
    return Release([_record(json.loads(line)) for line in text.splitlines()])


def to_publish(records: Iterable[ConsumedRecord]) -> list[Record]:
    """Return the records to write to Kafka again, each to its partition."""
    return [
        Record(kept.topic, kept.key, kept.value, kept.headers, kept.partition) for kept in records
    ]


# ------------------------------------------------------------------------------------- the scenario


async def _scenario(line: Fleet) -> None:
    """Write something of each kind, and stop while dead letters and deferred leads still wait."""
    worker = line.join()
    replay = line.start("replay")
    gateway = line.start("gateway")
    await line.receives()
    await worker.joined(60)
    await line.done("suppress", "add", "person90@example.com", "--why", "objected")
    await line.publish([_lead(line, number) for number in (0, 1, 90)])
    await line.until(
        lambda: _answered(line) == _TOGETHER and line.last()["suppressed"] == 1,
        15,
        "results come back",
    )
    again = line.lead(0, "w0", force=True)
    same = line.lead(5, "w0", fields={"email": "person1@example.com"})
    poison = Record(line.settings.names.leads, b"w0", b"no lead", (), 0)
    await line.publish([_lead(line, 0), again, same, poison])
    await line.until(
        lambda: _answered(line) == _TOGETHER + 1 and line.last()["rejected_invalid"] == 1,
        15,
        "bad ones",
    )
    (line.directory / "people.csv").write_text(
        "email\nimported1@example.com\nimported2@example.com\n",
    )
    await line.done("publish", "people.csv", "--workspace", "w0", "--yes")
    await line.until(lambda: _answered(line) == _TOGETHER + 3, 15, "the import")
    await line.done("lanes", "pause", "w0", "--why", "a table is rebuilt")
    await line.done("lanes", "resume", "w0", "--why", "it is done")
    await line.done("lanes", "rate", "w0", "--per-second", "500", "--why", "half of it")

    line.control("POST", "/control/faults", _DOWN)
    await line.publish([_lead(line, number) for number in (20, 21)])
    await line.until(lambda: line.last()["parked"] == _TOGETHER, 15, "replays are used up")
    line.control("DELETE", "/control/faults")
    await line.done("replay", "redrive", "--lead", "lead-20", "--yes", "--why", "repaired")
    await line.until(
        lambda: _answered(line) == _TOGETHER + 4,
        15,
        "one was sent back and is answered",
    )

    line.control("POST", "/control/faults", _SILENT)
    await line.publish([_lead(line, 50)])
    await line.until(lambda: line.last()["accepted"] == 1, 15, "one lead waits for its callback")
    line.control("POST", "/control/faults", _RESET)
    await line.publish([_lead(line, number) for number in (10, 11)])
    await line.until(
        lambda: line.last()["parked"] == 2 * _TOGETHER - 1,
        15,
        "uncertain leads are parked",
    )
    line.control("DELETE", "/control/faults")
    await line.done("replay", "pause", "--why", "for the recording")
    await line.done("erase", "lead-0", "--yes", "--why", "a request")

    await line.publish([line.lead(number, "w1") for number in range(30, 34)])
    await line.until(
        lambda: line.last()["deferred"] >= _TOGETHER,
        15,
        "a used-up budget defers leads",
    )
    await line.done("lanes", "cancel", "w1", "--lead", "lead-33", "--why", "not wanted any more")
    line.control("POST", "/control/faults", _DOWN)
    await line.publish([_lead(line, number) for number in (40, 41)])
    await line.until(lambda: line.last()["dead_lettered"] == _TOGETHER, 15, "dead letters wait")
    line.control("DELETE", "/control/faults")
    assert await replay.stop() == 0
    assert await worker.stop() == 0
    assert await gateway.stop() == 0


def _lead(line: Fleet, number: int) -> Record:
    return line.lead(number, "w0")


def _answered(line: Fleet) -> int:
    return sum(line.last()[status] for status in ANSWERED)


# --------------------------------------------------------------------------------------- the format


def _line(record: Any) -> str:
    return json.dumps(
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "at_ms": record.timestamp,
            "key": _text(record.key),
            "value": _text(record.value),
            "headers": [[name, _text(value)] for name, value in record.headers],
        },
        separators=(",", ":"),
    )


def _record(line: dict[str, Any]) -> ConsumedRecord:
    headers = tuple((name, _bytes(value) or b"") for name, value in line["headers"])
    key = _bytes(line["key"])
    value = _bytes(line["value"])
    return ConsumedRecord(
        line["topic"],
        line["partition"],
        line["offset"],
        key,
        value,
        headers,
        line["at_ms"],
    )


def _text(value: bytes | None) -> str | dict[str, str] | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _bytes(value: str | Mapping[str, str] | None) -> bytes | None:
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])
