"""`stream-app demo` and `sim`: the whole system on this machine, with a simulated Clay."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from cyclopts import App, Parameter
from rich.console import Group
from rich.live import Live
from rich.text import Text

from stream_app.cli.base import COMMON, NO, OK, OPTIONS, Common, OptionalWhole, WholeNumber
from stream_app.cli.books import show_report
from stream_app.cli.output import console, say, show, show_json
from stream_app.cli.tables import Column, Table, lines_of, table_of
from stream_app.config.rules import bootstrap_problem
from stream_app.dev import simulator
from stream_app.dev.demo import (
    BY_ROUTINE,
    BY_WEBHOOK,
    DemoOutcome,
    DemoState,
    Display,
    run_scenario,
)
from stream_app.dev.kafka import bootstrap_from_environment
from stream_app.dev.process import StartError
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.messages import Status
from stream_app.domain.model.text import count, rate_text, wrapped
from stream_app.domain.views.lane import LaneView

app = App(name="sim", group_parameters=OPTIONS, help_epilogue=simulator.HELP)


@app.default
def sim(
    *,
    host: str = "127.0.0.1",
    port: WholeNumber = 8700,
    control_port: WholeNumber = 0,
    seed: OptionalWhole = None,
    script: Path | None = None,
    ledger: Path | None = None,
    rows: Path | None = None,
    common: Common = COMMON,
) -> int:
    """Run a simulated Clay until Ctrl-C: rate limits, credits, faults on a timeline, and a ledger.

    example:
      stream-app sim --port 8700 --ledger ledger.jsonl

    Args:
        host: address to listen on
        port: port; 0: any free one
        control_port: second port, for control alone
        seed: decides everything random; over the script's seed
        script: TOML file with limits, webhooks and faults
        ledger: JSONL file to append the ledger to (else temporary)
        rows: file to keep rows in (personal data), to go on after a kill
    """
    for option, given in (("--port", port), ("--control-port", control_port)):
        if not 0 <= given <= 65_535:
            raise SettingsError(
                [f"{option} {given}: must be from 1 to 65535, or 0 for any free one"],
            )
    if rows is not None and ledger is None:
        raise SettingsError(["--rows needs --ledger, which says what became of each row"])
    try:
        plan = simulator.load_script(script) if script else simulator.Script()
    except simulator.ScriptError as error:
        raise SettingsError([f"{script}: {problem}" for problem in error.problems]) from error
    if seed is not None:
        plan = msgspec.structs.replace(plan, seed=seed)
    try:
        asyncio.run(simulator.run(plan, host, port, control_port, ledger, rows))
    except OSError as error:
        text = (
            f"the simulator cannot start: {error}; give another --port, --host, --ledger or --rows"
        )
        raise StreamAppError(text) from error
    return OK


_PLAIN_EVERY_S: Final = 1.0
_COLOURS: Final = {"closed": "green", "half_open": "yellow", "open": "red"}
_WORDS: Final[dict[Status, str]] = {
    "enriched": "enriched",
    "partial": "enriched in part",
    "no_data": "answered: Clay found nothing",
    "enrich_error": "answered: Clay failed",
    "accepted": "at Clay, no answer yet",
    "callback_overdue": "at Clay, the answer is late",
    "send_uncertain": "perhaps at Clay, not sent again",
    "held_outage": "held by the outage",
    "refused": "refused, to be sent again",
    "sending": "being sent",
    "dead_lettered": "dead letter, to be replayed",
    "replayed": "replayed, on its way",
    "duplicate": "duplicate, not sent",
    "expired": "too old, not sent",
    "rejected_invalid": "invalid, rejected",
    "parked": "parked for a human",
    "replaced": "published again",
    "confirmed": "at Clay, as an operator says",
}


class Screen(Display):
    """Shows the demo."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._began_s = time.monotonic()
        self._said_s = self._began_s

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(self._timed(line), soft_wrap=True)

    def _timed(self, line: str) -> Text:
        """Return the line behind its time."""
        at = f"{self._elapsed_s:5.1f} s  "
        out = self._console
        text = (
            wrapped(line, out.width - len(at)).replace("\n", "\n" + " " * len(at))
            if out.is_terminal
            else line
        )
        return Text.assemble((at, "dim"), (text, "bold"))

    def show(self, state: DemoState) -> None:
        if self._console.is_terminal:
            self._live.update(Group(*_shown(state, self._console.width)))
        elif time.monotonic() - self._said_s >= _PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            self._console.print(f"{self._elapsed_s:5.1f} s  {_plain(state)}", soft_wrap=True)

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s


