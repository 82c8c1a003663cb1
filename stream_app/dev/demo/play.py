"""The demo's scenario: leads go in, results come back, Clay fails, the lanes wait, Clay recovers, the books balance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import msgspec
from aiokafka import AIOKafkaProducer

from stream_app.books.read import read_books
from stream_app.config import client_options
from stream_app.dev.demo.scene import Scene, watched
from stream_app.dev.demo.stage import WORKSPACES, Stage, stage
from stream_app.dev.demo.verdict import Verdict, compare
from stream_app.domain.books.report import Report
from stream_app.domain.errors import StreamAppError
from stream_app.publishing import PublishOptions, publish_rows
from stream_app.publishing.rows import read_csv

LEADS: Final = Path(__file__).with_name("leads.csv")
NO_LEADS: Final = (b"\xff\xfe\x00 not text", b'{"fields": {"email": "cut off', b"[1, 2, 3]", b"")
"""Values that are not leads, for each workspace: any program may write to a topic."""

OUTAGE_S: Final = 15.0
_FIRST_WITHIN_S: Final = 20.0
_BEFORE_OUTAGE_S: Final = 5.0
_REST_WITHIN_S: Final = 45.0
_LOOK_EVERY_S: Final = 0.25
_KEPT_EVERY_S: Final = 3.0
_KEPT_COLUMNS: Final = b"lead_id,workspace,email,first_name,last_name\n"


class Audience(Protocol):
    """Receives the demo's output."""

    def say(self, line: str) -> None:
        """Show a sentence."""

    def show(self, scene: Scene) -> None:
        """Show the current state; called several times a second."""


