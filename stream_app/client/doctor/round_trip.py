"""Send one test lead through the whole system.

It checks webhook, table, callback and token together.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from stream_app.client.lanes.commands import submit
from stream_app.client.publish.leads import publish
from stream_app.clock import Clock
from stream_app.config import Settings, check_known
from stream_app.config.kafka_access import connection_of
from stream_app.domain.model.addresses import DestinationKind
from stream_app.domain.model.errors import BrokerUnavailable, SettingsError, StreamAppError
from stream_app.domain.model.messages import Lead, Scalar, Status, StatusEvent
from stream_app.domain.model.seen import TEST_ID
from stream_app.domain.model.text import count
from stream_app.domain.plan import Destination
from stream_app.kafka.connection import silent
from stream_app.kafka.readers import StatusFollower

BACK: Final = frozenset[Status]({"enriched", "partial", "no_data", "enrich_error"})
"""The callback was received and matched, with or without data."""

OVER: Final = frozenset[Status](
    {"rejected_invalid", "suppressed", "duplicate", "expired", "dead_lettered", "parked"},
)
"""No callback will come."""

AT_CLAY: Final = frozenset[Status]({"accepted", "callback_overdue", "credits_exhausted_suspected"})
"""Clay accepted the lead: it can no longer be cancelled."""

_DONE: Final = (BACK | OVER | AT_CLAY) - {"dead_lettered", "parked"}
"""Nothing is left to cancel. A dead letter and a parked lead can be sent again."""

_CANCELLED_WITHIN_S: Final = 5.0
_MARGIN_S: Final = 60.0
"""How long after its deadline the test lead expires.

