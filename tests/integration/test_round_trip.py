"""The round trip: one lead is sent, and its outcome is reported, whichever it is."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stream_app.cli import main as cli
from stream_app.client.doctor.recording import deviations, read, simulated
from stream_app.client.doctor.round_trip import RoundTrip, price, round_trip
from stream_app.config import Settings
from stream_app.dev.kafka import Broker
from stream_app.domain.commands import Command
from stream_app.domain.lead.read import read_lead
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.messages import Lead, Status, StatusEvent
from stream_app.ops.http import serve_http
from tests.gateway.support import NEW_KEY, OLD_KEY, Gateway
from tests.support.doctor import in_groups, settings_for
from tests.support.kafka import create_planned, read_topic
from tests.support.pace import BUSY, slowness


@asynccontextmanager
async def worker_that_reports(
    settings: Settings,
    reported: Sequence[tuple[Status, str]],
) -> AsyncIterator[list[Lead]]:
    """Takes leads and publishes these events for each. Returns the leads that it took."""
    took: list[Lead] = []

    async def work() -> None:
        async for record in consumer:
            lead = read_lead(record.value, record.key)
            assert isinstance(lead, Lead)
            took.append(lead)
            for seq, (status, text) in enumerate(reported, 1):
                for lead_id in (lead.lead_id or "", "another-lead"):
                    event = StatusEvent(
                        f"o#{seq}",
                        lead_id,
                        status,
                        seq,
                        1,
                        "o",
                        workspace="acme",
                        text=text,
                    )
                    await producer.send_and_wait(
                        settings.names.status,
                        msgspec.json.encode(event),
                        lead_id.encode(),
                        partition=record.partition,
                    )

    consumer = AIOKafkaConsumer(
        settings.names.leads,
        bootstrap_servers=settings.kafka.bootstrap,
        auto_offset_reset="earliest",
    )
    async with consumer, AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap) as producer:
        task = asyncio.create_task(work())
        try:
            yield took
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here answers a cancellation."""
    monkeypatch.setattr("stream_app.client.doctor.round_trip._CANCELLED_WITHIN_S", 1.0)


async def with_topics(kafka: Broker, namespace: str, folder: Path) -> Settings:
    settings = settings_for(folder, kafka.bootstrap, namespace)
    await create_planned(settings)
    return settings


class Outcome(NamedTuple):
    reported: list[tuple[Status, str]]
    ok: bool
    says: str
    cancels: bool


OUTCOMES = (
    Outcome(
        [("sending", ""), ("accepted", ""), ("enriched", "")],
        True,
        "came back as enriched",
        False,
    ),
    Outcome(
        [("rejected_invalid", "no column")],
        False,
        "ended as rejected_invalid: no column",
        False,
    ),
    Outcome([("accepted", "")], False, "what does the cell of the HTTP column say?", False),
    Outcome(
        [("held_budget", "the budget is spent")],
        False,
        "held_budget (the budget is spent)",
        True,
    ),
    Outcome(
        [("sending", ""), ("dead_lettered", "refused")],
        False,
        "ended as dead_lettered: refused",
        True,
    ),
    Outcome([], False, "does `stream-app worker` run?", True),
)


