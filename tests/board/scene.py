"""What the board shows in tests and screenshots: a day of six workspaces, written into a read model
without Kafka.

The clock stands at `NOW_MS`, so each page is the same each time.
"""

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import msgspec
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket

from stream_app.board.actions import actions_of
from stream_app.board.app import BoardRoutes
from stream_app.board.publish import Publishing
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.on_kafka import FoundRecord, Search
from stream_app.board.read_model.query import FoundResultAt
from stream_app.board.read_model.store import ReadModel, Sources
from stream_app.board.replays import Planner, Survey
from stream_app.board.site import Site
from stream_app.board.uploads import Uploads
from stream_app.client.lanes.commands import command_sender
from stream_app.client.people import StoredLead
from stream_app.client.results.answers import FoundResult
from stream_app.client.results.export import Export, Joined, ResultFilter
from stream_app.config import Settings, load_settings
from stream_app.domain.commands import Command, CommandAnswer
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.messages import ImportSummary, Status
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import ExistingTopic, TopicNames
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.backlog import Waiting
from stream_app.kafka.connection import Background
from stream_app.kafka.groups import Consumption
from stream_app.services.board import access_of
from tests.board.clock import DAY_MS, HOUR_MS, MINUTE_MS, NOW_MS
from tests.board.lanes import lanes
from tests.board.model_records import Made, dead_letter, event, person, result, take
from tests.board.replays import priced, replays

TOKEN: Final = "a token that no one guesses: 8f3b1c77"
OPERATOR_TOKEN: Final = "a token for people who act: 51d2e9c4"
OWN_TOKEN: Final = "the token of a board without another: 77c1e0d3"
PROXY_SECRET: Final = "what only the proxy knows: 3c0a77be"
HASH: Final = "AbCdEfGhIjKlMnOpQrStUv"
OTHER_HASH: Final = "BbCdEfGhIjKlMnOpQrStUv"
HOSTILE: Final = "<script>alert(1)</script>\"'&"
"""A text that every field could have, from other programs."""
WORKSPACES: Final = ("acme", "globex", "hooli", "initech", "stark", "umbrella")

T = TypeVar("T")
_NAMES: Final = TopicNames()

_CONFIG: Final = """
[kafka]
partitions = 6
[gateway]
public_url = "http://127.0.0.1:9103"
token_keys_env = ["KEY"]
[board]
url = "{url}"
trace_url = "https://tempo.example.com/trace/{{trace_id}}"
banner = "production"
{token}
"""
_CAPS: Final = {
    "acme": (6_000, 150_000),
    "globex": (4_000, None),
    "hooli": (8_000, 240_000),
    "initech": (10_000, 150_000),
    "umbrella": (5_000, 150_000),
}
"""Credits a day and a month, as the lanes of `tests/board/lanes.py` have them."""
_LANE: Final = """
[workspaces.{name}]
partition = {number}
time_zone = "Europe/Berlin"
{budget}
[destinations.{name}-people]
workspace = "{name}"
webhooks_env = ["HOOK_{number}"]
"""


def settings_of(
    folder: Path,
    *,
    token: bool = False,
    operator: bool = False,
    proxy: bool = False,
    url: str = "http://127.0.0.1:9107",
) -> Settings:
    """The configuration of six workspaces, with these tokens."""
    lines = ['token_env = "BOARD_TOKEN"'] * token + [
        'operator_token_env = "OPERATOR_TOKEN"',
    ] * operator
    lines += [
        'user_header = "X-Auth-Request-Email"\nuser_header_secret_env = "PROXY_SECRET"',
    ] * proxy
    text = _CONFIG.format(token="\n".join(lines), url=url)
    for number, name in enumerate(WORKSPACES):
        caps = zip(("credits_per_day", "credits_per_month"), _CAPS.get(name, ()), strict=False)
        budget = [f"budget.{key} = {cap}" for key, cap in caps if cap is not None]
        text += _LANE.format(name=name, number=number, budget="\n".join(budget))
    path = folder / f"stream_app-{token}-{operator}-{proxy}.toml"
    path.write_text(text)
    environ = {"KEY": "a key of callback tokens with 32 characters", "BOARD_TOKEN": TOKEN}
    environ |= {"OPERATOR_TOKEN": OPERATOR_TOKEN, "PROXY_SECRET": PROXY_SECRET}
    return load_settings(path, environ, ("gateway", "board"))


