"""The account of 40 messy schedules through rendered pages, the look-up API and the commands: all
say the same.
"""

import asyncio
import csv
import re
from collections import Counter
from datetime import datetime
from io import StringIO
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import msgspec
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from stream_app.board.access import Access
from stream_app.board.formats import noun
from stream_app.board.lookup import Lookup
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.store import ReadModel
from stream_app.cli.books import books_table
from stream_app.cli.status import _yields_table
from stream_app.client.results.answers import YieldAnswer
from stream_app.domain.books.records import COLUMNS, STATES, name_of
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.groups import Consumption
from stream_app.services.board import YieldMetrics
from tests.board.client import BEARER, Client, plain
from tests.board.scene import TOKEN, board_of, consumers_of, fetch_result, find_waiting, settings_of
from tests.board.yields import (
    Shown,
    Yields,
    shown_yields,
    yield_texts,
    yields_on_import,
)
from tests.simulation.account import Look, looks_at, messy
from tests.simulation.account_counts import read_into, sources_of
from tests.simulation.account_ledger import COLUMN_OF, NO_LEADS, Ledger, Numbers
from tests.simulation.tape import Tape

SCHEDULES: Final = 40
_MET: Final = (
    *("columns", "imports", "duplicates", "yields", "yields of a lane", "yields of an import"),
    *("dlq open", "dlq solved", "parked open"),
)
IDLE: Final = Consumption(ConsumerGroup("Stable", 1), ConsumerGroup("Stable", 1), {})


def test_pages_api_and_commands_show_the_account(tmp_path: Path) -> None:
    with_callbacks = (seed for seed in count() if messy(seed).setup.callbacks)
    looks = {seed: looks_at(messy(seed))[-1] for seed in islice(with_callbacks, SCHEDULES)}
    asyncio.run(_compare(tmp_path, looks))


async def _compare(tmp_path: Path, looks: dict[int, Look]) -> None:
    settings = settings_of(tmp_path)
    path = tmp_path / "model.sqlite"
    met = Counter[str]()
    for seed, (now_ms, ledger, expected) in looks.items():
        model = ReadModel(path, sources_of(ledger.plan))
        model.wipe()
        read_into(model, ledger, Random(seed), {})
        model.close()
        consumers = consumers_of()
        consumers.now = IDLE
        board = board_of(settings, path, consumers)
        client = Client(board)
        api = await _answers(path, ledger)
        columns = _columns(expected)
        assert await _books_page(client) == columns == +Counter(api["/books"]["columns"]), (
            f"m{seed}"
        )
        assert _books_command(ledger, now_ms) == columns, f"m{seed}"
        for which, topic in (("dlq", "leads.dlq"), ("parked", "leads.parked")):
            states = [
                sum(n for name, n in expected.items() if name[0] == topic and name[-1] == s)
                for s in STATES
            ]
            text = (await client.get(f"/board/dead?from={which}")).text
            shown = [
                int(number)
                for number in re.findall(r'<dd id="\w+"><b><span class="total">(\d+)<', text)
            ]
            assert (
                (shown or [0, 0, 0, 0]) == states == [api["/dlq"][which][state] for state in STATES]
            ), f"m{seed}"
            met.update(
                f"{which} {state}" for state, many in zip(STATES, states, strict=True) if many
            )
        assert _money_rows((await client.get("/board/money.csv")).text) == _money(expected), (
            f"m{seed}"
        )
        yields = _yields(expected)
        assert _yields_of_api(api["/yield"]) == yields == _yields_of_metrics(path), f"m{seed}"
        of_imports = _yields_of_ledger_imports(expected)
        assert _yields_of_imports(api["/imports"]) == of_imports, f"m{seed}"
        ratios = yield_texts(yields)
        assert _yields_of_command(api["/yield"]) == ratios, f"m{seed}"
        assert shown_yields((await client.get("/board/money")).text) == ratios, f"m{seed}"
        of_lane = {place: row for place, row in ratios.items() if place[0] == "acme"}
        page = (await client.get("/board/lanes/acme")).text
        assert shown_yields(page, "acme") == of_lane, f"m{seed}"
        met["yields of a lane"] += len(of_lane)
        met["yields"] += len(yields)
        imports = {
            (publication["workspace"], publication["import_id"]): publication["columns"]
            for publication in api["/imports"]["imports"]
        }
        for name, of_import in imports.items():
            wanted = {
                key[3]: n for key, n in expected.items() if key[0] == "import" and key[1:3] == name
            }
            wanted.pop("credits", 0)
            assert {column: leads for column, leads in of_import.items() if leads} == wanted, (
                f"m{seed} {name}"
            )
            page = (await client.get(f"/board/imports?workspace={name[0]}&id={name[1]}")).text
            finds = {place: row for place, row in of_imports.items() if place[:2] == name}
            rows = {
                place[2]: (share, finds[place][2], price)
                for place, (share, price) in yield_texts(finds).items()
            }
            assert yields_on_import(page) == rows, f"m{seed} {name}"
            met["yields of an import"] += len(rows)
            text = plain(page)
            duplicates = wanted.pop("duplicate", 0)
            rest = sum(
                leads
                for column, leads in wanted.items()
                if column not in ("held", "under_way", "waiting")
            )
            leads = sum(wanted.values())
            assert f"{rest} of {leads} {noun(leads, 'lead')}" in text, f"m{seed} {name}"
            rows_in = leads + duplicates
            adds_up = (
                f"{rows_in} {noun(rows_in, 'record')}: {leads} {noun(leads, 'lead')} and "
                f"{duplicates} {noun(duplicates, 'duplicate')}"
            )
            assert (adds_up in text) is (duplicates > 0), f"m{seed} {name}"
            met["duplicates"] += duplicates > 0
        met.update({"columns": len(columns), "imports": len(imports)})
        board.close()
    assert min(met[kind] for kind in _MET) > 3, met
    assert min(met[f"{which} given_up"] for which in ("dlq", "parked")) > 0, met


