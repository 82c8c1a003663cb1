"""A day as a new user has it, after which the board, the API, the commands and an own count say the
same.
"""

from collections import Counter
from typing import Final

import httpx
import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from tests.board.client import plain
from tests.e2e.behind import eventually
from tests.e2e.on_board import OWN, acted
from tests.e2e.pipeline import CALLBACK, Pipeline

TOKENS: Final = {
    "VIEWER": "a viewer's token, only for tests",
    "OPERATOR": "an operator's token, only for tests",
}
BUDGET: Final = """
[workspaces.{name}.budget]
credits_per_day = 2000
"""
COST: Final = "estimate_credits = 6\nceiling_credits = 20"
MESSY: Final = (" Person{0}@Example.com ", "not an address", "person0@example.com")
"""Of ten rows eight are good, one has no address, and one is a person of the file again, under
another id.
"""

AGAIN: Final = 4
"""So many of its rows are in the file twice."""

FILES: Final = {  # workspace -> import, rows
    "w1": ("refused", 30),
    "w2": ("cancelled", 20),
    "w3": ("gone", 15),
    "w4": ("short", 12),
}
EXPECTED: Final = {
    # good rows, those sent back, and those that 60 credits pay for where each may cost 20
    "enriched": 160 + 30 + 7,
    "duplicate": 20,
    "rejected": 20 + 5,  # cancelled, and of an unknown workspace
    "open": 15 + 5,  # they wait for a webhook and for a budget, on Kafka or with their worker
}


