"""The configuration of a test that needs a Kafka and some lanes, in a file."""

import json
from pathlib import Path
from typing import Any, Final

from stream_app.config import Settings, load_settings

NO_BOARD: Final = '[board]\nurl = "http://127.0.0.1:1"\n'
"""A board that nobody serves. Without it, commands ask the default port, where a board of the user
may listen.
"""


def one_way(**destinations: str) -> str:
    """Return destinations and the workspace of each. None is called back, and no URL is set."""
    lines = [f"[workspaces.{workspace}]\n" for workspace in dict.fromkeys(destinations.values())]
    lines += [
        (
            f'[destinations.{alias}]\nworkspace = "{workspace}"\nwebhooks_env = ["NOT_SET"]\n'
            "callbacks = false\n"
        )
        for alias, workspace in destinations.items()
    ]
    return "".join(lines)


def settings_in(
    folder: Path,
    bootstrap: str,
    namespace: str,
    more: str = "",
    **kafka: Any,
) -> Settings:
    """Write `stream_app.toml` into a folder, and load it. `kafka`: further keys of its table."""
    table = {
        "bootstrap": bootstrap,
        "namespace": namespace,
        "partitions": 1,
        "replication": 1,
        **kafka,
    }
    path = folder / "stream_app.toml"
    keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    board = "" if "[board]" in more else NO_BOARD
    path.write_text(f"[kafka]\n{keys}{board}{more}")
    return load_settings(path, {}, ())