def _columns(expected: Numbers) -> Counter[str]:
    columns: Counter[str] = Counter()
    for (kind, *rest), leads in expected.items():
        if kind == "status" and rest[-1] not in NO_LEADS:
            columns[COLUMN_OF.get(rest[-1], "under_way")] += leads
    return columns


_YIELD: Final = ("answered", "filled", "credits")


def _yields(expected: Numbers) -> Yields:
    """What the ledger says of all answers: to a clock that stands before them, all are of today."""
    counts: Counter[tuple[str, ...]] = Counter()
    for name, value in expected.items():
        if name[0] == "yield" and name[1] != "import" and name[3] in ("day", "before"):
            counts[name[1], name[2], name[4], name[5]] += value
    return {
        (workspace, destination, column): tuple(
            counts[workspace, destination, column, kind] for kind in _YIELD
        )
        for workspace, destination, column in {name[:3] for name in counts}
    }


def _yields_of_ledger_imports(expected: Numbers) -> Yields:
    named = {name[2:5] for name in expected if name[:2] == ("yield", "import")}
    return {
        (workspace, import_id, column): tuple(
            expected.get(("yield", "import", workspace, import_id, column, kind), 0)
            for kind in _YIELD
        )
        for workspace, import_id, column in named
    }


def _yields_of_api(answer: dict[str, Any]) -> Yields:
    return {
        (row["workspace"], row["destination"], row["column"]): tuple(
            row["day"][kind] for kind in _YIELD
        )
        for row in answer["yields"]
    }


def _yields_of_imports(answer: dict[str, Any]) -> Yields:
    return {
        (publication["workspace"], publication["import_id"], row["column"]): tuple(
            row["until_now"][kind] for kind in _YIELD
        )
        for publication in answer["imports"]
        for row in publication["yields"]
    }


def _yields_of_metrics(path: Path) -> Yields:
    registry = CollectorRegistry()
    registry.register(YieldMetrics(BoardQueries(path, set()), lambda: 1, lambda: True))
    yields: dict[tuple[str, str, str], dict[str, int]] = {}
    for family in registry.collect():
        for sample in family.samples:
            labels = sample.labels
            if labels["window"] == "day":
                place = labels["workspace"], labels["destination"], labels["column"]
                kind = sample.name.removeprefix("stream_app_yield_")
                yields.setdefault(place, {})[kind] = int(sample.value)
    return {place: tuple(counts[kind] for kind in _YIELD) for place, counts in yields.items()}


def _yields_of_command(answer: dict[str, Any]) -> Shown:
    table = _yields_table(msgspec.convert(answer, YieldAnswer).yields)
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, row, strict=True)) for row in table.rows]
    return {
        (str(row["workspace"]), str(row["destination"]), str(row["column"])): (
            str(row["last day"]),
            str(row["credits each"]) or "-",
        )
        for row in rows
    }


_MONEY: Final = ("credits", "saved", "enriched", "refused", "resent")


def _money(expected: Numbers) -> Numbers:
    """The money of the ledger by workspace."""
    return {
        name: value
        for name, value in expected.items()
        if name[0] in _MONEY and name[2:] != ("", "")
    }


def _money_rows(text: str) -> Numbers:
    numbers: Numbers = {}
    for row in csv.DictReader(StringIO(text)):
        place = (
            str(int(datetime.fromisoformat(row["day"] + "+00:00").timestamp())),
            row["workspace"],
            row["destination"],
        )
        numbers |= {(name, *place): int(row[name]) for name in _MONEY if int(row[name])}
    return numbers


async def _books_page(client: Client) -> Counter[str]:
    text = (await client.get("/board/books")).text
    table = text[text.index('id="columns"') : text.index("</table>")]
    rows = re.findall(r'column=(\w+)">([\d,]+)<', table)
    return +Counter({name: int(leads.replace(",", "")) for name, leads in rows})


def _books_command(ledger: Ledger, now_ms: int) -> Counter[str]:
    report = Tape(ledger.plan, now_ms, ledger.logs, {}).close()
    names = {name_of(name): name for name in COLUMNS}
    rows = {names.get(shown, shown): int(leads) for shown, leads, *_ in books_table(report).rows}
    return +Counter({name: leads for name, leads in rows.items() if name not in ("in", "waiting")})


_ASKED: Final = ("/books", "/dlq", "/imports", "/yield")


async def _answers(path: Path, ledger: Ledger) -> dict[str, Any]:
    async def kafka() -> Consumption | None:
        return IDLE

    names = ledger.plan.topics
    about = BoardQueries(path, set()), lambda: ProjectionLag(1, 0), fetch_result, kafka, names
    lookup = Lookup(*about, Access(TOKEN, made_here=False), find_waiting, lambda: 1)
    transport = httpx.ASGITransport(Starlette(routes=lookup.routes()))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://127.0.0.1:9107",
        headers=BEARER,
    ) as client:
        return {
            path: (await client.get(path)).json()
            for path in ("/books", "/dlq", "/imports", "/yield")
        }
