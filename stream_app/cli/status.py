"""`stream-app status LEAD`, `imports` and `explain`: where leads are, or why they do not move."""

import asyncio
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

import msgspec

from stream_app.cli.base import COMMON, NO, OK, Common
from stream_app.cli.lane_tables import second, waiting_text
from stream_app.cli.options import VIEW, View, WorkspaceName, iso
from stream_app.cli.output import say, show, show_json
from stream_app.cli.tables import Column, Table, table_of
from stream_app.client.lanes import views as reader
from stream_app.client.results.answers import (
    Answer,
    ColumnYield,
    FoundImport,
    FoundResult,
    RecordHistory,
    RunPolls,
    Step,
    WaitingAnswer,
    Yield,
    steps,
)
from stream_app.client.results.lookup import LeadSearch, find, find_imports, find_yields
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.domain.books.records import meaning_of, name_of
from stream_app.domain.lane.holds import time_words
from stream_app.domain.model.text import count
from stream_app.domain.views.explain import Finding
from stream_app.domain.views.explain import explain as findings_of
from stream_app.domain.views.waits import WAIT_NAMES, sums


def status(
    lead: str,
    /,
    *,
    workspace: WorkspaceName = None,
    result: bool = False,
    common: Common = COMMON,
) -> int:
    """Show where a lead is, with the time and reason of each step.

    Exit code 1 if the lead is unknown.

    example:
      stream-app status crm-17
      stream-app status ada@example.com --workspace acme

    Args:
        lead: a lead id, an e-mail or a LinkedIn URL (hashed before it is sent)
        workspace: only in this workspace
        result: show the result's data too (personal data)
    """
    search = find(common.settings("api", workspace=workspace), lead, workspace)
    is_known = bool(search.leads or (search.waiting and search.waiting.leads))
    common.show(_document(search, result=result), *_lines(search, result=result))
    if not is_known and not common.json:
        say(_unknown(search.waiting))
    say_how_far(search)
    return OK if is_known else NO


def _unknown(search: WaitingAnswer | None) -> str:
    if search is None or not (search.left or search.problem):
        return "The lead is unknown, and no record of it waits on Kafka"
    why = f" ({search.problem})" if search.problem else ""
    return (
        "The lead is unknown so far. It may still wait on Kafka: "
        f"{count(search.searched, 'waiting record was', 'waiting records were')} searched, "
        f"{search.left} were not{why}"
    )


def _document(search: LeadSearch, *, result: bool) -> Any:
    document = msgspec.to_builtins(search)
    if not result:
        for lead in document["leads"]:
            for answer in lead["results"]:
                answer["fields"] = None
    return document


def say_how_far(answer: Answer) -> None:
    """Print how far the answer is behind Kafka, if it is."""
    if answer.trouble:
        say(f"The board cannot follow Kafka: {answer.trouble}")
    left = count(answer.lag, "record is", "records are")
    if answer.as_of_ms is None:
        say(f"The board has not read all of Kafka yet: {left} still to be read")
    elif answer.lag or answer.trouble:
        say(f"As of {iso(answer.as_of_ms)}; {left} still to be read")


def _lines(search: LeadSearch, *, result: bool) -> Iterator[str]:
    for lead in search.leads:
        yield lead.lead_id
        for history in reversed(lead.histories):
            yield from _history_lines(history)
        if lead.booked_in_all is not None:
            yield f"  all records together: {count(lead.booked_in_all, 'credit')}"
        older = lead.history_count - len(lead.histories)
        if older > 0:
            yield f"  and {count(older, 'older history', 'older histories')}"
        for answer in lead.results:
            yield from _result_lines(answer, result=result)
    for waiting in search.waiting.leads if search.waiting else []:
        yield waiting.lead_id
        since = f"since {iso(waiting.since_ms)}"
        ahead = count(waiting.ahead, "record")
        yield (
            f"  {waiting.workspace}, waits on Kafka as {waiting.origin}, {since}, with about "
            f"{ahead} before it"
        )
        for finding in waiting.findings:
            until = _until(finding.until_ms, until_probe=finding.until_probe)
            lifts = f"; lifted by: {finding.lifts}" if finding.lifts else ""
            yield f"    {_held(finding)}{finding.what}{until}{lifts}"


def _until(at_ms: int | None, *, until_probe: bool) -> str:
    return f", {time_words(until_probe=until_probe)} {iso(at_ms)}" if at_ms else ""


def _held(finding: Finding) -> str:
    return f"{finding.state.upper()}, " if finding.holds else ""


