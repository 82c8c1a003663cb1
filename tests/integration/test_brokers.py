"""The Kafka and the Redis of the tests: the user's own broker if there is one, and a failure where none can start."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from redis import Redis

from stream_app.dev.kafka import Broker, bootstrap_from_environment, kafka_for
from stream_app.dev.process import StartError
from tests.support.pace import BUSY

ROOT: Final = Path(__file__).parents[2]
NO_REDIS: Final = """
import tests.support.local_redis
tests.support.local_redis.find_redis_server = lambda: None
"""


def nothing_of_ours(*_: object, **__: object) -> object:
    raise AssertionError("a broker is started although there is one")


def test_the_users_broker_is_used(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", f" {kafka.bootstrap} ")
    monkeypatch.setattr("stream_app.dev.kafka.LocalKafka", nothing_of_ours)
    with kafka_for(print) as broker:
        assert broker.bootstrap == kafka.bootstrap


def test_the_users_broker_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1,nonsense")
    says = r"^KAFKA_BOOTSTRAP=127.0.0.1:1,nonsense does not answer"
    with pytest.raises(StartError, match=says), kafka_for(print):
        pass


@pytest.mark.parametrize("unset", ["", "  "])
def test_an_empty_bootstrap_counts_as_unset(monkeypatch: pytest.MonkeyPatch, unset: str) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", unset)
    assert bootstrap_from_environment() is None


def test_redis_answers(redis_url: str, namespace: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.set(f"{namespace}key", b"value", ex=60)
        assert client.get(f"{namespace}key") == b"value"


def test_tests_whose_service_cannot_start_fail_instead_of_being_skipped(tmp_path: Path) -> None:
    (tmp_path / "no_redis.py").write_text(NO_REDIS)
    tests = [f"{__file__}::{test.__name__}" for test in (test_the_users_broker_is_used, test_redis_answers)]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-p", "no_redis", *tests],
        cwd=ROOT,
        env=os.environ | {"KAFKA_BOOTSTRAP": "127.0.0.1:1", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=100 * BUSY,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout + ran.stderr
    assert "KAFKA_BOOTSTRAP=127.0.0.1:1 does not answer" in ran.stdout
    assert "no redis-server found" in ran.stdout
    assert "2 errors in" in ran.stdout
