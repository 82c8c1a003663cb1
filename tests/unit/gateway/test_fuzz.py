"""2,000 mutated callbacks, and 10,000 for each change; 100,000 by `python -m tests.gateway.fuzz`."""

import pytest

from stream_app.domain.callback.token import Keys, TokenProblem, Verified
from stream_app.gateway import receiver
from tests.gateway.fuzz import fuzz


@pytest.mark.parametrize("requests", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_none_crashes_none_is_taken_without_a_token_and_each_is_counted(requests: int) -> None:
    ledger, gateway = await fuzz(requests, seed=7)
    assert ledger.faults == []
    assert ledger.requests == requests
    counted = gateway.counted()
    assert counted["enriched"] > requests // 10, "most were not far from right"
    assert len(counted) > 20, "and wrong in every way that there is"


async def test_the_check_finds_a_gateway_that_accepts_any_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver.Receiver, "_verify", lambda *_: "")
    ledger, _ = await fuzz(500, seed=7)
    assert any("without a token of it" in line for line in ledger.faults)


async def test_the_check_finds_an_accepted_token_of_another_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    def whose_ever(keys: Keys, token: str, *_: str) -> Verified | TokenProblem:
        return Verified("") if token.count(".") == 1 else "malformed"

    monkeypatch.setattr(receiver, "verify", whose_ever)
    ledger, _ = await fuzz(500, seed=7)
    assert any("without a token of it" in line for line in ledger.faults)
