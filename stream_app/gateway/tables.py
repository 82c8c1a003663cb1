"""What calls the gateway: the configured tables and routines, and any table that sends a token.

A token alone proves a lead of any workspace, so a gateway takes callbacks of a workspace that it
does not know yet. A secret (`callback_secrets_env`, `run_webhook_secret_env`) proves nothing before
this gateway has it, which it adopts when a file changes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qs

from stream_app.config import Settings
from stream_app.domain.callback.run_webhook import RUN_PATH
from stream_app.domain.model.tokens import Keys
from stream_app.domain.model.topics import home_partition

PREFIX: Final = "/callbacks/"
"""The beginning of the path of every callback."""
_PATH: Final = re.compile(rf"{PREFIX}([A-Za-z0-9._-]{{1,64}})/([A-Za-z0-9._-]{{1,64}})")


@dataclass(frozen=True, slots=True)
class CallbackTable:
    """A Clay table that calls back, or a routine whose completion webhook announces its runs.

    Attributes:
        partition: The workspace's home partition.
        secrets: Each of them is valid. Empty: only tokens are.
        is_configured: False of a table that only its tokens can prove.
        signs: True of a completion webhook. It sends no secret, and signs its body with it.
    """

    workspace: str
    destination: str
    partition: int
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    is_configured: bool = True
    signs: bool = False

    @property
    def path(self) -> str:
        """The path that it calls."""
        return f"{PREFIX}{self.workspace}/{self.destination}{RUN_PATH if self.signs else ''}"


class Tables:
    """The tables by the path that they call, and the keys of their tokens.

    Without keys, only secrets prove a table.
    """

    def __init__(
        self,
        configured: Iterable[CallbackTable],
        keys: Keys | None,
        partitions: int,
    ) -> None:
        self._configured = {table.path: table for table in configured}
        self._partitions = partitions
        self.keys = keys

    def __len__(self) -> int:
        return len(self._configured)

    def at(self, path: str, query: bytes) -> CallbackTable | None:
        """Return the table that calls there. None if no table can.

        The home of a workspace that is not configured is the one that its URL names, as URLs of
        pinned workspaces do (`Settings.callback_url`), else where Kafka's partitioner puts it.
        """
        table = self._configured.get(path)
        if table is not None or self.keys is None or (names := _PATH.fullmatch(path)) is None:
            return table
        workspace, destination = names.groups()
        pin = _pin_in(query)
        pins = {workspace: pin} if pin is not None and pin < self._partitions else {}
        return CallbackTable(
            workspace,
            destination,
            home_partition(workspace, self._partitions, pins),
            is_configured=False,
        )

    @property
    def digest(self) -> str:
        """A fingerprint of tables, secrets and keys.

        It is equal where two gateways would accept the same callbacks.
        """
        parts = [
            (
                f"{path} {table.partition} "
                f"{' '.join(sha256(secret).hexdigest() for secret in table.secrets)}"
            )
            for path, table in sorted(self._configured.items())
        ]
        return sha256(
            "\n".join([repr(self.keys), str(self._partitions), *parts]).encode(),
        ).hexdigest()[:12]


def tables_of(settings: Settings) -> Tables:
    """Return the tables of a configuration that was read with the gateway's secrets."""
    configured = [
        CallbackTable(
            workspace=destination.workspace,
            destination=alias,
            partition=settings.home(destination.workspace),
            secrets=tuple(
                settings.secrets[name].encode() for name in destination.callback_secrets_env
            ),
        )
        for alias, destination in settings.destinations.items()
        if destination.calls_back
    ]
    configured += [
        CallbackTable(
            workspace=destination.workspace,
            destination=alias,
            partition=settings.home(destination.workspace),
            secrets=(settings.secrets[destination.run_webhook_secret_env].encode(),),
            signs=True,
        )
        for alias, destination in settings.destinations.items()
        if destination.run_webhook_secret_env
    ]
    keys = settings.callback_keys if settings.gateway.token_keys_env else None
    return Tables(configured, keys, settings.kafka.partitions)


def _pin_in(query: bytes) -> int | None:
    if len(query) > 100:
        return None
    named = parse_qs(query.decode("latin-1")).get("partition", [""])[0]
    return int(named) if re.fullmatch(r"[0-9]{1,6}", named) else None
