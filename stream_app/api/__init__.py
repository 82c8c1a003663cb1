"""The public Python API; import its names from `stream_app`.

Each function takes settings as `load_settings` returns them, or the path of a configuration file. Functions whose names
end in `_sync` are for programs without an event loop.
"""

from stream_app.api.aio import find_lead, follow_status, publish, read_books, read_results
from stream_app.api.settings import load_settings
from stream_app.api.sync import (
    find_lead_sync,
    follow_status_sync,
    publish_sync,
    read_books_sync,
    read_results_sync,
)
from stream_app.client.publish import Refusal
from stream_app.config import Settings
from stream_app.domain.errors import (
    BoardUnavailable,
    BrokerUnavailable,
    KafkaRefused,
    SettingsError,
    StreamAppError,
    TopicsError,
)
from stream_app.domain.messages import Lead, Result, StatusEvent

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
