"""The demo's scenario.

Leads go in, results come back, Clay fails, the lanes wait, Clay recovers, the books balance.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer

from stream_app.client.books.read import read_books
from stream_app.client.lanes.commands import submit
from stream_app.client.publish.leads import PublishOptions, publish_rows
from stream_app.client.publish.rows import open_csv
from stream_app.client.results.lookup import way_in
from stream_app.config.kafka_access import connection_of
from stream_app.dev.demo.comparison import Comparison, DemoState, compare, followed
from stream_app.dev.demo.doors import BY_WEBHOOK, Door
from stream_app.dev.demo.processes import SMALL, WORKSPACES, DemoProcesses, patience, running
from stream_app.domain.books.money import BooksReport
from stream_app.domain.model.errors import StreamAppError

LEADS: Final = Path(__file__).with_name("leads.csv")
NO_LEADS: Final = (b"\xff\xfe\x00 not text", b'{"fields": {"email": "cut off', b"[1, 2, 3]", b"")
"""Values that are not leads, for each workspace: any program may write to a topic."""

OUTAGE_S: Final = 15.0
_FIRST_WITHIN_S: Final = 60.0
_BEFORE_OUTAGE_S: Final = 5.0
_REST_WITHIN_S: Final = 300.0
_LOOK_EVERY_S: Final = 0.25
_ANSWER_WITHIN_S: Final = 60.0
_KEPT_EVERY_S: Final = 3.0
_KEPT_REST_WITHIN_S: Final = 300.0
"""A lead whose callback is lost is parked after 45 s."""
_FAULT_WITHIN_S: Final = 120.0
_CALLBACK_WITHIN_S: Final = 10.0
"""The simulated Clay calls back within this time."""
_KEPT_COLUMNS: Final = b"lead_id,workspace,email,first_name,last_name\n"


class Display:
    """Receives the demo's output. This one shows nothing."""

    def say(self, line: str) -> None:
        """Show a sentence."""

    def show(self, state: DemoState) -> None:
        """Show the current state; called several times a second."""


class DemoOutcome(msgspec.Struct, frozen=True):
    """The outcome.

    Attributes:
        ok: True if everything is right.
        finished: True if every record reached a final state in time.
        seconds: Duration.
        published: Published records.
        dead_letters: Events of that kind; so `replays`.
        in_the_outage: The books in the middle of the outage.
        books: The books at the end.
        ledger: The comparison with the ledger.
        exit_codes: Of worker, replay, gateway and board after SIGTERM.
    """

    ok: bool
    finished: bool
    seconds: float
    published: int
    dead_letters: int
    replays: int
    in_the_outage: BooksReport
    books: BooksReport
    ledger: Comparison
    exit_codes: dict[str, int]


async def run_scenario(
    bootstrap: str | None,
    display: Display,
    *,
    keep: bool = False,
    door: Door = BY_WEBHOOK,
) -> DemoOutcome:
    """Run the demo. Its processes and files are always removed.

    Args:
        bootstrap: The user's broker; None: start one.
        display: Receives the output.
        keep: After the scenario, leave everything up until Ctrl-C, with a lead now and then.
        door: How the leads reach Clay.

    Raises:
        StartError: A process does not start, or has ended.
        StreamAppError: Kafka cannot be used.
    """
    began_s = time.monotonic()
    async with (
        running(bootstrap, display.say, keep=keep, door=door) as processes,
        followed(processes.settings) as state,
    ):
        await _publish(processes, state, display)
        async with patience(display.say, "Worker, replay, gateway and board still start"):
            await processes.ready()
        display.say(f"The board, live while the demo runs: {await _address(processes)}")
        await _until(
            lambda: state.steps["enriched"] > 0,
            processes,
            state,
            display,
            _FIRST_WITHIN_S,
        )
        await _pass_time(_BEFORE_OUTAGE_S, processes, state, display)
        in_the_outage = await _outage(processes, state, display)
        finished = await _until(lambda: state.at_rest, processes, state, display, _REST_WITHIN_S)
        if keep:
            for fault in _now_and_then(door):
                await processes.mend(fault["kind"])
            await _keep(processes, state, display)
            finished = await _until(
                lambda: state.at_rest,
                processes,
                state,
                display,
                _KEPT_REST_WITHIN_S,
            )
        display.say(
            "Stopping worker, replay, gateway and board as a supervisor would (SIGTERM): "
            "what is in flight ends first.",
        )
        exit_codes = await processes.stop_apps()
        display.say(
            "Closing the books: every record is counted from its events, and again from the state.",
        )
        books = await _books(processes, display)
        ledger = compare(await processes.ledger(), state.answered, state.parked, state.lead_of_item)
        right = finished and books.balanced and in_the_outage.balanced and ledger.agrees
        return DemoOutcome(
            ok=right and set(exit_codes.values()) == {0},
            finished=finished,
            seconds=round(time.monotonic() - began_s, 1),
            published=state.published,
            dead_letters=state.steps["dead_lettered"],
            replays=state.replays,
            in_the_outage=in_the_outage,
            books=books,
            ledger=ledger,
            exit_codes=exit_codes,
        )


