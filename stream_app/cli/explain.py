"""`stream-app explain`: show on one screen why leads are not moving."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stream_app.cli.base import NO, OK, Subparsers, command, say, settings_of, tell, tell_json
from stream_app.cli.watch import add_watch, watched

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.domain.lane.explain import Finding


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "explain",
        run,
        says="Show why leads are not moving: what holds them, since when, until when, what lifts it, how many wait. "
        "Exit code 1 if something holds.",
        example="stream-app explain --workspace acme",
    )
    parser.add_argument("--workspace", metavar="NAME", help="only this workspace")
    add_watch(parser)


def run(args: argparse.Namespace) -> int:
    from stream_app.config import check_known

    settings = settings_of(args, clay=False)
    check_known(settings, workspace=args.workspace)
    return watched(args, lambda: _explain(args, settings))


def _explain(args: argparse.Namespace, settings: Settings) -> int:
    import asyncio

    import msgspec

    from stream_app.domain.lane.explain import explain
    from stream_app.operator.look import look, only

    facts = only(asyncio.run(look(settings, say)), args.workspace).facts
    findings = explain(facts)
    holds = any(finding.holds for finding in findings)
    if args.json:
        tell_json({"holds": holds, "findings": msgspec.to_builtins(findings), "facts": msgspec.to_builtins(facts)})
        return NO if holds else OK
    for finding in findings:
        zone = settings.workspaces[finding.workspace].time_zone if finding.workspace else "UTC"
        _show(finding, facts.at_ms, zone)
    return NO if holds else OK


def _show(finding: Finding, now_ms: int, zone: str) -> None:
    from stream_app.cli.lane_table import clock

    name = f"{finding.workspace}: " if finding.workspace else ""
    tell(f"{name}{'HELD, ' if finding.holds else ''}{finding.what}")
    if finding.since_ms:
        tell(f"    since   {clock(finding.since_ms, now_ms, zone)} ({zone})")
    if finding.until_ms:
        tell(f"    until   {clock(finding.until_ms, now_ms, zone)} ({zone})")
    if finding.lifts:
        tell(f"    lifts   {finding.lifts}")
    if finding.waiting:
        tell(f"    waiting {finding.waiting:,}")
