"""The configuration: one TOML file, and secrets from the environment or from files. Read once and frozen.

`load` reads all of it: `tables` turns TOML into the types of `model`, `rules` and `workspace_rules` check them,
`variables` and `secret_files` find the secrets. `reload` is for a running worker, `known` for names that a user typed,
`kafka_access` connects to Kafka by the settings, and `egress` reaches the outside by them.
"""

from stream_app.config.load import load_settings
from stream_app.config.model import Gateway, Http, Kafka, Redis, Security, Settings
from stream_app.config.secret_files import Secrets
from stream_app.config.workspace_rules import check_known, unknown

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
