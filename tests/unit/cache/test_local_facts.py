"""What a lead's own fields say for certain, and what they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.cache.local_facts import local_facts
from stream_app.domain.messages import Scalar


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"email": "ada@mail.acme.co.uk"}, {"domain": "acme.co.uk", "company_name": "acme", "country": "GB"}),
        ({"domain": "acme.com"}, {"company_name": "acme"}),
        ({"domain": "acme.com", "phone": "+49 30 901820"}, {"company_name": "acme", "country": "DE"}),
        ({"domain": "acme.fr", "phone": "+49 30 901820"}, {"company_name": "acme", "country": "DE"}),
        ({"phone": "+1 416 555 0123"}, {"country": "CA"}),
        ({"domain": "xn--mller-kva.de"}, {"company_name": "müller", "country": "DE"}),
        ({"domain": "acme.de", "company_name": "ACME Ltd"}, {"country": "DE"}),
        ({"domain": "acme.de", "country": "Austria"}, {"company_name": "acme"}),
        # Nothing that could be wrong:
        ({"email": "ada@gmail.com"}, {}),
        ({"email": "ada@btinternet.com"}, {}),
        ({"email": "ada@poczta.wp.pl", "phone": "+48 22 123 45 67"}, {"country": "PL"}),
        ({"domain": "acme.github.io"}, {}),
        ({"domain": "co.uk"}, {}),
        ({"domain": "acme.nosuchtld"}, {}),
        ({"domain": "acme.io"}, {"company_name": "acme"}),
        ({"domain": "acme.ai"}, {"company_name": "acme"}),
        ({"domain": "acme.eu"}, {"company_name": "acme"}),
        ({"domain": "acme.ml"}, {"company_name": "acme"}),
        ({"domain": "acme.cf"}, {"company_name": "acme"}),
        ({"phone": "030 901820"}, {}),
        ({"phone": "+49 1"}, {}),
        ({"phone": "+800 1234 5678"}, {}),
        ({}, {}),
    ],
)
def test_which_facts_are_derived(fields: dict[str, Scalar], said: dict[str, Scalar]) -> None:
    given_domain = {name: value for name, value in said.items() if name not in fields}
    found = {name: value for name, (value, _) in local_facts(fields).items()}
    assert found == given_domain


@given(st.dictionaries(st.sampled_from(["email", "domain", "phone", "country"]), st.text() | st.integers() | st.none()))
def test_any_fields_give_an_answer(fields: dict[str, Scalar]) -> None:
    for name, (value, source) in local_facts(fields).items():
        assert fields.get(name) in (None, "")
        assert value
        assert source in ("domain", "phone", "tld")
