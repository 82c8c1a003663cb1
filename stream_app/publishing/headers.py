"""Maps the columns of a CSV to the fields of a lead: by name, by common spellings, or by `--map`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from stream_app.domain.messages import Lead

_SHOWN: Final = 20
DELIMITERS: Final = (",", ";", "\t", "|")

LEAD_LEVEL: Final = frozenset(Lead.__struct_fields__) - {"fields"}
"""Names that belong to the lead itself. Every other name is one of its fields."""

_SPELLINGS: Final = {
    "email": "e mail, email address, e mail address, mail, work email, business email, contact email",
    "first_name": "firstname, first, given name, forename, vorname",
    "last_name": "lastname, last, surname, family name, nachname",
    "full_name": "fullname, name, contact name",
    "company_name": "company, companyname, organization, organisation, account name, firma",
    "domain": "website, web site, company domain, company website, company url, homepage",
    "linkedin_url": "linkedin, linkedin profile, linkedin profile url, person linkedin url, linkedinurl",
    "title": "job title, jobtitle, position, role",
    "phone": "phone number, telephone, mobile, mobile phone, telefon",
    "country": "country name, land",
    "lead_id": "leadid, lead",
}

_USUAL: Final = {spelling: field for field, spellings in _SPELLINGS.items() for spelling in spellings.split(", ")} | {
    name.replace("_", " "): name for name in (*_SPELLINGS, *LEAD_LEVEL)
}


USUAL_FIELDS: Final = {name: field for name, field in _USUAL.items() if field not in LEAD_LEVEL} | {
    field: field for field in _SPELLINGS if field not in LEAD_LEVEL
}
"""Common spellings, and the field that each one means."""


def delimiter_of(header: str) -> str:
    """Return the most frequent delimiter of the header line outside quotes; a comma if there is none."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(DELIMITERS, key=bare.count)


def name_columns(header: Sequence[str], mapping: Mapping[str, str]) -> list[str]:
    """Return the name of each column's cells; "" for a column without a name.

    A column whose name is given to another column keeps its own header.

    Args:
        header: The titles of the columns.
        mapping: Field -> header, from `--map`. It wins over a header that equals the name, which wins over the common
            spellings.

    Raises:
        ValueError: `mapping` names a header that does not exist, or two columns would have the same name.
    """
    titles = [title.strip() for title in header]
    for field, title in mapping.items():
        if title not in titles:
            raise ValueError(f"--map {field}={title}: no such column; there are: {', '.join(titles)}")
    asked = {title: field for field, title in mapping.items()}
    consumed = {*mapping, *titles}
    names = []
    for title in titles:
        usual = _USUAL.get(re.sub(r"[\W_]+", " ", title).strip().lower(), title)
        name = asked.get(title) or (title if usual in consumed else usual)
        consumed.add(name)
        names.append(name)
    check_unique(names, "rename one, or use --map")
    return names


def check_unique(names: Sequence[str], correct: str) -> None:
    """Raise ValueError if two columns have the same name; `correct` says what to do then."""
    if twice := sorted(name for name, columns in Counter(names).items() if name and columns > 1):
        shown = ", ".join(twice[:_SHOWN]) + (" and others" if len(twice) > _SHOWN else "")
        raise ValueError(f"two columns would have the name {shown}; {correct}")


def guess_columns(titles: Sequence[str]) -> list[str]:
    """Return a name for each column as `name_columns` does. Of columns with the same name the first one has it."""
    try:
        return name_columns(titles, {})
    except ValueError:
        names: dict[str, None] = {}
        firsts = []
        for (name,) in (name_columns([title], {}) for title in titles):
            firsts.append("" if name in names else name)
            names[name] = None
        return firsts