class Outcome(msgspec.Struct, frozen=True):
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
        exit_codes: Of worker, replay and gateway after SIGTERM.
    """

    ok: bool
    finished: bool
    seconds: float
    published: int
    dead_letters: int
    replays: int
    in_the_outage: Report
    books: Report
    ledger: Verdict
    exit_codes: dict[str, int]


async def play(bootstrap: str | None, audience: Audience, *, keep: bool = False) -> Outcome:
    """Run the demo. Its processes and files are always removed.

    Args:
        bootstrap: The user's broker; None: start one.
        audience: Receives the output.
        keep: After the scenario, leave everything up until Ctrl-C, with a lead now and then.

    Raises:
        StartError: A process does not start, or has ended.
        StreamAppError: Kafka cannot be used.
    """
    began_s = time.monotonic()
    async with stage(bootstrap, audience.say) as here, watched(here.settings) as scene:
        await _publish(here, scene, audience)
        await here.ready()
        audience.say(f"The board, live while the demo runs: {here.settings.api_url}/board")
        await _until(lambda: scene.steps["enriched"] > 0, here, scene, audience, _FIRST_WITHIN_S)
        await _pass_time(_BEFORE_OUTAGE_S, here, scene, audience)
        in_the_outage = await _outage(here, scene, audience)
        finished = await _until(lambda: scene.at_rest, here, scene, audience, _REST_WITHIN_S)
        if keep:
            await _keep(here, scene, audience)
            finished = await _until(lambda: scene.at_rest, here, scene, audience, _REST_WITHIN_S)
        audience.say(
            "Stopping worker, replay and gateway as a supervisor would (SIGTERM): what is in flight ends first."
        )
        exit_codes = await here.stop_apps()
        audience.say("Closing the books: every record is counted from its events, and again from the state.")
        books = await _books(here, audience)
        ledger = compare(await here.ledger(), scene.answered, scene.parked)
        right = finished and books.balanced and in_the_outage.balanced and ledger.agrees
        return Outcome(
            ok=right and set(exit_codes.values()) == {0},
            finished=finished,
            seconds=round(time.monotonic() - began_s, 1),
            published=scene.published,
            dead_letters=scene.steps["dead_lettered"],
            replays=scene.steps["replayed"],
            in_the_outage=in_the_outage,
            books=books,
            ledger=ledger,
            exit_codes=exit_codes,
        )


async def _publish(here: Stage, scene: Scene, audience: Audience) -> None:
    """Publish the leads as `stream-app publish` does, and the invalid values as another program would."""
    audience.say("Publishing 300 leads of two workspaces; some come twice, some are too old to be worth paying for.")
    with LEADS.open("rb") as source:
        summary = await publish_rows(read_csv(source, {}), here.settings, PublishOptions(import_id="demo"))
    if summary.refused:
        raise StreamAppError(f"{LEADS.name}: {summary.refused} rows are refused: {dict(summary.reasons)}")
    audience.say(
        f"And {len(WORKSPACES) * len(NO_LEADS)} records that are no leads at all, bytes that nothing can read."
    )
    async with AIOKafkaProducer(**client_options(here.settings), enable_idempotence=True) as producer:
        for name in WORKSPACES:
            for value in NO_LEADS:
                topic, home = here.settings.names.leads, here.settings.home(name)
                await producer.send_and_wait(topic, value, key=name.encode(), partition=home)
    scene.published = summary.published + len(WORKSPACES) * len(NO_LEADS)
    # Clay rejects some rows as invalid, some as unavailable, and takes some without a response.
    await here.fault(kind="status_before", status=422, share=0.06, for_s=20)
    await here.fault(kind="status_before", status=503, share=0.06, for_s=20)
    await here.fault(kind="reset_after_read", share=0.02, for_s=20)


async def _outage(here: Stage, scene: Scene, audience: Audience) -> Report:
    """Let Clay answer 503 to everything. Reads the books in the middle, while the worker runs."""
    audience.say(
        f"Clay goes down for {OUTAGE_S:.0f} s. A few leads fail and become dead letters; then the breaker opens, and "
        "the rest waits in Kafka: nothing is lost, nothing is paid. What Clay has already goes on and comes back."
    )
    await here.fault(kind="status_before", status=503, for_s=OUTAGE_S)
    await _pass_time(OUTAGE_S / 2, here, scene, audience)
    books = await _books(here, audience)
    held = books.columns["held"].records + books.columns["waiting"].records
    audience.say(
        f"The books in the middle of it {'balance' if books.balanced else 'do NOT balance'}: {books.records} in, "
        f"{books.accounted} accounted for, {held} of them waiting."
    )
    await _pass_time(OUTAGE_S / 2, here, scene, audience)
    audience.say("Clay is back. The breaker lets a few probes through, closes, and the dead letters are replayed.")
    return books


async def _keep(here: Stage, scene: Scene, audience: Audience) -> None:
    """Publish a lead every few seconds until Ctrl-C, which cancels this task."""
    audience.say(
        f"Everything stays up until Ctrl-C, with a lead every {_KEPT_EVERY_S:.0f} s. The board: "
        f"{here.settings.api_url}/board. Commands need this file: --config {here.config}"
    )
    try:
        for number in count(1):
            row = f"visitor-{number},{WORKSPACES[number % len(WORKSPACES)]},visitor{number}@example.com,Vi,Sitor\n"
            await publish_rows(read_csv(BytesIO(_KEPT_COLUMNS + row.encode()), {}), here.settings, PublishOptions())
            scene.published += 1
            await _pass_time(_KEPT_EVERY_S, here, scene, audience)
    except asyncio.CancelledError:
        audience.say("No more leads. The last ones get their answers first.")


async def _books(here: Stage, audience: Audience) -> Report:
    return await read_books(here.settings, limit=20, progress=lambda done, total: None, say=audience.say)


async def _pass_time(seconds: float, here: Stage, scene: Scene, audience: Audience) -> None:
    await _until(lambda: False, here, scene, audience, seconds)


async def _until(true: Callable[[], bool], here: Stage, scene: Scene, audience: Audience, within_s: float) -> bool:
    """Show the scene until the condition is true. False if it was not in time."""
    deadline = time.monotonic() + within_s
    while not true():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        here.check()
        scene.check()
        audience.show(scene)
        await asyncio.sleep(min(_LOOK_EVERY_S, left_s))
    return True
