"""The example of a configuration starts every process as it is copied: only places of this machine are its own."""

import asyncio
import os
import re
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from stream_app.dev.kafka import Broker
from stream_app.dev.process import LOOPBACK, ChildProcesses, free_port, last_words
from tests.support.commands import fork_process
from tests.support.kafka import until
from tests.unit.config.files import EXAMPLE

pytestmark = pytest.mark.timeout(240)
PROCESSES = {"worker": "worker_port", "replay": "replay_port", "gateway": "gateway_ops_port", "board": "board_ops_port"}


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def test_the_example_starts_every_process(
    kafka: Broker, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = {key: free_port() for key in (*PROCESSES.values(), "gateway_port", "board_port")}
    text = EXAMPLE.read_text(encoding="utf-8").replace("127.0.0.1:9092", kafka.bootstrap)
    text = re.sub(r"^partitions = \d+", f'namespace = "{namespace}"\npartitions = 2', text, flags=re.M)
    path = tmp_path / "stream_app.toml"
    path.write_text(text + "\n[http]\n" + "".join(f"{key} = {port}\n" for key, port in ports.items()))
    monkeypatch.setenv("STREAM_APP_CONFIG", str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("CLAY_WEBHOOK_PEOPLE", "https://api.clay.com/v3/sources/webhook/pull-in-data-of-a-first-day")
    monkeypatch.setenv("CLAY_TOKEN_PEOPLE", os.urandom(16).hex())
    monkeypatch.setenv("CALLBACK_KEY", os.urandom(32).hex())
    children = ChildProcesses("first-day")
    try:
        topics = fork_process(children, ["topics"], tmp_path / "topics.log")
        assert await asyncio.to_thread(topics.wait, 60) == 0, last_words(tmp_path / "topics.log")
        for name in PROCESSES:
            fork_process(children, [name], tmp_path / f"{name}.log")
        for name, key in PROCESSES.items():
            await until(partial(_ready, ports[key]), 60, f"the {name} being ready")
    finally:
        await asyncio.to_thread(children.close)
