"""What the board does count, and what books and metrics say of it, by the names of the ledger."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Final
from unittest.mock import MagicMock

from prometheus_client import CollectorRegistry

from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.store import LogPosition, ReadModel, Sources
from stream_app.client.results.answers import Account, ByState, Yield
from stream_app.domain.books.money import BooksReport
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.topics import Retention
from stream_app.domain.plan import Plan
from stream_app.ops.metrics import WorkerMetrics
from tests.board.model_records import Made
from tests.simulation.account_ledger import Ledger, Numbers
from tests.simulation.tape import Tape

_SILENT: Final = MagicMock()  # a log


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
    WorkerMetrics(registry, _SILENT).committed([CommitStep([], [], events)], len(events), 0.1)
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