def _history_lines(history: RecordHistory) -> Iterator[str]:
    """Yield the steps of a record, what it waited for in all, and what it waits for now."""
    where = "/".join(filter(None, (history.workspace, history.destination))) or "no workspace named"
    yield f"  {where}, came as {history.origin}, trace {history.trace_id}"
    for step in steps(history.events):
        yield f"    {_step(step)}"
    for kind, length_ms, times in sums(history.waits, Clock().now_ms()):
        yield f"    waited {length_ms / 1000:>10,.1f} s  {WAIT_NAMES[kind]}" + (
            f", {times} times" if times > 1 else ""
        )
    now = history.waits[-1] if history.waits else None
    if now is not None and now.end_ms is None:
        limit = f" ({now.limit})" if now.limit else ""
        until = _until(now.until_ms, until_probe=now.until_probe)
        yield f"    WAITS for {now.name}{limit} since {iso(now.begin_ms)}{until}: {now.text}"
    if history.run is not None:
        yield f"    {_run(history.run)}"
    yield f"    status {history.status}: {meaning_of(history.column)}"


def _run(run: RunPolls) -> str:
    if run.next_ms is None:
        return (
            "its run has no known id, because Clay's answer to the POST was lost: only an "
            "announcement of it settles the lead"
        )
    asked = count(run.polls, "poll", "polls")
    waits = "; polls wait for the rate of its lane" if run.waits_for_rate else ""
    return f"run {run.id}: {asked} so far, the next at {iso(run.next_ms)} (by the schedule){waits}"


def _step(step: Step) -> str:
    event = step.event
    after = "" if step.gap_ms is None else f"+{step.gap_ms / 1000:.1f} s"
    line = f"{iso(event.at_ms)} {after:>10}  {event.status}"
    if event.reason or event.text:
        line += f": {event.text or event.reason}" + (
            f" ({event.reason})" if event.text and event.reason else ""
        )
    if event.run:
        line += f", run {event.run}"
    if event.replay:
        line += f", replay {event.replay}"
    if event.credits is not None:
        line += f", {event.credits_text}"
    return line + (f" ({step.times} times since {iso(step.since_ms)})" if step.times > 1 else "")


def _result_lines(stored: FoundResult, *, result: bool) -> Iterator[str]:
    line = (
        f"  result for {stored.workspace}/{stored.destination}: from {stored.source}, "
        f"version {stored.version}"
    )
    line += f", {iso(stored.at_ms)}"
    if stored.age_s:
        line += f", then {stored.age_s} s old"
    if stored.problem:
        line += f"; its data is missing: {stored.problem}"
    elif not result:
        line += f", {count(len(stored.fields or {}), 'field')} (--result shows them)"
    yield line
    if result:
        for name, value in (stored.fields or {}).items():
            yield f"    {name}: {value}"


_BAR: Final = 30


def imports(
    import_id: str = "",
    /,
    *,
    workspace: WorkspaceName = None,
    common: Common = COMMON,
) -> int:
    """Show the imports, newest first: how many leads each has, where they are, what they have cost.

    example:
      stream-app imports
      stream-app imports 2026-11-26-kfdwzp

    Args:
        import_id: show this one, with what has become of its leads
        workspace: only of this workspace
    """
    answer = find_imports(common.settings("api", workspace=workspace), import_id, workspace)
    if import_id:
        common.show(answer, *chain.from_iterable(map(_import_lines, answer.imports)))
    else:
        common.show(answer, *([_imports_table(answer.imports)] if answer.imports else []))
    if not answer.imports:
        say(f"no lead of import {import_id} is known" if import_id else "no import is known")
    if answer.more:
        say("there are older imports: the board lists all of them (`stream-app board`)")
    say_how_far(answer)
    return OK if answer.imports or not import_id else NO


def _imports_table(publications: list[FoundImport]) -> Table:
    def at_rest(publication: FoundImport) -> str:
        return f"{publication.at_rest:,} {publication.percent_at_rest} %"

    return table_of(
        publications,
        {
            Column("import"): lambda publication: publication.import_id,
            Column("began", rank=1): lambda publication: iso(publication.first_ms)[:16],
            Column("workspace", rank=2): lambda publication: publication.workspace,
            Column("rows", rank=4, right=True): _rows_of,
            Column("refused", rank=3, right=True): lambda publication: _number(publication.refused),
            Column("duplicates", rank=3, right=True): (
                lambda publication: f"{publication.duplicates:,}"
            ),
            Column("leads", right=True): lambda publication: f"{publication.leads:,}",
            Column("at rest", right=True): at_rest,
            Column("credits", rank=1, right=True): lambda publication: f"{publication.credits:,}",
            Column("file", rank=5): lambda publication: publication.file,
            Column("by", rank=6): lambda publication: publication.who,
        },
    )


