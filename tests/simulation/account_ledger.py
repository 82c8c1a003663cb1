"""What the board must count, told from the ledger of a run: everything that is on Kafka.

The expected account is made from the rows, the records and the events, without any code of the
read model: a lead's status is that of the row that was written last for it. It has no row only if
all its records ended before.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Plan
from stream_app.domain.views.backlog import positions_of, untaken_from
from stream_app.domain.views.lane import LaneView
from tests.simulation.clay import results_of
from tests.simulation.kafka import MemoryKafka
from tests.simulation.tape import tape_of

_ENDED: Final = {
    *(
        "rejected_invalid",
        "suppressed",
        "duplicate",
        "replaced",
        "expired",
        "enriched",
        "partial",
        "no_data",
    ),
    *("enrich_error", "served_from_cache", "served_locally", "parked", "confirmed"),
}
NO_LEADS: Final = {"callback_duplicate", "callback_unmatched", "erased", "cost_corrected"}
_UNDER_WAY: Final = "accepted"
COLUMN_OF: Final = {
    **dict.fromkeys(("enriched", "partial", "no_data", "enrich_error"), "enriched"),
    **dict.fromkeys(("rejected_invalid", "suppressed", "expired"), "rejected"),
    **dict.fromkeys(("duplicate", "replaced"), "duplicate"),
    **dict.fromkeys(("held_budget", "held_paused", "held_outage", "deferred"), "held"),
    **{name: name for name in ("parked", "served_from_cache", "served_locally", "accepted_final")},
    "confirmed": "accepted_final",
}
_LAST_ANSWERS: Final = {"enriched", "no_data", "enrich_error"}
_PRICED: Final = {"accepted", "confirmed", "enriched", "partial", "no_data", "enrich_error"}
"""Of a lead in one of these, what is booked for the last POST is what it cost."""
_ANSWERS: Final = {"enriched", "partial", "no_data", "enrich_error"}
_BOOKED: Final = 16
_UNSETTLED: Final = 24
"""The places of two fields in the row of a lead."""
_HEADER: Final = "stream-app-"
QUARTER_MS: Final = 900_000
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000

Numbers = dict[tuple[str, ...], int]
"""All values of an account by their names; those that are 0 are left out."""


@dataclass
class Record:
    """What is known of one input record.

    `order`: the place of the event that decided it first; -1 if it is a copy, or on its way. An
    operator who gives up its dead letter afterwards does not make it newer, because a dead letter
    that its lead has left behind with a later one ends nothing.
    `took`: the place of its first row among all rows; -1 if it has none.
    """

    origin: str
    events: list[dict[str, Any]] = field(default_factory=list)
    order: int = -1
    took: int = -1
    copy_of: str = ""

    @property
    def last(self) -> dict[str, Any]:
        return max(self.events, key=lambda event: int(event["seq"]))

    @property
    def status(self) -> str:
        return str(self.last["status"])

    @property
    def place(self) -> tuple[str, str, str]:
        return (
            self.last.get("workspace", ""),
            self.last.get("destination", ""),
            str(self.last["lead_id"]),
        )

    @property
    def import_id(self) -> tuple[str, str]:
        named = [
            event for event in self.events if event.get("import_id") and event.get("workspace")
        ]
        return (named[0]["workspace"], named[0]["import_id"]) if named else ("", "")


class Ledger:
    """Everything that is committed on Kafka, read once more from the beginning."""

    def __init__(self, plan: Plan, kafka: MemoryKafka, now_ms: int = 0) -> None:
        self.plan = plan
        self.tape = tape_of(plan, kafka, now_ms)
        self.logs = {(log.topic, log.partition): log.committed() for log in kafka.logs}
        self.records: dict[str, Record] = {}
        names = plan.topics
        for consumed in self._all(names.status):
            event = json.loads(consumed.value or b"")
            record = self.records.setdefault(event["origin"], Record(event["origin"]))
            if all(event["seq"] != known["seq"] for known in record.events):
                record.events.append(event)
                if record.order < 0 and event["status"] not in ("rerouted", "duplicate"):
                    record.order = consumed.offset
        for number, consumed in enumerate(self._all(names.state)):
            if (consumed.key or b"").startswith(b"d/") and consumed.value:
                record = self.records[json.loads(consumed.value)[2]]
                record.took = number if record.took < 0 else record.took
        for consumed in self._all(names.retry):
            headers = headers_of(consumed)
            if f"{_HEADER}origin" not in headers and consumed.record_id in self.records:
                self.records[consumed.record_id].copy_of = headers.get(
                    f"{_HEADER}redriven-from",
                    "",
                )

    def _all(self, topic: str) -> Iterator[ConsumedRecord]:
        for number in range(self.plan.partitions):
            yield from self.logs.get((topic, number), [])

    def is_final(self, record: Record) -> bool:
        destination = self.plan.destinations.get(record.place[1])
        return destination is not None and not destination.callbacks

    def leads(self, records: Iterable[Record]) -> dict[tuple[str, str, str], Record]:
        """The record that counts for each lead.

        A record without a destination stands back for those that have one.
        """
        leads: dict[tuple[str, str, str], Record] = {}
        for record in records:
            if record.status in NO_LEADS:
                continue
            rival = leads.get(record.place)
            if rival is None or _strength(rival) < _strength(record):
                leads[record.place] = record
        named = {(workspace, lead_id) for workspace, destination, lead_id in leads if destination}
        for workspace, destination, lead_id in list(leads):
            others = (
                named
                if workspace
                else {(name, lead) for name, alias, lead in leads if name or alias}
            )
            if not destination and any(
                lead == lead_id and workspace in ("", name) for name, lead in others
            ):
                del leads[workspace, destination, lead_id]
        return leads

    def told_elsewhere(self, numbers: Numbers) -> Numbers:
        """What books and metrics must say, told from the expected account and from the rows."""
        told: Counter[tuple[str, ...]] = Counter()
        for (kind, *place), value in numbers.items():
            if kind == "status":
                told["books", place[2]] += value
            elif kind in ("resent", "credits") and place[1]:
                told[f"books {kind}", place[1]] += value
                told[
                    f"metrics {kind}",
                    *((place[1], place[2]) if kind == "resent" else (place[2],)),
                ] += value
        for workspace, credits_ in self._not_known():
            told["books not known", workspace] += credits_
            told["books estimated", workspace] -= credits_
        for (_, workspace), credits_ in self.not_reported().items():
            told["books estimated", workspace] += credits_
        return {name: value for name, value in told.items() if value}

    def not_reported(self) -> Numbers:
        """The credits by workspace that are booked without anyone having said what a lead cost: of
        each row what it has booked so, and of each last answer without a cost the estimate. Days
        do not count here.
        """
        total: Counter[tuple[str, ...]] = Counter()
        for workspace, row in self._rows():
            last = [row[_BOOKED]] if len(row) > _BOOKED and row[_BOOKED] else []
            for booked in (*(row[_UNSETTLED] if len(row) > _UNSETTLED else []), *last):
                total["estimated", workspace] += 0 if booked.get("known") else booked["credits"]
        for record in self.records.values():
            if record.status in _LAST_ANSWERS and "credits" in record.last.get("estimated", ()):
                destination = self.plan.destinations[record.place[1]]
                total["estimated", record.place[0]] += destination.estimate_credits
        return {name: value for name, value in total.items() if value}

    def _rows(self) -> Iterator[tuple[str, list[Any]]]:
        """Workspace and fields of the row of each lead."""
        rows: dict[tuple[int, bytes], bytes | None] = {}
        for consumed in self._all(self.plan.topics.state):
            if (consumed.key or b"").startswith(b"d/"):
                rows[consumed.partition, consumed.key or b""] = consumed.value
        for (_, key), value in rows.items():
            yield key.decode().split("/")[1], json.loads(value) if value else []

    def _not_known(self) -> Iterator[tuple[str, int]]:
        """Workspace and credits of each booking that neither Clay nor an operator has confirmed,
        from the rows.
        """
        for workspace, row in self._rows():
            earlier = row[_UNSETTLED] if len(row) > _UNSETTLED else []
            last = (
                row[_BOOKED]
                if len(row) > _BOOKED and row[_BOOKED] and row[1] not in _PRICED
                else None
            )
            for booked in (*earlier, *([last] if last else [])):
                if not booked.get("known"):
                    yield workspace, booked["credits"]

    # -------------------------------------------------------------------------------- what to count

    def numbers(self, now_ms: int) -> Numbers:
        """The expected account."""
        numbers: Counter[tuple[str, ...]] = Counter()
        leads = self.leads(self.records.values())
        for record in leads.values():
            workspace, destination, _ = record.place
            numbers["status", workspace, destination, record.status] += 1
            if record.status in ("enriched", "partial"):
                for place in {(workspace, destination), ("", "")}:
                    numbers["enriched", _day(record.last["at_ms"]), *place] += 1
            at_rest = record.status in _ENDED or (
                record.status == "accepted" and self.is_final(record)
            )
            if at_rest and record.last["at_ms"] >= (now_ms // QUARTER_MS - 95) * QUARTER_MS:
                for name in {workspace, ""}:
                    numbers["ended", name, record.status] += 1
        for record in self.records.values():
            if record.status in NO_LEADS:
                numbers["status", record.place[0], record.place[1], record.status] += 1
            for event in record.events:
                for key in _money_keys(event):
                    numbers["credits", *key] += event.get("credits", 0)
                    numbers["estimated", *key] += event.get("estimated_credits", 0)
                    numbers["saved", *key] += event.get("saved", 0)
                    numbers["resent", *key] += event.get("reason") in ("resend", "resend_ordered")
            held = (
                _money_keys(event) for event in record.events if event["status"] == "held_budget"
            )
            numbers.update(("refused", *key) for key in set[tuple[str, ...]]().union(*held))
        self._imports(numbers)
        self._yields(numbers, now_ms)
        self._dead_letters(numbers, leads)
        return {name: value for name, value in numbers.items() if value}

    def _yields(self, numbers: Counter[tuple[str, ...]], now_ms: int) -> None:
        """What Clay had of each lead that it answered: by its own results, not by what events say
        of them.
        """
        hour_ms = (now_ms // MINUTE_MS - 59) * MINUTE_MS
        day_ms = (now_ms // HOUR_MS - 23) * HOUR_MS
        for record in self.records.values():
            if record.status not in _ANSWERS:
                continue
            at_ms = record.last["at_ms"]
            windows = ["hour"] if at_ms >= hour_ms else []
            windows += ["day" if at_ms >= day_ms else "before"]
            places = [(record.place[0], record.place[1], window) for window in windows]
            places += [("import", *record.import_id)] * (record.import_id != ("", ""))
            results = results_of(self._serial(record), record.status)
            credits_ = sum(event.get("credits", 0) for event in record.events)
            for place in places:
                for column in self.plan.destinations[record.place[1]].yield_:
                    numbers["yield", *place, column, "answered"] += 1
                    numbers["yield", *place, column, "filled"] += column in results
                    numbers["yield", *place, column, "credits"] += credits_

    def _serial(self, record: Record) -> int:
        """The number that its producer gave to the lead of a record."""
        topic, partition, offset = record.origin.rsplit("/", 2)
        (lead,) = (
            consumed
            for consumed in self.logs[topic, int(partition)]
            if consumed.offset == int(offset)
        )
        return int(json.loads(lead.value or b"")["fields"]["serial"])

    def _imports(self, numbers: Counter[tuple[str, ...]]) -> None:
        of_import: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in self.records.values():
            of_import[record.import_id].append(record)
        of_import.pop(("", ""), None)
        for name, records in of_import.items():
            leads = self.leads(records)
            rows = [record for record in records if record.status not in NO_LEADS]
            rows = [record for record in rows if not record.copy_of]
            numbers["import", *name, "duplicate"] += max(0, len(rows) - len(leads))
            for lead in leads.values():
                status = (
                    "accepted_final"
                    if lead.status == "accepted" and self.is_final(lead)
                    else lead.status
                )
                numbers["import", *name, COLUMN_OF.get(status, "under_way")] += 1
            summaries = [
                event["import_summary"]
                for record in records
                for event in record.events
                if event.get("import_summary") and event.get("workspace")
            ]
            if summaries:
                arrived = sum(not record.copy_of for record in records)
                numbers["import", *name, "waiting"] += max(
                    0,
                    summaries[0].get("leads", 0) - arrived,
                )
            numbers["import", *name, "credits"] += sum(
                event.get("credits", 0) for record in records for event in record.events
            )

    def _dead_letters(
        self,
        numbers: Counter[tuple[str, ...]],
        leads: dict[tuple[str, str, str], Record],
    ) -> None:
        names = self.plan.topics
        for topic in (names.dlq, names.parked):
            for consumed in self._all(topic):
                headers = headers_of(consumed)
                reason = headers.get(f"{_HEADER}reason", "")
                destination = headers.get(f"{_HEADER}destination", "")
                numbers[topic, destination, reason, self._state(consumed, headers, leads)] += 1

    def _state(
        self,
        consumed: ConsumedRecord,
        headers: dict[str, str],
        leads: dict[tuple[str, str, str], Record],
    ) -> str:
        own = self.records.get(headers.get(f"{_HEADER}origin", ""))
        seq = int(headers.get(f"{_HEADER}origin-seq", "0"))
        if own is not None and own.last["seq"] > seq:
            return self._after(own)
        copies = [
            record for record in self.records.values() if record.copy_of == consumed.record_id
        ]
        copy = max(copies, key=_strength, default=None)
        subject = copy or own
        if subject is not None and (copy is None or _strength(copy) > (1, 0)):
            counts = self._champion(subject, leads)
            if counts is not None and counts is not subject:
                return self._after(counts)
        if copy is not None:
            return self._after(copy)
        returns = (
            consumed.topic == self.plan.topics.dlq
            and headers.get(f"{_HEADER}disposition") == "failed"
        )
        return "coming_back" if returns else "open"

    @staticmethod
    def _champion(record: Record, leads: dict[tuple[str, str, str], Record]) -> Record | None:
        workspace, destination, lead_id = record.place
        rivals = [
            rival
            for (name, alias, lead), rival in leads.items()
            if lead == lead_id and workspace in ("", name) and destination in ("", alias)
        ]
        return max(rivals, key=_strength, default=None)

    def _after(self, record: Record) -> str:
        if record.status in ("suppressed", "expired"):
            return "given_up"
        done = record.status in _ENDED or record.status == "dead_lettered"
        return (
            "solved"
            if done or (record.status == _UNDER_WAY and self.is_final(record))
            else "coming_back"
        )


def _day(at_ms: int) -> str:
    return str(at_ms // DAY_MS * 86_400)


def _money_keys(event: dict[str, Any]) -> set[tuple[str, ...]]:
    """Day, workspace and destination of an event, and of the sum of all."""
    day = _day(event["at_ms"])
    workspace = event.get("workspace", "")
    return {(day, "", ""), (day, workspace, event.get("destination", "") if workspace else "")}


def _strength(record: Record) -> tuple[int, int]:
    """Which of two records of a lead counts: the one with the newer row, else the one whose first
    decision came last.
    """
    if record.took >= 0:
        return 3, record.took
    return (1, 0) if record.status in ("duplicate", "rerouted") else (2, record.order)


def untaken_by_views(plan: Plan, kafka: MemoryKafka, group: str) -> dict[tuple[str, int], int]:
    """What everyone counts who reads Kafka only: the records of the lead topics that no worker has
    taken.
    """
    views: dict[bytes, LaneView] = {}
    for number in range(plan.partitions):
        for consumed in kafka.log(plan.topics.lanes, number).committed():
            views[consumed.key or b""] = msgspec.json.decode(consumed.value or b"", type=LaneView)
    positions = positions_of(views.values())
    counts: dict[tuple[str, int], int] = {}
    for topic in plan.topics.lead_topics:
        for number in range(plan.partitions):
            log = kafka.log(topic, number)
            place = (topic, number)
            start = untaken_from(
                0,
                log.last_stable,
                kafka.offset(group, *place),
                positions.get(place),
            )
            unread = sum(consumed.offset >= start.offset for consumed in log.committed())
            counts[place] = start.untaken + unread
    return counts


def headers_of(consumed: ConsumedRecord) -> dict[str, str]:
    return {name: (value or b"").decode() for name, value in consumed.headers}
