"""A process whose clock is wrong: `python tests/e2e/wrong_clock.py SHIFT_S worker --config ...`."""

import sys
import time


def install(shift_s: int) -> None:
    """Let all code that is imported from now on read a clock that is ahead by so much (below 0: behind)."""
    now, now_ns = time.time, time.time_ns

    def time_s() -> float:
        return now() + shift_s

    def time_ns() -> int:
        return now_ns() + shift_s * 1_000_000_000

    time.time, time.time_ns = time_s, time_ns


if __name__ == "__main__":
    install(int(sys.argv[1]))
    from stream_app.cli.main import main

    sys.exit(main(sys.argv[2:]))
