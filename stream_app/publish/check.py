"""A row becomes a record for Kafka, or is refused with a reason: the same reading as the worker's, done before."""

from __future__ import annotations

import msgspec

from stream_app.core.lead import Unreadable, read_lead
from stream_app.core.messages import Lead
from stream_app.publish.rows import Draft, Row
from stream_app.settings import Settings


class Wishes(msgspec.Struct, frozen=True):
    """What the publisher wants for all rows. Workspace, destination and import_id count where a row says none.

    bulk   into `leads.bulk`, which has a share and delays nobody, instead of `leads`.
    force  send although the same lead or person was sent before.
    """

    workspace: str | None = None
    destination: str | None = None
    import_id: str | None = None
    bulk: bool = False
    force: bool = False


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A record to send: into the workspace's home partition, keyed by the workspace."""

    workspace: str
    partition: int
    value: bytes


class Refusal(msgspec.Struct, frozen=True):
    """A row that is not published. `text` repeats nothing of the row."""

    line: int
    reason: str
    text: str


class Checker:
    """Turns rows into records by the configuration and the publisher's wishes."""

    def __init__(self, settings: Settings, wishes: Wishes) -> None:
        only = next(iter(settings.workspaces)) if len(settings.workspaces) == 1 else None
        self._settings = settings
        self._defaults = {
            "workspace": wishes.workspace or only,
            "destination": wishes.destination,
            "import_id": wishes.import_id,
        }
        self._force = wishes.force
        self._homes = {name: settings.home(name) for name in settings.workspaces}

    def check(self, row: Row) -> Ready | Refusal:
        """The row's record, or why there is none."""
        answer = row.draft if isinstance(row.draft, Unreadable) else self._ready(row.draft)
        return answer if isinstance(answer, Ready) else Refusal(row.line, answer.reason, answer.text)

    def read(self, draft: Draft) -> tuple[Lead, bytes] | Unreadable:
        """The lead that a row is, with its workspace, and its bytes as they go to Kafka; or why it is none."""
        for name, default in self._defaults.items():
            if default is not None and not draft.get(name):
                draft[name] = default
        if self._force:
            draft["force"] = True
        try:
            value = msgspec.json.encode(draft)
        except UnicodeEncodeError:
            return Unreadable("not_utf8", "The row is not UTF-8")
        except (OverflowError, RecursionError, TypeError, ValueError):
            return Unreadable("not_json", "The row holds a value that JSON cannot")
        lead = read_lead(value, None)
        return lead if isinstance(lead, Unreadable) else (lead, value)

    def _ready(self, draft: Draft) -> Ready | Unreadable:
        answer = self.read(draft)
        if isinstance(answer, Unreadable):
            return answer
        lead, value = answer
        workspace = lead.workspace or ""
        home = self._homes.get(workspace)
        if home is None:
            return Unreadable("unknown_workspace", "The config has no such workspace")
        if self._settings.destination_of(workspace, lead.destination) is None:
            text = "The workspace has no such destination, or several and no default_destination"
            return Unreadable("unknown_destination", text)
        return Ready(workspace, home, value)