def _plain(state: DemoState) -> str:
    counts = state.status_counts
    parts = [
        f"{counts['enriched']} of {state.published} enriched, {counts['accepted']} at Clay, "
        f"{state.untaken} not taken yet",
    ]
    parts += [
        f"{name}: breaker {lane.breaker}, {_health(lane)}, {rate_text(lane.rate_per_s)}/s, "
        f"{count(lane.meters['credits_day'].spent, 'credit')}"
        for name, lane in sorted(state.lanes.items())
    ]
    parts.append(f"dead letters {state.steps['dead_lettered']}, replays {state.replays}")
    return "; ".join(parts)


def _shown(state: DemoState, width: int) -> Iterator[Text]:
    """Render the lanes, then the counts of records by status."""
    lanes, _ = lines_of(_lanes(state), width)
    yield Text(lanes[0], "bold")
    for line in lanes[1:]:
        text = Text(line)
        for phase, colour in _COLOURS.items():
            text.highlight_regex(rf"(?<!half ){phase.replace('_', ' ')}(?=  )", colour)
        yield text
    yield Text()
    yield from (Text(wrapped(line, width, hang=4)) for line in _counts(state))


def _lanes(state: DemoState) -> Table:
    return table_of(
        [lane for _, lane in sorted(state.lanes.items())],
        {
            Column("lane"): lambda lane: lane.workspace,
            Column("breaker"): lambda lane: lane.breaker.replace("_", " "),
            Column("health", rank=2): _health,
            Column("rate", rank=4, right=True): lambda lane: f"{rate_text(lane.rate_per_s)}/s",
            Column("credits spent", rank=3, right=True): lambda lane: (
                lane.meters["credits_day"].spent
            ),
            Column("reserved", rank=5, right=True): lambda lane: (
                lane.meters["credits_day"].reserved
            ),
            Column("why it waits", rank=1, prose=True): lambda lane: lane.text.replace("_", " "),
        },
    )


def _counts(state: DemoState) -> Iterator[str]:
    counts = state.status_counts
    yield f"{state.untaken:4}  on Kafka, not taken yet"
    for status, words in _WORDS.items():
        if counts[status]:
            yield f"{counts[status]:4}  {words}"
    dead_letters = state.steps["dead_lettered"]
    replays = state.replays
    yield f"{dead_letters:4}  {'dead letter' if dead_letters == 1 else 'dead letters'} so far"
    yield f"{replays:4}  {'replay' if replays == 1 else 'replays'} so far"


def _health(lane: LaneView) -> str:
    return (
        "too few calls to say"
        if lane.health == "insufficient_data"
        else f"{lane.health} ({lane.score:g})"
    )


_NEXT: Final = """\
What to try next:
  stream-app sim --help                  the simulated Clay alone, with faults on a timeline
  stream-app publish leads.csv --dry-run check a file of your own
  stream-app topics, worker, replay, gateway, board
                                         the same system on your Kafka; README says how to set it up
  stream-app status LEAD                 on that system: where one lead is, with each step
  stream-app results --workspace NAME --join leads.csv -o enriched.csv
                                         on that system: your file, with Clay's data beside each row
  stream-app demo --keep                 leave everything up, and look at it on the board
  stream-app books                       at any time: is every lead accounted for?"""


