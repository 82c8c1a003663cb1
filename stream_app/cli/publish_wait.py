"""`stream-app publish --wait`: sends the leads, waits until they are at rest, and shows where they are."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from stream_app.cli.base import say, tell
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.publishing import Batch, Summary, Wishes
    from stream_app.publishing.waiting import PublishedLeads

DEFAULT_WAIT_S: Final = 600.0


def seconds(text: str) -> float:
    """The seconds of `--wait`. Raises argparse.ArgumentTypeError."""
    try:
        found = float(text)
    except ValueError:
        found = 0
    if not 0 < found <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0: put FILE before --wait")
    return found


def program_of(args: argparse.Namespace) -> str:
    """The key of its rights on Kafka."""
    return "publish" + (" --bulk" if args.bulk else "") + ("" if args.wait is None else " --wait")


async def send_and_wait(
    args: argparse.Namespace, settings: Settings, wishes: Wishes, batch: Batch, summary: Summary
) -> PublishedLeads:
    """Send the leads of the batch, write their ids, and wait until all are at rest or `--wait` is over.

    Once the leads are published, a failure of the wait is only said: the answer tells what was published.

    Raises:
        BrokerUnavailable: Not all leads were published.
    """
    from stream_app.cli.dead_letter_options import reading
    from stream_app.cli.publish_files import write_ids
    from stream_app.config.kafka_access import connection_of
    from stream_app.domain.errors import StreamAppError
    from stream_app.kafka.status_follower import StatusFollower
    from stream_app.publishing import send_batch, topic_of
    from stream_app.publishing.waiting import PublishedLeads, wait_for_rest

    without_callbacks = {alias for alias, there in settings.destinations.items() if not there.callbacks}
    leads = PublishedLeads(topic_of(settings, wishes), without_callbacks)
    partitions = {settings.home(workspace) for workspace in summary.workspaces}
    if not partitions:
        return leads
    async with StatusFollower(connection_of(settings), settings.names.status, partitions) as follower:
        summary.published = await send_batch(batch, settings, wishes, leads.add)
        if args.out:
            write_ids(args.out, batch)
        try:
            with reading("leads", "at rest") as show:
                await wait_for_rest(leads, follower, args.wait, show)
        except StreamAppError as error:
            say(f"the leads are published, but following them has failed: {error}")
    return leads


def as_json(leads: PublishedLeads) -> dict[str, Any]:
    """Where the leads are, for machines."""
    return {
        "at_rest": leads.at_rest,
        "under_way": leads.total - leads.at_rest,
        "statuses": leads.by_status(at_rest=True),
        "statuses_under_way": leads.by_status(at_rest=False),
        "no_event": leads.no_event,
    }


def show_wait(leads: PublishedLeads) -> None:
    """Where the leads are, for people."""
    for status, number in leads.by_status(at_rest=True).items():
        tell(f"{status}: {number:,}")
    for status, number in leads.by_status(at_rest=False).items():
        tell(f"{status}: {number:,}, still under way")
    if leads.no_event:
        tell(f"not read by a worker yet: {leads.no_event:,}")
    text = f"{count(leads.total, 'lead')}: {leads.at_rest:,} at rest, {leads.total - leads.at_rest:,} under way"
    tell(text + ("" if leads.at_rest == leads.total else "; `stream-app explain` shows why lanes wait"))
