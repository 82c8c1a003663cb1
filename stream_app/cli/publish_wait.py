"""`stream-app publish --wait`: send the leads, wait until they are at rest, and show where they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from stream_app.cli.base import say, show
from stream_app.cli.files import write_ids
from stream_app.cli.progress import reading
from stream_app.client.publish import Batch, PublishOptions, Summary, send_batch, topic_of
from stream_app.client.send import PublishedLeads, wait_for_rest
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.errors import StreamAppError
from stream_app.domain.messages import ImportSummary
from stream_app.domain.text import count
from stream_app.kafka.status_follower import StatusFollower

DEFAULT_WAIT_S: Final = 600.0
_LONGEST_S: Final = 10_000_000


def _seconds(_: object, tokens: list[Any]) -> tuple[float, ...]:
    try:
        found = tuple(float(token.value) for token in tokens)
    except ValueError:
        found = (0,)
    if not all(0 < seconds <= _LONGEST_S for seconds in found):  # nan is not, either
        raise ValueError(f"{tokens[0].value!r} is no number of seconds above 0")
    return found


Wait = Annotated[tuple[float, ...] | None, Parameter(metavar="[SECONDS]", converter=_seconds, consume_multiple=(0, 1))]
"""The option `--wait [SECONDS]`: None without it, empty without a number."""


async def send_and_wait(
    settings: Settings,
    options: PublishOptions,
    batch: Batch,
    summary: Summary,
    summaries: Mapping[str, ImportSummary],
    ids: Path | None,
    wait_s: float,
) -> PublishedLeads:
    """Send the leads of the batch, write their ids to a file, and wait until all are at rest or the time is over.

    Once the leads are published, a failure of the wait is only printed: the result says what was published.

    Raises:
        BrokerUnavailable: Not all leads were published.
    """
    leads = PublishedLeads(topic_of(settings, options), settings.without_callbacks)
    partitions = {settings.home(workspace) for workspace in summary.workspaces}
    if not partitions:
        return leads
    async with StatusFollower(connection_of(settings), settings.names.status, partitions) as follower:
        summary.published = await send_batch(batch, settings, options, leads.add, summaries)
        write_ids(ids, batch)
        try:
            with reading("leads", "at rest") as progress:
                await wait_for_rest(leads, follower, wait_s, progress)
        except StreamAppError as error:
            say(f"the leads are published, but following them has failed: {error}")
    return leads


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
    text = f"{count(leads.total, 'lead')}: {leads.at_rest:,} at rest, {leads.total - leads.at_rest:,} under way"
    show(text + ("" if leads.at_rest == leads.total else "; `stream-app explain` shows why lanes wait"))
