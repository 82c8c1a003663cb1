"""One test lead down the line like any other, and back: it proves webhook, table, callback and token in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from stream_app.adapters.status_follower import StatusFollower
from stream_app.app import connection_of
from stream_app.core.errors import SettingsError, StreamAppError
from stream_app.core.messages import Lead, Status, StatusEvent
from stream_app.publish import publish
from stream_app.settings import Settings, check_known

BACK: Final = frozenset[Status]({"enriched", "partial", "no_data", "enrich_error"})
"""It came back: whatever Clay found, the callback was received and matched."""

OVER: Final = frozenset[Status]({"rejected_invalid", "suppressed", "duplicate", "expired", "dead_lettered", "parked"})
"""It will not come back by itself."""


class RoundTrip(msgspec.Struct, frozen=True):
    """How it went. `ok`: the callback came. `text` says what to do otherwise."""

    lead_id: str
    ok: bool
    text: str


def probe_lead(alias: str, workspace: str, number: int) -> Lead:
    """A lead that nobody ever was: `number` makes it another one each time."""
    fields: dict[str, str | int | float | bool | None] = {
        "email": f"doctor-{number}@example.com",
        "first_name": "Test",
        "last_name": f"Lead {number}",
        "full_name": f"Test Lead {number}",
        "company_name": "Example",
        "domain": "example.com",
        "linkedin_url": f"https://www.linkedin.com/in/test-lead-{number}",
        "title": "Test",
        "phone": "+1 555 0100",
        "country": "US",
    }
    return Lead(fields, lead_id=f"doctor-{number}", workspace=workspace, destination=alias, source="doctor")


def price(settings: Settings, alias: str) -> str:
    """What one costs, in words. Raises SettingsError: no such destination, or nothing comes back from it."""
    check_known(settings, destination=alias)
    there = settings.destinations[alias]
    if not there.callbacks:
        raise SettingsError([f"destinations.{alias}.callbacks is false: nothing comes back that could be waited for"])
    return (
        f"send one test lead to Clay through {alias}: about {there.estimate_credits} credits and "
        f"{there.estimate_actions} actions, at most {there.ceiling_credits} and {there.ceiling_actions}, and one of "
        "the webhook's 50,000 submissions; its row stays in the table"
    )


async def round_trip(
    settings: Settings, alias: str, number: int, within_s: float, on_event: Callable[[StatusEvent], None]
) -> RoundTrip:
    """Publish it and follow it until its callback was matched, or it can be told that none will be.

    Raises TopicsError, BrokerUnavailable, SettingsError.
    """
    lead = probe_lead(alias, settings.destinations[alias].workspace, number)
    lead_id = lead.lead_id or ""
    partition = settings.home(lead.workspace or "")
    async with StatusFollower(connection_of(settings), settings.names.status, partition) as follower:
        refused: list[str] = []
        await publish([lead], settings, on_refused=lambda refusal: refused.append(refusal.text))
        if refused:
            raise StreamAppError(f"the test lead was refused: {refused[0]}")
        last: StatusEvent | None = None
        try:
            async with asyncio.timeout(within_s):
                async for event in follower.events(lead_id):
                    on_event(event)
                    last = event
                    if event.status in BACK:
                        return RoundTrip(lead_id, ok=True, text=f"it came back as {event.status}")
                    if event.status in OVER:
                        why = event.text or event.reason or "no reason is given"
                        return RoundTrip(lead_id, ok=False, text=f"it ended as {event.status}: {why}")
        except TimeoutError:
            pass
    return RoundTrip(lead_id, ok=False, text=_silence(last, within_s))


def _silence(last: StatusEvent | None, within_s: float) -> str:
    waited = f"nothing more within {within_s:g} s"
    if last is None:
        return f"no worker took it, {waited}: does `stream-app worker` run?"
    if last.status in ("accepted", "callback_overdue", "send_uncertain"):
        return (
            f"Clay has it ({last.status}), and no callback came, {waited}. Look at its row in the table: did the "
            "columns run (credits, auto-run), and what does the cell of the HTTP column say? Compare it with: "
            "stream-app clay-setup"
        )
    return f"it stands at {last.status} ({last.text or last.reason or 'on its way'}), {waited}"
