"""The tapes of simulated runs, for the tests of the books."""

from tests.simulation.schedule import Schedule
from tests.simulation.tape import Tape, tape_of
from tests.simulation.world import World


def taped(world: World) -> Tape:
    return tape_of(world.plan, world.kafka, world.now_ms())


def simulated(schedule: Schedule) -> Tape:
    world = World(schedule)
    assert not world.run().problems
    return taped(world)
