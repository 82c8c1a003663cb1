"""A key that a version took away is refused with what to do instead."""

from pathlib import Path

import pytest

from stream_app.config import gone
from tests.unit.config.files import problems


@pytest.mark.parametrize(
    ("place", "text", "line"),
    [
        ("kafka.old", "[kafka]\nold = 1\n", "kafka.old: gone in 0.2.0; use new"),
        ("old", "old = 1\n", "old: gone in 0.2.0; use new"),
        ("workspaces.*.old", "[workspaces.acme]\nold = 1\n", "workspaces.acme.old: gone in 0.2.0; use new"),
        ("workspaces.*.old", "[workspace_defaults]\nold = 1\n", "workspace_defaults.old: gone in 0.2.0; use new"),
        ("destinations.*.old", "[destinations.p]\nold = 1\n", "destinations.p.old: gone in 0.2.0; use new"),
    ],
)
def test_a_key_that_is_gone_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str, line: str
) -> None:
    monkeypatch.setattr(gone, "GONE", {place: "use new"})
    assert any(problem.endswith(line) for problem in problems(tmp_path, text))
