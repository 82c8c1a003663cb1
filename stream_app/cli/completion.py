"""`stream-app completion SHELL`: print the script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from stream_app.cli.base import OK, Subparsers, command

SHELLS: Final = ("bash", "zsh", "fish")


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "completion",
        run,
        says="Print a script that completes commands, options and file names in your shell.",
        example="stream-app completion bash > ~/.local/share/bash-completion/completions/stream-app\n"
        "  stream-app completion zsh > ~/.zfunc/_stream-app    # a folder of your fpath\n"
        "  stream-app completion fish > ~/.config/fish/completions/stream-app.fish",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def run(args: argparse.Namespace) -> int:
    import shtab

    from stream_app.cli.main import build_parser

    parser = build_parser()
    _complete_files(parser)
    sys.stdout.write(shtab.complete(parser, args.shell))
    return OK


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Complete file names where an argument is one, in this parser and in those of its commands."""
    import shtab

    for action in parser._actions:  # argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_files(inner)
        elif action.type is Path or action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own attribute
