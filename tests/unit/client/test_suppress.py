"""Who is named on a suppression list, before anything leaves this machine."""

from __future__ import annotations

import msgspec
import pytest

from stream_app.client.people import Suppressed, hashes_of, persons_in
from stream_app.domain.errors import SettingsError
from stream_app.domain.lead.identity import people


def test_spellings_of_a_person_have_one_hash() -> None:
    (ada,) = people({"email": "ada@example.com"})
    (linkedin,) = people({"linkedin_url": "https://www.linkedin.com/in/ada"})
    lines = ["ada@example.com\n", "", "  mailto:Ada@Example.com", "linkedin.com/in/Ada/", "ADA@example.com"]
    assert hashes_of(lines) == [ada, linkedin]


def test_a_person_can_be_unsuppressed_by_hash() -> None:
    (ada,) = people({"email": "ada@example.com"})
    assert hashes_of([ada, "ada@example.com"], hashed=True) == [ada]
    with pytest.raises(SettingsError):
        hashes_of([ada])


def test_a_line_without_an_identity_is_named_by_its_number_only() -> None:
    with pytest.raises(SettingsError) as caught:
        hashes_of(["ada@example.com", "Ada Lovelace", "https://www.linkedin.com/company/acme"])
    assert [problem.split(" is ")[0] for problem in caught.value.problems] == ["number 2", "number 3"]
    assert "Lovelace" not in str(caught.value)


def test_a_list_of_another_namespace_is_taken_as_it_was_written() -> None:
    (ada,) = people({"email": "ada@example.com"})
    listed = [Suppressed(ada, 1, "jane", "c1", everywhere=True)]
    for written in (msgspec.json.encode(listed), msgspec.json.format(msgspec.json.encode(listed), indent=2)):
        assert hashes_of(persons_in(written.decode()), hashed=True) == [ada]
    assert hashes_of(persons_in(f"{ada}\nada@example.com\n"), hashed=True) == [ada]
    with pytest.raises(SettingsError, match="the file is not what `suppress list --json` writes"):
        persons_in('[{"name": "ada"}]')