def demo(
    *,
    bootstrap: Annotated[str | None, Parameter(metavar="HOST:PORT")] = None,
    keep: bool = False,
    routine: bool = False,
    common: Common = COMMON,
) -> int:
    """Run the whole system on this machine through an outage of Clay.

    Exit code 1 if the books do not balance.

    example:
      stream-app demo
      stream-app demo --routine

    Args:
        bootstrap: use this Kafka (default: KAFKA_BOOTSTRAP, else the demo starts its own)
        keep: leave everything up until Ctrl-C, with leads going in slowly, to look at the board and
            try commands
        routine: send the leads to routines through Clay's API, and not to webhooks of tables
    """
    address = bootstrap or bootstrap_from_environment()
    if address and (problem := bootstrap_problem(address)):
        raise SettingsError(
            [f"{'--bootstrap' if bootstrap else 'KAFKA_BOOTSTRAP'} {address}: {problem}"],
        )
    try:
        with Screen() as screen:
            outcome = asyncio.run(
                run_scenario(
                    address,
                    screen,
                    keep=keep,
                    door=BY_ROUTINE if routine else BY_WEBHOOK,
                ),
            )
    except StartError as error:
        raise StreamAppError(str(error)) from error
    if common.json:
        show_json(outcome)
    else:
        _show(outcome)
    return OK if outcome.ok else NO


def unanswered_text(leads: int) -> str:
    """Say what becomes of this many leads that Clay accepted and never answered."""
    one = "lead that Clay accepted got no answer and waits"
    many = "leads that Clay accepted got no answer and wait"
    return f"{count(leads, one, many)} for a person, because sending again could pay twice."


def _show(outcome: DemoOutcome) -> None:
    show_report(outcome.books)
    ledger = outcome.ledger
    counts = outcome.books.statuses
    ended = {status: ended_as.records for status, ended_as in counts.items()}
    show("")
    show(
        f"{count(ended.get('enriched', 0), 'lead is', 'leads are')} enriched; "
        f"for {ended.get('no_data', 0)} Clay found nothing. Every event is on `leads.status`, "
        "every result on `leads.enriched`.",
    )
    show(
        f"Clay's own ledger {'agrees' if ledger.agrees else 'does NOT agree'} with the books: "
        f"{count(ledger.posts, 'POST')}, {count(ledger.accepted, 'lead')} accepted, "
        f"{len(ledger.doubles)} sent twice, {count(ledger.charged, 'credit')} charged for answered "
        f"leads ({ledger.booked:,} in the books).",
    )
    if ledger.uncertain:
        show(unanswered_text(ledger.uncertain))
    show(
        f"{count(outcome.dead_letters, 'dead letter was', 'dead letters were')} written, "
        f"{outcome.replays} replayed. "
        f"{count(ended.get('rejected_invalid', 0), 'invalid record was', 'invalid records were')} "
        f"rejected, each with its reason. {count(ended.get('expired', 0), 'lead', 'leads')} "
        "expired before they could be sent.",
    )
    for name, leads in (
        ("sent twice", ledger.doubles),
        ("missing", ledger.missing),
        ("unknown", ledger.unknown),
    ):
        if leads:
            say(f"{name}: {', '.join(leads[:10])}{' ...' if len(leads) > 10 else ''}")
    if not outcome.finished:
        say("Not every record was finished in time: this machine is slow or busy, try again.")
    if not outcome.in_the_outage.balanced:
        say("The books in the middle of the outage did not balance:")
        for problem in outcome.in_the_outage.problems:
            say(f"  {problem.where}: {problem.what}")
    for name, code in outcome.exit_codes.items():
        if code:
            say(f"{name} ended with exit code {code} after the stop signal")
    show(f"It took {outcome.seconds:.0f} s. All processes and files of the demo are removed.")
    show("")
    show(_NEXT)
