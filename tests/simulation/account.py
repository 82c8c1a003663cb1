"""What the board must count, told from the ledger of a run, and what it does count: the two are
compared.

So is what every place says of each lane, also hours after the last lead (lane_states.py).

The expected account is made from the rows, the records and the events on Kafka, without any code of
the read model:
a lead's status is that of the row that was written last for it; it has no row only if all its
records ended before.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import MagicMock, patch

import msgspec
from prometheus_client import CollectorRegistry

from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.store import LogPosition, ReadModel, Sources
from stream_app.client.results.answers import Account, ByState, Yield
from stream_app.domain.books.money import BooksReport
from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.topics import Retention
from stream_app.domain.plan import Plan
from stream_app.domain.views.backlog import positions_of, untaken_from
from stream_app.domain.views.lane import LaneView
from stream_app.ops.metrics import WorkerMetrics
from tests.board.model_records import Made
from tests.simulation.clay import results_of
from tests.simulation.kafka import MemoryKafka
from tests.simulation.lane_states import LATER_MS, wrong_states
from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Schedule, drawn
from tests.simulation.tape import Tape, tape_of
from tests.simulation.world import Outcome, World

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
_SILENT: Final = MagicMock()  # a log
QUARTER_MS: Final = 900_000
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000

_STATES_OF: Final = 3
"""What is said of lanes is compared in each third schedule, because it takes as long as the
account.
"""

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
            for lead in self.leads(records).values():
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


# ---------------------------------------------------------------------------------- what is counted


def numbers_of(account: Account, dlq: str, parked: str) -> Numbers:
    """The values of the read model's account."""
    numbers: Counter[tuple[str, ...]] = Counter()
    for count in account.statuses:
        numbers["status", count.workspace, count.destination, count.status] += count.leads
    for workspace, statuses in account.ended.items():
        for status, leads in statuses.items():
            numbers["ended", workspace, status] += leads
    for imported in account.imports:
        name = imported.workspace, imported.import_id
        numbers["import", *name, "credits"] += imported.credits
        for column, leads in imported.columns.items():
            numbers["import", *name, column] += leads
        for row in imported.yields:
            _add_yield(numbers, ("import", *name, row.column), row.until_now)
    for counted in account.yields:
        place = counted.workspace, counted.destination
        for window in ("hour", "day", "before"):
            _add_yield(numbers, (*place, window, counted.column), getattr(counted, window))
    for day in account.days:
        for kind in ("credits", "estimated", "saved", "resent", "refused", "enriched"):
            numbers[kind, str(day.at_s), day.workspace, day.destination] += getattr(day, kind)
    for topic, letters in ((dlq, account.dlq), (parked, account.parked)):
        for cause in letters.causes:
            for state in ("open", "coming_back", "solved", "given_up"):
                numbers[topic, cause.destination, cause.reason, state] += getattr(cause, state)
        assert _sums(letters.causes) == _sums([letters])
    return {name: value for name, value in numbers.items() if value}


def _add_yield(numbers: Counter[tuple[str, ...]], name: tuple[str, ...], counted: Yield) -> None:
    for kind in ("answered", "filled", "credits"):
        numbers["yield", *name, kind] += getattr(counted, kind)


def numbers_of_books(report: BooksReport) -> Numbers:
    """What the books say of what the account counts, too."""
    numbers: Counter[tuple[str, ...]] = Counter()
    for status, count in report.statuses.items():
        numbers["books", status] += count.leads
    for status, events in report.not_leads.items():
        numbers["books", status] += events
    for workspace, times in report.possible_doubles.items():
        numbers["books resent", workspace] += times
    for account in report.accounts:
        if len(account.period) == len("2026-11") and account.meter == "credits":
            numbers["books estimated", account.workspace] += account.estimated
            numbers["books credits", account.workspace] += account.spent
            numbers["books not known", account.workspace] += account.unknown
    return {name: value for name, value in numbers.items() if value}


def numbers_of_metrics(tape: Tape) -> Numbers:
    """What the metrics of one worker say that has committed all events."""
    registry = CollectorRegistry()
    numbers = Counter[tuple[str, ...]]()
    events = [event for _, _, event in tape.events()]
    WorkerMetrics(registry, _SILENT).committed([WriteBatch([], [], events)], len(events), 0.1)
    for family in registry.collect():
        for sample in family.samples:
            labels = sample.labels
            value = int(sample.value)
            if sample.name == "stream_app_possible_double_spends_total":
                numbers["metrics resent", labels["workspace"], labels["destination"]] += value
            elif sample.name == "stream_app_credits_booked_total":
                numbers["metrics credits", labels["destination"]] += value
            elif sample.name == "stream_app_credits_returned_total":
                numbers["metrics credits", labels["destination"]] -= value
    return {name: value for name, value in numbers.items() if value}


def _sums(causes: Iterable[ByState]) -> list[int]:
    rows = [(cause.open, cause.coming_back, cause.solved, cause.given_up) for cause in causes]
    return [sum(column) for column in zip(*rows, strict=True)] or [0, 0, 0, 0]


