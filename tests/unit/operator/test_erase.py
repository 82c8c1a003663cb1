"""What is held of a person, whichever of the hashes that he is known by one begins with; a partition in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import pytest

from stream_app.config import Settings
from stream_app.domain.lane.budget import BudgetPolicy
from stream_app.domain.lead.identity import people
from stream_app.domain.messages import Scalar
from stream_app.domain.record import ConsumedRecord
from stream_app.operator import erase
from stream_app.operator.erase import StoredLead, find_stored_leads
from tests.integration.test_look import settings_of
from tests.partition.test_fallback import ADA, Bench
from tests.partition.virtual import run

LINKEDIN: Final = "https://www.linkedin.com/in/ada"
NAME: Final[dict[str, Scalar]] = {"domain": "acme.example", "first_name": "Ada", "last_name": "King"}
WHOLE: Final[dict[str, Scalar]] = {"email": ADA, "linkedin_url": LINKEDIN, **NAME}
BY_LINKEDIN, BY_EMAIL, BY_NAME = people(WHOLE)


class Reader:
    """`topic_reader` of the bench that is at work."""

    bench: Bench
    settings: Settings
    forgotten: str = ""

    def __init__(self, *_: Any) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def read(self, topic: str) -> AsyncIterator[list[ConsumedRecord]]:
        yield [] if topic == self.forgotten else list(self.bench.kafka.log(topic, 0).committed())


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(erase, "topic_reader", Reader)
    monkeypatch.setattr(Reader, "forgotten", "")
    monkeypatch.setattr(Reader, "settings", settings_of(tmp_path, "nowhere:1", ""), raising=False)


async def bench_of() -> Bench:
    bench = Reader.bench = Bench(budget=BudgetPolicy())
    await bench.begin()
    return bench


async def held(*persons: str, lead_id: str | None = None) -> list[StoredLead]:
    return await find_stored_leads(Reader.settings, persons, lead_id, None, lambda done, total: None)


ALL: Final = StoredLead("acme", "1", ("acme-main",), tuple(sorted([BY_LINKEDIN, BY_EMAIL, BY_NAME])))


@pytest.mark.parametrize("forced", [False, True])
def test_a_lead_is_found_by_its_email_linkedin_url_and_id_with_and_without_a_result(forced: bool) -> None:
    async def main() -> None:
        bench = await bench_of()
        await bench.lead("1", ADA, fields=WHOLE, force=forced)
        for _ in range(2):
            assert await held(BY_EMAIL) == await held(BY_LINKEDIN) == await held(lead_id="1") == [ALL]
            await bench.call_back("1", title="CEO")

    run(main())


def test_a_result_names_its_person_after_its_row_expired() -> None:
    async def main() -> None:
        bench = await bench_of()
        await bench.lead("1", ADA, fields=WHOLE)
        await bench.call_back("1", title="CEO")
        Reader.forgotten = bench.plan.topics.state
        assert await held(BY_EMAIL) == await held(BY_LINKEDIN) == await held(lead_id="1") == [ALL]

    run(main())


def test_a_namesake_is_another_person() -> None:
    async def main() -> None:
        bench = await bench_of()
        await bench.lead("1", ADA, fields=WHOLE)
        await bench.lead("2", "ada.king2@acme.example", fields={**NAME, "email": "ada.king2@acme.example"})
        assert await held(BY_EMAIL) == [ALL]
        await bench.lead("3", "", fields=NAME)
        assert [each.lead_id for each in await held(BY_EMAIL)] == ["1", "3"], "of whom nothing better is known"

    run(main())


def test_links_between_leads_are_followed_to_the_end() -> None:
    async def main() -> None:
        bench = await bench_of()
        urls = [f"https://www.linkedin.com/in/ada-{number}" for number in range(3)]
        for number, url in enumerate(urls):  # the last is the one that is asked for
            fields = {"linkedin_url": url, "email": f"ada{number}@acme.example"}
            await bench.lead(f"{number}", "", fields=fields)
            if number:
                fields["email"] = f"ada{number - 1}@acme.example"
                await bench.lead(f"{number}-too", "", fields=fields, force=True)
        (last,) = people({"email": "ada2@acme.example"})
        assert [each.lead_id for each in await held(last)] == ["0", "1", "1-too", "2", "2-too"]

    run(main())


def test_leads_linked_by_a_duplicate_are_found_from_either_side() -> None:
    """The row of the first has only its own identifiers, and the second has no row."""

    async def main() -> None:
        bench = await bench_of()
        other: dict[str, Scalar] = {"linkedin_url": "https://www.linkedin.com/in/ada-king"}
        await bench.lead("1", ADA, fields=WHOLE)
        await bench.lead("2", ADA, fields={"email": ADA, **other})
        (linked,) = people(other)
        everybody = tuple(sorted([BY_LINKEDIN, BY_EMAIL, BY_NAME, linked]))
        for asked in (BY_LINKEDIN, BY_EMAIL, linked):
            assert [(each.lead_id, each.people) for each in await held(asked)] == [("1", everybody)]

    run(main())