async def _nobody() -> Any:
    raise AssertionError("nobody asks Kafka")


class Known(Background[T]):
    """What Kafka says, in memory. `now` is None: it does not answer."""

    def __init__(self, now: T) -> None:
        super().__init__(_nobody, fresh_s=0)
        self.is_first = False
        self.now: T | None = now

    async def look(self, within_s: float) -> T | None:
        return self.now


def consumers_of() -> Known[Consumption]:
    """Two workers and a replay process, and what waits for them."""
    waiting = {"acme": 1_240, "globex": 410, "umbrella": 96, "hooli": 2_310, "initech": 56}
    counts = {
        ("leads", number): Waiting(waiting.get(name, 0)) for number, name in enumerate(WORKSPACES)
    }
    empty = dict.fromkeys(range(len(WORKSPACES)), Waiting(0))
    counts |= {
        (topic, number): none
        for topic in ("leads.retry", "leads.bulk")
        for number, none in empty.items()
    }
    return Known(Consumption(ConsumerGroup("Stable", 2), ConsumerGroup("Stable", 1), counts))


def topics_of(settings: Settings) -> Known[dict[str, ExistingTopic]]:
    """All topics as planned."""
    planned = settings.topic_plan()
    return Known(
        {
            topic.name: ExistingTopic(topic.partitions, topic.replication, dict(topic.config))
            for topic in planned
        },
    )


async def fetch_result(stored: FoundResultAt) -> FoundResult:
    """The result with data that nothing had to fetch."""
    fields = {"Work Email": "ada@example.com", "Title": "CTO", "Note": HOSTILE}
    return msgspec.structs.replace(stored.result, age_s=3, fields=fields)


async def find_waiting(lead_id: str, person: str, workspace: str) -> Search:
    """One record waits, in the partition of acme."""
    matches = []
    if lead_id == "crm-waits":
        matches = [FoundRecord(lead_id, "acme", "leads", 0, 5_210, NOW_MS - 12 * MINUTE_MS, 1_190)]
    return Search(matches, ConsumerGroup("Stable", 2), 1_200, 0 if matches else 40, "")


async def join(wanted: ResultFilter, file: Joined, out: IO[str]) -> Export:
    """Join the rows of a file to results: of initech, ada has one."""
    rows = list(file.open().rows)
    has_title = [wanted.workspace == "initech" and "ada@example.com" in row.cells for row in rows]
    out.writelines(
        f"{row.cells[0]},{'CTO' if has else ''}\n" for row, has in zip(rows, has_title, strict=True)
    )
    return Export(len(rows), sum(has_title))


async def stored_lead(lead_id: str, workspace: str | None) -> list[StoredLead]:
    """What Kafka stores of a lead: of crm-17, in one destination.

    Two leads of others are linked to crm-18.
    """
    alias = "initech-people"
    if lead_id == "crm-18":
        mine = StoredLead("initech", lead_id, (alias,), (HASH, OTHER_HASH), own=(HASH, OTHER_HASH))
        others = (
            StoredLead("initech", name, (alias,), mine.people, (OTHER_HASH,), False)
            for name in ("l-1", "l-2")
        )
        return [mine, *others]
    return [StoredLead("initech", "crm-17", (alias,), (HASH,))] if lead_id == "crm-17" else []


