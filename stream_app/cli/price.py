"""The price of sending dead letters back: shown first, and refused if a budget does not cover it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from stream_app.cli.base import say, tell, tell_json
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.domain.dead_letter.pricing import Price, PricedPlan

_SLOWEST_PER_S: Final = 0.001
_FASTEST_PER_S: Final = 100_000.0


def add_over_budget(parser: argparse.ArgumentParser) -> None:
    """Add `--over-budget`, which `affordable` reads."""
    parser.add_argument(
        "--over-budget", action="store_true", help="send even if it costs more than the budget has left"
    )


def per_second(text: str) -> float:
    """Parse a rate per second."""
    try:
        rate_per_s = float(text)
    except ValueError:
        rate_per_s = 0.0
    if not _SLOWEST_PER_S <= rate_per_s <= _FASTEST_PER_S:  # nan is neither
        limits = f"{_SLOWEST_PER_S:g} to {_FASTEST_PER_S:g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate: give dead letters per second, {limits}")
    return rate_per_s


def show_prices(plan: PricedPlan) -> None:
    """Print one line for each destination."""
    for each in plan.prices:
        where = f"{each.destination or 'no destination'} ({each.workspace or 'no workspace'})"
        tell(
            f"{where}: {count(each.leads, 'lead')}, about "
            f"{count(each.credits, 'credit')} (at most {each.credits_at_most:,}) of {_left(each.credits_left)}, about "
            f"{count(each.actions, 'action')} (at most {each.actions_at_most:,}) of {_left(each.actions_left)}, about "
            f"{each.seconds:.0f} s"
        )


def affordable(args: argparse.Namespace, prices: Sequence[Price]) -> bool:
    """Return True if each workspace's budget covers its price, or if --over-budget is set; else print why not."""
    import msgspec

    from stream_app.domain.dead_letter.pricing import too_dear

    dear = [] if args.over_budget else too_dear(prices)
    for each in dear:
        cost = f"{count(each.credits, 'credit')} and {count(each.actions, 'action')}"
        say(
            f"{each.workspace}: {count(each.leads, 'lead costs', 'leads cost')} about {cost}, there are "
            f"{_left(each.credits_left)} and {_left(each.actions_left)}: send fewer, or use --over-budget to let "
            "the rest wait for the next budget"
        )
    if dear and args.json:
        tell_json({"sent": 0, "refused": {}, "too_dear": msgspec.to_builtins(dear)})
    return not dear


def _left(amount: int | None) -> str:
    return "no limit" if amount is None else f"{amount:,} left"
