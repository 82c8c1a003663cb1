"""Settings of a pipeline in one namespace."""

from pathlib import Path

from stream_app.config import Settings
from tests.support.config import one_way, settings_in

LANES = {"busy": 0, "quiet": 1, "beside": 1}
"""Workspace -> its partition."""


def settings_of(path: Path, bootstrap: str, namespace: str) -> Settings:
    pins = "".join(f"[workspaces.{name}]\npartition = {number}\n" for name, number in LANES.items())
    lanes = one_way(**{name: name for name in LANES})
    return settings_in(
        path,
        bootstrap,
        namespace,
        pins + lanes[lanes.index("[dest") :],
        partitions=2,
    )
