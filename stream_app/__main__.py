"""The program `stream-app`, also as `python -m stream_app`."""

import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 130  # as `cli.base` has it, which is not imported yet


def main() -> int:
    """Run the program. Returns its exit code.

    Ctrl-C ends it without a traceback while the program itself is still being imported, which takes
    a moment.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # otherwise the one who started us ignores it
        signal.signal(signal.SIGINT, _end)
    from stream_app.cli.main import main as program

    signal.signal(signal.SIGINT, before)
    return program()


def _end(_: int, __: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