def counted(path: Path, plan: Plan, now_ms: int) -> Numbers:
    """What the model in this file counts at this time."""
    names = plan.topics
    account = BoardQueries(path, final_of(plan)).account(now_ms, names.dlq, names.parked)
    return numbers_of(account, names.dlq, names.parked)


def differences(expected: Numbers, counts: Numbers) -> dict[tuple[str, ...], tuple[int, int]]:
    """By name: (expected, counted)."""
    return {
        name: (expected.get(name, 0), counts.get(name, 0))
        for name in sorted(expected | counts)
        if expected.get(name, 0) != counts.get(name, 0)
    }


def read_into(
    model: ReadModel,
    ledger: Ledger,
    chance: Random,
    read: dict[tuple[str, int], int],
) -> None:
    """Read what is new into the model as it may come from Kafka: topics and partitions in any
    order, in small batches.

    `read`: how many records of each partition were read before.
    """
    logs = {
        log: records[read.get(log, 0) :]
        for log, records in ledger.logs.items()
        if log[0] in topics_of(ledger.plan)
    }
    read.update((log, len(ledger.logs[log])) for log in logs)
    left = {log: records for log, records in logs.items() if records}
    while left:
        batch: dict[str, list[Made]] = {}
        moved: dict[tuple[str, int], LogPosition] = {}
        for log in chance.sample(sorted(left), chance.randint(1, len(left))):
            many = chance.randint(1, 12)
            taken = left[log][:many]
            left[log] = left[log][many:]
            batch.setdefault(log[0], []).extend(_made(consumed) for consumed in taken)
            moved[log] = LogPosition(taken[-1].offset + 1)
            if not left[log]:
                del left[log]
        model.apply(batch, moved, None)


def topics_of(plan: Plan) -> frozenset[str]:
    names = plan.topics
    return frozenset(
        {
            names.status,
            names.dlq,
            names.parked,
            names.enriched,
            names.lanes,
            names.state,
            names.audit,
        },
    )


def _made(consumed: ConsumedRecord) -> Made:
    return Made(
        consumed.topic,
        consumed.key,
        consumed.value,
        consumed.partition,
        consumed.offset,
        tuple(consumed.headers),
        consumed.timestamp_ms,
    )


def final_of(plan: Plan) -> frozenset[str]:
    return frozenset(
        alias for alias, destination in plan.destinations.items() if not destination.callbacks
    )


def sources_of(plan: Plan) -> Sources:
    kept = Retention(status_days=36_500, dlq_days=36_500, parked_days=36_500)
    return Sources(plan.topics, plan.partitions, kept, frozenset(plan.workspaces), final_of(plan))


# ------------------------------------------------------------------------------------ the schedules


class MessyWorld(World):
    """A world without its checks, which others tests make: it has users and operators that no
    promise covers.
    """

    def __init__(self, schedule: Schedule, looks_s: Iterable[float]) -> None:
        super().__init__(schedule)
        self.looks: list[tuple[int, Ledger]] = []
        for at_s in looks_s:
            self.loop.outside(at_s, self.look)

    def look(self) -> None:
        """Keep what is on Kafka now."""
        self.looks.append((self.now_ms(), Ledger(self.plan, self.kafka, self.now_ms())))

    def run(self) -> Outcome:
        silent = {"on_offset", "on_answer", "on_post", "on_commit", "at_rest"}
        with ExitStack() as stack:
            for name in silent:
                stack.enter_context(patch.object(self.checker, name, lambda *_: None))
            for name in ("taken_over", "called_back"):
                stack.enter_context(patch.object(self.checker.answers, name, lambda *_: None))
            stack.enter_context(patch.object(self, "_close_the_books", lambda: None))
            return super().run()


