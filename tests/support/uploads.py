"""Files that are published on the board step by step, without Kafka."""

import tempfile
from typing import Any

from stream_app.board.uploads import Upload, Uploads
from stream_app.client.publish.leads import PublishOptions
from tests.support.kafka import until

NOW_MS = 1_790_000_000_000
ADA = b"E-Mail,Vorname,Notes\nada@example.com,Ada,fine\n"


class Views:
    """Notes whose lanes are asked for, and when."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, int], int]] = []

    def __call__(self, names: Any, now_ms: int) -> dict[str, Any]:
        self.asked.append((dict(names), now_ms))
        return {}


async def add(kept: Uploads, raw: bytes) -> Upload:
    """Give the board a file, as jane does on its page."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (its upload closes it)
    file.write(raw)
    return await kept.add(file, "leads.csv", len(raw), "kfdwzp", "jane")


async def checked(kept: Uploads, raw: bytes) -> Upload:
    """Give the board a file, and have its rows checked as leads of acme."""
    upload = await add(kept, raw)
    kept.check(upload, upload.names, PublishOptions("acme", import_id=upload.import_id))
    return await settled(upload)


async def settled(upload: Upload) -> Upload:
    """Wait until no thread works on the file."""
    await until(lambda: upload.state not in ("checking", "sending"), 60)
    return upload
