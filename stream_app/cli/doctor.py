"""`stream-app doctor`: check the whole set-up, and take one lead to Clay and back if asked to."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter

from stream_app.cli.base import COMMON, NO, OK, Common, confirm
from stream_app.cli.options import login_name
from stream_app.cli.output import say, show_json
from stream_app.client.doctor import checks as checks_of
from stream_app.client.doctor import round_trip as trip
from stream_app.client.doctor.checks import Check
from stream_app.config import Settings
from stream_app.domain.model.messages import StatusEvent

_MARKS: Final = {
    "ok": "ok      ",
    "advice": "advice  ",
    "failed": "FAILED  ",
    "skipped": "-       ",
}


def doctor(
    *,
    round_trip: Annotated[str | None, Parameter(metavar="DESTINATION")] = None,
    within: Annotated[float, Parameter(metavar="SECONDS")] = 300,
    yes: bool = False,
    notify: bool = False,
    common: Common = COMMON,
) -> int:
    """Check the set-up: Kafka, topics, rights, Redis, Clay's hosts, callbacks. Spends no credit.

    example:
      stream-app doctor
      stream-app doctor --round-trip people --yes
      stream-app doctor --notify

    Args:
        round_trip: then send one test lead to Clay and wait for its callback
        within: how long to wait for the callback
        yes: send it without confirmation; it costs credits
        notify: also send a test message to the webhook of [notify]
    """
    settings = common.settings("clay", "gateway", *(("notify",) if notify else ()))
    cost = trip.price(settings, round_trip) if round_trip else ""
    checks = asyncio.run(_examine(settings, common, notify=notify))
    report: dict[str, Any] = {"checks": checks}
    code = NO if any(check.verdict == "failed" for check in checks) else OK
    if round_trip and code == NO:
        say("no test lead was sent: correct the failed checks first")
    elif round_trip:
        if yes:
            say(cost)
        confirm(cost, yes=yes)
        number = time.time_ns() // 1_000_000
        work = trip.round_trip(
            settings,
            round_trip,
            number,
            within,
            login_name(),
            on_event=_on_event,
            say=say,
        )
        result = report["round_trip"] = asyncio.run(work)
        code = OK if result.ok else NO
        common.tell(
            f"{_MARKS['ok' if result.ok else 'failed']}round trip of "
            f"{result.lead_id}: {result.text}",
        )
    if common.json:
        show_json(report)
    return code


async def _examine(settings: Settings, common: Common, *, notify: bool) -> list[Check]:
    checks: list[Check] = []
    alike: list[Check] = []  # checks with the same text share a line
    async for check in checks_of.examine(settings, notify=notify):
        checks.append(check)
        if alike and (check.verdict, check.text) != (alike[0].verdict, alike[0].text):
            common.tell(_line_of(alike))
            alike = []
        alike.append(check)
    if alike:
        common.tell(_line_of(alike))
    return checks


def _line_of(alike: Sequence[Check]) -> str:
    names = ", ".join(dict.fromkeys(check.name for check in alike))
    return f"{_MARKS[alike[0].verdict]}{names}: {alike[0].text}"


def _on_event(event: StatusEvent) -> None:
    say(f"{event.status} {event.text or event.reason}".rstrip())
