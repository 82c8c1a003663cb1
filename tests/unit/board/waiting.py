"""What a board asks Kafka for, replaced."""

import msgspec

from stream_app.board.read_model.on_kafka import Search
from stream_app.board.read_model.query import FoundResultAt
from stream_app.client.results.answers import FoundResult


async def fetch_result(stored: FoundResultAt) -> FoundResult:
    """The result with data that nothing had to fetch."""
    return msgspec.structs.replace(
        stored.result,
        age_s=3,
        fields={"Title": "CEO", "Work Email": "ada@example.com"},
    )


class Waiting:
    """Leads that wait, in memory: gives `search`, and writes down what it was asked."""

    def __init__(self) -> None:
        self.search = Search()
        self.asked: list[tuple[str, str, str]] = []

    async def find(self, lead_id: str, person: str, workspace: str) -> Search:
        self.asked.append((lead_id, person, workspace))
        return self.search