It matters if `doctor` is killed before it can cancel the lead.
"""


class RoundTrip(msgspec.Struct, frozen=True):
    """The result of a round trip.

    Attributes:
        ok: True if the callback came; else `text` has the remedy.
    """

    lead_id: str
    ok: bool
    text: str


def round_trip_lead(alias: str, workspace: str, number: int, not_after_ms: int) -> Lead:
    """Return a lead of an invented person; `number` makes it unique.

    It is not sent after `not_after_ms`.
    """
    fields: dict[str, Scalar] = {
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
    return Lead(
        fields,
        f"{TEST_ID}{number}",
        workspace,
        alias,
        not_after_ms=not_after_ms,
        source="doctor",
    )


def price(settings: Settings, alias: str) -> str:
    """Describe a test lead and its price, as the end of "pass --yes to" or before a question mark.

    Raises SettingsError if the destination is unknown, or has no callbacks.
    """
    check_known(settings, destination=alias)
    destination = settings.destinations[alias]
    if not destination.callbacks:
        raise SettingsError(
            [f"destinations.{alias}.callbacks is false: no callback can be awaited"],
        )
    lifetime = destination.lifetime
    submission = f", takes one of the webhook's {lifetime:,} submissions" if lifetime else ""
    return (
        f"send one test lead to Clay through {alias}, which costs "
        f"about {count(destination.estimate_credits, 'credit')} "
        f"and {count(destination.estimate_actions, 'action')}, "
        f"at most {count(destination.ceiling_credits, 'credit')} "
        f"and {count(destination.ceiling_actions, 'action')}{submission}, and leaves "
        f"{'its row in the table' if destination.kind == 'table' else 'its run in Clay'}"
    )


async def round_trip(
    settings: Settings,
    alias: str,
    number: int,
    within_s: float,
    who: str,
    *,
    on_event: Callable[[StatusEvent], None],
    say: Callable[[str], None],
) -> RoundTrip:
    """Publish a test lead and follow it until its callback is matched, or cannot come any more.

    Once Clay has the lead, `say` gets a line with what is awaited and until when. Without a
    callback the lead is cancelled, unless Clay has it. Nothing is sent or paid for after this
    returns.

    `number` makes the test person unique. `who` is the operator in the audit log, if the lead is
    cancelled.

    Raises:
        TopicsError, BrokerUnavailable, SettingsError, StreamAppError: The lead could not be
        published or followed.
    """
    workspace = settings.destinations[alias].workspace
    lead = round_trip_lead(
        alias,
        workspace,
        number,
        Clock().now_ms() + int((within_s + _MARGIN_S) * 1000),
    )
    lead_id = lead.lead_id
    assert lead_id is not None  # round_trip_lead names it
    last: StatusEvent | None = None
    async with StatusFollower(
        connection_of(settings),
        settings.names.status,
        [settings.home(workspace)],
    ) as follower:
        try:
            refused: list[str] = []
            await publish([lead], settings, on_refused=lambda refusal: refused.append(refusal.text))
            if refused:
                raise StreamAppError(f"the test lead was refused: {refused[0]}")
            ends_ms = Clock().now_ms() + int(within_s * 1000)
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    async for event in follower.events([lead_id]):
                        on_event(event)
                        is_new = last is None or event.status != last.status
                        if is_new and event.status == "accepted":
                            say(_awaited(settings.destinations[alias], ends_ms))
                        last = event
                        if event.status in BACK | OVER:
                            break
        except (BrokerUnavailable, asyncio.CancelledError):
            if last is None or last.status not in _DONE:
                say(await _cancelled(settings, workspace, lead_id, who))
            raise
    if last is not None and last.status in BACK:
        return RoundTrip(lead_id, ok=True, text=f"it came back as {last.status}")
    if last is not None and last.status in OVER:
        text = f"it ended as {last.status}: {last.text or last.reason or 'no reason given'}"
    else:
        text = _no_callback(last, within_s, settings.destinations[alias].kind)
    if last is None or last.status not in _DONE:
        text = f"{text}. {await _cancelled(settings, workspace, lead_id, who)}"
    return RoundTrip(lead_id, ok=False, text=text)


def _awaited(destination: Destination, ends_ms: int) -> str:
    """Say what comes next and until when it is awaited, because it may be minutes."""
    answer = "its callback"
    if destination.kind == "routine":
        first_s = destination.poll_after_s[0]
        answer = f"the result of its run, which is first asked for {first_s:g} s after the POST"
    ends = datetime.fromtimestamp(ends_ms / 1000, UTC)
    return f"Clay has it: waiting until {ends:%Y-%m-%d %H:%M:%S} UTC for {answer}"


async def _cancelled(settings: Settings, workspace: str, lead_id: str, who: str) -> str:
    """Cancel the lead, and describe the result."""
    why = "its round trip failed"
    args = {"lead_id": lead_id}
    try:
        sent = await submit(
            settings,
            "cancel_lead",
            workspace,
            args,
            who,
            why,
            wait_s=_CANCELLED_WITHIN_S,
            say=silent,
        )
    except StreamAppError as error:
        by_hand = f'stream-app lanes cancel {workspace} --lead {lead_id} --why "{why}"'
        return f"It could not be cancelled ({error}). Cancel it with: {by_hand}"
    if any(answer.applied for answer in sent.received):
        return "The test lead is cancelled: it will not be sent"
    return (
        "The test lead is cancelled before a worker sends it: "
        "no worker has confirmed the command yet"
    )


def _no_callback(last: StatusEvent | None, within_s: float, kind: DestinationKind) -> str:
    waited = f"nothing more within {within_s:g} s"
    if last is None:
        return f"no worker processed it, {waited}: does `stream-app worker` run?"
    if last.status in ("accepted", "callback_overdue", "send_uncertain") and kind == "routine":
        return (
            f"Clay has it ({last.status}), and no result of its run came, {waited}. A routine may "
            "take longer: give --within more seconds. Else look at its runs in Clay: do they "
            "finish, and has the output step a run condition? Compare it with: stream-app "
            "clay-setup"
        )
    if last.status in ("accepted", "callback_overdue", "send_uncertain"):
        return (
            f"Clay has it ({last.status}), and no callback came, {waited}. "
            "Look at its row in the table: did the columns run (credits, auto-run), "
            "and what does the cell of the HTTP column say? Compare it with: stream-app clay-setup"
        )
    return (
        f"its last status is {last.status} ({last.text or last.reason or 'in progress'}), {waited}"
    )
