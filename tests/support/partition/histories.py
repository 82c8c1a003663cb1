"""Histories that are drawn: a worker's partition sends the leads of three destinations to the
simulator of Clay, which has faults.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from stream_app.dev.simulator.ledger import AnyLine, ChargeLine, ControlLine, RefundLine
from stream_app.dev.simulator.script import (
    ClayPlan,
    Fault,
    HttpColumn,
    PaidColumn,
    Routine,
    RowLatency,
    Script,
    ScriptWebhook,
)
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.simulated import KEY, REQUEST_TIMEOUT_S, Simulated, hook
from tests.support.partition.virtual import now_ms

CREDITS: Final = 100_000
CEILING: Final = 20
ESTIMATE: Final = 6
MIDNIGHT_S: Final = 86_460.0
"""The second midnight of the loop's time."""
SAYS: Final = "acme-main"  # a routine whose results have what it cost
SILENT: Final = "acme-jobs"  # a routine whose results do not
FINAL: Final = "acme-firms"  # a table that does not call back
SLUGS: Final = {SAYS: "function:t_acme", SILENT: "function:t_jobs", FINAL: "firms"}
COLUMNS: Final = (
    PaidColumn(name="work_email", credits=2, miss_share=0.3, values=("a@b.example",)),
    PaidColumn(name="phone", credits=3, miss_share=0.2, error_share=0.2, values=("1",)),
    PaidColumn(name="research", credits=9, error_share=0.3),
)
NAMED: Final = "number"
"""The field by which the ledger names a lead: a routine gets no lead id of ours."""
SLOW_S: Final = 12.0
LOOKS_UP_S: Final = 200.0
"""How long before the end an operator looks up costs."""


@dataclass(frozen=True, slots=True)
class History:
    """What happens, in seconds from its beginning.

    begins_s   how long before midnight it begins.
    ends_s     when it ends.
    leads      when each comes, and to which destination.
    strangers  when somebody else puts a row into the table of the account.
    top_ups    when credits are added, and how many.
    scales     how slow the rows of each destination are.
    is_resolved  an operator looks up in Clay what the parked leads cost.
    """

    seed: int
    begins_s: float
    ends_s: float
    leads: tuple[tuple[float, str], ...]
    strangers: tuple[float, ...]
    top_ups: tuple[tuple[float, int], ...]
    faults: tuple[Fault, ...]
    scales: dict[str, float]
    is_resolved: bool


