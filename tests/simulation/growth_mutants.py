"""Growth, broken on purpose: each mutant must be found out by the checkers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from unittest.mock import patch

from stream_app.domain.lane_messages import Command
from stream_app.partition import growth
from stream_app.pipeline.command import CommandPipeline
from tests.simulation.client import MemoryLedger
from tests.simulation.growth import growing, growth_bases, late_command
from tests.simulation.mutant import Patch, mutant
from tests.simulation.schedule import Schedule


def growths() -> Iterable[Schedule]:
    return chain(growth_bases(), map(growing, range(300)))


@mutant("8", hunt=growths)
def a_new_partition_copies_nothing() -> Patch:
    return patch.object(growth, "_copy_of_list", lambda rows: [])


@mutant("8", hunt=growths)
def a_new_partition_does_not_wait_for_partition_0() -> Patch:
    real = MemoryLedger.suppression_list

    async def suppression_list(self: MemoryLedger, partitions: int) -> list[tuple[bytes, bytes]]:
        return await real(self, 0)

    return patch.object(MemoryLedger, "suppression_list", suppression_list)


@mutant("8", hunt=growths)
def partition_0_refuses_no_change_of_the_list() -> Patch:
    def refuse(self: CommandPipeline, command: Command) -> None:
        return None

    return patch.object(CommandPipeline, "_refuse_incomplete", refuse)


@mutant("8", hunt=late_command)
def commands_are_not_copied_with_the_list() -> Patch:
    return patch.object(growth, "_copy_of_list", lambda rows: [row for row in rows if row[0].startswith(b"s/")])
