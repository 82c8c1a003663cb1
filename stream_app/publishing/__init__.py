"""Publishes leads: `await publish(leads, settings)` for Python programs, `check_rows` and `send_batch` for files."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.lead.lead import Unreadable
from stream_app.domain.messages import ImportSummary, Lead
from stream_app.kafka.connection import silent
from stream_app.publishing.announce import announced, summaries_of
from stream_app.publishing.batch import Batch
from stream_app.publishing.check import Checker, PublishOptions, Ready, Refusal
from stream_app.publishing.rows import Row, draft_of
from stream_app.publishing.send import OnAcknowledged, Sender

__all__ = [
    "Batch",
    "PublishOptions",
    "Ready",
    "Refusal",
    "Summary",
    "check_rows",
    "publish",
    "publish_rows",
    "send_batch",
]

_ROWS_A_TURN: Final = 500
_MOST_FIELDS: Final = 200
_DEFAULTS: Final = PublishOptions()
_NO_SUMMARIES: Final[Mapping[str, ImportSummary]] = {}


class Summary(msgspec.Struct):
    """The counts of rows, so far or in the end: rows = ready + refused; `published` leads are safe on Kafka.

    Attributes:
        changed: Leads whose id differs from the id in their row.
        reasons: Refused rows by reason.
        going: Leads by workspace and destination.
        fields: The names of the leads' fields, the first 200.
        own_imports: Leads whose row names another import than the publisher.
    """

    rows: int = 0
    ready: int = 0
    published: int = 0
    refused: int = 0
    changed: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    going: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    fields: dict[str, None] = msgspec.field(default_factory=dict)
    own_imports: int = 0

    def import_summaries(self, file: str = "", who: str = "") -> dict[str, ImportSummary]:
        """Return what the import's first lead of each workspace says; nothing if the rows name imports of their own."""
        return {} if self.own_imports else summaries_of(self.workspaces, self.rows, self.refused, file, who)

    @property
    def workspaces(self) -> Counter[str]:
        """Leads by workspace."""
        found: Counter[str] = Counter()
        for (workspace, _), leads in self.going.items():
            found[workspace] += leads
        return found


async def publish(
    leads: Iterable[Lead | Mapping[str, Any]],
    settings: Settings,
    options: PublishOptions = _DEFAULTS,
    *,
    on_refused: Callable[[Refusal], None] = silent,
) -> Summary:
    """Publish leads, each a `Lead` or a flat mapping of its fields; `Refusal.line` counts them from 1.

    A lead that is refused is reported and stops nothing. Nothing is sent before all leads were checked.

    Raises:
        TopicsError, KafkaRefused, BrokerUnavailable, StreamAppError: Not all leads were published.
    """
    rows = (
        Row(line, msgspec.to_builtins(lead) if isinstance(lead, Lead) else draft_of(lead))
        for line, lead in enumerate(leads, 1)
    )
    return await publish_rows(rows, settings, options, on_refused=on_refused)


async def publish_rows(
    rows: Iterable[Row],
    settings: Settings,
    options: PublishOptions,
    *,
    on_refused: Callable[[Refusal], None] = silent,
) -> Summary:
    """Check all rows, then publish the valid ones. Raises as `publish`."""
    await kafka_ready(settings, "publish() bulk" if options.bulk else "publish()")
    with Batch() as batch:
        summary = await check_rows(rows, Checker(settings, options), batch.add, on_refused=on_refused)
        summaries = summary.import_summaries() if options.import_id else _NO_SUMMARIES
        summary.published = await send_batch(batch, settings, options, summaries=summaries)
    return summary


async def check_rows(
    rows: Iterable[Row],
    checker: Checker,
    on_ready: Callable[[Ready], None],
    *,
    on_refused: Callable[[Refusal], None] = silent,
    on_progress: Callable[[Summary], None] = silent,
) -> Summary:
    """Check all rows. `on_progress` gets the same growing Summary every few hundred rows."""
    summary = Summary()
    for row in rows:
        answer = checker.check(row)
        summary.rows += 1
        if isinstance(answer, Refusal):
            summary.refused += 1
            summary.reasons[answer.reason] += 1
            on_refused(answer)
        else:
            summary.ready += 1
            summary.going[answer.workspace, answer.destination] += 1
            summary.changed += answer.is_changed
            if not isinstance(row.draft, Unreadable):
                summary.own_imports += row.draft.get("import_id") != checker.import_id
                if len(summary.fields) < _MOST_FIELDS:
                    summary.fields.update(dict.fromkeys(row.draft["fields"]))
            on_ready(answer)
        if summary.rows % _ROWS_A_TURN == 0:
            on_progress(summary)
            await asyncio.sleep(0)
    return summary


async def send_batch(
    batch: Iterable[Ready],
    settings: Settings,
    options: PublishOptions,
    on_acknowledged: OnAcknowledged = silent,
    summaries: Mapping[str, ImportSummary] = _NO_SUMMARIES,
) -> int:
    """Send checked leads to their topic. Returns how many are safe on Kafka.

    `on_acknowledged` is called for each batch that Kafka has acknowledged. `summaries`: by workspace, what the first
    lead says of its import.

    Raises:
        BrokerUnavailable: Not all of them are.
    """
    connection, wait_s = connection_of(settings), settings.kafka.broker_wait_s
    async with Sender(connection, topic_of(settings, options), wait_s, on_acknowledged) as sender:
        for lead in announced(batch, summaries):
            await sender.put(lead.partition, lead.workspace.encode(), lead.value)
        await sender.flush()
        return sender.acknowledged


def topic_of(settings: Settings, options: PublishOptions) -> str:
    """The topic that leads with these options are published to."""
    return settings.names.bulk if options.bulk else settings.names.leads
