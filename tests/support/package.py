"""Checks what is published: `python -m tests.support.package FILE ...`, an sdist and a wheel.

Their metadata must be valid by the rules of the package index, and each file has what it is for.
"""

import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.metadata import Metadata

SDIST: tuple[str, ...] = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "schemas/asyncapi.yaml",
    "docker-compose.yml",
    "tests/conftest.py",
    "docs/index.md",
)
WHEEL: tuple[str, ...] = (
    "stream_app/py.typed",
    "stream_app/cli/main.py",
    "stream_app/board/templates/base.html",
    "stream_app/config/stream_app.example.toml",
)


def problems(path: Path) -> Iterator[str]:
    """Yield what is wrong with a package. Raises an ExceptionGroup of invalid metadata."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            names = set(wheel.namelist())
            (place,) = [name for name in names if name.endswith(".dist-info/METADATA")]
            text = wheel.read(place)
        yield from (
            f"{path.name} has {name}" for name in names if not name.startswith("stream_app")
        )
        needed = WHEEL
    else:
        with tarfile.open(path) as sdist:
            names = {name.partition("/")[2] for name in sdist.getnames()}
            (info,) = [
                name
                for name in sdist.getnames()
                if name.count("/") == 1 and name.endswith("PKG-INFO")
            ]
            file = sdist.extractfile(info)
            assert file is not None, f"{info} is no file"
            text = file.read()
        needed = SDIST
    yield from (f"{path.name} lacks {name}" for name in needed if name not in names)
    metadata = Metadata.from_email(text, validate=True)
    if not metadata.description or metadata.description_content_type != "text/markdown":
        yield f"{path.name} has no README as its description"


def main(paths: Sequence[str]) -> int:
    """Print what is wrong, and return the exit code."""
    lines = [problem for path in paths for problem in problems(Path(path))]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(bool(lines) or len(paths) != 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
