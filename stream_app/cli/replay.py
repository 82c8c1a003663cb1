"""`stream-app replay`: run the replay process, or plan and run a replay by hand."""

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
        says="Run the process that sends dead letters and deferred leads back to leads.retry when due. An action "
        "plans or runs a replay by hand.",
        example="stream-app replay --config stream_app.toml\n  stream-app replay plan --status 503",
    )
    add_log_option(parser)
    replay_by_hand.add_actions(parser)


def run(args: argparse.Namespace) -> int:
    from stream_app.services.replay import run_replay

    return run_process(args, run_replay(settings_of(args, clay=False)))
