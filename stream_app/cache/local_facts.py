"""Derives a lead's company and country from its own fields, without a request.

The company name is the registered part of its domain, by the public suffix list of
publicsuffixlist. There is none if the domain belongs to a host's customer (github.io). The country
comes from a valid international phone number (libphonenumber), else from a country's top-level
domain. Top-level domains that are sold worldwide do not count.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from publicsuffixlist import PublicSuffixList

from stream_app.domain.lead.identity import company_domain
from stream_app.domain.model.messages import Scalar

_NOT_BY_COUNTRY: Final = frozenset(
    [
        "ac",
        "ad",
        "ag",
        "ai",
        "am",
        "as",
        "be",
        "bz",
        "cc",
        "cd",
        "cf",
        "ci",
        "cm",
        "co",
        "cv",
        "cx",
        "dj",
        "dm",
        "eu",
        "fm",
        "ga",
        "gd",
        "gg",
        "gl",
        "gq",
        "gs",
        "gy",
        "ht",
        "im",
        "in",
        "io",
        "is",
        "je",
        "la",
        "lc",
        "li",
        "ly",
        "md",
        "me",
        "ml",
        "mn",
        "mp",
        "ms",
        "mu",
        "nf",
        "nr",
        "nu",
        "pm",
        "pn",
        "ps",
        "pw",
        "re",
        "sb",
        "sc",
        "sh",
        "so",
        "sr",
        "st",
        "su",
        "sx",
        "tc",
        "tf",
        "tk",
        "tl",
        "tm",
        "to",
        "tv",
        "vc",
        "vg",
        "vu",
        "wf",
        "ws",
        "yt",
    ],
)
"""Two-letter top-level domains that companies of any country use, or that belong to no country."""

_ISO: Final = {"uk": "GB"}
LocalFacts = dict[str, tuple[Scalar, str]]


def local_facts(fields: Mapping[str, Scalar]) -> LocalFacts:
    """Return the facts that are certain and that the lead lacks.

    Returns:
        `company_name`, `domain` and `country` (ISO 3166-1 alpha-2), as far as they are known. Each
        is a value and its source: `domain`, `phone` or `tld`.
    """
    facts: LocalFacts = {}
    domain = company_domain(fields)
    registered, suffix = _registered(domain) if domain else ("", "")
    if registered:
        facts["domain"] = (registered, "domain")
        facts["company_name"] = (_readable(registered.removesuffix(f".{suffix}")), "domain")
    phone = fields.get("phone")
    if isinstance(phone, str) and (country := _country_of_phone(phone)):
        facts["country"] = (country, "phone")
    elif registered and (country := _country_of_tld(suffix.rpartition(".")[2])):
        facts["country"] = (country, "tld")
    return {name: fact for name, fact in facts.items() if fields.get(name) in (None, "")}


def _registered(domain: str) -> tuple[str, str]:
    """Return the registered domain and its public suffix.

    Both are '' if it is not a company's own domain.
    """
    suffixes = _suffixes()
    registered = suffixes.privatesuffix(domain)
    suffix = suffixes.publicsuffix(domain)
    if not registered or not suffix or _suffixes(only_icann=True).publicsuffix(domain) != suffix:
        return "", ""
    return registered, suffix


def _readable(label: str) -> str:
    """Decode a punycode label that has a name in it."""
    if not label.startswith("xn--"):
        return label
    try:
        name = label.removeprefix("xn--").encode("ascii").decode("punycode")
    except UnicodeError:
        return label
    return name if name and name.isprintable() else label


def _country_of_phone(text: str) -> str | None:
    """None for an invalid number, and for a number of no single country (satellites, +800)."""
    import phonenumbers  # 3 % of the imports of a worker, and few leads need it

    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return None
    region = (
        phonenumbers.region_code_for_number(number)
        if phonenumbers.is_valid_number(number)
        else None
    )
    return region if region in phonenumbers.SUPPORTED_REGIONS else None


def _country_of_tld(tld: str) -> str | None:
    if len(tld) != 2 or tld in _NOT_BY_COUNTRY:
        return None
    from phonenumbers import SUPPORTED_REGIONS

    country = _ISO.get(tld, tld.upper())
    return country if country in SUPPORTED_REGIONS else None


@lru_cache(2)
def _suffixes(only_icann: bool = False) -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False, only_icann=only_icann)
