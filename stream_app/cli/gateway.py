"""`stream-app gateway`: run the process that receives Clay's callbacks."""

from __future__ import annotations

import argparse

from stream_app.cli.base import Subparsers, command, settings_of
from stream_app.cli.process import add_log_option, run_process


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "gateway",
        run,
        says="Receive Clay's callbacks over HTTP and publish them on Kafka. Several can run at once.",
        example="stream-app gateway --config stream_app.toml",
    )
    add_log_option(parser)


def run(args: argparse.Namespace) -> int:
    from stream_app.services.gateway import run_gateway

    return run_process(args, run_gateway(settings_of(args, clay=False, gateway=True, api=True)))