def _import_lines(publication: FoundImport) -> Iterator[str]:
    of = f" from {publication.file}" if publication.file else ""
    by = f" by {publication.who}" if publication.who else ""
    yield (
        f"{publication.import_id}: {publication.workspace}, "
        f"began {iso(publication.first_ms)}{of}{by}"
    )
    if publication.rows is not None:
        rows = count(publication.rows, "row")
        refused = f"{publication.refused or 0:,} refused"
        published = f"{publication.published or 0:,} published to {publication.workspace}"
        yield f"  {rows} in the file, {refused}; {published}"
    if publication.duplicates:
        yield (
            f"  {count(publication.records, 'record')}: {count(publication.leads, 'lead')} and "
            f"{count(publication.duplicates, 'duplicate')} ({meaning_of('duplicate')})"
        )
    full = publication.percent_at_rest * _BAR // 100
    yield (
        f"  [{'#' * full}{'.' * (_BAR - full)}] {publication.at_rest:,} of "
        f"{count(publication.leads, 'lead')} at rest"
    )
    for name, leads in publication.columns_of_leads.items():
        yield f"  {name_of(name)}: {leads:,} ({meaning_of(name)})"
    for row in publication.yields:
        counted = row.until_now
        price = f", {counted.price_in_credits} each" if counted.filled else ""
        yield (
            f"  {row.column} of {row.destination}: {counted.percent} of "
            f"{count(counted.answered, 'answer')}{price}"
        )
    yield f"  {count(publication.credits, 'credit')} so far; last event {iso(publication.last_ms)}"


def _rows_of(publication: FoundImport) -> str:
    if publication.has_neighbours:
        return f"{_number(publication.published)} of {_number(publication.rows)}"
    return _number(publication.rows)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def yields(*, workspace: WorkspaceName = None, common: Common = COMMON) -> int:
    """Show how often Clay has found a column, and the credits for each value.

    Destinations name their columns in `yield`. The last hour and the last day stand beside the
    seven days before.

    example:
      stream-app yield
      stream-app yield --workspace acme

    Args:
        workspace: only of this workspace
    """
    settings = common.settings("api", workspace=workspace)
    answer = find_yields(settings, workspace)
    common.show(answer, *([_yields_table(answer.yields)] if answer.yields else []))
    if not answer.yields:
        names_some = any(destination.yield_ for destination in settings.destinations.values())
        say(
            "Clay has answered no lead in these eight days"
            if names_some
            else 'no destination says what counts: set yield = ["work_email"] where you buy it',
        )
    say_how_far(answer)
    return OK


def _yields_table(counted: list[ColumnYield]) -> Table:
    return table_of(
        counted,
        {
            # A destination is of one workspace, so that its name tells whose numbers these are.
            Column("workspace", rank=4): lambda row: row.workspace,
            Column("destination"): lambda row: row.destination,
            Column("column"): lambda row: row.column,
            Column("last hour", rank=3, right=True): lambda row: yield_text(row.hour),
            Column("last day", right=True): lambda row: yield_text(row.day),
            Column("7 days before", rank=1, right=True): lambda row: yield_text(row.before),
            Column("credits each", rank=2, right=True): lambda row: row.day.price,
            Column("credits each before", rank=5, right=True): lambda row: row.before.price,
        },
    )


def yield_text(counted: Yield) -> str:
    """Return a share with the answers that it is of."""
    return f"{counted.percent} of {counted.answered:,}" if counted.answered else ""


_MAX_FINDINGS: Final = 100


def explain(*, view: View = VIEW) -> int:
    """Show why leads wait: what holds them, since and until when, what lifts it, and how many wait.

    Exit code 1 if something holds.

    example:
      stream-app explain --workspace acme
    """
    settings = view.settings(workspace=view.workspace)
    return view.repeat(lambda: _explain(settings, view.workspace, as_json=view.json))


def _explain(settings: Settings, workspace: str | None, *, as_json: bool) -> int:
    facts = reader.only_workspace(asyncio.run(reader.read_lanes(settings, say)), workspace).facts
    findings = findings_of(facts)
    holds = any(finding.holds for finding in findings)
    if as_json:
        show_json({"holds": holds, "findings": findings, "facts": facts})
        return NO if holds else OK
    if len(findings) > _MAX_FINDINGS:
        findings.sort(key=lambda finding: not finding.holds)
    for finding in findings[:_MAX_FINDINGS]:
        zone = settings.workspaces[finding.workspace].time_zone if finding.workspace else "UTC"
        _show_finding(finding, facts.at_ms, zone)
    if (more := len(findings) - _MAX_FINDINGS) > 0:
        say(
            (
                f"{count(more, 'more finding')}, less urgent than these: name one workspace with "
                "--workspace, or use --json"
            ),
        )
    return NO if holds else OK


def _show_finding(finding: Finding, now_ms: int, zone: str) -> None:
    name = f"{finding.workspace}: " if finding.workspace else ""
    show(f"{name}{_held(finding)}{finding.what}")
    if finding.since_ms:
        show(f"    since   {second(finding.since_ms, now_ms, zone)} ({zone})")
    if finding.until_ms:
        words = time_words(until_probe=finding.until_probe)
        show(f"    {words:<7} {second(finding.until_ms, now_ms, zone)} ({zone})")
    if finding.poll_ms:
        show(f"    poll at {second(finding.poll_ms, now_ms, zone)} ({zone})")
    if finding.lifts:
        show(f"    lifts   {finding.lifts}")
    if finding.waiting:
        text = waiting_text(
            finding.waiting,
            finding.oldest_ms,
            now_ms,
            shared=finding.in_partition,
            at_most=finding.at_most,
        )
        show(f"    waiting {text}")
