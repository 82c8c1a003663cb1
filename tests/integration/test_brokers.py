"""The choice of the tests' broker and Redis."""

import pytest
from redis import Redis

from stream_app.dev.kafka import Broker, bootstrap_from_environment
from stream_app.dev.process import StartError
from tests.support import brokers


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


def test_redis_answers(redis_url: str, namespace: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.set(f"{namespace}key", b"value", ex=60)
        assert client.get(f"{namespace}key") == b"value"
