"""`stream-app skip PLACE`: skip unreadable records, so that their partition continues."""

from __future__ import annotations

import argparse

from stream_app.cli.base import OK, Subparsers, command, on_kafka, settings_of, tell, tell_json


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "skip",
        run,
        says="Skip unreadable records (damaged, or in an unknown format), so that their partition continues. First "
        "stop the processes that read the topic. Readable records are never skipped.",
        example="stream-app skip leads/0/15",
    )
    parser.add_argument("place", metavar="PLACE", help="topic/partition/offset from the error message")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def run(args: argparse.Namespace) -> int:
    import asyncio

    from stream_app.cli.dead_letter_options import confirm
    from stream_app.operator.skip import find_unreadable, skip

    settings = settings_of(args, clay=False)
    batch = on_kafka(settings, "skip", find_unreadable(settings, args.record_id))
    where = f"{batch.topic}/{batch.partition}, offsets {batch.first} to {batch.last}"
    if not args.yes:
        confirm(f"lose the records at {where} ({batch.cause})")
    asyncio.run(skip(settings, batch))
    if args.json:
        tell_json({"topic": batch.topic, "partition": batch.partition, "first": batch.first, "last": batch.last})
    else:
        tell(f"skipped {where}; the next start continues at {batch.last + 1}")
    return OK
