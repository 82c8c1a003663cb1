"""`python -m tests.upgrade`: run the baseline beside HEAD for longer, or record what HEAD writes.

python -m tests.upgrade --rounds 5                   there and back five times
python -m tests.upgrade --baseline v0.2.0            beside another version
python -m tests.upgrade record                       write tests/upgrade/recorded/<version>.jsonl
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from stream_app import __version__
from stream_app.dev.kafka import LocalKafka
from tests.upgrade.baseline import NoBaseline, unpack
from tests.upgrade.campaign import run_campaign
from tests.upgrade.recording import RECORDED, record


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.upgrade",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("what", nargs="?", choices=("run", "record"), default="run")
    parser.add_argument(
        "--baseline",
        default="",
        help="a commit or tag (default: what tests/upgrade/baseline names)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="how often it is rolled there and back (default 3)",
    )
    parser.add_argument("--per-s", type=float, default=40.0, help="records a second (default 40)")
    parser.add_argument(
        "--phase-s",
        type=float,
        default=20.0,
        help="how long each mixture works (default 20)",
    )
    args = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if args.what == "record":
        place = RECORDED / f"{__version__}.jsonl"
        with LocalKafka() as kafka:
            place.write_text(asyncio.run(record(kafka.bootstrap)), encoding="utf-8")
        sys.stdout.write(f"{place}: {place.stat().st_size} bytes\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = unpack(Path(folder), args.baseline)
        except NoBaseline as error:
            sys.stderr.write(f"{error}\n")
            return 1
        with LocalKafka() as kafka:
            load = {"per_s": args.per_s, "phase_s": args.phase_s, "rounds": args.rounds}
            result = asyncio.run(run_campaign(kafka.bootstrap, "upgrade.", program, **load))
    sys.stdout.write(result.text() + "\n")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
