"""`stream-app publish FILE`: publish leads from a CSV or JSON Lines file, or from stdin."""

# No `from __future__ import annotations`: cyclopts looks for the types of inherited options in the
# subclass's module.

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal

from cyclopts import Parameter

from stream_app.cli.base import NO, OK, QUEUED, Common, confirm
from stream_app.cli.files import SHOWN_ROWS, STDIO, Rejects, format_of, opened, write_ids
from stream_app.cli.options import Map, WorkspaceName, login_name, mapping_of
from stream_app.cli.output import say, show, show_json
from stream_app.cli.tables import reading, reading_rows
from stream_app.client.lanes.views import last_views
from stream_app.client.publish.leads import (
    CheckedLeads,
    Checker,
    PublishOptions,
    PublishSummary,
    Ready,
    any_import_id,
    check_rows,
    column_lines,
    no_workspace,
    quotes_of,
    send_batch,
    topic_of,
)
from stream_app.client.publish.rows import Sheet, open_csv, read_jsonl
from stream_app.client.publish.send import PublishedLeads, wait_for_rest
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.lead.read import is_shown
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.text import count
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.price import Quote, quote_lines
from stream_app.kafka.readers import StatusFollower

DEFAULT_WAIT_S: Final = 600.0
_MAX_PERIOD_S: Final = 10_000_000
_ANSWER_WITHIN_S: Final = 5.0


def _seconds(_: object, tokens: list[Any]) -> tuple[float, ...]:
    try:
        periods = tuple(float(token.value) for token in tokens)
    except ValueError:
        periods = (0,)
    if not all(0 < seconds <= _MAX_PERIOD_S for seconds in periods):  # nan is not, either
        raise ValueError(f"{tokens[0].value!r} is no number of seconds above 0")
    return periods


WaitOption = Annotated[
    tuple[float, ...] | None,
    Parameter(metavar="[SECONDS]", converter=_seconds, consume_multiple=(0, 1)),
]
"""The option `--wait [SECONDS]`: None without it, empty without a number."""


def as_json(leads: PublishedLeads) -> dict[str, Any]:
    """Return where the leads are, for programs."""
    return {
        "at_rest": leads.at_rest,
        "under_way": leads.total - leads.at_rest,
        "statuses": leads.by_status(at_rest=True),
        "statuses_under_way": leads.by_status(at_rest=False),
        "no_event": leads.no_event,
    }


def show_wait(leads: PublishedLeads) -> None:
    """Print where the leads are, for people."""
    for status, number in leads.by_status(at_rest=True).items():
        show(f"{status}: {number:,}")
    for status, number in leads.by_status(at_rest=False).items():
        show(f"{status}: {number:,}, still under way")
    if leads.no_event:
        show(f"not read by a worker yet: {leads.no_event:,}")
    text = (
        f"{count(leads.total, 'lead')}: {leads.at_rest:,} at rest, "
        f"{leads.total - leads.at_rest:,} under way"
    )
    show(
        text
        + ("" if leads.at_rest == leads.total else "; `stream-app explain` shows why lanes wait"),
    )


ASK_ABOVE_CREDITS: Final = 1_000


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options of `stream-app publish`."""

    format: Literal["csv", "jsonl"] | None = None
    """default: by the file's name; stdin is JSON Lines"""
    map: Map = ()
    """name the CSV column of a lead field; may be repeated"""
    workspace: WorkspaceName = None
    """for rows that name none (default: the config's only one)"""
    destination: Annotated[str | None, Parameter(metavar="ALIAS")] = None
    """for rows that name none (default: the workspace's)"""
    import_id: Annotated[str | None, Parameter(metavar="NAME")] = None
    """a name for these leads; `stream-app imports` shows their progress (default: the date and \
six characters)"""
    bulk: bool = False
    """publish to leads.bulk, which gets a share of the rate"""
    force: bool = False
    """send leads again that were sent before, and pay again"""
    out: Path | None = None
    """write the id of each published lead with its line; CSV or .jsonl"""
    wait: WaitOption = None
    """wait until all leads are at rest, for at most this long (default: 600), and show where they \
are; exit code 3 if some are still under way then"""
    yes: bool = False
    """publish without confirmation, at any cost"""
    dry_run: bool = False
    """check every row and show the cost, write nothing"""

    @property
    def wait_s(self) -> float | None:
        """How long to wait; None without `--wait`."""
        return None if self.wait is None else self.wait[0] if self.wait else DEFAULT_WAIT_S

    @property
    def program(self) -> str:
        """The key of its rights on Kafka."""
        return (
            "publish" + (" --bulk" if self.bulk else "") + ("" if self.wait is None else " --wait")
        )


