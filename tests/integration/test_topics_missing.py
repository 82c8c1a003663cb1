"""Topics that are missing or have other partitions: each command reports it at once and blames nothing else."""

from pathlib import Path

import pytest

from stream_app.cli.main import main
from stream_app.dev.kafka import Broker
from tests.support.config import one_way, settings_in
from tests.support.every import COMMANDS, on_its_own, typed


def test_every_command_is_covered() -> None:
    """The programs of `domain.rights` without the processes, `topics` and `doctor`, which have tests of their own."""
    from stream_app.domain.model.topics import TopicNames
    from stream_app.kafka.rights import rights_of

    own = {
        "worker",
        "replay",
        "gateway",
        "board",
        "board with operator_token_env",
        "trace",
        "topics",
        "topics --apply",
        "doctor",
        "doctor --round-trip",
    }
    own |= {"publish()", "publish() bulk", "follow_status()"}  # functions of the Python API
    assert set(COMMANDS) == set(rights_of(TopicNames(), (2,))) - own


@pytest.mark.parametrize("program", COMMANDS)
def test_a_missing_topic_is_reported_at_once(
    program: str, kafka: Broker, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_in(tmp_path, kafka.bootstrap, namespace, one_way(people="w0"), partitions=2)
    assert main(on_its_own(typed(program, tmp_path, namespace), tmp_path / "stream_app.toml")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines, program
    assert all("there is no such topic; create it with: stream-app topics" in line for line in lines)
