"""What the outcome of one POST to Clay means: a closed union, and the table from status to outcome.

The table is in docs/reference/clay.md, "What the outcome of a POST means". The pipeline reacts to
the type and never to a status. A POST is `Uncertain` if nothing shows whether Clay has taken the
lead, because sending it again could pay twice. Every `text` is for people. `excerpt` is the
beginning of Clay's answer, '' if there was none. Both are scrubbed: one line, safe for logs and
headers.
"""

import html
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal, get_args

import msgspec

from stream_app.domain.model.addresses import WebhookKind
from stream_app.domain.model.seen import Seen
from stream_app.domain.model.untrusted import decode, stream_safe

UnsentReason = Literal[
    "dns",
    "connect_refused",
    "connect_failed",
    "connect_timeout",
    "tls",
    "proxy",
    "pool_timeout",
]
"""Why no byte of the request can have left: each of these happens before a connection exists."""

UNREACHABLE: Final = frozenset[str](get_args(UnsentReason)) - {"pool_timeout"}
"""Reasons that concern the host or the network. They last longer than seconds and may need a
person.
"""

UncertainReason = Literal["request_timeout", "reset", "broken_answer"]
"""Why the result is unknown: bytes may have left, and no status came back."""


class _OfTest(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What an outcome has if its lead is a test of `doctor` and an answer came."""

    seen: Seen | None = None


class _Answered(_OfTest, frozen=True, gc=False):
    """A status came back.

    `latency_ms`: from the start of the exchange to the status, without pool waits.
    """

    http_status: int
    latency_ms: int

    @property
    def reason(self) -> str:
        """The stable code for logs, metrics and headers: `http_<status>`."""
        return f"http_{self.http_status}"


class Accepted(_Answered, frozen=True, gc=False):
    """2xx: Clay accepted the lead. The body of a webhook's answer has no documented meaning.

    `run`: the id of the run, if a routine was started; '' if its answer could not be read.
    """

    run: str = ""


class RateLimited(_Answered, frozen=True, gc=False):
    """429: the whole workspace waits.

    `retry_after` is the raw header; None must never mean "now".
    """

    retry_after: str | None = None


class Denied(_Answered, frozen=True, gc=False):
    """401, 402, other 4xx, 3xx: the lane is suspended and no lead is lost.

    `text` says why and what to do.
    """

    text: str = ""


WebhookCause = Literal["full", "refused", "gone", "inactive"]
"""Why a webhook takes no leads, a stable code."""


class WebhookOut(_Answered, frozen=True, gc=False):
    """403, 404, 400 of a paused workflow: this webhook takes no leads.

    It is suspended and probed, and the next one of its pool takes the leads. Nothing is wrong with
    the lead, or with another webhook.

    Attributes:
        cause: Why.
        text: The same in words, with those of Clay.
    """

    cause: WebhookCause
    text: str = ""


class Poison(_Answered, frozen=True, gc=False):
    """400, 413, 422: the lead itself is bad.

    It is not replayed automatically and does not count for the breaker.
    """

    text: str = ""
    excerpt: str = ""


class _Failed(_OfTest, frozen=True, gc=False):
    """The lead was not accepted, as far as is known. Counts for the breaker."""

    reason: str  # an `UnsentReason`, an `UncertainReason` or `http_<status>`
    latency_ms: int  # from the start of the exchange to its end
    http_status: int | None = None  # the status, if one came back
    text: str = ""  # the reason in words
    excerpt: str = ""  # the beginning of the answer, scrubbed


class Refused(_Failed, frozen=True, gc=False):
    """Not accepted: provably unsent, or a 503 if the destination says so.

    `retry_after`: as in `RateLimited`.
    """

    retry_after: str | None = None


class Uncertain(_Failed, frozen=True, gc=False):
    """Clay may have it: nothing is sent again before the callback's grace ends."""


Outcome = Accepted | RateLimited | Refused | Uncertain | Denied | WebhookOut | Poison

_ADVICE = {
    401: (
        "Clay refuses this destination's token: set the one that the table's webhook source "
        "shows in Clay"
    ),
    402: "Clay wants payment: check the plan and the credits of this workspace in Clay",
    3: (
        "this destination's webhook URL redirects, which is never followed: set the URL that "
        "Clay shows now"
    ),
    4: "Clay takes no such request: compare this destination's settings with its table in Clay",
}
"""By status, or by its first digit."""
_OUT: Final[Mapping[WebhookCause, str]] = {
    "full": "it is full, so put a new webhook into the pool",
    "refused": (
        "Clay refuses it, so look in Clay whether it is full (then put a new webhook into the "
        "pool), and compare its URL and this destination's token"
    ),
    "gone": "Clay does not know it, so compare its URL, or put a new webhook into the pool",
    "inactive": "its workflow is not active, so publish or resume it in Clay",
}
# What Clay says of a webhook that has had all the submissions that it takes
# (docs/reference/clay.md, "Inbound").
_FULL: Final = "record limit reached"
# What it says of a workflow that is paused, or was never published.
_INACTIVE: Final = "stream is not active"
_MAX_RETRY_AFTER_CHARACTERS = 64
_WORDS = {
    400: "Clay cannot read this row, or it has more than 100 KB",
    413: "this row is too large for Clay",
    422: "Clay refuses this row for what is in it",
    503: "Clay takes nothing at the moment",
}


def classify(
    http_status: int,
    retry_after: str | None,
    excerpt: str,
    latency_ms: int,
    unavailable_is_refused: bool,
    known: Collection[str] = (),
    kind: WebhookKind = "table",
) -> Outcome:
    """Return the outcome of an answer (docs/reference/clay.md, "What the outcome of a POST means").

    Args:
        http_status: The status of the answer.
        retry_after: The raw Retry-After header.
        excerpt: The beginning of the body as text.
        latency_ms: From the start of the exchange to the status.
        unavailable_is_refused: The destination's setting for 503.
        known: Values that must not appear in texts (see `scrub`).
        kind: What the webhook starts.
    """
    if 200 <= http_status < 300:
        return Accepted(http_status, latency_ms)
    if http_status == 429:
        return RateLimited(http_status, latency_ms, retry_after or _retry_after_in(excerpt))
    answer = scrub(excerpt, known=known)
    cause = _cause_of(http_status, excerpt, known, kind)
    if cause is not None:
        return WebhookOut(
            http_status,
            latency_ms,
            cause,
            explained(http_status, _OUT[cause], answer),
        )
    if http_status in (400, 413, 422):
        return Poison(
            http_status,
            latency_ms,
            explained(http_status, _WORDS[http_status], answer),
            answer,
        )
    if http_status == 503 and unavailable_is_refused:
        text = explained(http_status, _WORDS[http_status], answer)
        return Refused("http_503", latency_ms, http_status, text, answer, retry_after)
    if 300 <= http_status < 500 and http_status != 408:
        advice = _ADVICE.get(http_status) or _ADVICE[http_status // 100]
        return Denied(
            http_status,
            latency_ms,
            explained(http_status, f"{advice}, then resume the lane", answer),
        )
    text = explained(http_status, "Clay failed, and may have taken the row", answer)
    return Uncertain(f"http_{http_status}", latency_ms, http_status, text, answer)


_ADVICE_ON_RUNS: Final = {
    401: (
        "Clay refuses the workspace's API key: make one in Clay and put it into the variable of "
        "api_key_env"
    ),
    402: _ADVICE[402],
    403: (
        "Clay forbids it: does the API key belong to this workspace, and may its user and its plan "
        "use the routine?"
    ),
    409: "Clay cannot run the routine as it is: look at its state in Clay",
    3: "the address of Clay's Public API redirects, which is never followed: compare api_url",
    4: "Clay takes no such request: compare api_url and the routine with what Clay shows",
}
"""By status, or by its first digit."""
_NO_ROUTINE: Final = (
    "Clay does not know this routine: compare its id, and switch the API on in its details"
)
_RUN_WORDS: Final = {
    400: "Clay refuses these inputs: compare their names with those of the routine",
    413: _WORDS[413],
    422: "Clay refuses these inputs for what is in them",
}


def classify_run(
    http_status: int,
    retry_after: str | None,
    excerpt: str,
    latency_ms: int,
    run: str = "",
    known: Collection[str] = (),
) -> Outcome:
    """Return the outcome of a POST that runs a routine (docs/reference/clay.md).

    A 503 is uncertain here, because nobody says that it took nothing.

    Args:
        http_status: The status of the answer.
        retry_after: The raw Retry-After header.
        excerpt: The beginning of the body as text.
        latency_ms: From the start of the exchange to the status.
        run: The id of the run that a 2xx names; '' if it names none.
        known: Values that must not appear in texts (see `scrub`).
    """
    if 200 <= http_status < 300:
        return Accepted(http_status, latency_ms, run=run)
    if http_status == 429:
        return RateLimited(http_status, latency_ms, retry_after)
    answer = scrub(excerpt, known=known)
    if http_status == 404:
        text = explained(http_status, _NO_ROUTINE, answer)
        return WebhookOut(http_status, latency_ms, "gone", text)
    if http_status in _RUN_WORDS:
        text = explained(http_status, _RUN_WORDS[http_status], answer)
        return Poison(http_status, latency_ms, text, answer)
    if 300 <= http_status < 500 and http_status != 408:
        text = explained(http_status, f"{denied_run(http_status)}, then resume the lane", answer)
        return Denied(http_status, latency_ms, text)
    text = explained(http_status, "Clay failed, and may have begun the run", answer)
    return Uncertain(f"http_{http_status}", latency_ms, http_status, text, answer)


def denied_run(http_status: int) -> str:
    """Return what to do about a 3xx or 4xx of the Public API that no waiting cures."""
    return _ADVICE_ON_RUNS.get(http_status) or _ADVICE_ON_RUNS[http_status // 100]


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of an answer's body."""

    retry_after: float | str | None = None


_body: Final = msgspec.json.Decoder(_Body)


def _retry_after_in(excerpt: str) -> str | None:
    """Return when to come back, as a workflow says it in its body; None if it does not."""
    try:
        after = decode(_body, excerpt.encode()).retry_after
    except ValueError:  # msgspec's own errors, what is nested too deep, and surrogates
        return None
    if isinstance(after, float):
        return f"{after:.15g}"
    return after[:_MAX_RETRY_AFTER_CHARACTERS] if after else None


def _cause_of(
    http_status: int,
    excerpt: str,
    known: Collection[str],
    kind: WebhookKind,
) -> WebhookCause | None:
    """Return why the webhook takes no leads; None if this answer is about something else."""
    if http_status == 404:
        return "gone"
    if http_status == 403:
        return "full" if _says(_FULL, excerpt, known) else "refused"
    is_paused = kind == "workflow" and http_status == 400 and _says(_INACTIVE, excerpt, known)
    return "inactive" if is_paused else None


def _says(phrase: str, answer: str, known: Collection[str]) -> bool:
    """Return True if an answer has this phrase, and not because it repeats what was sent.

    Asked of the answer as it came: a scrubbed one lacks each word that the lead has, too.
    """
    return phrase in _folded(answer) and not any(phrase in _folded(value) for value in known)


def explained(http_status: int, words: str, answer: str) -> str:
    """Return what an answer means, with what Clay said, which must be scrubbed."""
    quote = f" (Clay said: {answer})" if answer else ""
    return f"HTTP {http_status}: {words}{quote}"


_MAX_TEXT_CHARACTERS = 4_000
_MAX_LINE_CHARACTERS = 1_000
_UNICODE_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_TAG = re.compile(r"<[^<>]*>")
_ATOM = r"""[^\s"<>(),;:\[\]\\@]"""
_EMAIL = re.compile(rf"(?<!{_ATOM}){_ATOM}*+ ?@ ?{_ATOM}*")
_URL = re.compile(
    r"""[a-z][a-z0-9+.-]{0,20}:\\?/\\?/[^\s"<>]*|(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,63}(?:[:/][^\s"<>]*)?""",
    re.IGNORECASE,
)
_PATH = re.compile(r"""(?<![^\s"'=:(])(?:/[^\s"<>]+|[^\s"'=:(/<>]++/[^\s"<>/]*+/[^\s"<>]*)""")
_RUN = re.compile(r"[\w+/=~.-]{12,}")
_ERROR_CODE = re.compile(r"[a-z]{1,15}(?:_[a-z]{1,15})+")
_NUMBER = re.compile(r"\d(?:[\W_]{0,3}\d){6,}")


def scrub(text: str, limit: int = 200, known: Iterable[str] = ()) -> str:
    """Return `text` as one line of at most `limit` characters, safe for logs and headers.

    Removes e-mail addresses, URLs, host names, paths, numbers of seven digits and more, long opaque
    strings and control characters. In doubt it removes too much. Codes in words (`limit_reached`)
    stay.

    Args:
        text: Any text.
        limit: The most characters of the result.
        known: Values to remove too: the lead's fields, the token, the webhook. No pattern can
            recognise a person's name.
    """
    line = _one_line(text)
    folded = _folded(line)
    for value in sorted(
        {_one_line(secret) for secret in known},
        key=lambda value: (len(value), value),
        reverse=True,
    ):
        # A pattern for each of thousands of values would take seconds.
        if len(value) > 1 and _folded(value) in folded:
            line = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "[sent]", line, flags=re.IGNORECASE)
    line = _EMAIL.sub("[email]", line.replace("%40", "@"))
    line = _URL.sub("[url]", line)
    line = _PATH.sub("[path]", line)
    line = _RUN.sub(_opaque, line)
    line = _NUMBER.sub("[number]", line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _one_line(text: str) -> str:
    """Return foreign text as one line that is safe to show.

    It is unescaped, compatibility forms are folded, tags and control characters are removed, and it
    is cut between words.
    """
    readable = _UNICODE_ESCAPE.sub(
        lambda escape: chr(int(escape[1], 16)),
        html.unescape(text[:_MAX_TEXT_CHARACTERS]),
    )
    visible = "".join(map(_visible, unicodedata.normalize("NFKC", stream_safe(readable))))
    line = " ".join(_TAG.sub(" ", visible).split())
    if len(text) <= _MAX_TEXT_CHARACTERS and len(line) <= _MAX_LINE_CHARACTERS:
        return line
    return line[:_MAX_LINE_CHARACTERS].rpartition(" ")[0] or "[opaque]"


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width and direction marks would hide an address from the patterns
        return ""
    return " " if category[0] in "CZ" else character


_DOTLESS: Final = str.maketrans({"\u0131": "i", "\u0307": None})


def _folded(text: str) -> str:
    """Return the same for all texts that differ in case only.

    Lower case of a dotted capital I has a mark.
    """
    return text.casefold().translate(_DOTLESS)


def _opaque(run: re.Match[str]) -> str:
    word = run.group()
    if _ERROR_CODE.fullmatch(word):
        return word
    return "[opaque]" if len(word) >= 20 or any(character.isdigit() for character in word) else word
