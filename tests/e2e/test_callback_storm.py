"""A short storm of callbacks.

`python -m tests.e2e.callback_storm` runs the long one and prints its times.
"""

import pytest

from tests.e2e.callback_storm import Disturbance, Plan, storm


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("disturb", ["kafka", "gateway"])
async def test_no_acknowledged_callback_is_lost(disturb: Disturbance) -> None:
    result = await storm(Plan(burst=200, per_s=50, seconds=6, disturb=disturb))
    assert result.sent == 500
    assert len(result.acknowledged) == result.sent, "each in the end"
    assert result.lost == set()
    assert {status for _, _, status in result.attempts} <= {200, 502, 503, 504, 0}
    assert max(ended - began for began, ended, _ in result.attempts) < 25, (
        "whatever it is, it is said in time"
    )
    waited = len(result.attempts) > result.sent or result.p(1.0, during=True) > 0.5
    assert waited, "the disturbance was one"
