"""The short forms of `python -m tests.chaos`: a minute of every fault, on a real Kafka."""

import os

import pytest

from tests.chaos.__main__ import complaints, table
from tests.chaos.campaign import Goal, Result, run_campaign
from tests.chaos.schedule import MEANING

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


async def test_a_minute_of_chaos_loses_no_lead_and_pays_for_none_twice() -> None:
    result = await _run(resend=False)
    assert result.verdict.held > 0, "two budgets were used up"
    assert not result.verdict.resent


async def test_a_minute_of_chaos_with_resend_counts_each_lead_sent_again() -> None:
    result = await _run(resend=True)
    assert result.verdict.resent > 0


async def _run(*, resend: bool) -> Result:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    result = await run_campaign(Goal(seconds=60), seed, resend=resend)
    assert result.passed, "\n".join([table(result), *complaints(result)])
    assert result.faults.keys() == MEANING.keys()
    assert result.kills > 0
    assert result.verdict.accepted > 500, "most of the load went through"
    assert result.verdict.uncertain > 0, "leads were hit at the worst of moments"
    return result
