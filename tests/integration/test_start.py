"""Processes and commands that refuse to start: topics that differ from the plan, and a missing
Kafka.
"""

import asyncio
from pathlib import Path

import msgspec
import pytest

from stream_app.cli.main import main
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import Broker
from stream_app.dev.process import free_port
from stream_app.domain.model.errors import TopicsError
from stream_app.domain.model.topics import TopicNames
from stream_app.kafka.rights import rights_of
from stream_app.kafka.topics import check_topics, create_topics
from tests.support.commands import run_command
from tests.support.config import one_way, settings_in
from tests.support.every import COMMANDS, PROCESSES, on_its_own, typed
from tests.support.pace import BUSY


async def test_each_process_refuses_unplanned_topics_with_the_same_text(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    ports = "".join(
        f"{name}_port = {free_port()}\n" for name in ("worker", "replay", "gateway", "board")
    )
    http = f"[http]\n{ports}gateway_ops_port = 0\nboard_ops_port = 0\n"
    settings = settings_in(
        tmp_path,
        kafka.bootstrap,
        namespace,
        http,
        partitions=2,
    )
    plan = settings.topic_plan()
    differing = msgspec.structs.replace(plan[0], partitions=3)
    await create_topics(connection_of(settings), [differing, *plan[2:]], 60, lambda _: None)
    with pytest.raises(TopicsError) as refused:
        await check_topics(connection_of(settings), plan, 60, lambda _: None)
    differs, missing = refused.value.problems
    assert differs.startswith(
        f"{plan[0].name}: has 3 partitions, the config says 2; a system keeps the number",
    )
    assert missing == f"{plan[1].name}: there is no such topic; create it with: stream-app topics"

    def start(name: str) -> tuple[int, str]:
        return run_command(
            [name, "--config", str(tmp_path / "stream_app.toml")],
            tmp_path,
            60 * BUSY,
        )

    for ran in await asyncio.gather(
        *(asyncio.to_thread(start, name) for name in ("worker", "replay", "board")),
    ):
        assert ran == (1, f"{refused.value}\n")


def test_every_command_is_covered() -> None:
    """The programs of `kafka.rights` without the processes, `topics` and `doctor`, which have
    tests of their own.
    """
    own = {
        *PROCESSES,
        "board with operator_token_env",
        "topics",
        "topics --apply",
        "doctor",
        "doctor --round-trip",
    }
    own |= {"publish()", "publish() bulk", "follow_status()"}  # functions of the Python API
    assert set(COMMANDS) == set(rights_of(TopicNames(), (2,))) - own


@pytest.mark.parametrize("program", COMMANDS)
def test_a_missing_topic_is_reported_at_once(
    program: str,
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings_in(tmp_path, kafka.bootstrap, namespace, one_way(people="w0"), partitions=2)
    assert main(on_its_own(typed(program, tmp_path, namespace), tmp_path / "stream_app.toml")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines, program
    assert all(
        "there is no such topic; create it with: stream-app topics" in line for line in lines
    )
