"""Leads go in on Kafka, each reaches Clay once, and every step comes out on Kafka.

The public Python API: the names in `__all__`. docs/python-api.md describes it and `examples/` has programs that use it.
The names are imported when they are first used, so `import stream_app` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_app.version import __version__ as __version__

if TYPE_CHECKING:
    from stream_app.api import (
        BoardUnavailable,
        BrokerUnavailable,
        KafkaRefused,
        Lead,
        Refusal,
        Result,
        Settings,
        SettingsError,
        StatusEvent,
        StreamAppError,
        TopicsError,
        find_lead,
        find_lead_sync,
        follow_status,
        follow_status_sync,
        load_settings,
        publish,
        publish_sync,
        read_books,
        read_books_sync,
        read_results,
        read_results_sync,
    )

__all__ = [
    "BoardUnavailable",
    "BrokerUnavailable",
    "KafkaRefused",
    "Lead",
    "Refusal",
    "Result",
    "Settings",
    "SettingsError",
    "StatusEvent",
    "StreamAppError",
    "TopicsError",
    "find_lead",
    "find_lead_sync",
    "follow_status",
    "follow_status_sync",
    "load_settings",
    "publish",
    "publish_sync",
    "read_books",
    "read_books_sync",
    "read_results",
    "read_results_sync",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stream_app import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
