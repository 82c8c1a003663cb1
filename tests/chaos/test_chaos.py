"""The quick form of `python -m tests.chaos`: a minute of everything at once, on a real Kafka."""

from __future__ import annotations

import os

import pytest

from tests.chaos.__main__ import complaints, table
from tests.chaos.campaign import Goal, run_campaign


@pytest.mark.timeout(240)
async def test_a_minute_of_chaos_loses_nothing_and_pays_nothing_twice() -> None:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    result = await run_campaign(Goal(seconds=60), seed, resend=False, progress=lambda _, __: None)
    assert result.passed, "\n".join([table(result), *complaints(result)])
    assert result.kills > 0
    assert result.accepted > 500, "most of the load went through"
    assert result.uncertain > 0, "leads were hit at the worst of moments"
