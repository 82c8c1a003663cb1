"""`stream-app demo`: run the whole system on this machine, then close its books."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from cyclopts import Parameter

from stream_app.cli.base import COMMON, NO, OK, Common, say, show, show_json
from stream_app.cli.books import show_report
from stream_app.cli.demo_screen import Screen
from stream_app.config.rules import bootstrap_problem
from stream_app.dev.demo import Outcome, run_scenario
from stream_app.dev.kafka import bootstrap_from_environment
from stream_app.dev.process import StartError
from stream_app.domain.errors import SettingsError, StreamAppError
from stream_app.domain.text import count

_NEXT: Final = """\
What to try next:
  stream-app sim --help                  the simulated Clay alone, with faults on a timeline
  stream-app publish leads.csv --dry-run check a file of your own
  stream-app topics, worker, replay, gateway, board
                                         the same system on your Kafka; README says how to set it up
  stream-app status LEAD                 there: where one lead is, with each step
  stream-app results --join leads.csv -o enriched.csv
                                         there: your file, with Clay's data beside each row
  stream-app demo --keep                 leave everything up, and look at it on the board
  stream-app books                       at any time: is every lead accounted for?"""


def demo(
    *,
    bootstrap: Annotated[str | None, Parameter(metavar="HOST:PORT")] = None,
    keep: bool = False,
    common: Common = COMMON,
) -> int:
    """Run the whole system on this machine through an outage of Clay; exit code 1 if the books do not balance.

    example:
      stream-app demo

    Args:
        bootstrap: use this Kafka (default: KAFKA_BOOTSTRAP, else the demo starts its own)
        keep: leave everything up until Ctrl-C, with leads going in slowly, to look at the board and try commands
    """
    address = bootstrap or bootstrap_from_environment()
    if address and (problem := bootstrap_problem(address)):
        raise SettingsError([f"{'--bootstrap' if bootstrap else 'KAFKA_BOOTSTRAP'} {address}: {problem}"])
    try:
        with Screen() as screen:
            outcome = asyncio.run(run_scenario(address, screen, keep=keep))
    except StartError as error:
        raise StreamAppError(str(error)) from error
    if common.json:
        show_json(outcome)
    else:
        _show(outcome)
    return OK if outcome.ok else NO


def _show(outcome: Outcome) -> None:
    show_report(outcome.books)
    ledger, counts = outcome.ledger, outcome.books.statuses
    ended = {status: each.records for status, each in counts.items()}
    show("")
    show(
        f"{count(ended.get('enriched', 0), 'lead is', 'leads are')} enriched; for {ended.get('no_data', 0)} Clay found "
        "nothing. Every event is on `leads.status`, every result on `leads.enriched`."
    )
    show(
        f"Clay's own ledger {'agrees' if ledger.agrees else 'does NOT agree'} with the books: "
        f"{count(ledger.posts, 'POST')}, {count(ledger.accepted, 'lead')} accepted, {len(ledger.doubles)} sent twice, "
        f"{count(ledger.charged, 'credit')} charged for answered leads ({ledger.booked:,} in the books)."
    )
    if ledger.uncertain:
        show(
            f"{count(ledger.uncertain, 'lead')} that Clay accepted got no callback, and wait for a human: sending them "
            "again could pay twice."
        )
    show(
        f"{count(outcome.dead_letters, 'dead letter was', 'dead letters were')} written, {outcome.replays} replayed. "
        f"{count(ended.get('rejected_invalid', 0), 'invalid record was', 'invalid records were')} rejected, each with "
        f"its reason. {count(ended.get('expired', 0), 'lead', 'leads')} expired before they could be sent."
    )
    for name, leads in (("sent twice", ledger.doubles), ("missing", ledger.missing), ("unknown", ledger.unknown)):
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
