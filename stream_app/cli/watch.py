"""`--watch`: repeat a view until Ctrl-C."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Final

from stream_app.cli.base import console, tell

_EVERY_S: Final = 5.0


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Add `--watch`."""
    parser.add_argument("--watch", action="store_true", help=f"refresh every {_EVERY_S:g} seconds until Ctrl-C")


def watched(args: argparse.Namespace, look: Callable[[], int]) -> int:
    """Show a view once, or with `--watch` until Ctrl-C.

    Returns:
        The exit code of the last view.

    Raises:
        SettingsError: `--watch` with `--json`, which is one document.
    """
    from stream_app.domain.errors import SettingsError

    if not args.watch:
        return look()
    if args.json:
        raise SettingsError(["--json prints one document: leave out --watch"])
    out, code = console(), 0
    try:
        while True:
            if out.is_terminal:
                out.clear()
            tell(time.strftime("%H:%M:%SZ", time.gmtime()))
            code = look()
            time.sleep(_EVERY_S)
    except KeyboardInterrupt:
        return code
