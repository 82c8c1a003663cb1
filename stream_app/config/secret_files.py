"""Secrets, and secrets as files: a directory with a file per variable, as Kubernetes mounts them.

Docker mounts them alike. The environment of a process never changes, but a file may. A file
therefore overrides the environment: a secret can be added or changed while the process runs and
reloads its configuration (`stream-app lanes reload`).
"""

import os
import stat
from collections import ChainMap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

_MAX_FILE_BYTES = 65_536


Stamp = tuple[object, ...]
"""Changes when a file changes."""


class Secrets:
    """Values of environment variables by name. They never appear in a representation."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def get(self, name: str | None) -> str | None:
        """Return the value of a variable; None if the configuration names none."""
        return None if name is None else self._values[name]

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)} hidden)"


def stamp_of(path: Path, directory: str | None) -> Stamp:
    """Return the state of the configuration file and of the directory of secrets.

    No file is read for it.
    """
    files = [path]
    if directory is not None:
        with suppress(OSError):
            files += sorted(Path(directory).iterdir())
    return (directory, *(_state(file) for file in files))


def _state(file: Path) -> tuple[str, ...] | tuple[str, int, int, int]:
    try:
        seen = file.stat()
    except OSError:
        return (file.name,)
    return file.name, seen.st_ino, seen.st_mtime_ns, seen.st_size


def others_write(path: Path) -> bool:
    """Return True if users other than owner and group can write a file or directory.

    It may be a symbolic link. A Secret of Kubernetes is a directory with mode 1777 on a file system
    that is mounted read-only.
    """
    return bool(path.stat().st_mode & stat.S_IWOTH) and not os.statvfs(path).f_flag & os.ST_RDONLY


def with_files(
    directory: str | None,
    names: Iterable[str],
    environ: Mapping[str, str],
    problems: list[str],
) -> Mapping[str, str]:
    """Return the environment, overridden by the files of `directory` with one of these names.

    `problems` gets a line for each file that cannot be read, and for the directory or each file
    that others can write: who adds a file there sets a secret.
    """
    if directory is None:
        return environ
    place = f"secrets_dir = {directory!r}"
    if not Path(directory).is_dir():
        problems.append(f"{place}: there is no such directory")
        return environ
    if others_write(Path(directory)):
        problems.append(
            f"{place}: others can write to it: run chmod o-w on it, or mount it read-only",
        )
        return environ
    files: dict[str, str] = {}
    for name in dict.fromkeys(names):
        path = Path(directory) / name
        try:
            if path.is_file():
                if any(map(others_write, (path, path.resolve().parent))):
                    remedy = "run chmod o-w on it and its directory"
                    problems.append(f"secrets_dir: others can write the file {name}: {remedy}")
                files[name] = path.read_bytes()[:_MAX_FILE_BYTES].decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"secrets_dir: the file {name} cannot be read: {type(error).__name__}")
    return ChainMap(files, dict(environ))
