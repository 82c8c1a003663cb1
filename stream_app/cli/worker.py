"""`stream-app worker`: run the process that sends leads to Clay."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stream_app.cli.base import Subparsers, command, settings_of
from stream_app.cli.process import add_log_option, run_process

if TYPE_CHECKING:
    from stream_app.config import Settings


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "worker",
        run,
        says="Send leads to Clay. Only workers POST to Clay and write state. Several can run at once.",
        example="stream-app worker --config stream_app.toml",
    )
    add_log_option(parser)


def run(args: argparse.Namespace) -> int:
    from stream_app.services.worker import run_worker

    def read() -> Settings:
        return settings_of(args, clay=True)

    return run_process(args, run_worker(read(), read))
