"""`stream-app doctor`: check the whole set-up, and take one lead to Clay and back if asked to."""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from stream_app.cli.base import COMMON, NO, OK, Common, confirm
from stream_app.cli.options import login_name
from stream_app.cli.output import say, show_json
from stream_app.client.doctor import checks as checks_of
from stream_app.client.doctor import recording
from stream_app.client.doctor import round_trip as trip
from stream_app.client.doctor.checks import Check
from stream_app.config import Settings
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.messages import StatusEvent

_MARKS: Final = {
    "ok": "ok      ",
    "advice": "advice  ",
    "failed": "FAILED  ",
    "skipped": "-       ",
}
_MARK_CELLS: Final = max(map(len, _MARKS.values()))


def doctor(
    *,
    round_trip: Annotated[str | None, Parameter(metavar="DESTINATION")] = None,
    record: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    within: Annotated[float, Parameter(metavar="SECONDS")] = 300,
    yes: bool = False,
    notify: bool = False,
    hold: bool = False,
    common: Common = COMMON,
) -> int:
    """Check the set-up: Kafka, topics, rights, Redis, Clay, callbacks. Spends no credit.

    example:
      stream-app doctor
      stream-app doctor --round-trip people --yes
      stream-app doctor --round-trip people --record clay.json
      stream-app doctor --notify
      stream-app doctor --hold

    Args:
        round_trip: then send one test lead to Clay and wait for its callback, or for the result of
            its run
        record: write how Clay answered and called back to a new file, without secrets and values,
            and compare it with the simulator; with --round-trip
        within: how long to wait for it
        yes: send it without confirmation; it costs credits
        notify: also send a test message to the webhook of [notify]
        hold: also measure whether the proxy waits as long as the gateway holds a callback while
            Kafka is away; takes gateway.hold_s
    """
    if record and not round_trip:
        raise SettingsError(["--record needs --round-trip: it records what becomes of a test lead"])
    settings = common.settings("clay", "gateway", *(("notify",) if notify else ()))
    cost = trip.price(settings, round_trip) if round_trip else ""
    if record:
        cost += f", and send for --record {recording.also_asked(settings, round_trip or '')}"
    with recording.new_file(record) if record else nullcontext() as file:
        checks = asyncio.run(_examine(settings, common, notify=notify, hold=hold))
        report: dict[str, Any] = {"checks": checks}
        code = NO if any(check.verdict == "failed" for check in checks) else OK
        if round_trip and code == NO:
            say("no test lead was sent: correct the failed checks first")
        elif round_trip:
            if yes:
                say(cost)
            confirm(cost, yes=yes)
            number = time.time_ns() // 1_000_000
            events: list[StatusEvent] = []
            work = _trip(settings, round_trip, number, within, events)
            result = asyncio.run(work)
            report["round_trip"] = result
            code = OK if result.ok else NO
            common.tell(
                f"{_MARKS['ok' if result.ok else 'failed']}round trip of "
                f"{result.lead_id}: {result.text}",
                hang=_MARK_CELLS,
            )
            if file is not None and record is not None:
                others = asyncio.run(recording.further_answers(settings, round_trip, events))
                recorded = recording.recording_of(settings, round_trip, number, others, events)
                file.write(recording.written(recorded))
                deviations = recording.deviations(recorded, recording.simulated())
                report["recording"] = {"file": str(record), "deviations": deviations}
                common.tell(*_told(record, deviations))
    if common.json:
        show_json(report)
    return code


def _trip(
    settings: Settings,
    alias: str,
    number: int,
    within_s: float,
    events: list[StatusEvent],
) -> Coroutine[Any, Any, trip.RoundTrip]:
    """Send the test lead; its events are said, and added to `events`."""

    def on_event(event: StatusEvent) -> None:
        events.append(event)
        say(f"{event.status} {event.text or event.reason}".rstrip())

    return trip.round_trip(
        settings,
        alias,
        number,
        within_s,
        login_name(),
        on_event=on_event,
        say=say,
    )


def _told(path: Path, deviations: Sequence[str]) -> Iterator[str]:
    """Yield what a recording says, for people."""
    yield f"recorded in {path}, without secrets and values"
    if deviations:
        yield "Clay does otherwise than the simulator:"
        yield from ("  " + deviation.replace("; ", "\n    ") for deviation in deviations)
        yield "Please tell us, with the file: docs/reference/clay.md says how"
    else:
        yield "Clay does as the simulator does"


async def _examine(
    settings: Settings,
    common: Common,
    *,
    notify: bool,
    hold: bool,
) -> list[Check]:
    checks: list[Check] = []
    alike: list[Check] = []  # checks with the same text share a line
    async for check in checks_of.examine(settings, notify=notify, hold=hold):
        checks.append(check)
        if alike and (check.verdict, check.text) != (alike[0].verdict, alike[0].text):
            common.tell(_line_of(alike), hang=_MARK_CELLS)
            alike = []
        alike.append(check)
    if alike:
        common.tell(_line_of(alike), hang=_MARK_CELLS)
    return checks


def _line_of(alike: Sequence[Check]) -> str:
    names = ", ".join(dict.fromkeys(check.name for check in alike))
    return f"{_MARKS[alike[0].verdict]}{names}: {alike[0].text}"
