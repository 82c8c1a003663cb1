"""HEAD beside the baseline on a real Kafka, under load: nothing is lost or sent twice, there and
back.
"""

from pathlib import Path

import pytest

from stream_app.dev.kafka import Broker
from tests.upgrade import baseline
from tests.upgrade.baseline import HEAD, place_of, unpack
from tests.upgrade.campaign import UNWANTED, Result, run_campaign

pytestmark = pytest.mark.history


def test_the_baseline_is_unpacked_and_runs_its_own_code(tmp_path: Path) -> None:
    program = unpack(tmp_path)
    assert place_of(program) == str(tmp_path)
    assert place_of(HEAD) == str(baseline.ROOT)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_both_versions_run_beside_each_other_there_and_back(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    check(await run_campaign(kafka.bootstrap, namespace, unpack(tmp_path), workers=1))


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_three_upgrades_and_downgrades_under_load(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    check(
        await run_campaign(
            kafka.bootstrap,
            namespace,
            unpack(tmp_path),
            per_s=40,
            phase_s=20,
            rounds=3,
        ),
    )


def check(result: Result) -> None:
    """Fail with all that is known, also if the load had nothing of a kind that an upgrade must
    carry over.
    """
    assert result.passed, result.text()
    assert not result.verdict.doubles, result.text()
    kinds = {
        "dead_lettered",
        "replayed",
        "deferred",
        "held_paused",
        "callback_overdue",
        "parked",
        "enriched",
    }
    assert kinds <= result.steps.keys(), result.text()
    assert result.steps["suppressed"] == len(UNWANTED), result.text()
    assert result.verdict.held > 0, "a budget holds leads at the end"
    assert all(result.posts.values()), result.text()
