"""How requests leave: the certificate authorities and the proxy of `[egress]`."""

from __future__ import annotations

from stream_app.clay.egress import Egress
from stream_app.config.model import Settings


def egress_of(settings: Settings) -> Egress:
    """Return the egress of a program that needs the proxy's URL. Raises SettingsError."""
    return Egress.of(settings.egress.ca_file, settings.secrets.get(settings.egress.proxy_env))