_OPTIONS: Final = Options()


def publish(file: Path, /, *, options: Options = _OPTIONS) -> int:
    """Publish leads from CSV or JSON Lines, and say before what that costs.

    Refused rows go to FILE.rejected.jsonl; exit code 1 then.

    example:
      stream-app publish leads.csv --workspace acme --map email="E-Mail" --dry-run

    Args:
        file: CSV or .jsonl file, or - for stdin, read to its end
    """
    if options.dry_run and options.out:
        raise SettingsError(["--out: a dry run writes nothing; leave one of the two out"])
    if options.dry_run and options.wait is not None:
        raise SettingsError(["--wait: a dry run publishes nothing; leave one of the two out"])
    settings = options.settings()
    import_id = options.import_id or any_import_id()
    chosen = PublishOptions(
        options.workspace,
        options.destination,
        import_id,
        options.bulk,
        options.force,
    )
    with closing(CheckedLeads()) as batch, _ctrl_c_at_once():
        return _publish(file, options, chosen, settings, batch)


def _publish(
    file: Path,
    options: Options,
    chosen: PublishOptions,
    settings: Settings,
    batch: CheckedLeads,
) -> int:
    if not options.dry_run:
        asyncio.run(kafka_ready(settings, options.program, say))
    sheet, summary, rejects = _check(file, options, chosen, settings, batch)
    rejects.show()
    quotes = []
    for line in column_lines(settings, sheet.titles, sheet.names, summary, "use --map"):
        say(line)
    if summary.ready:
        views = asyncio.run(_views(settings, is_needed=not options.dry_run))
        quotes = quotes_of(settings, summary, views, Clock().now_ms())
        options.tell(*quote_lines(quotes))
    leads = None
    if not options.dry_run:
        _ask(quotes, yes=options.yes)
        leads = asyncio.run(_send(settings, options, chosen, batch, summary, file))
    rejected = rejects.path if summary.refused and not options.dry_run else None
    if options.json:
        show_json(
            {
                "import_id": None if options.dry_run or summary.own_imports else chosen.import_id,
                "rows": summary.rows,
                "ready": summary.ready,
                "published": summary.published,
                "refused": summary.refused,
                "reasons": summary.reasons,
                "workspaces": summary.workspaces,
                "columns": dict(zip(sheet.titles, sheet.names, strict=True)),
                "ids_changed": summary.changed,
                "quotes": quotes,
                "rejected_file": None if rejected is None else str(rejected),
                "ids_file": None if options.out is None else str(options.out),
                "dry_run": options.dry_run,
                "wait": None if leads is None else as_json(leads),
            },
        )
    else:
        _show_result(options, chosen.import_id or "", summary, rejected, leads)
    if summary.refused:
        return NO
    return QUEUED if leads is not None and leads.at_rest < leads.total else OK


def _show_result(
    options: Options,
    import_id: str,
    summary: PublishSummary,
    rejected: Path | None,
    leads: PublishedLeads | None,
) -> None:
    """Print what was published and what was refused, for people.

    `rejected`: the file with the refused rows. `leads`: where they are; None if nobody waited.
    """
    for reason, rows in summary.reasons.most_common():
        show(f"refused, {reason}: {rows}")
    if leads is not None:
        show_wait(leads)
    number = summary.ready if options.dry_run else summary.published
    done = (
        f"{number:,} {'would be published' if options.dry_run else 'published'}, "
        f"{summary.refused:,} refused"
    )
    show(f"{count(summary.rows, 'row')}: {done}" + (f", see {rejected}" if rejected else ""))
    if summary.published and not summary.own_imports and is_shown(import_id):
        show(f"`stream-app imports {import_id}` shows where they are")


async def _views(settings: Settings, *, is_needed: bool) -> dict[str, LaneView] | None:
    """Return the last view of each lane. None if Kafka does not show them and they are not needed.

    Raises:
        StreamAppError: They are needed.
    """
    if is_needed:
        return await last_views(settings)
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            return await last_views(settings)
    except (StreamAppError, TimeoutError) as error:
        why = str(error) or f"it does not answer within {_ANSWER_WITHIN_S:g} s"
        say(
            "what the lanes have left is not known, so the budget is that of the "
            f"configuration: {why}",
        )
        return None