def drawn(seed: int) -> History:
    rng = Random(seed)
    lasts_s = rng.choice((1_000.0, 4_000.0, 8_000.0))

    def times(most: int) -> list[float]:
        return sorted(rng.uniform(0.0, lasts_s) for _ in range(rng.randrange(most + 1)))

    leads = tuple((at_s, rng.choice(tuple(SLUGS))) for at_s in times(16))
    if rng.random() < 0.5:  # some come together
        leads = tuple(
            (at_s // 1_000 * 1_000 + number * 0.037, alias)
            for number, (at_s, alias) in enumerate(leads)
        )
    return History(
        seed,
        rng.uniform(0.0, lasts_s + 4_500.0),
        lasts_s + rng.choice((600.0, 4_500.0)),
        ((0.0, rng.choice(tuple(SLUGS))), *leads),
        tuple(times(rng.choice((0, 0, 5, 150)))),
        tuple((at_s, rng.choice((1, 8, 500))) for at_s in times(rng.choice((0, 0, 1, 3)))),
        tuple(_fault(rng, lasts_s) for _ in range(rng.choice((0, 1, 2, 4)))),
        {
            SAYS: rng.choice((0.0, 0.1, 1.0)),
            SILENT: rng.choice((0.0, 0.1, 1.0)),
            FINAL: rng.choice((0.0, 1.0, 10.0)),
        },
        rng.random() < 0.5,
    )


def _fault(rng: Random, lasts_s: float) -> Fault:
    kind = rng.choice(
        (
            *("item_failed", "item_hung", "result_empty", "provider_fails", "rate_limited"),
            *("status_before", "status_before", "hang_after_read", "slow"),
        ),
    )
    return Fault(
        kind=kind,
        at_s=rng.uniform(0.0, lasts_s / 2),
        # A worker that is refused for hours asks thousands of times, and finds nothing new.
        for_s=rng.choice((60.0, 400.0 if kind in ("status_before", "rate_limited") else lasts_s)),
        share=rng.choice((0.3, 1.0)),
        webhook=rng.choice((None, *SLUGS.values())),
        delay_s=SLOW_S if kind == "slow" else None,
        endpoint=rng.choice((None, "balance")) if kind == "status_before" else None,
    )


def script_of(history: History) -> Script:
    def latency(alias: str) -> RowLatency:
        return RowLatency(scale=history.scales[alias])

    return Script(
        seed=history.seed,
        auto_create=False,
        lead_id_field=NAMED,
        workspaces={"acme": ClayPlan(credits=CREDITS)},
        api_keys={"acme": KEY},
        webhooks={
            SLUGS[FINAL]: ScriptWebhook(
                workspace="acme",
                columns=COLUMNS,
                latency=latency(FINAL),
                callback=HttpColumn(enabled=False),
            ),
        },
        routines={
            SLUGS[alias]: Routine(
                workspace="acme",
                columns=COLUMNS,
                latency=latency(alias),
                cost_output=cost,
            )
            for alias, cost in ((SAYS, "credits"), (SILENT, None))
        },
        fault=history.faults,
    )


class Past(NamedTuple):
    """What a history has left.

    Attributes:
        bench: The partition, with what it has written.
        lines: The simulator's ledger.
        told: What the simulator has said of the item of each run.
        now_ms: The end.
    """

    bench: Bench
    lines: list[AnyLine]
    told: dict[str, dict[str, Any]]
    now_ms: int


async def lived(history: History) -> Past:
    """Let it happen, until everything rests."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(MIDNIGHT_S - history.begins_s)
    async with Simulated(
        script_of(history),
        webhooks={FINAL: SLUGS[FINAL]},
        routines=(SAYS, SILENT),
        workspace="acme",
    ) as simulated:
        bench = Bench(
            Setup(routines=True, tables=("jobs", "firms"), max_in_flight=100, webhooks=1),
            clay=lambda _: simulated.doors,  # type: ignore[arg-type, return-value]  # no fake
            runs=simulated.runs,
        )
        bench.change_workspaces(api_key_env="KEY")
        for alias, slug in SLUGS.items():
            change: dict[str, object] = {"routine": slug, "webhook_ids": (slug,)}
            if alias == FINAL:
                change = {"kind": "table", "routine": None, "callbacks": False, "yield_": ()}
            known = bench.plan.destinations[alias]
            bench.plan.put_destination(msgspec.structs.replace(known, **change))
        await bench.serve()
        for number, (at_s, alias) in enumerate(history.leads):
            lead_id = f"id{number}"
            fields = {"email": f"{lead_id}@b.example", NAMED: lead_id}
            lead = {"lead_id": lead_id, "fields": fields, "destination": alias}
            loop.call_later(at_s, bench.produce, lead)
        account = simulated.clay.workspace("acme")
        for at_s, credits_ in history.top_ups:

            def top_up(credits_: int = credits_) -> None:
                account.credits += credits_
                simulated.clay.did(f"topped up {credits_} credits", "acme")

            loop.call_later(at_s, top_up)
        strangers = [
            asyncio.create_task(_strange(simulated, at_s, number))
            for number, at_s in enumerate(history.strangers)
        ]
        await asyncio.sleep(history.ends_s - LOOKS_UP_S)
        if history.is_resolved:
            _resolve(bench, simulated)
        await asyncio.sleep(LOOKS_UP_S)
        await asyncio.gather(*strangers)
        await bench.kill()
        return Past(bench, simulated.ledger.lines(), simulated.carried.told, now_ms())


def _resolve(bench: Bench, simulated: Simulated) -> None:
    """Have an operator say of each parked lead what the ledger says that it has cost."""
    costs = costs_of(simulated.ledger.lines())
    parked = [event.lead_id for event in bench.events() if event.status == "parked"]
    for lead_id in parked:
        bench.command("resolve", f"resolve-{lead_id}", lead_id=lead_id, credits=costs[lead_id])


async def _strange(simulated: Simulated, at_s: float, number: int) -> None:
    await asyncio.sleep(at_s)
    row = {"email": f"stranger{number}@b.example"}
    request = httpx.Request("POST", hook(SLUGS[FINAL]), json=row)
    with suppress(TimeoutError):
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await simulated.carried.handle_async_request(request)


def costs_of(lines: Iterable[AnyLine], until_ms: float = math.inf) -> Counter[str]:
    """Return what each lead has cost until some time."""
    costs = Counter[str]()
    for line in lines:
        if isinstance(line, ChargeLine) and line.lead_id is not None and line.at_ms <= until_ms:
            costs[line.lead_id] += taken_by(line)
    return costs


def taken_by(line: AnyLine) -> int:
    """Return by how much a line of the ledger lowers the balance."""
    match line:
        case RefundLine():
            return -line.credits
        case ChargeLine():
            return line.credits
        case ControlLine() if line.did.startswith("topped up "):
            return -int(line.did.split()[2])
        case _:
            return 0
