"""`stream-app explain`: show on one screen why leads are not moving."""

from __future__ import annotations

import asyncio
from typing import Final

from stream_app.cli.base import NO, OK, say, show, show_json
from stream_app.cli.lane_tables import clock
from stream_app.cli.options import VIEW, View
from stream_app.client import lanes as reader
from stream_app.config import Settings
from stream_app.domain.lane.explain import Finding
from stream_app.domain.lane.explain import explain as findings_of

_MOST: Final = 100


def explain(*, view: View = VIEW) -> int:
    """Show why leads are not moving: what holds them, since when, until when, what lifts it, how many wait.

    Exit code 1 if something holds.

    example:
      stream-app explain --workspace acme
    """
    settings = view.settings_of_lanes()
    return view.repeat(lambda: _explain(settings, view.workspace, as_json=view.json))


def _explain(settings: Settings, workspace: str | None, *, as_json: bool) -> int:
    facts = reader.only_workspace(asyncio.run(reader.read_lanes(settings, say)), workspace).facts
    findings = findings_of(facts)
    holds = any(finding.holds for finding in findings)
    if as_json:
        show_json({"holds": holds, "findings": findings, "facts": facts})
        return NO if holds else OK
    if len(findings) > _MOST:
        findings.sort(key=lambda finding: not finding.holds)
    for finding in findings[:_MOST]:
        zone = settings.workspaces[finding.workspace].time_zone if finding.workspace else "UTC"
        _show(finding, facts.at_ms, zone)
    if (more := len(findings) - _MOST) > 0:
        say(f"{more:,} more findings, the least urgent ones: name one workspace with --workspace, or use --json")
    return NO if holds else OK


def _show(finding: Finding, now_ms: int, zone: str) -> None:
    name = f"{finding.workspace}: " if finding.workspace else ""
    show(f"{name}{'HELD, ' if finding.holds else ''}{finding.what}")
    if finding.since_ms:
        show(f"    since   {clock(finding.since_ms, now_ms, zone)} ({zone})")
    if finding.until_ms:
        show(f"    until   {clock(finding.until_ms, now_ms, zone)} ({zone})")
    if finding.lifts:
        show(f"    lifts   {finding.lifts}")
    if finding.waiting:
        show(f"    waiting {finding.waiting:,}")