def messy(seed: int) -> Schedule:
    """The drawn schedule of a seed, with imports, records that are no leads, and operators who are
    busy.
    """
    base = drawn(seed)
    chance = Random(f"messy {seed}")
    arrivals: list[Arrival] = []
    for arrival in (*base.arrivals, *(base.arrivals[:3] if chance.random() < 0.5 else ())):
        how = arrival.how
        if not how and chance.random() < 0.3:
            how = chance.choice(("nowhere", "long", "nobody"))
        import_id = chance.choice(("", "march", "april"))
        arrivals.append(
            replace(
                arrival,
                how=how,
                import_id=import_id,
                at_s=arrival.at_s + chance.choice((0.0, 0.2, 90.0)),
            ),
        )
    lead_id = f"id{chance.randrange(4)}"
    workspace = chance.choice(("acme", "beta"))
    orders = (
        Order(
            chance.choice((0.1, 2.0, 400.0)),
            workspace,
            "cancel_import",
            chance.choice(("march", "april")),
        ),
        Order(chance.choice((0.1, 2.0, 400.0)), workspace, "erase", lead_id),
    )
    resolved = (
        Order(500.0, name, "resolve", f"id{number}={chance.choice(('4', '', 'no'))}")
        for name in ("acme", "beta")
        for number in range(4)
    )
    more = tuple(order for order in (*orders, *resolved) if chance.random() < 0.3)
    redrives_s = tuple(
        chance.choice((1.0, 30.0, 300.0, 900.0)) for _ in range(chance.choice((0, 1, 2, 3)))
    )
    ends = Random(f"give up {seed}")
    give_ups_s = tuple(
        ends.choice((1.0, 30.0, 300.0, 700.0)) for _ in range(ends.choice((0, 0, 1, 2)))
    )
    tight = Random(f"budget {seed}")
    if tight.random() < 0.3:  # a budget is used up, for seconds or for days
        name = tight.choice(("acme", "beta"))
        begins = tight.choice((0.0, 0.5, 2.0))
        lasts = tight.choice((5.0, 900.0, 100_000.0))
        more += (Order(begins, name, "budget", "0"), Order(begins + lasts, name, "budget", "200"))
    return replace(
        base,
        name=f"m{seed}",
        arrivals=tuple(arrivals),
        orders=(*base.orders, *more),
        redrives_s=redrives_s,
        give_ups_s=give_ups_s,
    )


Look = tuple[int, Ledger, Numbers]
"""A moment (epoch ms), what was on Kafka then, and what must be counted then."""


def looks_at(schedule: Schedule) -> list[Look]:
    """Run it: two moments in the middle, and its end."""
    chance = Random(f"looks {schedule.seed}")
    world = MessyWorld(
        schedule,
        sorted(chance.choice((0.3, 1.0, 5.0, 40.0, 120.0, 400.0)) for _ in range(2)),
    )
    outcome = world.run()
    assert not outcome.problems, f"{schedule.name}: {outcome.problems[0]}"
    world.look()
    return [(now_ms, ledger, ledger.numbers(now_ms)) for now_ms, ledger in world.looks]


def _estimated(numbers: Numbers) -> Numbers:
    """What the account has estimated in all, by workspace."""
    total: Counter[tuple[str, ...]] = Counter()
    for (kind, *place), value in numbers.items():
        if kind == "estimated" and place[1]:
            total[kind, place[1]] += value
    return {name: value for name, value in total.items() if value}


class Differential:
    """Compares the model with the ledger.

    `met`: how many values that are not 0 of each kind were compared.
    """

    def __init__(self, folder: Path) -> None:
        self.met: Counter[str] = Counter()
        self._folder = folder

    def difference(self, seed: int, looks: list[Look]) -> dict[tuple[str, ...], tuple[int, int]]:
        """What the model counts otherwise than the ledger says: by name, (expected, counted)."""
        plan = looks[0][1].plan
        chance = Random(seed)
        read = dict[tuple[str, int], int]()
        # a model of other plans would be made again, and wiped
        path = self._folder / f"{len(final_of(plan))}.sqlite"
        model = ReadModel(path, sources_of(plan))
        try:
            model.wipe()
            for number, (now_ms, ledger, expected) in enumerate(looks, 1):
                read_into(model, ledger, chance, read)
                self.met.update(_kind(name) for name in expected)
                if wrong := differences(expected, counted(path, plan, now_ms)):
                    return wrong
                if wrong := differences(ledger.not_reported(), _estimated(expected)):
                    return wrong
                told = ledger.told_elsewhere(expected)
                self.met.update(_kind(name) for name in told)
                elsewhere = numbers_of_books(ledger.tape.close()) | numbers_of_metrics(ledger.tape)
                if wrong := differences(told, elsewhere):
                    return wrong
                if seed % _STATES_OF:
                    continue
                is_at_rest = number == len(looks)
                for later_ms in LATER_MS if is_at_rest else LATER_MS[:1]:
                    at_ms = now_ms + later_ms
                    states = wrong_states(
                        plan,
                        ledger.logs,
                        path,
                        at_ms,
                        self.met,
                        is_at_rest=is_at_rest,
                    )
                    if states:
                        return {("lane", text): (0, 1) for text in states}
        finally:
            model.close()
        return {}

    def report(self) -> str:
        """What was compared."""
        lines = [f"{values:8,}  {kind}" for kind, values in sorted(self.met.items())]
        return "\n".join(["", "values that were compared and are not 0:", *lines, ""])


def _kind(name: tuple[str, ...]) -> str:
    return (
        f"{name[0]} {name[-1]}"
        if name[0] in ("import", "yield", "status", "leads.dlq", "leads.parked")
        else name[0]
    )


def main() -> int:
    """`python -m tests.simulation.account [SCHEDULES]`: the run at night."""
    with TemporaryDirectory() as folder:
        differential = Differential(Path(folder))
        wrong = 0
        for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000):
            if difference := differential.difference(seed, looks_at(messy(seed))):
                wrong += 1
                sys.stdout.write(f"schedule m{seed}, (expected, counted): {difference}\n")
        sys.stdout.write(differential.report())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
