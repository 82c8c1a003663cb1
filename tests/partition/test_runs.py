"""Routines: the row and the event of a lead name the run that its last POST began."""

from stream_app.domain.dead_letter.replay import redriven
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.model.outcome import Accepted
from tests.simulation.schedule import Setup
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.virtual import virtual_time

ROUTINES = Setup(routines=True)


@virtual_time
async def test_the_run_of_an_accepted_post_is_in_the_row_and_in_the_event() -> None:
    bench = Bench(ROUTINES, clay_takes_s=0.1)
    bench.clay.first = [Accepted(202, 1, run="run_1")]
    bench.publish("id0", "p0")
    await bench.serve_for(1.0)
    assert bench.row().run == "run_1"
    assert [event.run for event in bench.events(LEAD)] == ["", "", "run_1"]


@virtual_time
async def test_a_redrive_begins_another_run_and_the_row_forgets_the_first_one() -> None:
    bench = Bench(ROUTINES, clay_takes_s=0.1)
    bench.clay.first = [Accepted(202, 1, run="run_1"), Accepted(202, 1)]
    bench.publish("id0", "p0")
    await bench.serve_for(200.0)
    assert bench.states(LEAD)[-1] == "parked"
    assert bench.row().run == "run_1"
    [dead_letter] = bench.parked()
    await bench.come_back(dead_letter, redriven(read_envelope(dead_letter), dead_letter.record_id))
    assert bench.states(LEAD)[-2:] == ["sending", "accepted"]
    assert bench.row().run == "", "the answer of the second POST has lost its id"
