"""Each key of 0.1.0 works, or says what to do instead: a renamed one names its new word."""

import re
from pathlib import Path

import pytest

from stream_app.config.load import keys_of
from stream_app.config.model import Settings
from stream_app.domain.plan import Destination, Workspace
from tests.unit.config.files import PEOPLE, problems

KEYS = (Path(__file__).parent / "keys_of_0_1_0.txt").read_text(encoding="utf-8").split()
"""Every key that a file of 0.1.0 could have. `*`: the name of a workspace or destination."""
RENAMED = {
    "line": "delivery",
    "workspaces.acme.flood": "flood_guard",
    "workspaces.acme.silence": "callback_health",
    "workspaces.acme.stop": "suspension",
    "gateway.api_token_env": "board.token_env",
    "gateway.api_url": "board.url",
    **{
        f"gateway.{key}": f"board.{key}"
        for key in ("read_model_path", "banner", "user_header", "trace_url")
    },
}
"""Place of a table or key of 0.1.0 -> its word now."""


def is_known(key: str) -> bool:
    """Whether the key is in a table of today."""
    *tables, last = key.replace(".*", "").split(".")
    kind: object = Settings
    for table in tables:
        kind = {"workspaces": Workspace, "destinations": Destination}.get(table) or keys_of(
            kind,
        ).get(table)
        if not (isinstance(kind, type) and hasattr(kind, "__struct_fields__")):
            return kind is not None  # a table whose keys are names: of columns, of counts
    return last in keys_of(kind)


@pytest.mark.parametrize("key", [key for key in KEYS if not is_known(key)])
def test_no_key_of_0_1_0_is_only_unknown(tmp_path: Path, key: str) -> None:
    place = re.sub(r"^workspaces\.\*", "workspaces.acme", key)
    lines = problems(tmp_path, f"{place} = 1\n{PEOPLE.replace('[workspaces.acme]', '')}")
    (line,) = [
        line for line in lines if re.match(rf"(\S*: )?{re.escape(place.rpartition('.')[0])}", line)
    ]
    assert "gone in 0.2.0; " in line, line
    for old, new in RENAMED.items():
        if place.startswith(old):
            assert new in line
