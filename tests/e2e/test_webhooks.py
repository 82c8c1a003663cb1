"""Webhooks that take no more leads: a full one in front of an empty one, and a paused workflow."""

from typing import Any

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.pipeline import CALLBACK, Pipeline

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

FULL = "w0--full"
EMPTY = "w0--empty"
STREAM = "w0--flow"
LIFETIME = 40
SHADOW = """
[workspaces.{name}.breaker]
mode = "shadow"
[workspaces.{name}.flood_guard]
run = 1000000
share = 1
"""


def submissions_of(line: Pipeline) -> dict[str, int]:
    """What each webhook has taken."""
    webhooks = line.control("GET", "/control")["webhooks"]
    return {slug: int(webhook["submissions"]) for slug, webhook in webhooks.items()}


async def findings_of(line: Pipeline) -> list[dict[str, Any]]:
    _, report = await line.ask("explain", "--workspace", "w0")
    return list(report["findings"])


async def test_a_full_webhook_in_front_of_an_empty_one_keeps_no_lead_waiting(
    kafka: Broker,
    namespace: str,
) -> None:
    """Our own count does not rotate it, as if something else had filled it.

    One attempt is allowed, so a counted one would make a dead letter.
    """
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        config="[delivery]\nmax_attempts = 1",
        pool=tuple(f"/v3/sources/webhook/{slug}" for slug in (FULL, EMPTY)),
    ) as line:
        line.control("POST", "/control/limits", {"lifetime": LIFETIME})
        await line.publish(line.leads(LIFETIME + 20))
        await line.ready(*(line.start(name) for name in ("worker", "replay")))
        await line.until_last({"accepted": LIFETIME + 20}, 60)
        assert submissions_of(line) == {FULL: LIFETIME, EMPTY: 20}
        (finding, *_) = await findings_of(line)
        assert finding["code"] == "webhook_out"
        assert finding.get("holds", True) is False
        assert "Record limit reached for webhook" in finding["what"]

        more = [line.lead(number, "w0") for number in range(100, 130)]
        await line.publish(more)
        await line.until(
            lambda: line.last()["accepted"] == 2 * LIFETIME and line.last()["held_paused"] > 0,
            60,
            "both are full, and the next leads wait",
        )
        (finding, *_) = await findings_of(line)
        assert finding["code"] == "webhook_out"
        assert finding.get("holds", True) is True
        line.control("POST", "/control/limits", {"lifetime": 0})
        await line.done("lanes", "resume", "w0", "--why", "the tables delete their rows now")
        await line.until_last({"accepted": LIFETIME + 50}, 60)
        assert set(line.summary()["leads"].values()) == {1}
        assert not await line.read(line.settings.names.dlq)
        line.check_histories()
        line.check_logs()


@pytest.mark.parametrize("accepted_status", [200, 202])
@pytest.mark.parametrize("refused_count", [False, True])
async def test_webhooks_fill_one_after_the_other_whatever_clay_counts(
    kafka: Broker,
    namespace: str,
    accepted_status: int,
    *,
    refused_count: bool,
) -> None:
    """Clay does not say whether refused submissions count, nor when it answers 200 or 202.

    A fifth of the POSTs is refused, so with `refused_count` a webhook is full before our own count
    of accepted ones would say so.
    """
    leads = 2 * LIFETIME
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        lane=SHADOW,
        pool=tuple(f"/v3/sources/webhook/w0--{number}" for number in range(4)),
        destination=f"quota_lifetime = {LIFETIME}",
    ) as line:
        limits = {
            "lifetime": LIFETIME,
            "refused_count": refused_count,
            "accepted_status": accepted_status,
        }
        line.control("POST", "/control/limits", limits)
        fault = {"kind": "status_before", "status": 503, "share": 0.2}
        line.control("POST", "/control/faults", fault)
        await line.publish(line.leads(leads))
        await line.ready(*(line.start(name) for name in ("worker", "replay")))
        await line.until_last({"accepted": leads}, 90)
        summary = line.summary()
        assert set(summary["leads"].values()) == {1}
        assert summary["by_status"][str(accepted_status)] == leads
        assert summary["by_status"]["503"] > 0, "some were refused"
        line.check_histories()
        line.check_logs()


async def test_a_paused_workflow_rejects_no_lead_and_its_results_come_back(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        callbacks=True,
        script=f"{CALLBACK}[webhooks.{STREAM}]\nactive = false\n",
        pool=(f"/v3/tc-workflows/streams/{STREAM}/webhook",),
    ) as line:
        await line.ready(*(line.start(name) for name in ("gateway", "worker", "replay")))
        await line.receives()
        await line.publish(line.leads(20))
        await line.until(lambda: line.last()["held_paused"] >= 1, 60, "one was refused")
        (finding, *_) = await findings_of(line)
        assert finding["code"] == "webhook_out"
        assert "not active (400)" in finding["what"]
        assert submissions_of(line) == {STREAM: 0}
        line.control("POST", "/control/webhooks", {"slug": STREAM, "active": True})
        await line.done("lanes", "resume", "w0", "--why", "published")
        await line.until_last({"enriched": 20}, 60)
        assert not await line.read(line.settings.names.dlq)
        line.check_logs()


@pytest.mark.parametrize("unknown_status", [404, 410])
async def test_a_webhook_that_there_is_not_loses_no_lead_whatever_clay_answers(
    kafka: Broker,
    namespace: str,
    unknown_status: int,
) -> None:
    """Clay does not say what it answers. A 404 names the webhook; another status holds the lane."""
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        config="[delivery]\nmax_attempts = 1",
        pool=tuple(f"/v3/sources/webhook/{slug}" for slug in ("w0--none", EMPTY)),
    ) as line:
        fault = {"kind": "gone", "webhook": "w0--none", "status": unknown_status}
        line.control("POST", "/control/faults", fault)
        await line.publish(line.leads(20))
        await line.ready(*(line.start(name) for name in ("worker", "replay")))
        if unknown_status != 404:
            await line.until(lambda: line.last()["refused"] > 0, 60, "the lane is held")
            (finding, *_) = await findings_of(line)
            assert finding["code"] == f"http_{unknown_status}"
            assert finding.get("holds", True) is True
            line.control("DELETE", "/control/faults")
            await line.done("lanes", "resume", "w0", "--why", "the webhook is there again")
        await line.until_last({"accepted": 20}, 60)
        assert set(line.summary()["leads"].values()) == {1}
        assert not await line.read(line.settings.names.dlq)
        line.check_histories()
        line.check_logs()
