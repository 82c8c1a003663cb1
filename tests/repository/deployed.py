"""The files of deploy/, as tests read them."""

import re
import secrets
from pathlib import Path
from typing import Any

import yaml

from stream_app.config import Settings, load_settings
from stream_app.config.variables import Need

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load(
    (ROOT / "docker-compose.yml").read_text(),
)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
_VARIABLE = re.compile(r"\$\{(\w+):([-?])([^}]*)\}")
DEMANDED = {
    name: secrets.token_hex(32)
    for name in (
        "CALLBACK_KEY",
        "BOARD_TOKEN",
        "REDIS_PASSWORD",
        "KAFKA_PASSWORD",
        "KAFKA_BROKER_PASSWORD",
    )
}
"""What .env has to have, as the comment at the top of docker-compose.yml makes it."""
CONFIG = ROOT / "deploy" / "stream_app.toml"
PROMETHEUS: dict[str, Any] = yaml.safe_load(
    (ROOT / "deploy" / "prometheus.yml").read_text(),
)
PLACES = {
    "listeners",
    "advertised.listeners",
    "listener.security.protocol.map",
    "controller.quorum.voters",
    "log.dirs",
}
"""Broker properties that say where the broker is: they cannot be the same here and there."""


def resolved(text: str) -> str:
    """Return a value of the compose file as `docker compose` reads it if .env has the required
    values only.
    """
    return _VARIABLE.sub(lambda match: DEMANDED[match[1]] if match[2] == "?" else match[3], text)


def environment(service: str) -> dict[str, str]:
    """Return what `docker compose` gives to a service if .env has the required values only."""
    given = SERVICES[service].get("environment") or {}
    return {name: resolved(str(value)) for name, value in given.items()}


def published(service: str) -> list[str]:
    """Return the ports of a service, as address, port of this machine and port of the container."""
    return [resolved(port) for port in SERVICES[service].get("ports", [])]


def kafka_properties() -> dict[str, str]:
    """Return the Kafka service's properties by the image's rule: `KAFKA_A_B` is `a.b`."""
    variables = environment("kafka").items()
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in variables
        if name.startswith("KAFKA_")
    }


def in_bytes(size: str) -> int:
    """Return a size of docker-compose.yml, redis or Kubernetes, such as 512m, 256mb or 1Gi."""
    size_of = re.fullmatch(r"(\d+)([mg])(?:b|i)?", size.lower())
    assert size_of is not None, size
    return int(size_of[1]) * {"m": 2**20, "g": 2**30}[size_of[2]]


def settings(service: str) -> Settings:
    needs: dict[str, tuple[Need, ...]] = {
        "worker": ("clay",),
        "gateway": ("gateway",),
        "board": ("board",),
        "topics": ("api",),  # a look-up of a lead runs as `topics`
    }
    return load_settings(
        CONFIG,
        environment(service),
        needs.get(service, ()),
    )
