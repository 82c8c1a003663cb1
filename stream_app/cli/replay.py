"""`stream-app replay`: the process that brings dead letters back when they are due, and replays by hand under it."""

from __future__ import annotations

import argparse

from stream_app.cli import replay_by_hand
from stream_app.cli.base import Subparsers, command, settings_of
from stream_app.cli.process import add_log_option, run_process


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "replay",
        run,
        says="Bring dead letters and deferred leads back to leads.retry when they are due (a process); with an action: "
        "price a replay by hand, then do it.",
        example="stream-app replay --config stream_app.toml\n  stream-app replay plan --status 503",
    )
    add_log_option(parser)
    replay_by_hand.add_actions(parser)


def run(args: argparse.Namespace) -> int:
    from stream_app.services.replay import run_replay

    return run_process(args, run_replay(settings_of(args, clay=False)))
