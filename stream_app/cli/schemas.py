"""`stream-app schemas`: write the JSON Schema of each message, and the AsyncAPI document."""

from __future__ import annotations

from pathlib import Path

from stream_app.cli.base import COMMON, OK, Common, show, show_json
from stream_app.schemas import documents


def schemas(directory: Path = Path("schemas"), /, *, common: Common = COMMON) -> int:
    """Write the JSON Schema of each message and the AsyncAPI document.

    example:
      stream-app schemas schemas

    Args:
        directory: output folder
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in documents().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        written.append(str(path))
    if common.json:
        show_json({"written": written})
    else:
        for name in written:
            show(name)
    return OK