class Outbox:
    """Takes commands in place of Kafka. `is_away`: Kafka does not answer."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.is_away = False

    async def put(self, record: Record) -> None:
        if self.is_away:
            raise BrokerUnavailable("Kafka did not take a record")
        self.records.append(record)

    @property
    def commands(self) -> list[Command]:
        """The commands so far, each as often as it was sent."""
        return [msgspec.json.decode(record.value or b"", type=Command) for record in self.records]


class CompiledTemplates(BytecodeCache):
    """The templates as Jinja compiles them, which takes longer than to render a page: once for all
    boards.
    """

    def __init__(self) -> None:
        self._compiled: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._compiled:
            bucket.bytecode_from_string(self._compiled[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._compiled[bucket.key] = bucket.bytecode_to_string()


_COMPILED: Final = CompiledTemplates()


def board_of(
    settings: Settings,
    path: Path,
    consumers: Known[Consumption] | None = None,
    shared_s: float = 0,
    outbox: Outbox | None = None,
    survey: Survey | None = None,
    topics: Known[dict[str, ExistingTopic]] | None = None,
    lag: ProjectionLag | None = None,
) -> BoardRoutes:
    """A board over the file, with everything else in memory."""
    now_s = NOW_MS // 1000
    site = Site(settings, BoardQueries(path, set(), settings.routines))
    put = (outbox or Outbox()).put
    send = command_sender(settings, put)
    board = BoardRoutes(
        site,
        access_of(settings, settings.board_token or OWN_TOKEN, lambda: now_s),
        lambda: lag or ProjectionLag(NOW_MS - 2_000, 0),
        consumers or consumers_of(),
        topics or topics_of(settings),
        fetch_result,
        find_waiting,
        lambda: NOW_MS,
        shared_s,
        actions_of(
            site,
            send,
            Planner(settings, put, lambda: NOW_MS, survey or priced),
            stored_lead,
        ),
        Publishing(Uploads(settings, site.views, lambda: NOW_MS), send, join),
    )
    board._maker._renderer._templates.bytecode_cache = _COMPILED
    return board


def model_of(path: Path, settings: Settings) -> ReadModel:
    """Open the read model."""
    sources = Sources(
        settings.names,
        settings.kafka.partitions,
        settings.topics,
        frozenset(settings.workspaces),
    )
    return ReadModel(path, sources)


def fill(path: Path, settings: Settings) -> None:
    """Write the scene into a new read model."""
    model = model_of(path, settings)
    take(model, *events(), *lanes(), *_dead_letters(), *_audit(), *replays(HOSTILE))
    model.close()


def events() -> Iterator[Made]:
    """The events of all leads, with what else is known of one of them."""
    yield from itertools.chain(_events(), _one_lead(), _imports())


def _events() -> Iterator[Made]:
    """A day of leads: few at night, many at noon, and an outage of acme since 38 minutes."""
    chance = random.Random(7)
    weights = {"initech": 5, "hooli": 4, "acme": 3, "globex": 3, "umbrella": 1}
    offset = 10_000
    for minute in range(24 * 60):
        at_ms = NOW_MS - DAY_MS + minute * MINUTE_MS
        busy = 0.35 + 0.65 * math.sin(math.pi * minute / (24 * 60)) ** 2
        for name, weight in weights.items():
            if name == "acme" and minute > 24 * 60 - 38:
                continue
            for _ in range(chance.random() < busy * weight / 4.2):
                offset += 1
                yield from _lead(chance, name, offset, at_ms + chance.randrange(MINUTE_MS // 2))
    for days in range(2, 21):
        credits_ = 2_800 + 400 * (days % 3) - 1_900 * (days % 7 == 5)
        yield _step(
            "initech",
            1_000 + days,
            "enriched",
            3,
            NOW_MS - days * DAY_MS,
            credits=credits_,
        )
    for number in range(23):
        yield _step(
            "globex",
            60_000 + number,
            "held_budget",
            1,
            NOW_MS - 2 * HOUR_MS + number * 1_000,
        )
    for number in range(7):
        yield _step(
            "umbrella",
            61_000 + number,
            "parked",
            4,
            NOW_MS - DAY_MS + number * HOUR_MS,
            reason="uncertain",
        )
    for number in range(11):
        yield _step(
            "initech",
            62_000 + number,
            "dead_lettered",
            4,
            NOW_MS - 38 * MINUTE_MS,
            reason="http_503",
        )


def _lead(chance: random.Random, name: str, offset: int, at_ms: int) -> Iterator[Made]:
    ends: list[Status] = [
        "enriched",
        "no_data",
        "partial",
        "served_from_cache",
        "rejected_invalid",
        "enrich_error",
    ]
    (end,) = chance.choices(ends, weights=[70, 9, 4, 12, 3, 2])
    if end in ("rejected_invalid", "served_from_cache"):
        yield _step(
            name,
            offset,
            end,
            1,
            at_ms,
            saved=6 if end == "served_from_cache" else None,
            reason="not_json",
        )
        return
    yield _step(name, offset, "sending", 1, at_ms)
    yield _step(name, offset, "accepted", 2, at_ms + 180)
    credits_ = chance.choice((4, 6, 6, 8, 10))
    values: dict[str, Any] = _columns(name, offset, end, at_ms)
    if offset % 5 == 0:  # Clay does not say what it cost
        values |= {"estimated": ("credits",), "estimated_credits": credits_}
    yield _step(name, offset, end, 3, at_ms + 20_000, credits=credits_, **values)


def _columns(name: str, number: int, status: Status, at_ms: int) -> dict[str, tuple[str, ...]]:
    """What Clay has of the columns that count.

    Initech buys e-mail addresses, which Clay finds less often since two hours, and phone numbers.
    Others name no column.
    """
    if name != "initech":
        return {}
    is_result = status in ("enriched", "partial")
    often = 20 if at_ms > NOW_MS - 2 * HOUR_MS else 75
    filled = {
        "work_email": is_result and number * 37 % 100 < often,
        "phone": is_result and number % 5 == 0,
    }
    return {
        "filled": tuple(column for column, has in filled.items() if has),
        "empty": tuple(column for column, has in filled.items() if not has),
    }


def _step(name: str, offset: int, status: Status, seq: int, at_ms: int, **more: Any) -> Made:
    origin = f"leads/{WORKSPACES.index(name)}/{offset}"
    number = offset
    values: dict[str, Any] = {
        "workspace": name,
        "destination": f"{name}-people",
        "at_ms": at_ms,
    } | more
    return event(_NAMES, f"crm-{number}", status, seq, origin=origin, **values)


def _one_lead() -> Iterator[Made]:
    """The lead that the page Lead shows: refused, held by the outage, sent again, enriched."""
    began = NOW_MS - 50 * MINUTE_MS
    steps: list[tuple[Status, int, dict[str, Any]]] = [
        ("received", 0, {"text": "import march.csv", "queued_ms": 12 * MINUTE_MS}),
        ("sending", 4, {"text": "attempt 1, 20 credits reserved"}),
        (
            "refused",
            188,
            {
                "reason": "http_503",
                "text": "Clay answered 503: it took nothing",
                "http_status": 503,
            },
        ),
        (
            "held_outage",
            2_900,
            {"reason": "breaker_open", "text": "the circuit breaker is open: 5 failures in a row"},
        ),
        ("sending", 38 * MINUTE_MS, {"attempt": 1, "text": "a probe of the half open breaker"}),
        ("accepted", 38 * MINUTE_MS + 177, {"attempt": 1}),
        ("enriched", 39 * MINUTE_MS, {"attempt": 1, "credits": 6, "text": "12 fields from Clay"}),
    ]
    for seq, (status, after_ms, more) in enumerate(steps, 1):
        values = {
            "workspace": "initech",
            "destination": "initech-people",
            "trace_id": "ab" * 16,
            **more,
        }
        yield event(_NAMES, "crm-17", status, seq, 17, at_ms=began + after_ms, **values)
    hostile = event(
        _NAMES,
        "crm-html",
        "rejected_invalid",
        1,
        18,
        reason="bad",
        text=HOSTILE,
        workspace=HOSTILE,
    )
    yield hostile
    record = result(_NAMES, "crm-17", at_ms=NOW_MS - 11 * MINUTE_MS)
    yield Made(record.topic, b"initech/initech-people/crm-17", record.value)
    yield person(_NAMES, HASH, "crm-17")
    of_globex = b"d/globex/globex-people/crm-60003"
    yield Made(_NAMES.state, f"p/globex/globex-people/{HASH}".encode(), of_globex)


def _imports() -> Iterator[Made]:
    """Three imports: one under way, one that is done, and one of another program with hostile
    names.
    """
    ends: list[tuple[Status, int]] = [
        *(
            ("enriched", 61),
            ("no_data", 9),
            ("served_from_cache", 12),
            ("duplicate", 6),
            ("rejected_invalid", 3),
        ),
        *(("parked", 2), ("held_budget", 17), ("accepted", 14)),
    ]
    summary = ImportSummary(rows=183, refused=3, leads=180, file="leads march.csv", who="jane")
    yield from _import(
        "2026-09-21-kfdwzp",
        "initech",
        70_000,
        ends,
        summary,
        NOW_MS - 20 * MINUTE_MS,
    )
    summary = ImportSummary(rows=40, refused=0, leads=40, file="webinar.csv", who="sam")
    yield from _import(
        "webinar",
        "hooli",
        71_000,
        [("enriched", 38), ("no_data", 2)],
        summary,
        NOW_MS - 3 * DAY_MS,
    )
    hostile = ImportSummary(rows=1, refused=0, leads=1, file=HOSTILE, who=HOSTILE)
    yield from _import(HOSTILE, "umbrella", 72_000, [("enriched", 1)], hostile, NOW_MS - 5 * DAY_MS)


def _import(
    name: str,
    workspace: str,
    offset: int,
    ends: list[tuple[Status, int]],
    summary: ImportSummary,
    at_ms: int,
) -> Iterator[Made]:
    statuses = [status for status, leads in ends for _ in range(leads)]
    for number, status in enumerate(statuses):
        more: dict[str, Any] = {"import_id": name, "import_summary": None if number else summary}
        yield _step(workspace, offset + number, "received", 1, at_ms + number * 10_000, **more)
        is_answer = status in ("enriched", "no_data")
        credits_ = 6 if is_answer else None
        values = _columns(workspace, number, status, 0) if is_answer else {}
        yield _step(
            workspace,
            offset + number,
            status,
            2,
            at_ms + number * 10_000 + 900,
            credits=credits_,
            **values,
        )


def _dead_letters() -> Iterator[Made]:
    offsets = itertools.count()

    def one(workspace: str, age_ms: int, reason: str, **more: str) -> Made:
        alias = f"{workspace}-people"
        letter = dead_letter(
            _NAMES.dlq,
            reason,
            NOW_MS - age_ms,
            next(offsets),
            destination=alias,
            **more,
        )
        return msgspec.structs.replace(letter, key=workspace.encode())

    for number in range(398):
        age_ms = 36 * MINUTE_MS + int(6 * HOUR_MS * (number / 398) ** 3)
        yield one(
            "initech",
            age_ms,
            "http_503",
            http_status="503",
            origin=f"leads/3/{62_000 + number}",
            seq="4",
        )
    for number in range(9):
        yield one("acme", number * 8 * HOUR_MS, "not_json", disposition="poison")
    for number in range(5):
        yield one("acme", 2 * HOUR_MS + number * 5 * HOUR_MS, "no_identity", disposition="poison")
    for number in range(7):
        yield msgspec.structs.replace(
            one("umbrella", number * HOUR_MS, "uncertain"),
            topic=_NAMES.parked,
        )
    for number in (70_091, 70_092):  # of the import that is under way
        letter = one("initech", 4 * MINUTE_MS, "uncertain", origin=f"leads/3/{number}", seq="2")
        yield msgspec.structs.replace(letter, topic=_NAMES.parked)


def _audit() -> Iterator[Made]:
    for number, (kind, name, who, why, applied, text) in enumerate(
        (
            ("rate", "acme", "jane", "Clay's sales call said so", True, "rate.rate_per_s: 10 -> 6"),
            ("pause", "stark", "sam", "waits for the new contract", True, "paused"),
            ("resume", "stark", "sam", "signed", True, "resumed"),
            ("quota", "acme", "jane", "the old one is full", False, "acme has no webhook w-9999"),
            ("budget", "globex", "root", HOSTILE, True, "credits_per_day: 3,000 -> 4,000"),
        ),
    ):
        at_ms = NOW_MS - (6 - number) * HOUR_MS
        answer = CommandAnswer(
            id=f"c-{number:04}",
            applied=applied,
            at_ms=at_ms,
            partition=WORKSPACES.index(name),
            kind=kind,
            workspace=name,
            who=who,
            why=why,
            asked_at_ms=at_ms - 300,
            reason="" if applied else "unknown_webhook",
            text=text,
        )
        yield Made(
            _NAMES.audit,
            name.encode(),
            msgspec.json.encode(answer),
            WORKSPACES.index(name),
            number,
        )