async def _publish(processes: DemoProcesses, state: DemoState, display: Display) -> None:
    """Publish the leads as `stream-app publish` does.

    The invalid values are published as another program would publish them.
    """
    # Before the first lead is published: the worker already runs.
    for fault in _now_and_then(processes.door):
        await processes.fault(**fault)
    display.say(
        "Publishing 300 leads of two workspaces; some come twice, some are too old to be "
        "worth paying for.",
    )
    with LEADS.open("rb") as source:
        summary = await publish_rows(
            open_csv(source, {}).rows,
            processes.settings,
            PublishOptions(import_id="demo"),
        )
    if summary.refused:
        raise StreamAppError(
            f"{LEADS.name}: {summary.refused} rows are refused: {dict(summary.reasons)}",
        )
    display.say(
        f"And {len(WORKSPACES) * len(NO_LEADS)} records that are no leads at all, bytes that "
        "nothing can read.",
    )
    async with AIOKafkaProducer(
        **connection_of(processes.settings).settings(),
        enable_idempotence=True,
    ) as producer:
        for name in WORKSPACES:
            for value in NO_LEADS:
                topic = processes.settings.names.leads
                home = processes.settings.home(name)
                await producer.send_and_wait(topic, value, key=name.encode(), partition=home)
    state.published = summary.published + len(WORKSPACES) * len(NO_LEADS)


def _now_and_then(door: Door) -> tuple[Mapping[str, Any], ...]:
    """Return the faults that a few leads meet.

    Clay rejects some leads as invalid, takes some not now, and takes some without a response. The
    faults last until all leads have come to rest, unless the door says otherwise: if they ended
    after some seconds, the leads of a machine that takes longer to start the worker would meet
    none.
    """
    posts = {"endpoint": door.endpoint}
    return (
        {"kind": "status_before", "status": 422, "share": 0.06, **posts},
        {**door.unavailable, "share": 0.06, **posts},
        {"kind": "reset_after_read", "share": 0.02, **posts},
    )


async def _outage(processes: DemoProcesses, state: DemoState, display: Display) -> BooksReport:
    """Let Clay take nothing. Reads the books in the middle, while the worker runs."""
    display.say(
        f"Clay goes down for {OUTAGE_S:.0f} s. A few leads fail and become dead letters; "
        "then the breaker opens, and the rest waits on Kafka: nothing is lost, nothing is paid. "
        "Leads that Clay already has go on and come back.",
    )
    await processes.fault(**processes.door.outage, for_s=OUTAGE_S)
    await _pass_time(OUTAGE_S / 2, processes, state, display)
    books = await _books(processes, display)
    held = books.columns["held"].records + books.columns["waiting"].records
    display.say(
        f"The books in the middle of it {'balance' if books.balanced else 'do NOT balance'}: "
        f"{books.records} in, {books.accounted} accounted for, {held} of them waiting.",
    )
    await _pass_time(OUTAGE_S / 2, processes, state, display)
    display.say(
        "Clay is back. The breaker lets a few probes through, closes, "
        "and the dead letters are replayed.",
    )
    return books


async def _address(processes: DemoProcesses) -> str:
    """Return the board's address.

    For a person at a terminal, it is an address that lets a browser in, once and within a minute.
    """
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return f"{processes.settings.board_url}/board"
    return await asyncio.to_thread(way_in, processes.settings)


