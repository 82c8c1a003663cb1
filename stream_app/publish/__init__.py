"""Publishing leads: `await publish(leads, settings)` for Python users, `publish_rows` for files."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final

import msgspec

from stream_app.adapters.topics import check_topics
from stream_app.core.messages import Lead
from stream_app.publish.check import Checker, Refusal, Wishes
from stream_app.publish.rows import Row, flat_draft
from stream_app.publish.send import Sender
from stream_app.settings import Settings, client_options

__all__ = ["Refusal", "Summary", "Wishes", "publish", "publish_rows"]

_ROWS_A_TURN: Final = 500
_NO_WISHES: Final = Wishes()


class Summary(msgspec.Struct):
    """What became of the rows, so far or in the end: rows = ready + refused; `published` are safe on Kafka."""

    rows: int = 0
    ready: int = 0
    published: int = 0
    refused: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    workspaces: Counter[str] = msgspec.field(default_factory=Counter)


def _nothing(_: object) -> None:
    return None


async def publish(
    leads: Iterable[Lead | Mapping[str, Any]],
    settings: Settings,
    wishes: Wishes = _NO_WISHES,
    *,
    on_refused: Callable[[Refusal], None] = _nothing,
) -> Summary:
    """Publish leads, each a `Lead` or a flat mapping of its fields; `Refusal.line` counts them from 1.

    A lead that is refused is reported and stops nothing. Raises TopicsError, BrokerUnavailable.
    """
    rows = (
        Row(line, msgspec.to_builtins(lead) if isinstance(lead, Lead) else flat_draft(lead))
        for line, lead in enumerate(leads, 1)
    )
    return await publish_rows(rows, settings, wishes, on_refused=on_refused)


async def publish_rows(
    rows: Iterable[Row],
    settings: Settings,
    wishes: Wishes,
    *,
    dry_run: bool = False,
    on_refused: Callable[[Refusal], None] = _nothing,
    on_progress: Callable[[Summary], None] = _nothing,
    say: Callable[[str], None] = _nothing,
) -> Summary:
    """Check all rows and publish those that are good, unless `dry_run`, which needs no Kafka.

    on_progress  gets the same growing Summary every few hundred rows. say: a line while waiting for the broker.

    Raises TopicsError, BrokerUnavailable.
    """
    checker, summary = Checker(settings, wishes), Summary()
    async with _sender(settings, wishes, say) if not dry_run else nullcontext() as sender:
        for row in rows:
            answer = checker.check(row)
            summary.rows += 1
            if isinstance(answer, Refusal):
                summary.refused += 1
                summary.reasons[answer.reason] += 1
                on_refused(answer)
            else:
                summary.ready += 1
                summary.workspaces[answer.workspace] += 1
                if sender is not None:
                    await sender.put(answer.partition, answer.workspace.encode(), answer.value)
                    summary.published = sender.acknowledged
            if summary.rows % _ROWS_A_TURN == 0:
                on_progress(summary)
                await asyncio.sleep(0)
        if sender is not None:
            await sender.flush()
            summary.published = sender.acknowledged
    return summary


@asynccontextmanager
async def _sender(settings: Settings, wishes: Wishes, say: Callable[[str], None]) -> AsyncIterator[Sender]:
    """A sender to the topic that the leads are for, when that topic is as planned."""
    topic = settings.names.bulk if wishes.bulk else settings.names.leads
    plan = [each for each in settings.topic_plan() if each.name == topic]
    client, wait_s = client_options(settings), settings.kafka.broker_wait_s
    await check_topics(client, plan, wait_s, say)
    async with Sender(client, topic, wait_s) as sender:
        yield sender
