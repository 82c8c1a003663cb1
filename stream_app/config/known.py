"""Whether a name that somebody typed is in the configuration."""

from __future__ import annotations

from collections.abc import Iterable

from stream_app.config.model import Settings
from stream_app.domain.errors import SettingsError


def unknown(settings: Settings, workspaces: Iterable[str], destinations: Iterable[str]) -> list[str]:
    """One line for each name that it does not have, with those that it has."""
    return [
        f"there is no {word} {name} in the configuration; there are: {', '.join(known) or 'none'}"
        for word, asked, known in (
            ("workspace", workspaces, settings.workspaces),
            ("destination", destinations, settings.destinations),
        )
        for name in sorted(asked)
        if name not in known
    ]


def check_known(settings: Settings, *, workspace: str | None = None, destination: str | None = None) -> None:
    """Raises SettingsError for a name that it does not have."""
    asked = ([each] if each is not None else [] for each in (workspace, destination))
    if found := unknown(settings, *asked):
        raise SettingsError(found)
