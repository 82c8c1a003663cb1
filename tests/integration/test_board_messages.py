"""The board process sends messages: on a real Kafka without a worker, over a kill, and when a worker is back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import Broker
from stream_app.dev.process import LOOPBACK, free_port
from stream_app.kafka.topics import create_topics
from tests.gateway.support import NEW_KEY, OLD_KEY
from tests.integration.test_messages import SECRET, Inbox, listening
from tests.support.doctor import in_groups, settings_for
from tests.support.kafka import until

ROOT = Path(__file__).parents[2]
WITHIN_S = 60
IN_HASTE = """
import sys
from stream_app.board import notify
from stream_app.cli.main import main
notify.EVERY_S, notify.BEGUN_S, notify.ENDED_S, notify._FIRST_RETRY_S = 0.2, 0.5, 1, 0.2
sys.exit(main(sys.argv[1:]))
"""
CONFIG = """
[notify]
url_env = "URL"
format = "json"
interval_s = 1
watch_gateway = true
[http]
board_port = {port}
board_ops_port = 0
[board]
read_model_path = "{folder}/model.sqlite"
"""


@contextmanager
def board(folder: Path, receiver: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process. Its log is beside its configuration."""
    env = {"URL": f"http://{LOOPBACK}:{receiver}/services/{SECRET}", "KEY": NEW_KEY, "OLD_KEY": OLD_KEY}
    argv = [sys.executable, "-c", IN_HASTE, "board", "--config", str(folder / "stream_app.toml")]
    with (folder / "board.log").open("ab") as log:
        process = subprocess.Popen(argv, stderr=log, env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def changes(inbox: Inbox) -> set[tuple[str, str]]:
    """What was reported. The read model needs longer to start than this test lets a trouble last."""
    reported = {(shown["status"], shown["name"]) for message in inbox.got for shown in message["alerts"]}
    return {(status, name) for status, name in reported if name != "read_model"}


@pytest.mark.timeout(100)
async def test_each_change_is_sent_once_over_a_kill_and_while_the_receiver_fails(
    kafka: Broker, namespace: str, tmp_path: Path
) -> None:
    inbox = Inbox()
    async with listening(inbox.serve) as port:
        public_url = f"http://{LOOPBACK}:{free_port()}"  # no gateway listens there
        more = CONFIG.format(port=free_port(), folder=tmp_path)
        settings = settings_for(tmp_path, kafka.bootstrap, namespace, public_url=public_url, more=more)
        await create_topics(connection_of(settings), settings.topic_plan(), 30, lambda _: None)
        inbox.status = 500
        with board(tmp_path, port):
            await until(lambda: "message_not_sent" in (tmp_path / "board.log").read_text(), within_s=WITHIN_S)
            inbox.status = 200
            await until(lambda: (tmp_path / "model.messages.json").exists(), within_s=WITHIN_S)
            begun = {("firing", "no_worker"), ("firing", "gateway")}
            await until(lambda: changes(inbox) == begun, within_s=WITHIN_S)
        inbox.got.clear()
        async with in_groups(settings):
            with board(tmp_path, port) as process:
                await until(lambda: bool(changes(inbox)), within_s=WITHIN_S)
                assert process.poll() is None
        assert changes(inbox) == {("resolved", "no_worker")}, "what was sent before the kill is not sent again"
    log = (tmp_path / "board.log").read_text()
    assert "127.0.0.1 answers HTTP 500 to messages" in log
    assert SECRET not in log
