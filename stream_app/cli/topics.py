"""`stream-app topics`: create missing topics, and report how existing ones differ from the plan."""

from __future__ import annotations

import argparse

from stream_app.cli.base import NO, OK, Subparsers, command, say, settings_of, tell, tell_json


def add(subparsers: Subparsers) -> None:
    command(
        subparsers,
        "topics",
        run,
        says="Create missing topics, and show exactly how existing ones differ from the plan.",
        example="stream-app topics --config stream_app.toml",
    )


def run(args: argparse.Namespace) -> int:
    import asyncio

    from stream_app.config import client_options
    from stream_app.domain.topics import shared_partitions
    from stream_app.kafka.topics import create_topics

    settings = settings_of(args, clay=False)
    kafka = settings.kafka
    work = create_topics(client_options(settings), settings.topic_plan(), kafka.broker_wait_s, say)
    report = asyncio.run(work)
    warnings = shared_partitions(settings.workspaces, kafka.partitions, settings.pins)
    if args.json:
        tell_json(
            {
                "created": report.created,
                "unchanged": report.unchanged,
                "problems": report.problems,
                "warnings": warnings,
            }
        )
    else:
        for name in report.created:
            tell(f"created {name}")
        for line in report.problems:
            say(line)
        for line in warnings:
            say(f"warning: {line}")
        tell(f"{len(report.created)} created, {len(report.unchanged)} were there, {len(report.problems)} problems")
    return NO if report.problems else OK
