"""A messy day, after which yields, health and Clay's bill are those of the simulator's ledger, on
the board, in the commands, in the API and in the metrics alike.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple, get_args

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_app.board.formats import amount
from stream_app.dev.kafka import Broker
from stream_app.partition import balances
from stream_app.partition.in_flight import Source
from tests.board.client import plain
from tests.board.yields import Yields, shown_yields, yield_texts
from tests.e2e.behind import eventually
from tests.e2e.loop import CONFIG, Loop
from tests.e2e.member import Member
from tests.e2e.on_board import signed_in
from tests.e2e.pipeline import CALLBACK, READS
from tests.e2e.replaying import DOWN, LANE

COLUMNS: Final = """
[[{table}columns]]
name = "work_email"
credits = 2
miss_share = 0.3
values = ["ada@b.example"]
[[{table}columns]]
name = "phone"
values = ["1"]
"""
"""A phone number is always there, because a row without a result would send no callback."""
TABLE: Final = (
    CALLBACK
    + """
[table.callback.body]
lead_id = "{{lead_id}}"
credits = "{{clay_credits}}"
work_email = "{{work_email}}"
phone = "{{phone}}"
"""
    + COLUMNS.format(table="table.")
)
ROUTINE: Final = 'cost_output = "credits"' + COLUMNS.format(table='routines."function:t_w1".')
DESTINATION: Final = """
yield = ["work_email", "phone"]
estimate_credits = 3
ceiling_credits = 10
"""
PLACES: Final = {
    "w0-crm": ("w0", "w0--crm"),
    "w0-more": ("w0", "w0--more"),
    "w1-crm": ("w1", "function:t_w1"),
}
"""Destination -> its workspace, and its webhook or routine in the simulator."""
DAY_S: Final = 86_400
EVENING_S: Final = -1_800
NIGHT_S: Final = 300
TOLD: Final = ("poll", "balance", 200)
CREDITS: Final = 6_000
"""What a workspace of the simulator has at first."""
STRANGERS: Final = 3
"""The credits of the row that is not ours."""


def at(shift_s: int) -> None:
    """Let a process believe that it is so much later.

    It reads Clay's balance each second, so that a day has readings within the time of a test.
    """
    now = time.time
    now_ns = time.time_ns
    time.time = lambda: now() + shift_s
    time.time_ns = lambda: now_ns() + shift_s * 10**9
    for name, value in (("READ_EVERY_MS", 1_000), ("_LOOK_EVERY_S", 0.5)):
        setattr(balances, name, value)


class Bill(NamedTuple):
    """One day of a workspace, in credits."""

    taken: float
    booked: float
    unexplained: float


class Counted(NamedTuple):
    """The numbers of yields, health and bills.

    Attributes:
        yields: By workspace, destination and column.
        health: By destination, its calls since midnight, and its score.
        bills: By workspace and day.
        balances: What each workspace has left.
    """

    yields: Yields
    health: dict[str, tuple[int, float]]
    bills: dict[tuple[str, str], Bill]
    balances: dict[str, float]


class Day(Loop):
    """A pipeline of three destinations, whose processes have a clock of their own."""

    async def begin(self, after_s: float) -> list[Member]:
        """Start all processes so long after midnight, and wait until they are ready.

        Commands have the same clock.
        """
        now_s = time.time()
        change = partial(at, int(now_s // DAY_S * DAY_S + after_s - now_s))
        self.change_commands = change
        names = ("gateway", "board", "worker", "replay")
        processes = [self.start(name, change=change) for name in names]
        await self.ready(*processes)
        await self.receives()
        return processes

    async def send(self, first: int, count: int, *, fails: tuple[str, ...] = ()) -> None:
        """Send as many leads to each destination, and wait until Clay has answered them.

        fails: the destinations whose leads become dead letters.
        """
        before = self.answered()
        leads = [
            self.lead(first + number * len(PLACES) + place, workspace, destination=alias)
            for number in range(count)
            for place, (alias, (workspace, _)) in enumerate(PLACES.items())
        ]
        await self.publish(leads)
        answered = before + count * (len(PLACES) - len(fails))
        await self.until(lambda: self.answered() == answered, 90, f"{answered} answers")
        lost = count * len(fails)
        await self.until(lambda: self.last()["dead_lettered"] == lost, 60, "the dead letters")
        await self.until_clay_rests(60)

    def asked(self) -> dict[str, list[int]]:
        """Return the places in the ledger at which the balance of each workspace was told."""
        places: dict[str, list[int]] = {"w0": [], "w1": []}
        for entry in self.ledger():
            if (entry["kind"], entry.get("endpoint"), entry.get("status")) == TOLD:
                places[entry["workspace"]].append(entry["seq"])
        return places

    async def read_twice(self) -> dict[str, int]:
        """Wait until each balance was read twice more. Return the places of the first ones."""
        before = {name: len(places) for name, places in self.asked().items()}

        def are_read() -> bool:
            return all(len(places) > before[name] + 1 for name, places in self.asked().items())

        await self.until(are_read, 60, "both balances are read")
        return {name: places[before[name]] for name, places in self.asked().items()}

    def counted(
        self,
        first: Mapping[str, int],
        midnight: Mapping[str, int],
        night: int,
    ) -> Counted:
        """Count what the simulator's ledger has.

        Args:
            first: The place of the first reading of each workspace.
            midnight: The place of its first reading after midnight.
            night: The place after which the processes of the night began.
        """
        aliases = {name: alias for alias, (_, name) in PLACES.items()}
        answered = Counter[str]()
        emails = Counter[str]()
        phones = Counter[str]()
        credits_ = Counter[str]()
        calls = Counter[str]()
        good = Counter[str]()
        taken = Counter[tuple[str, str]]()
        booked = Counter[tuple[str, str]]()
        left = dict.fromkeys(first, CREDITS)
        for entry in self.ledger():
            alias = aliases.get(entry.get("webhook", ""), "")
            is_ours = "lead_id" in entry
            if entry["kind"] == "row" and is_ours:
                answered[alias] += 1
                emails[alias] += entry["found"] == 2
                phones[alias] += entry["found"] >= 1
            elif entry["kind"] == "charge":
                cost = entry.get("credits", 0)
                name = entry["workspace"]
                left[name] -= cost
                credits_[alias] += cost * is_ours
                if entry["seq"] > first[name]:
                    day = "today" if entry["seq"] > midnight[name] else "yesterday"
                    taken[name, day] += cost
                    booked[name, day] += cost * is_ours
            elif entry["kind"] in ("request", "run") and entry["seq"] > night and is_ours:
                calls[alias] += 1
                good[alias] += entry["accepted"]
        yields: Yields = {
            (workspace, alias, column): (answered[alias], filled[alias], credits_[alias])
            for alias, (workspace, _) in PLACES.items()
            for column, filled in (("work_email", emails), ("phone", phones))
        }
        health = {
            alias: (number, round(100 * good[alias] / number, 1)) for alias, number in calls.items()
        }
        bills = {
            place: Bill(amount_, booked[place], amount_ - booked[place])
            for place, amount_ in taken.items()
        }
        return Counted(yields, health, bills, dict(left))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_after_a_messy_day_every_number_is_the_ledgers_wherever_it_is_shown(
    kafka: Broker,
    namespace: str,
) -> None:
    """The day has a brown-out, midnight, an outage, a redrive, and a stranger in the table."""
    async with Day(
        kafka.bootstrap,
        namespace,
        2,
        callbacks=True,
        config=CONFIG.replace("[replay]", "max_attempts = 1\n[replay]"),
        lane=LANE,
        script=TABLE,
        destination=DESTINATION,
        routines=("w1",),
        routine=ROUTINE,
        more=("w0",),
        rate_per_s=20,
        burst=20,
    ) as line:
        evening = await line.begin(EVENING_S)
        unread = {"kind": "status_before", "status": 500, "endpoint": "balance"}
        line.control("POST", "/control/faults", unread)
        await line.send(0, 1)
        line.control("DELETE", "/control/faults")
        first = await line.read_twice()  # while nothing is charged

        await line.send(100, 15)
        brown_out = {"kind": "provider_fails", "webhook": "w0--more"}
        line.control("POST", "/control/faults", brown_out)
        await line.send(200, 10)
        line.control("DELETE", "/control/faults")
        await line.read_twice()
        for process in evening:
            assert await process.stop() == 0

        night = line.ledger()[-1]["seq"]
        _, board, worker, _ = await line.begin(NIGHT_S)
        midnight = await line.read_twice()
        line.control("POST", "/control/faults", {**DOWN, "workspace": "w0"})
        await line.send(300, 12, fails=("w0-crm", "w0-more"))
        line.control("DELETE", "/control/faults")
        await line.done("replay", "select", "--workspace", "w0", "--yes")
        answers = len(PLACES) * (1 + 15 + 10 + 12)
        await line.until(lambda: line.answered() == answers, 60, "all leads are answered")
        assert line.charged() == line.booked(), "each cost was booked"
        async with httpx.AsyncClient() as stranger:
            row = {"email": "stranger@b.example"}
            assert (await stranger.post(os.environ["WEBHOOK_0"], json=row)).is_success
        await line.until_clay_rests(60)
        await line.read_twice()

        counted = line.counted(first, midnight, night)
        today = counted.bills["w0", "today"]
        assert today == (2 * 12 * 3 + STRANGERS, 2 * 12 * 3, STRANGERS)
        assert counted.bills["w0", "yesterday"] == (2 * 25 * 3, 2 * 25 * 3, 0)
        # The outage fails each of its leads once. On a slow machine probes fail beside them.
        calls, score = counted.health["w0-more"]
        assert calls >= 24
        assert score <= 50
        finds = counted.yields["w0", "w0-more", "work_email"]
        assert finds[1] < counted.yields["w0", "w0-crm", "work_email"][1] < finds[0] == 38
        async with signed_in(line.settings.board_url, READS) as web:
            await eventually(partial(_differs, partial(_of_api, web), counted), 60)
            await eventually(partial(_differs, partial(_of_commands, line), counted), 60)
            await eventually(partial(_missing_in_metrics, line, board, worker, counted), 60)
            await eventually(partial(_missing_on_pages, web, counted), 60)


async def _differs(shown: Callable[[], Awaitable[Counted]], counted: Counted) -> str:
    """Return what is shown beside what was counted, unless they are equal."""
    numbers = await shown()
    return "" if numbers == counted else f"shown {numbers}, counted {counted}"


async def _of_api(web: httpx.AsyncClient) -> Counted:
    yields = (await web.get("/yield")).json()
    lanes = (await web.get("/lanes")).json()
    bills = (await web.get("/bill")).json()
    return _of_answers(yields["yields"], lanes["lanes"], bills["bills"])


async def _of_commands(line: Day) -> Counted:
    _, yields = await line.ask("yield")
    _, lanes = await line.ask("lanes")
    code, bills = await line.ask("books", "--clay")
    assert code == 1, "what a stranger took is not explained"
    views = [lane["view"] for lane in lanes["facts"]["lanes"]]
    return _of_answers(yields["yields"], views, bills["bills"])


def _of_answers(
    yields: list[dict[str, Any]],
    lanes: list[dict[str, Any]],
    bills: list[dict[str, Any]],
) -> Counted:
    """Return the numbers of the documents with which API and commands answer."""
    for bill in bills:
        for day in bill["days"]:
            assert day["drift"] == day["taken"] - day["booked"]
    return Counted(
        {
            (row["workspace"], row["destination"], row["column"]): tuple(
                row["day"][kind] for kind in ("answered", "filled", "credits")
            )
            for row in yields
        },
        {
            alias: (seen.get("calls", 0), seen["score"])
            for lane in lanes
            for alias, seen in lane["destinations"].items()
        },
        {
            (bill["workspace"], _word(day["day"])): Bill(
                day["taken"],
                day["booked"],
                day["unexplained"],
            )
            for bill in bills
            for day in bill["days"]
        },
        {bill["workspace"]: bill["credits"] for bill in bills},
    )


def _word(day: str) -> str:
    """Return how the metrics call a day."""
    is_past = day < datetime.now(UTC).date().isoformat()
    return "yesterday" if is_past else "today"


async def _missing_in_metrics(
    line: Day,
    board: Member,
    worker: Member,
    counted: Counted,
) -> dict[str, object]:
    """Return what the metrics say and what was counted, by metric, where they are not equal."""
    texts = [await process.get("/metrics") for process in (board, worker)]
    samples = [
        sample
        for text in texts
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]

    def values(name: str, *labels: str, **only: str) -> dict[tuple[str, ...], float]:
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for sample in samples
            if sample.name == f"stream_app_{name}" and only.items() <= sample.labels.items()
        }

    place = ("workspace", "destination", "column")
    differing: dict[str, object] = {}
    for number, kind in enumerate(("answered", "filled", "credits")):
        shown = values(f"yield_{kind}", *place, window="day")
        if shown != {name: counts[number] for name, counts in counted.yields.items()}:
            differing[kind] = shown, counted.yields
    for number, kind in enumerate(Bill._fields):
        bills = values(f"bill_{kind}_credits", "workspace", "day")
        if bills != {name: bill[number] for name, bill in counted.bills.items()}:
            differing[kind] = bills, counted.bills
    waiting = dict.fromkeys(get_args(Source), 0.0)
    for (source, _), records in values("records_waiting", "source", "partition").items():
        waiting[source] = waiting.get(source, 0.0) + records
    if waiting != dict.fromkeys(get_args(Source), 0.0):
        differing["waiting"] = waiting
    left = values("bill_balance_credits", "workspace")
    if left != {(name,): credits_ for name, credits_ in counted.balances.items()}:
        differing["balance"] = left, counted.balances
    scores = values("lane_destination_score", "destination")
    if scores != {(alias,): score for alias, (_, score) in counted.health.items()}:
        differing["score"] = scores, counted.health
    calls = Counter[str]()
    for alias, (number, _) in counted.health.items():
        calls[PLACES[alias][0]] += number
    windows = values("lane_window_calls", "workspace")
    if windows != {(name,): number for name, number in calls.items()}:
        differing["calls"] = windows, calls
    return differing


async def _missing_on_pages(web: httpx.AsyncClient, counted: Counted) -> str:
    """Return what pages show and what was counted, where they are not equal."""
    money = (await web.get("/board/money")).text
    if (shown := shown_yields(money)) != (texts := yield_texts(counted.yields)):
        return f"shown {shown}, counted {texts}"
    lane = (await web.get("/board/lanes/w0")).text
    for alias, (calls, score) in counted.health.items():
        if PLACES[alias][0] == "w0":
            row = _row(lane, alias)
            if f"{amount(score)} " not in row or f" {calls} " not in row:
                return f"{alias}: {row}, counted {calls} calls and {score}"
    single = plain((await web.get("/board/lanes/w1")).text)
    if f"{counted.health['w1-crm'][0]} calls" not in single:
        return single
    books = (await web.get("/board/books")).text
    for name in counted.balances:
        bill = counted.bills[name, "today"]
        row = _row(books[books.index('id="bill"') :], name)
        drift = f"{'+' if bill.taken > bill.booked else ''}{amount(int(bill.taken - bill.booked))}"
        if f" {amount(int(bill.taken))} {amount(int(bill.booked))} {drift} " not in row:
            return f"{name}: {row}, counted {bill}"
    return ""


def _row(page: str, head: str) -> str:
    """Return the row of a table that begins with this, as words."""
    rows = re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", page)
    cells = [" ".join(plain(re.sub(r"<", " <", row)).split()) + " " for row in rows]
    return next((row for row in cells if row.startswith(f"{head} ")), "no such row")
