"""A worker with a shifted wall clock: `python tests/e2e/shifted.py SHIFT_MS worker --config ...`."""

import sys
import time

from stream_app.cli.main import main
from stream_app.clock import Clock


def install(shift_ms: int) -> None:
    """Shift the clock that the worker reads."""

    def now_ms(self: Clock) -> int:
        return time.time_ns() // 1_000_000 + shift_ms

    Clock.now_ms = now_ms  # type: ignore[method-assign]  # that is the point


if __name__ == "__main__":
    install(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
