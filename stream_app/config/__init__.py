"""The configuration: one TOML file, and secrets from the environment or from files.

Read once and frozen.

`load` reads all of it into the types of `model`, and `rules` check them. `variables` and
`secret_files` find the secrets, `reload` adopts changes in a running process, `kafka_access`
connects to Kafka by the settings.
"""

from stream_app.config.load import load_settings
from stream_app.config.model import Kafka, Settings
from stream_app.config.rules import check_known, unknown

__all__ = ["Kafka", "Settings", "check_known", "load_settings", "unknown"]