def rows(name: str, count: int) -> str:
    return "lead_id,email\n" + "".join(
        f"{name}-{number},{name}{number}@example.com\n" for number in range(count)
    )


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_board_api_commands_and_an_own_count_agree(
    kafka: Broker,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, token in TOKENS.items():
        monkeypatch.setenv(name, token)
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        5,
        rate_per_s=50,
        partitions=5,
        callbacks=True,
        script=CALLBACK,
        board='token_env = "VIEWER"\noperator_token_env = "OPERATOR"',
        lane=BUDGET,
        destination=COST,
    ) as line:
        await line.ready(*(line.start(name) for name in ("gateway", "board", "worker", "replay")))
        http = httpx.AsyncClient(
            base_url=line.settings.board_url,
            follow_redirects=True,
            headers=OWN,
            timeout=60,
        )
        async with http as web:
            await web.post("/board/login", data={"token": TOKENS["OPERATOR"], "who": "jane"})

            file = line.directory / "march.csv"
            kinds = [MESSY[0]] * 8 + [MESSY[1], MESSY[2]]
            messy = "".join(f'"{kinds[n % 10].format(n)}",crm-{n}\n' for n in range(200))
            again = "".join(messy.splitlines(keepends=True)[:AGAIN])
            file.write_text(f"E-Mail Adresse (work),CRM-ID\n{messy}{again}")
            code, output = await line.run(
                "publish",
                str(file),
                "--workspace",
                "w0",
                "--import-id",
                "march",
                "--yes",
            )
            assert code == 1, output
            assert "204 rows: 184 published, 20 refused" in output, output

            line.control(
                "POST",
                "/control/faults",
                [{"kind": "status_before", "status": 422, "workspace": "w1"}],
            )
            line.control("POST", "/control/faults", [{"kind": "gone", "workspace": "w3"}])
            await line.done("lanes", "pause", "w2", "--why", "wait for sales")
            await line.done(
                "lanes",
                "budget",
                "w4",
                "--credits-per-day",
                "60",
                "--why",
                "little money",
            )
            for workspace, (import_id, count) in FILES.items():
                (line.directory / f"{import_id}.csv").write_text(rows(import_id, count))
                options = ["--workspace", workspace, "--import-id", import_id, "--yes"]
                await line.done("publish", str(line.directory / f"{import_id}.csv"), *options)
            unknown = [line.lead(number, "acmee") for number in range(900, 905)]
            # In the partition of w0, where no held lane stands before them.
            await line.publish(Record(lead.topic, lead.key, lead.value, (), 0) for lead in unknown)

            await line.until(
                lambda: line.last()["rejected_invalid"] == 35,
                60,
                "the refused and the unknown ones",
            )
            line.control("DELETE", "/control/faults?kind=status_before")
            options = [
                "--workspace",
                "w1",
                "--disposition",
                "poison",
                "--why",
                "the column is mended",
                "--yes",
            ]
            assert "30 dead letters were sent back" in await line.done("replay", "select", *options)
            await eventually(
                lambda: _absent(
                    web,
                    "/board/imports?workspace=w2&id=cancelled",
                    "Cancel the import",
                ),
                60,
            )
            await acted(
                web,
                "/board/imports/act/cancel?workspace=w2&id=cancelled",
                why="wrong list",
                typed="w2",
            )
            await line.until(lambda: line.last()["suppressed"] == 20, 60, "the cancelled ones")
            await line.until(
                lambda: line.last()["enriched"] + line.last()["no_data"] == 197,
                90,
                "the enriched ones",
            )
            await line.done("erase", "person1@example.com", "--why", "asked for", "--yes")

            books = await line.books_balance()
            assert (
                _counted({name: column["leads"] for name, column in books["columns"].items()})
                == EXPECTED
            )
            await eventually(lambda: _differs(web), 60)

            page = plain((await web.get("/board/books")).text)
            assert (
                f"{books['records']} records in, of {books['leads']} leads: each lead in one column"
                in page
            )
            assert books["leads"] == sum(EXPECTED.values())
            _, imports = await line.ask("imports")
            assert {
                publication["import_id"]: publication["published"]
                for publication in imports["imports"]
            } == {
                "march": 180 + AGAIN,
                **dict(FILES.values()),
            }
            for publication in imports["imports"]:
                assert sum(publication["columns"].values()) == publication["published"]
            of_march = imports["imports"][-1]
            assert of_march["import_id"] == "march"
            assert of_march["columns"] == {"enriched": 160, "duplicate": 20 + AGAIN}
            assert of_march["repeats"] == AGAIN
            adds_up = f"{180 + AGAIN} records: 160 leads and {20 + AGAIN} duplicates"
            assert adds_up in await line.done("imports", "march")
            assert adds_up in plain((await web.get("/board/imports?workspace=w0&id=march")).text)
            await eventually(lambda: _other_dead_letters(line, [5, 0, 30, 0]), 60)
        assert line.summary()["accepted"] == 197
        assert set(line.summary()["leads"].values()) == {1}


def _counted(columns: dict[str, int]) -> dict[str, int]:
    """Count the leads by what became of them: those that wait are together, wherever they do."""
    known = Counter({name: columns[name] for name in ("enriched", "duplicate", "rejected")})
    known["open"] = sum(columns[name] for name in ("held", "under_way", "waiting"))
    return dict(known)


async def _absent(web: httpx.AsyncClient, path: str, text: str) -> str:
    page = (await web.get(path)).text
    return "" if text in page else page


async def _other_dead_letters(line: Pipeline, expected: list[int]) -> object:
    """Return the states of the dead letters, unless they are those: the board follows Kafka."""
    _, dead = await line.ask("dlq")
    states = dead["states"] or {}
    names = ("open", "coming_back", "solved", "given_up")
    return "" if [states.get(name) for name in names] == expected else str(dead)


async def _differs(web: httpx.AsyncClient) -> str:
    """Return what the look-up API counts, unless it is what was expected."""
    answer = (
        await web.get("/books", headers={"authorization": f"Bearer {TOKENS['VIEWER']}"})
    ).json()
    waiting = sum(answer["waiting"].values())
    counted = _counted({**answer["columns"], "waiting": waiting})
    return "" if counted == EXPECTED else str(counted)
