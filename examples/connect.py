"""How the examples find Kafka: KAFKA_BOOTSTRAP, else the Kafka of docker-compose.yml.

The latter wants the password in KAFKA_PASSWORD, which is in the file .env beside
docker-compose.yml:

    set -a; . ./.env; set +a

Plain clients ask a Kafka that KAFKA_BOOTSTRAP names with that password if it is set, and otherwise
without one. What needs settings asks as the file of STREAM_APP_CONFIG says, else as
examples/stream_app.toml does.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from stream_app import Settings, SettingsError, load_settings

BOOTSTRAP = os.environ.get("KAFKA_BOOTSTRAP", f"127.0.0.1:{os.environ.get('KAFKA_PORT', '9094')}")
_USER = "app"

# It warns at each connection that anyone on its way could read the password, which here never
# leaves this machine.
logging.getLogger("aiokafka.conn").setLevel(logging.ERROR)


def password() -> str | None:
    """Return the password for Kafka; None if it wants none.

    The program ends if docker-compose.yml's is not set.
    """
    given = os.environ.get("KAFKA_PASSWORD")
    if given is None and "KAFKA_BOOTSTRAP" not in os.environ:
        raise SystemExit(
            "KAFKA_PASSWORD is not set: docker-compose.yml has it in its .env file, so run "
            "set -a; . ./.env; set +a",
        )
    return given


def for_aiokafka() -> dict[str, str]:
    """Return the arguments with which any client of aiokafka reaches Kafka."""
    address = {"bootstrap_servers": BOOTSTRAP}
    secret = password()
    if secret is None:
        return address
    return address | {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": _USER,
        "sasl_plain_password": secret,
    }


def for_confluent() -> dict[str, str]:
    """Return the configuration with which any client of confluent-kafka reaches Kafka."""
    address = {"bootstrap.servers": BOOTSTRAP}
    secret = password()
    if secret is None:
        return address
    return address | {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": _USER,
        "sasl.password": secret,
    }


def settings() -> Settings:
    """Return the settings of STREAM_APP_CONFIG, else of examples/stream_app.toml.

    KAFKA_BOOTSTRAP replaces the address.

    The program ends with the reason if they cannot be read.
    """
    file = os.environ.get("STREAM_APP_CONFIG")
    if file is None:
        password()  # it says where the password is
    try:
        loaded = load_settings(file or Path(__file__).with_name("stream_app.toml"))
    except SettingsError as error:
        raise SystemExit(str(error)) from error
    if file is None or "KAFKA_BOOTSTRAP" in os.environ:
        kafka = msgspec.structs.replace(loaded.kafka, bootstrap=BOOTSTRAP)
        loaded = msgspec.structs.replace(loaded, kafka=kafka)
    return loaded
