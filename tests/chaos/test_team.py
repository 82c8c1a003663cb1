"""A worker may exit by itself only because of a fault."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.team import Team
from tests.e2e.member import Member

NOTHING: Any = None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("partition 1 has a later owner: this process must stop", "fenced"),
        (
            (
                "Kafka at 127.0.0.1:1 did not answer within 30 s (no answer). Is it running, "
                "and is "
                "kafka.bootstrap right?"
            ),
            "no broker",
        ),
        ("the row l/w0 of the state topic cannot be read", None),
        ("partition 0 of Kafka's state was not taken over within 60 s", None),
        ("", None),
    ],
)
def test_an_unexpected_exit_of_a_worker_is_a_finding(
    tmp_path: Path,
    words: str,
    why: str | None,
) -> None:
    log = tmp_path / "worker.log"
    log.write_text(words)
    ended: Any = SimpleNamespace(returncode=1)
    team = Team(NOTHING, NOTHING, NOTHING, 1)
    team._count_end(Member(ended, 0, log))
    assert list(team.ends) == [why or words or "nothing"]
    assert bool(team.untidy) is (why is None)
