"""Whose result a row of the published file gets: by its id, else by whatever its person is known by."""

from pathlib import Path
from typing import Final

import pytest

from stream_app.client.publish import PublishOptions
from stream_app.client.results import Matcher, ResultStore
from stream_app.client.rows import Draft, Row
from stream_app.domain.lead.identity import people
from stream_app.domain.lead.person import person_key
from stream_app.domain.messages import Scalar
from tests.integration.test_look import settings_of

EMAIL: Final[dict[str, Scalar]] = {"email": "ada@acme.example"}
LINKEDIN: Final[dict[str, Scalar]] = {"linkedin_url": "https://www.linkedin.com/in/ada"}


@pytest.mark.parametrize("fields", [EMAIL, LINKEDIN, {**EMAIL, **LINKEDIN}])
def test_a_row_finds_the_result_of_its_person(tmp_path: Path, fields: dict[str, Scalar]) -> None:
    store = ResultStore()
    matcher = Matcher(settings_of(tmp_path, "nowhere:1", ""), PublishOptions(workspace="busy"), store)
    row = Row(2, Draft(fields=fields, lead_id="other"))
    assert matcher.match(row) == 0
    store.put([(b"busy/busy/1", b"{}")])
    (by_email,) = people(EMAIL)
    store.put_people([(person_key("busy", "busy", by_email), [b"busy/busy/1"])])
    assert (matcher.match(row) > 0) == ("email" in fields), "the lead that was sent had the e-mail only"
    for each in people(fields):
        store.put_people([(person_key("busy", "busy", each), [b"busy/busy/1"])])
    assert matcher.match(row) > 0
