"""Print the last result of each lead as JSON Lines.

python examples/read_results.py --workspace acme > results.jsonl
"""

from __future__ import annotations

import argparse
import sys

import msgspec
from connect import settings

from stream_app import read_results_sync


def main(workspace: str | None) -> None:
    for result in read_results_sync(settings(), workspace=workspace):
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace")
    main(parser.parse_args().workspace)
