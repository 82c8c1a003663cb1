"""The configuration: one TOML file, and secrets from the environment or from files. Read once and frozen."""

from stream_app.config.known import check_known, unknown
from stream_app.config.load import load_settings
from stream_app.config.model import Gateway, Http, Kafka, Redis, Secrets, Security, Settings

__all__ = [
    "Gateway",
    "Http",
    "Kafka",
    "Redis",
    "Secrets",
    "Security",
    "Settings",
    "check_known",
    "load_settings",
    "unknown",
]
