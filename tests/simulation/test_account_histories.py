"""The account of the read model, for histories that no schedule of the simulation makes: any legal
step may come next.

A small world writes the leads and what a worker would: events, the rows that records take, dead
letters, and what callbacks and commands leave. Clay answers as it does in the schedules. The ledger
of tests/simulation/account_ledger.py counts again from the last status of each record.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream_app.board.read_model.store import ReadModel, Sources
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.delivery.state_machine import CALLBACK, NEXT
from stream_app.domain.model.messages import ImportSummary, Status, StatusEvent
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import Retention
from tests.simulation.account_counts import counted, differences, read_into, sources_of
from tests.simulation.account_ledger import DAY_MS, NO_LEADS, Ledger, Numbers
from tests.simulation.clay import results_of
from tests.simulation.kafka import MemoryKafka
from tests.simulation.schedule import Setup, plan_of

NOW_MS: Final = 1_800_000_000_000
PLACES: Final = (
    ("acme", "acme-main", "id0"),
    ("acme", "acme-main", "id1"),
    ("beta", "beta-main", "id0"),
    ("nowhere", "", "id1"),  # not configured
    ("", "", "id2"),
)
IMPORTS: Final = ("", "march", "april")
SHORT_MS: Final = (0, 700, 50_000, 3_000_000)
_BEHIND_REROUTED: Final[tuple[Status, ...]] = ("received", "duplicate", "suppressed")
_NO_ROW: Final = {"duplicate", "rerouted"}
_AT_ONCE: Final = {"rejected_invalid", "suppressed", "parked"}
"""They end a record before it takes a row, as its first step or right behind `rerouted`."""


class Step(msgspec.Struct, frozen=True):
    """What happens next.

    `about`: a new record of the place with this number, or a step of a record that is there.
    """

    about: int
    is_new: bool
    choice: int
    pause_ms: int
    import_id: str
    credits: int
    sent_back: bool
    doubled: bool


STEPS: Final = st.lists(
    st.builds(
        Step,
        about=st.integers(0, 30),
        is_new=st.booleans(),
        choice=st.integers(0, 30),
        pause_ms=st.sampled_from(SHORT_MS),
        import_id=st.sampled_from(IMPORTS),
        credits=st.integers(-3, 12),
        sent_back=st.booleans(),
        doubled=st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


class Made:
    """One record and its history so far.

    `serial`: the number that its producer gave to its lead. A copy of a dead letter has the same.
    """

    def __init__(
        self,
        origin: str,
        place: tuple[str, str, str],
        import_id: str,
        copy_of: str,
        serial: int,
    ) -> None:
        self.origin = origin
        self.place = place
        self.import_id = import_id
        self.copy_of = copy_of
        self.serial = serial
        self.status: Status | None = None
        self.seq = 0
        self.has_row = False

    def next(self) -> list[Status]:
        if self.status in NO_LEADS or not (self.status is None or self.place[1]):
            return []
        return sorted(NEXT.get(self.status, ()))


class SmallWorld:
    """Writes the topics."""

    def __init__(self, steps: list[Step], *, callbacks: bool, began_ms: int) -> None:
        self.plan = plan_of(Setup(callbacks=callbacks))
        self.now_ms = began_ms
        self.kafka = MemoryKafka(lambda: self.now_ms)
        self._names = self.plan.topics
        self._records: list[Made] = []
        self._letters: list[tuple[str, Made]] = []
        self._summarised = {""}
        for step in steps:
            self.now_ms += step.pause_ms
            record = self._new(step) if step.is_new or not self._records else self._old(step)
            if choices := record.next():
                self._write(record, choices[step.choice % len(choices)], step)
            if record.status == "rerouted":  # the worker of its partition has it at once
                self._write(record, _BEHIND_REROUTED[step.choice % 3], step)

    def _old(self, step: Step) -> Made:
        return self._records[step.about % len(self._records)]

    def _new(self, step: Step) -> Made:
        number = len(self._records)
        serial = number + 1  # Clay finds every value of the first, so that few steps have all kinds
        if step.sent_back and self._letters:
            letter, lost = self._letters.pop(step.about % len(self._letters))
            headers = ((HEADERS["redriven_from"], letter.encode()),)
            copy = self._produce(self._names.retry, b"k", _lead(lost.serial), headers)
            record = Made(copy, lost.place, lost.import_id, letter, lost.serial)
        else:
            place = PLACES[step.about % len(PLACES)]
            record = Made(
                self._produce(self._names.leads, b"k", _lead(serial)),
                place,
                step.import_id if place[0] else "",
                "",
                serial,
            )
        kinds = sorted(NEXT[None])
        status: Status = kinds[step.choice % len(kinds)] if record.place[1] else "rejected_invalid"
        if status in _NO_ROW and not any(
            other.place == record.place and other.has_row for other in self._records
        ):
            status = "received"  # no lead has copies only
        if status == "without_value" and record.copy_of:
            status = "received"  # a copy without its value is one of an erased lead
        if status == "without_value":  # it names nothing: no workspace, import or lead
            record = Made(record.origin, ("", "", f"record:{record.origin}"), "", "", serial)
        if status in NO_LEADS:
            record = Made(f"{self._names.callbacks}/0/{number}", record.place, "", "", serial)
        self._records.append(record)
        self._write(record, status, step)
        return record

    def _write(self, record: Made, status: Status, step: Step) -> None:
        # in its partition; only there do other events come in order
        is_first = record.status in (None, "rerouted")
        is_given_up = record.status == "rejected_invalid" and status == "suppressed"
        record.status = status
        record.seq = record.seq + 1
        workspace, destination, lead_id = record.place
        more: dict[str, Any] = {}
        if is_first:
            more = {"import_id": record.import_id, "dead_letter": record.copy_of}
            if record.import_id not in self._summarised and workspace == "acme":
                more["import_summary"] = ImportSummary(9, 2, 7, "leads.csv", "jane")
                self._summarised.add(record.import_id)
        if status in ("accepted", "cost_corrected", "enriched"):
            more["credits"] = step.credits
        if status == "served_from_cache":
            more["saved"] = abs(step.credits)
        if status in CALLBACK:
            results = results_of(record.serial, status)
            columns = self.plan.destinations[destination].yield_
            more["filled"] = tuple(name for name in columns if name in results)
            more["empty"] = tuple(name for name in columns if name not in results)
        reason = "resend" if status == "replayed" and step.sent_back else ""
        more |= {"workspace": workspace, "destination": destination, "reason": reason}
        event_id = f"{record.origin}#{record.seq}"
        event = StatusEvent(
            event_id,
            lead_id,
            status,
            record.seq,
            self.now_ms,
            record.origin,
            **more,
        )
        value = msgspec.json.encode(event)
        for _ in range(1 + step.doubled):  # read again after a crash
            self._produce(
                self._names.status,
                lead_id.encode(),
                value,
                partition=int(status == "rerouted"),
            )
        if not (
            record.has_row
            or status in {*_NO_ROW, *NO_LEADS, "without_value"}  # none of them has a row
            or (status in _AT_ONCE and record.seq <= 2)
            or is_given_up  # a rejected record has none, and its end makes none
        ):
            record.has_row = True
            # as a Delivery
            row = (1, status, record.origin, record.seq, self.now_ms, self.now_ms, "")
            self._produce(
                self._names.state,
                "/".join(("d", *record.place)).encode(),
                msgspec.json.encode(row),
            )
        if status in ("dead_lettered", "rejected_invalid", "parked"):
            self._dead_letter(record, status, step)

    def _dead_letter(self, record: Made, status: str, step: Step) -> None:
        comes_back = status == "dead_lettered" and step.choice % 2
        named = {
            "origin": record.origin,
            "seq": str(record.seq),
            "disposition": "failed" if comes_back else "poison",
            "reason": ("http_503", "http_422", status)[step.choice % 3],
            "destination": record.place[1],
        }
        headers = tuple((HEADERS[name], text.encode()) for name, text in named.items() if text)
        topic = self._names.parked if status == "parked" else self._names.dlq
        letter = self._produce(topic, record.place[0].encode() or None, b"{}", headers)
        if not comes_back:
            self._letters.append((letter, record))

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        headers: Any = (),
        partition: int = 0,
    ) -> str:
        return self.kafka.produce(partition, Record(topic, key, value, headers)).record_id


def _lead(serial: int) -> bytes:
    return msgspec.json.encode({"fields": {"serial": serial}})


@given(st.lists(STEPS, min_size=1, max_size=3), st.booleans(), st.integers())
def test_any_histories_are_counted_as_the_ledger_counts_them(
    parts: list[list[Step]],
    callbacks: bool,
    seed: int,
) -> None:
    """Also in the middle: a part of them is read, then the next."""
    read: dict[tuple[str, int], int] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.sqlite"
        for world in grown(parts, callbacks=callbacks):
            if not read:
                model = ReadModel(path, sources_of(world.plan))
            ledger = Ledger(world.plan, world.kafka)
            read_into(model, ledger, Random(seed), read)
            assert not differences(
                ledger.numbers(world.now_ms),
                counted(path, world.plan, world.now_ms),
            )
        model.close()


def grown(parts: list[list[Step]], *, callbacks: bool) -> Iterator[SmallWorld]:
    """Yield the same world after each part.

    It is made again each time, because it writes the same.
    """
    steps: list[Step] = []
    for part in parts:
        steps += part
        yield SmallWorld(steps, callbacks=callbacks, began_ms=NOW_MS)


@given(STEPS, STEPS, st.integers())
def test_what_retention_forgets_counts_no_more(
    before: list[Step],
    after: list[Step],
    seed: int,
) -> None:
    """The records that are left are elected as if there had never been others."""
    cut = msgspec.structs.replace(after[0], pause_ms=5 * DAY_MS)
    world = SmallWorld([*before, cut, *after[1:]], callbacks=True, began_ms=NOW_MS)
    ledger = Ledger(world.plan, world.kafka)
    sources = sources_of(world.plan)
    sources = Sources(
        sources.names,
        sources.partitions,
        Retention(status_days=2),
        sources.workspaces,
        sources.final,
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.sqlite"
        model = ReadModel(path, sources)
        read_into(model, ledger, Random(seed), {})
        model.sweep(world.now_ms)
        model.close()
        counts = counted(path, world.plan, world.now_ms)
    oldest_ms = world.now_ms - 2 * DAY_MS
    ledger.records = {
        origin: record
        for origin, record in ledger.records.items()
        if record.last["at_ms"] >= oldest_ms
    }
    expected = ledger.numbers(world.now_ms)
    assert not differences(_of_records(expected), _of_records(counts))


def _of_records(numbers: Numbers) -> Numbers:
    """What last statuses of records decide; money and what has not arrived are kept for longer."""
    return {
        name: value
        for name, value in numbers.items()
        if name[0] == "status" or (name[0] == "import" and name[-1] not in ("credits", "waiting"))
    }
