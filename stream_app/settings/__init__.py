"""The configuration: one TOML file plus secrets from the environment, read once and frozen."""

from stream_app.settings.client import client_options, stranger_options
from stream_app.settings.known import check_known, unknown
from stream_app.settings.load import load_settings
from stream_app.settings.model import (
    Destination,
    Gateway,
    Http,
    Kafka,
    Line,
    Redis,
    Replay,
    Secrets,
    Security,
    Settings,
    Shares,
    Workspace,
)

__all__ = [
    "Destination",
    "Gateway",
    "Http",
    "Kafka",
    "Line",
    "Redis",
    "Replay",
    "Secrets",
    "Security",
    "Settings",
    "Shares",
    "Workspace",
    "check_known",
    "client_options",
    "load_settings",
    "stranger_options",
    "unknown",
]
