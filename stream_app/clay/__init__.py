"""The Clay client: one POST for each lead, and one outcome for each POST.

Its requests leave as `[egress]` says, with the certificate authorities and the proxy that are
configured there. So do the requests of other parts of the program to hosts outside.
"""

import ssl
from dataclasses import dataclass, field
from typing import Literal, Self

from stream_app.domain.model.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Egress:
    """How to connect to hosts outside.

    Attributes:
        tls: Verifies certificates. True: against the authorities that the system trusts, which
            aiohttp has read already.
        proxy_url: `http://user:password@host:port`, a secret; None: there is no proxy.
    """

    tls: ssl.SSLContext | Literal[True]
    proxy_url: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, ca_file: str | None = None, proxy_url: str | None = None) -> Self:
        """Build from configured values.

        `ca_file`: a PEM file that replaces the authorities that the system trusts.

        Raises:
            SettingsError: The file cannot be read, or is not a PEM file.
        """
        try:
            return cls(ssl.create_default_context(cafile=ca_file) if ca_file else True, proxy_url)
        except OSError as exc:
            raise SettingsError(
                [f"egress.ca_file = {ca_file!r}: cannot read it as a PEM file: {exc}"],
            ) from exc

    @property
    def tls_context(self) -> ssl.SSLContext:
        """`tls` for a client that would trust other authorities if it were given True."""
        return ssl.create_default_context() if self.tls is True else self.tls
