"""The choice of the tests' broker and Redis."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from stream_app.dev.kafka import Broker, bootstrap_from_environment, broker_answers
from stream_app.dev.process import StartError, port_is_free
from tests.support import brokers
from tests.support.local_redis import LocalRedis


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the docker command on the PATH. Tests write what it does."""
    fake = tmp_path / "docker"
    fake.touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return fake


def nothing_of_ours(*_: object, **__: object) -> object:
    raise AssertionError("a broker is started although there is one")


def test_the_users_broker_is_used(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", f" {kafka.bootstrap} ")
    monkeypatch.setattr("stream_app.dev.kafka.LocalKafka", nothing_of_ours)
    monkeypatch.setattr(brokers, "kafka_in_docker", nothing_of_ours)
    assert bootstrap_from_environment() == kafka.bootstrap
    with brokers.any_kafka(print) as broker:
        assert broker.bootstrap == kafka.bootstrap


def test_the_users_broker_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1,nonsense")
    with (
        pytest.raises(StartError, match=r"^KAFKA_BOOTSTRAP=127.0.0.1:1,nonsense does not answer"),
        brokers.any_kafka(print),
    ):
        pass


@pytest.mark.parametrize("unset", ["", "  "])
def test_an_empty_bootstrap_counts_as_unset(monkeypatch: pytest.MonkeyPatch, unset: str) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", unset)
    assert bootstrap_from_environment() is None


@pytest.mark.parametrize(("command", "works"), [("exit 0", True), ("exit 1", False), ("exec sleep 20", False)])
def test_docker_works_only_with_a_daemon_that_answers(docker: Path, command: str, works: bool) -> None:
    docker.write_text(f"#!/bin/sh\n{command}\n")
    assert brokers.docker_works() is works


def test_pips_kafka_replaces_a_docker_that_cannot_run_it(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.write_text("#!/bin/sh\n")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with ExitStack() as stack, pytest.warns(UserWarning, match="pip's is used instead"):
        assert brokers.kafka_in_docker(stack) is None


def test_redis_answers(redis_url: str, namespace: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.set(f"{namespace}key", b"value", ex=60)
        assert client.get(f"{namespace}key") == b"value"


def test_redis_listens_on_loopback_and_leaves_nothing() -> None:
    with LocalRedis() as redis:
        port = int(redis.url.rpartition(":")[2].removesuffix("/0"))
        with Redis.from_url(redis.url) as client:
            assert client.config_get("bind")["bind"] == "127.0.0.1"
            assert client.config_get("save")["save"] == ""
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    assert port_is_free(port)
    assert not broker_answers(port)
    redis.stop()


def test_a_benchmark_uses_the_users_broker_too() -> None:
    texts = {path.name: path.read_text() for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py")}
    assert "kafka_for(" in texts["line.py"]
    assert not [name for name, text in texts.items() if "LocalKafka" in text]
