"""How the examples find Kafka: KAFKA_BOOTSTRAP, else the Kafka of docker-compose.yml."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from stream_app import Settings, load_settings

BOOTSTRAP = os.environ.get("KAFKA_BOOTSTRAP", "127.0.0.1:9094")


def settings() -> Settings:
    """The settings of STREAM_APP_CONFIG, else of examples/stream_app.toml."""
    loaded = load_settings(os.environ.get("STREAM_APP_CONFIG") or Path(__file__).with_name("stream_app.toml"))
    if "KAFKA_BOOTSTRAP" in os.environ:
        loaded = msgspec.structs.replace(loaded, kafka=msgspec.structs.replace(loaded.kafka, bootstrap=BOOTSTRAP))
    return loaded
