"""`stream-app status LEAD`: show where a lead is, and each step."""

from __future__ import annotations

from typing import Any

import msgspec

from stream_app.cli.base import COMMON, NO, OK, Common, say, show, show_json
from stream_app.cli.options import Workspace, iso
from stream_app.client.answers import (
    Answer,
    Event,
    FoundLead,
    FoundResult,
    RecordHistory,
    WaitingAnswer,
    WaitingLead,
)
from stream_app.client.lookup import Found, find
from stream_app.config import check_known
from stream_app.domain.books.columns import meaning_of
from stream_app.domain.text import count


def status(lead: str, /, *, workspace: Workspace = None, result: bool = False, common: Common = COMMON) -> int:
    """Show where a lead is, with the time and reason of each step. Exit code 1 if the lead is unknown.

    example:
      stream-app status crm-17
      stream-app status ada@example.com --workspace acme

    Args:
        lead: a lead id, an e-mail or a LinkedIn URL (hashed before it is sent)
        workspace: only in this workspace
        result: show the result's data too (personal data)
    """
    settings = common.settings("api")
    check_known(settings, workspace=workspace)
    found = find(settings, lead, workspace)
    if common.json:
        show_json(_document(found, result=result))
    else:
        for each in found.leads:
            _show(each, result=result)
        for waiting in found.waiting.leads if found.waiting else []:
            _show_waiting(waiting)
        if not _is_known(found):
            say(_unknown(found.waiting))
    say_how_far(found)
    return OK if _is_known(found) else NO


def _is_known(found: Found) -> bool:
    return bool(found.leads or (found.waiting and found.waiting.leads))


def _unknown(search: WaitingAnswer | None) -> str:
    if search is None or not (search.left or search.problem):
        return "The lead is unknown, and no record of it waits on Kafka"
    why = f" ({search.problem})" if search.problem else ""
    return (
        "The lead is unknown so far. It may still wait on Kafka: "
        f"{count(search.searched, 'waiting record was', 'waiting records were')} searched, {search.left} were not{why}"
    )


def _show_waiting(lead: WaitingLead) -> None:
    show(lead.lead_id)
    since = f"since {iso(lead.since_ms)}"
    ahead = count(lead.ahead, "record")
    show(f"  {lead.workspace}, waits on Kafka as {lead.origin}, {since}, with about {ahead} before it")
    for finding in lead.findings:
        lifts = f"; lifted by: {finding.lifts}" if finding.lifts else ""
        show(f"    {'HELD, ' if finding.holds else ''}{finding.what}{lifts}")


def _document(found: Found, *, result: bool) -> Any:
    document = msgspec.to_builtins(found)
    for each in [] if result else [each for lead in document["leads"] for each in lead["results"]]:
        each["fields"] = None
    return document


def say_how_far(found: Answer) -> None:
    """Print how far the answer is behind Kafka, if it is."""
    if found.trouble:
        say(f"The board cannot follow Kafka: {found.trouble}")
    left = count(found.lag, "record is", "records are")
    if found.as_of_ms is None:
        say(f"The board has not read all of Kafka yet: {left} still to be read")
    elif found.lag or found.trouble:
        say(f"As of {iso(found.as_of_ms)}; {left} still to be read")


def _show(lead: FoundLead, *, result: bool) -> None:
    show(lead.lead_id)
    for history in reversed(lead.histories):
        _show_history(history)
    if lead.history_count > len(lead.histories):
        show(f"  and {count(lead.history_count - len(lead.histories), 'older history', 'older histories')}")
    for each in lead.results:
        _show_result(each, result=result)


def _show_history(history: RecordHistory) -> None:
    where = f"{history.workspace}/{history.destination}" if history.workspace else "no workspace named"
    show(f"  {where}, came as {history.origin}, trace {history.trace_id}")
    before_ms: int | None = None
    for event in history.events:
        show(f"    {_step(event, before_ms)}")
        before_ms = event.at_ms
    show(f"    status {history.status}: {meaning_of(history.column)}")


def _step(event: Event, before_ms: int | None) -> str:
    after = "" if before_ms is None else f"+{(event.at_ms - before_ms) / 1000:.1f} s"
    line = f"{iso(event.at_ms)} {after:>10}  {event.status}"
    if event.reason or event.text:
        line += f": {event.text or event.reason}" + (f" ({event.reason})" if event.text and event.reason else "")
    if event.replay:
        line += f", replay {event.replay}"
    if event.credits is not None:
        line += f", {count(event.credits, 'credit')}"
    return line + (f", goes on {iso(event.due_at_ms)}" if event.due_at_ms else "")


def _show_result(found: FoundResult, *, result: bool) -> None:
    line = f"  result for {found.workspace}/{found.destination}: from {found.source}, version {found.version}"
    line += f", {iso(found.at_ms)}"
    if found.age_s:
        line += f", then {found.age_s} s old"
    if found.problem:
        line += f"; its data is missing: {found.problem}"
    elif not result:
        line += f", {count(len(found.fields or {}), 'field')} (--result shows them)"
    show(line)
    for name, value in (found.fields or {}).items() if result else ():
        show(f"    {name}: {value}")
