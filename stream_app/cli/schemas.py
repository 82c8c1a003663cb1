"""`stream-app schemas`: write the JSON Schema of each message, and the AsyncAPI document."""

from __future__ import annotations

import argparse
from pathlib import Path

from stream_app.cli.base import OK, Subparsers, command, tell, tell_json


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "schemas",
        run,
        says="Write the JSON Schema of each message and the AsyncAPI document.",
        example="stream-app schemas schemas",
    )
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path("schemas"), help="output folder (default: schemas)"
    )


def run(args: argparse.Namespace) -> int:
    from stream_app.schemas import documents

    args.directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in documents().items():
        path = args.directory / name
        path.write_text(text, encoding="utf-8")
        written.append(str(path))
    if args.json:
        tell_json({"written": written})
    else:
        for name in written:
            tell(name)
    return OK