async def _keep(processes: DemoProcesses, state: DemoState, display: Display) -> None:
    """Publish a lead every few seconds until Ctrl-C, which cancels this task."""
    display.say(
        f"Everything stays up until Ctrl-C, with a lead every {_KEPT_EVERY_S:.0f} s. "
        f"`stream-app open --config {processes.config}` opens the board, "
        "and other commands need this file, too.",
    )
    display.say(
        f"To act on the board, log in with this token: {processes.operator_token}. "
        f"The budget of {SMALL} will soon be used up.",
    )
    display.say(
        f"Break it yourself: curl {processes.control}/control/faults "
        """-d '{"kind": "rate_limited", "for_s": 10}'; """
        "docs/break-it.md has all faults, and what to see.",
    )
    names = (*WORKSPACES, SMALL)
    try:
        await _decisions(processes, state, display)
        for number in count(1):
            name = names[number % len(names)]
            if name == SMALL and (lane := state.lanes.get(SMALL)) is not None and lane.holds:
                name = WORKSPACES[0]  # a few leads that wait show what a budget does
            row = f"visitor-{number},{name},visitor{number}@example.com,Vi,Sitor\n"
            rows = open_csv(BytesIO(_KEPT_COLUMNS + row.encode()), {}).rows
            await publish_rows(rows, processes.settings, PublishOptions())
            state.published += 1
            await _pass_time(_KEPT_EVERY_S, processes, state, display)
    except asyncio.CancelledError:
        display.say(
            f"No more leads. The budget of {SMALL} is lifted, "
            "and the last ones get their answers first.",
        )
        caps = {"caps": {"credits_per_day": None}}
        why = "the demo ends"
        await submit(
            processes.settings,
            "budget",
            SMALL,
            caps,
            "demo",
            why,
            wait_s=_ANSWER_WITHIN_S,
            say=display.say,
        )


async def _decisions(processes: DemoProcesses, state: DemoState, display: Display) -> None:
    """Leave a person something to decide: dead letters to send back, and soon a parked lead."""
    rejecting, silent = WORKSPACES
    rejected = state.steps["rejected_invalid"]
    accepted = state.steps["accepted"]
    door = processes.door
    await processes.fault(
        kind="status_before",
        status=422,
        workspace=rejecting,
        endpoint=door.endpoint,
    )
    await processes.fault(kind=door.silence, workspace=silent)
    rows = [
        f"rejected-{number},{rejecting},rejected{number}@example.com,Re,Jected\n"
        for number in (1, 2)
    ]
    rows.append(f"silent-1,{silent},silent1@example.com,Si,Lent\n")
    sheet = open_csv(BytesIO(_KEPT_COLUMNS + "".join(rows).encode()), {})
    await publish_rows(sheet.rows, processes.settings, PublishOptions())
    state.published += len(rows)

    def are_there() -> bool:
        return (
            state.steps["rejected_invalid"] >= rejected + 2 and state.steps["accepted"] > accepted
        )

    await _until(are_there, processes, state, display, _FAULT_WITHIN_S)
    await _pass_time(_CALLBACK_WITHIN_S, processes, state, display)
    await processes.mend("status_before")
    await processes.mend(door.silence)
    display.say(
        f"For you to decide: two leads of {rejecting} that Clay rejected, which can be sent "
        f"back from the page Dead letters, and a lead of {silent} {door.silent}, "
        "which is parked in half a minute.",
    )


async def _books(processes: DemoProcesses, display: Display) -> BooksReport:
    return await read_books(
        processes.settings,
        limit=20,
        progress=lambda done, total: None,
        say=display.say,
    )


async def _pass_time(
    seconds: float,
    processes: DemoProcesses,
    state: DemoState,
    display: Display,
) -> None:
    await _until(lambda: False, processes, state, display, seconds)


async def _until(
    true: Callable[[], bool],
    processes: DemoProcesses,
    state: DemoState,
    display: Display,
    within_s: float,
) -> bool:
    """Show the state until the condition is true. False if it was not in time."""
    deadline = time.monotonic() + within_s
    while not true():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        processes.check()
        state.check()
        display.show(state)
        await asyncio.sleep(min(_LOOK_EVERY_S, left_s))
    return True
