"""`stream-app gateway`: the process that Clay calls back."""

from __future__ import annotations

import argparse

from stream_app.cli.base import Subparsers, command, settings_of
from stream_app.cli.process import add_log_option, run_process


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "gateway",
        run,
        says="Receive Clay's callbacks over HTTP and put them on Kafka. Run as many as you like.",
        example="stream-app gateway --config stream_app.toml",
    )
    add_log_option(parser)


def run(args: argparse.Namespace) -> int:
    from stream_app.services.gateway import run_gateway

    return run_process(args, run_gateway(settings_of(args, clay=False, gateway=True, api=True)))
