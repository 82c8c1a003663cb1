"""The files that the board keeps: its read model, what was sent to people, its own reading token.

A board without `board.token_env` makes a token itself, and keeps it in a file that only its user
can read. The configuration alone leads that user's commands to the file, as Jupyter's runtime files
do.
"""

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stream_app.config.model import Settings
from stream_app.domain.model.errors import SettingsError

STATE_HOME: Final = "~/.local/state"
"""Where the folder of a user lies who does not say otherwise in XDG_STATE_HOME."""
STATE_FOLDER: Final = "stream-app"

_TOKEN_BYTES = 32
_MAX_TOKEN_BYTES = 200  # bytes read of the file, which has 43


def model_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the read model's path, in a folder that exists.

    It is the configured one, else one in the state folder of the service or user, else a temporary
    one.
    """
    path = _lasting_path(settings, environ)
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="stream-app-")) / "board.sqlite"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def messages_path(model: Path) -> Path:
    """Return the file of what was sent to people.

    It lies beside the read model, so that one volume keeps both.
    """
    return model.with_suffix(".messages.json")


def token_of_board(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the token with which the board is read.

    It is the configured one, else the board's own, which is made if need be.

    Raises:
        SettingsError: None is configured, and the board has no folder that lasts.
    """
    if settings.board_token is not None:
        return settings.board_token
    path = _lasting_path(settings, environ)
    if path is None:
        problem = (
            "board.token_env: is required where the user has no folder of their "
            "own for the board's token"
        )
        raise SettingsError(
            [f"{problem}; or set board.read_model_path, beside which the board keeps one"],
        )
    own = path.with_suffix(".token")
    try:
        own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(own, "x", encoding="ascii", opener=_private) as file:
            file.write(secrets.token_urlsafe(_TOKEN_BYTES))
    except FileExistsError:
        pass  # of an earlier start: sessions outlive a restart
    except OSError as error:
        problem = f"{own}: the board cannot keep its token there ({error.strerror})"
        raise SettingsError([f"{problem}; set board.token_env"]) from error
    token = _read(own)
    if not token:
        raise SettingsError(
            [f"{own}: is no token of a board; remove the file, and start the board again"],
        )
    return token


def token_of_reader(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return the token with which this user's commands read the board.

    None if the board is another user's, or does not run yet.
    """
    if settings.board_token is not None or settings.board.token_env is not None:
        return settings.board_token
    path = _lasting_path(settings, environ)
    return None if path is None else _read(path.with_suffix(".token"))


def _lasting_path(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return where the read model is kept over restarts; None: the user has no home."""
    if settings.board.read_model_path is not None:
        return Path(settings.board.read_model_path)
    # systemd may name several folders.
    named = (
        environ.get("STATE_DIRECTORY", "").partition(":")[0]
        or environ.get("XDG_STATE_HOME")
        or STATE_HOME
    )
    try:
        folder = Path(named).expanduser() / STATE_FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the user has no home
        return None
    return folder / f"{settings.kafka.namespace}board-{settings.http.board_port}.sqlite"


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if text.isprintable() and len(text) >= _TOKEN_BYTES else None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
