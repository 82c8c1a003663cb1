"""The configuration, as users of the Python API give it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from stream_app.config import Settings
from stream_app.config import load_settings as load

AnySettings: TypeAlias = Settings | str | os.PathLike[str] | None
"""Settings, or the path of a configuration file; None: the file of STREAM_APP_CONFIG, else `stream_app.toml`."""


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read the configuration for use in this process.

    Webhooks and tokens of Clay need not be set: only a worker needs them. From then on, this process hashes people and
    lead ids as this configuration says; use one configuration in a process.

    Args:
        path: The TOML file; None: the file that STREAM_APP_CONFIG names, else `stream_app.toml`.

    Raises:
        SettingsError: The configuration is wrong; `problems` has one line for each problem.
    """
    return load(None if path is None else Path(path), os.environ, ())


def settings_of(settings: AnySettings) -> Settings:
    """Return the settings, read from their file if a path is given."""
    return settings if isinstance(settings, Settings) else load_settings(settings)
