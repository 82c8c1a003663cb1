"""The Kafka that the processes of one test run share: started when a test needs it, and never before."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.pace import BUSY

ROOT = Path(__file__).parents[2]


NO_REDIS: Final = """
import tests.support.local_redis
import tests.support.brokers
tests.support.local_redis.find_redis_server = tests.support.brokers.find_redis_server = lambda: None
tests.support.brokers.docker_works = lambda: False
"""


def test_tests_whose_service_cannot_start_fail_instead_of_being_skipped(tmp_path: Path) -> None:
    (tmp_path / "no_redis.py").write_text(NO_REDIS)
    names = ("test_the_users_broker_is_used", "test_redis_answers")
    tests = [f"{Path(__file__).parent}/test_brokers.py::{name}" for name in names]
    ran = pytest_without_kafka("-n", "1", "-p", "no_redis", *tests, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout + ran.stderr
    assert "KAFKA_BOOTSTRAP=127.0.0.1:1 does not answer" in ran.stdout
    assert "no redis-server found" in ran.stdout
    assert "2 errors in" in ran.stdout


def pytest_without_kafka(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest where a test that asks for the broker fails."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", *argv],
        cwd=ROOT,
        env=os.environ | {"KAFKA_BOOTSTRAP": "127.0.0.1:1"} | environment,
        capture_output=True,
        text=True,
        timeout=100 * BUSY,
        check=False,
    )
