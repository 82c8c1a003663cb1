"""`stream-app sim` and `python -m stream_app.dev.simulator` take the same arguments."""

from __future__ import annotations

import argparse

from stream_app.cli.main import build_parser
from stream_app.dev import simulator as sim

COMMON = {"--help", "--config", "--json"}


def options(parser: argparse.ArgumentParser) -> dict[str, tuple[object, object]]:
    """Option -> its default and its type."""
    return {
        option: (action.default, action.type)
        for action in parser._actions  # argparse names no other way
        for option in action.option_strings
        if option.startswith("--") and option not in COMMON
    }


def test_the_same_options_with_the_same_defaults() -> None:
    alone = argparse.ArgumentParser()
    sim.add_arguments(alone)
    subparsers = build_parser()._subparsers  # see above
    assert subparsers is not None
    commands = subparsers._group_actions[0].choices
    assert isinstance(commands, dict)
    assert options(commands["sim"]) == options(alone)
