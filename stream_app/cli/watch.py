"""`--watch`: repeat a view until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from stream_app.cli.base import OK, console, show
from stream_app.domain.errors import SettingsError

_EVERY_S: Final = 5.0


def watched(look: Callable[[], int], *, watch: bool, as_json: bool) -> int:
    """Show a view once, or with `--watch` until Ctrl-C.

    Returns:
        The exit code of the last view.

    Raises:
        SettingsError: `--watch` with `--json`, which is one document.
    """
    if not watch:
        return look()
    if as_json:
        raise SettingsError(["--json prints one document: leave out --watch"])
    out, code = console(), OK
    try:
        while True:
            if out.is_terminal:
                out.clear()
            show(time.strftime("%H:%M:%SZ", time.gmtime()))
            code = look()
            time.sleep(_EVERY_S)
    except KeyboardInterrupt:
        return code
