"""Damages to the tape of a run: to what it has of the input record of this id."""

from collections.abc import Callable
from typing import Final

import msgspec

from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord
from tests.simulation.schedule import Schedule
from tests.simulation.tape import Tape, tape_of
from tests.simulation.world import World

Damage = Callable[[Tape, str], None]

_row: Final = msgspec.json.Decoder(Delivery)


def one(tape: Tape) -> str:
    """Return the origin of an accepted lead with a short history."""
    last = {event.origin: event for _, _, event in tape.events()}
    return min((event.seq, origin) for origin, event in last.items() if event.status == "accepted")[
        1
    ]


def of(tape: Tape, origin: str) -> list[tuple[list[ConsumedRecord], int, StatusEvent]]:
    return [event for event in tape.events() if event[2].origin == origin]


def rows(tape: Tape, number: int) -> list[ConsumedRecord]:
    return tape.log(tape.plan.topics.state, number)


def row_of(tape: Tape, origin: str) -> tuple[list[ConsumedRecord], int, Delivery]:
    """Return the last row of a history: its log, its index there, and the row."""
    values = [
        (rows(tape, number), i, row)
        for number in range(tape.plan.partitions)
        for i, consumed in enumerate(rows(tape, number))
        if (consumed.key or b"").startswith(b"d/")
        and consumed.value
        and (row := _row.decode(consumed.value)).origin == origin
    ]
    return values[-1]


def with_value(consumed: ConsumedRecord, value: object) -> ConsumedRecord:
    return msgspec.structs.replace(
        consumed,
        value=None if value is None else msgspec.json.encode(value),
    )


def lose_the_history(tape: Tape, origin: str) -> None:
    for log, i, _ in reversed(of(tape, origin)):
        del log[i]
    log, _, row = row_of(tape, origin)
    log[:] = [
        consumed
        for consumed in log
        if not (consumed.value and row.origin.encode() in consumed.value)
    ]


def _event(number: int, change: Callable[[list[ConsumedRecord], int, StatusEvent], None]) -> Damage:
    return lambda tape, origin: change(*of(tape, origin)[number])


def _remove(log: list[ConsumedRecord], i: int, _: object) -> None:
    del log[i]


def _double(log: list[ConsumedRecord], i: int, _: object) -> None:
    log.insert(i, log[i])


def _defer(log: list[ConsumedRecord], i: int, event: StatusEvent) -> None:
    log[i] = with_value(log[i], msgspec.structs.replace(event, status="deferred"))


def stop_in_the_middle(tape: Tape, origin: str) -> None:
    """The last step was not committed, but its record was acked."""
    _event(-1, _remove)(tape, origin)
    state, j, _ = row_of(tape, origin)
    last = state[j].value  # it may be there twice: confirmed for a redelivery
    state[:] = [consumed for consumed in state if consumed.value != last]


def lose_the_row(tape: Tape, origin: str) -> None:
    log, i, _ = row_of(tape, origin)
    log.append(with_value(log[i], None))


def lag_the_row(tape: Tape, origin: str) -> None:
    log, i, row = row_of(tape, origin)
    log[i] = with_value(log[i], msgspec.structs.replace(row, seq=row.seq - 1))


def lose_the_record(tape: Tape, origin: str) -> None:
    topic, number, offset = origin.rsplit("/", 2)
    log = tape.log(topic, int(number))
    log[:] = [consumed for consumed in log if consumed.offset != int(offset)]


def two_rows(tape: Tape, origin: str) -> None:
    log, i, _ = row_of(tape, origin)
    log.append(msgspec.structs.replace(log[i], key=(log[i].key or b"") + b"2"))


DAMAGES: Final[list[tuple[Damage, str]]] = [
    (lose_the_history, "lost"),
    (_event(1, _remove), "a gap"),
    (_event(0, _remove), "first event is missing"),
    (_event(1, _double), "a double"),
    (_event(-1, _defer), "no legal step"),
    (stop_in_the_middle, "left at sending"),
    (lose_the_row, "no row"),
    (lag_the_row, "its row says"),
    (lose_the_record, "a history without a record"),
    (two_rows, "two rows"),
]


def taped(world: World) -> Tape:
    return tape_of(world.plan, world.kafka, world.now_ms())


def simulated(schedule: Schedule) -> Tape:
    world = World(schedule)
    assert not world.run().problems
    return taped(world)
