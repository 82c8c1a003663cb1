"""`stream-app books` and the gateway's `GET /books` count the same records in the same columns."""

from pathlib import Path

import pytest

from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel, Sources
from stream_app.domain.books.columns import Totals
from stream_app.domain.topics import Retention
from tests.board.model_records import Made
from tests.simulation.bases import bases, rare
from tests.simulation.schedule import Schedule, drawn
from tests.simulation.tape import Tape
from tests.support.tape import simulated


def gateway_counts(tape: Tape, path: Path, batch: int) -> Totals:
    """Feed the events of all partitions in turn to a read model, and add up what it counts."""
    names, partitions = tape.plan.topics, range(tape.plan.partitions)
    model = ReadModel(path, Sources(names, tape.plan.partitions, Retention(), frozenset(tape.plan.workspaces)))
    events = [[Made(names.status, each.key, each.value) for each in tape.log(names.status, n)] for n in partitions]
    for begin in range(0, max(map(len, events)), batch):
        model.apply({names.status: [each for log in events for each in log[begin : begin + batch]]}, {}, None)
    model.close()
    final = {alias for alias, there in tape.plan.destinations.items() if not there.callbacks}
    totals = Totals()
    for each in Queries(path, final).status_counts():
        totals.add(each.status, each.records, final=each.column == "accepted_final")
    return totals


@pytest.mark.parametrize("batch", [1, 1_000])
@pytest.mark.parametrize("schedule", [*bases(), *rare(), *map(drawn, range(12))], ids=lambda schedule: schedule.name)
def test_both_count_each_record_in_the_same_column(schedule: Schedule, batch: int, tmp_path: Path) -> None:
    tape = simulated(schedule)
    report, gateway = tape.close(), gateway_counts(tape, tmp_path / "model.sqlite", batch)
    by_gateway = {name: each.records for name, each in gateway.columns.items()}
    assert by_gateway == {name: each.records for name, each in report.columns.items()}
    assert gateway.not_leads == report.not_leads
    assert sum(by_gateway.values()) == report.records > 0
