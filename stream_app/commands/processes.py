"""`stream-app worker` and `stream-app replay`: the two Faust apps, each a process that runs until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import sys

from stream_app.commands.base import OK, Subparsers, command, settings_of


def add(subparsers: Subparsers) -> None:
    worker = command(
        subparsers,
        "worker",
        run,
        says="Take leads to Clay: the only process that POSTs, and the only writer of state. Run as many as you like.",
        example="stream-app worker --config stream_app.toml",
    )
    replay = command(
        subparsers,
        "replay",
        run,
        says="Bring dead letters and deferred leads back to leads.retry when they are due.",
        example="stream-app replay --config stream_app.toml",
    )
    for parser in (worker, replay):
        parser.add_argument(
            "--log",
            choices=("json", "console"),
            default="console" if sys.stderr.isatty() else "json",
            help="form of the log on stderr (default: console on a terminal, else json)",
        )


def run(args: argparse.Namespace) -> int:
    from stream_app.adapters import log
    from stream_app.adapters.faust_run import run as run_loop
    from stream_app.app import run_replay, run_worker

    settings = settings_of(args, clay=True)
    log.configure(args.log)
    run_loop(run_worker(settings) if args.command == "worker" else run_replay(settings))
    return OK
