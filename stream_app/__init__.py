"""Leads go in on Kafka, each is POSTed to Clay at most once, and every step comes out on Kafka.

The public Python API: the names in `api.__all__`. docs/python-api.md describes it and `examples/`
has programs that use it. The names are imported when they are first used, so `import stream_app` is
cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_app.api import *  # noqa: F403 - the names are listed there

__version__ = "0.2.0"  # pyproject.toml reads it from this file


def __getattr__(name: str) -> object:
    if name == "__all__" or not name.startswith("_"):
        api = import_module("stream_app.api")
        if name == "__all__" or name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("stream_app.api").__all__})
