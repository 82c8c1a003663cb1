"""Checks names that a user typed against the configuration."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Final

from stream_app.config.model import Settings
from stream_app.domain.model.errors import SettingsError

_LISTED: Final = 50


def unknown(settings: Settings, workspaces: Iterable[str], destinations: Iterable[str]) -> list[str]:
    """Return one line for each unknown name, with the names that exist."""
    return [
        f"there is no {word} {name} in the configuration; {_hint(name, known)}"
        for word, asked, known in (
            ("workspace", workspaces, settings.workspaces),
            ("destination", destinations, settings.destinations),
        )
        for name in sorted(asked)
        if name not in known
    ]


def _hint(name: str, known: Collection[str]) -> str:
    if len(known) <= _LISTED:
        return f"there are: {', '.join(known) or 'none'}"
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {len(known):,} others"


def check_known(settings: Settings, *, workspace: str | None = None, destination: str | None = None) -> None:
    """Raise SettingsError for an unknown name."""
    asked = ([each] if each is not None else [] for each in (workspace, destination))
    if found := unknown(settings, *asked):
        raise SettingsError(found)