@pytest.mark.slow
async def test_the_outcome_of_the_test_lead_is_shown_and_what_may_still_be_sent_is_cancelled(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    settings = await with_topics(kafka, namespace, tmp_path)
    reported: list[tuple[Status, str]] = []
    seen: list[Status] = []
    async with worker_that_reports(settings, reported) as took:
        for number, outcome in enumerate(OUTCOMES):
            reported[:] = outcome.reported
            seen.clear()
            # Where no more comes, the trip takes as long as this.
            comes = outcome.ok or "ended" in outcome.says
            within_s = 20 * BUSY if comes else 3 * slowness()
            went = await trip(settings, number, within_s, lambda event: seen.append(event.status))
            lead = took[-1]
            assert lead.lead_id == f"doctor-{number}"
            assert lead.destination == "people"
            assert lead.force is False
            assert lead.not_after_ms is not None, (
                "a test that was killed leaves no lead that is sent hours later"
            )
            assert went.ok == outcome.ok, outcome
            assert went.lead_id == f"doctor-{number}", outcome
            assert outcome.says in went.text
            assert ("The test lead is cancelled" in went.text) is outcome.cancels, went.text
            assert seen == [status for status, _ in outcome.reported]
    assert [
        (command.kind, command.workspace, command.args) for command in await commands_of(settings)
    ] == [
        ("cancel_lead", "acme", {"lead_id": f"doctor-{number}"})
        for number, outcome in enumerate(OUTCOMES)
        if outcome.cancels
    ]


async def trip(
    settings: Settings,
    number: int,
    within_s: float,
    on_event: Callable[[StatusEvent], None] = lambda _: None,
) -> RoundTrip:
    return await round_trip(
        settings,
        "people",
        number,
        within_s,
        "tests",
        on_event=on_event,
        say=lambda _: None,
    )


async def commands_of(settings: Settings) -> list[Command]:
    records = await read_topic(
        settings.kafka.bootstrap,
        settings.names.commands,
        settings.kafka.partitions,
    )
    return [msgspec.json.decode(record.value or b"", type=Command) for record in records]


async def test_ctrl_c_cancels_the_test_lead(kafka: Broker, namespace: str, tmp_path: Path) -> None:
    settings = await with_topics(kafka, namespace, tmp_path)
    held = asyncio.Event()
    async with worker_that_reports(settings, [("held_paused", "")]):
        went = asyncio.create_task(trip(settings, 18, 60, lambda _: held.set()))
        await asyncio.wait_for(held.wait(), 30 * BUSY)
        went.cancel()
        with pytest.raises(asyncio.CancelledError):
            await went
    assert [command.args for command in await commands_of(settings)] == [{"lead_id": "doctor-18"}]


def test_the_price_and_destinations_that_cannot_be_tested(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "x:1", "x.")
    assert "about 6 credits and 1 action, at most 20 credits and 5 actions" in price(
        settings,
        "people",
    )
    with pytest.raises(SettingsError, match="there are: people"):
        price(settings, "none")
    quiet = msgspec.structs.replace(settings.destinations["people"], callbacks=False)
    with pytest.raises(SettingsError, match="no callback can be awaited"):
        price(msgspec.structs.replace(settings, destinations={"people": quiet}), "people")


def deviations_of(file: Path) -> list[str]:
    return deviations(read(file), simulated())


async def test_the_command_asks_before_it_spends(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = Gateway()
    async with serve_http(gateway.app, "127.0.0.1", 0, grace_s=1) as port:
        at = f"http://127.0.0.1:{port}"
        settings = settings_for(tmp_path, kafka.bootstrap, namespace, public_url=at)
        await create_planned(settings)
        monkeypatch.setenv("KEY", NEW_KEY)
        monkeypatch.setenv("OLD_KEY", OLD_KEY)

        async def doctor(webhook: str, *more: str) -> tuple[int, dict[str, Any], str]:
            monkeypatch.setenv("WEBHOOK", f"{webhook}/v3/sources/webhook/x")
            argv = [
                "doctor",
                "--config",
                str(tmp_path / "stream_app.toml"),
                "--json",
                "--round-trip",
                "people",
            ]
            code = await asyncio.to_thread(cli.main, [*argv, *more])
            output = capsys.readouterr()
            # behind what the gateway logs, which is in this process
            answer = output.out[output.out.index("{\n") :]
            return code, json.loads(answer), output.err

        async with (
            in_groups(settings),
            worker_that_reports(settings, [("accepted", ""), ("enriched", "")]) as took,
        ):
            code, report, errors = await doctor("http://127.0.0.1:1", "--yes")
            assert code == 1
            assert "no test lead was sent: correct the failed checks first" in errors
            assert [
                check["name"] for check in report["checks"] if check["verdict"] == "failed"
            ] == ["clay"]
            code, report, errors = await doctor(at)
            assert code == 2
            asked = "pass --yes to send one test lead to Clay through people, which costs about 6 "
            assert asked in errors
            assert took == []
            code, report, errors = await doctor(at, "--yes")
            assert code == 0
            assert report["round_trip"]["ok"] is True
            assert len(took) == 1
            assert "about 6 credits" in errors
            file = tmp_path / "clay.json"
            code, report, errors = await doctor(
                "http://127.0.0.1:1",
                "--yes",
                "--record",
                str(file),
            )
            assert code == 1
            assert not file.exists(), "nothing was sent, so there is nothing to record"
            code, report, errors = await doctor(at, "--yes", "--record", str(file))
            assert code == 0
            assert "3 requests that no webhook can make a row of" in errors
            assert report["recording"] == {"file": str(file), "deviations": deviations_of(file)}
            assert {answer.status for answer in read(file).answers["broken_json"]} == {404}
            assert len(took) == 2
            argv = ["doctor", "--config", str(tmp_path / "stream_app.toml")]
            argv += ["--round-trip", "people", "--record", str(file)]
            assert await asyncio.to_thread(cli.main, argv) == 2
            assert "it exists and is not overwritten" in capsys.readouterr().err
            assert len(took) == 2