async def _send(
    settings: Settings,
    options: Options,
    chosen: PublishOptions,
    batch: CheckedLeads,
    summary: PublishSummary,
    file: Path,
) -> PublishedLeads | None:
    """Send the leads of the batch, and write their ids.

    With --wait, wait until all are at rest or the time is over.

    Once the leads are published, a failure of the wait is only printed: the result says what was
    published. Raises BrokerUnavailable if not all leads were published.
    """
    summaries = summary.import_summaries("" if file == STDIO else file.name, login_name())
    if options.wait_s is None:
        summary.published = await send_batch(batch, settings, chosen, summaries=summaries)
        write_ids(options.out, batch)
        return None
    leads = PublishedLeads(topic_of(settings, chosen), settings.without_callbacks)
    partitions = {settings.home(workspace) for workspace in summary.workspaces}
    if not partitions:
        return leads
    async with StatusFollower(
        connection_of(settings),
        settings.names.status,
        partitions,
    ) as follower:
        summary.published = await send_batch(batch, settings, chosen, leads.add, summaries)
        write_ids(options.out, batch)
        try:
            with reading("leads", "at rest") as progress:
                await wait_for_rest(leads, follower.batches(), options.wait_s, progress)
        except StreamAppError as error:
            say(f"the leads are published, but following them has failed: {error}")
    return leads


def _ask(quotes: list[Quote], *, yes: bool) -> None:
    """Ask before many credits are spent.

    Raises SettingsError or StreamAppError unless the answer is yes.
    """
    credits_ = sum(quote.credits for quote in quotes)
    leads = sum(quote.leads for quote in quotes)
    cost = f"about {count(credits_, 'credit')} (above {ASK_ABOVE_CREDITS:,} it asks)"
    confirm(f"publish {count(leads, 'lead')} for {cost}", yes=yes or credits_ <= ASK_ABOVE_CREDITS)


def _check(
    file: Path,
    options: Options,
    chosen: PublishOptions,
    settings: Settings,
    batch: CheckedLeads,
) -> tuple[Sheet, PublishSummary, Rejects]:
    """Check all rows: valid ones go into the batch, refused ones into their file."""
    changed: list[Ready] = []

    def on_ready(lead: Ready) -> None:
        if lead.is_changed and len(changed) < SHOWN_ROWS:
            changed.append(lead)
        if not options.dry_run:
            batch.add(lead)

    with (
        nullcontext(sys.stdin.buffer) if file == STDIO else opened(file) as source,
        Rejects(file, dry_run=options.dry_run) as rejects,
        reading_rows(source) as on_progress,
    ):
        try:
            sheet = _sheet(file, options, source)
        except ValueError as exc:
            raise SettingsError([f"{file}: {exc}"]) from None
        if sheet.titles and (missing := no_workspace(settings, sheet.names, options.workspace)):
            raise SettingsError([f"{file}: {missing}"])
        checker = Checker(settings, chosen, ids=options.out is not None)
        work = check_rows(
            sheet.rows,
            checker,
            on_ready,
            on_refused=rejects.add,
            on_progress=on_progress,
        )
        summary = asyncio.run(work)
    for lead in changed:
        say(
            f"line {lead.line}: the lead id cannot be used as it stands; "
            f"the lead has the id {lead.lead_id}",
        )
    if summary.changed > len(changed):
        more = count(summary.changed - len(changed), "more id was", "more ids were")
        say(f"and {more} changed; --out FILE has all of them")
    if file == STDIO and options.format is None and summary.reasons["not_json"] == summary.rows > 0:
        say("no line is JSON: if it is CSV, say --format csv")
    return sheet, summary, rejects


def _sheet(file: Path, options: Options, source: IO[bytes]) -> Sheet:
    """Open the rows.

    JSON Lines have no titles. Raises ValueError if the header or the mapping cannot be used.
    """
    if (options.format or ("jsonl" if file == STDIO else format_of(file))) == "csv":
        return open_csv(source, mapping_of(options.map))
    if options.map:
        raise ValueError("--map is for CSV")
    return Sheet([], [], read_jsonl(source))


@contextmanager
def _ctrl_c_at_once() -> Iterator[None]:
    """Make Ctrl-C raise at once.

    asyncio's own handler waits for a turn that a read of stdin never gives.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
