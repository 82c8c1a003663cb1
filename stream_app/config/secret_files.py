"""Secrets as files: a directory with one file for each variable, as Kubernetes and Docker mount them.

A process's environment never changes, a file may: what stands in one counts more, so that a secret can be added or
changed under a running process, which then reads its configuration anew (`stream-app lanes reload`).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from pathlib import Path

_MOST_BYTES = 65_536


def with_files(
    directory: str | None, names: Iterable[str], environ: Mapping[str, str], problems: list[str]
) -> Mapping[str, str]:
    """The environment, over it the files of `directory` that bear one of `names`; what cannot be read is a problem."""
    if directory is None:
        return environ
    if not Path(directory).is_dir():
        problems.append(f"secrets_dir = {directory!r}: there is no such directory")
        return environ
    files: dict[str, str] = {}
    for name in dict.fromkeys(names):
        path = Path(directory) / name
        try:
            if path.is_file():
                files[name] = path.read_bytes()[:_MOST_BYTES].decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"secrets_dir: the file {name} cannot be read: {type(error).__name__}")
    return ChainMap(files, dict(environ))
