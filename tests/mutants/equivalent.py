"""Mutants that change nothing that anyone could see, with the reason: at most 15 of those that a seed draws."""

from typing import Final

_TOKEN: Final = 'return urlsafe_b64decode(text + "=" * ({}len(text) % 4)).decode()'
_OWED: Final = "return -1 if self._owed.get(group, {}) >= 1.0 else PRIORITY[group]"
_SLUG: Final = 'slug = _lower(unquote(match[1]) if "%" in match[{}] else match[1])'

EQUIVALENT: Final[dict[tuple[str, str, str], str]] = {
    ("stream_app/domain/model/tokens.py", _TOKEN.format("-"), _TOKEN.format(sign)): (
        "base64 ignores padding beyond what it needs, and no text has a length of 1 modulo 4"
    )
    for sign in ("+", "")
} | {
    ("stream_app/domain/lead/fields.py", _SLUG.format("1"), _SLUG.format(" 0")): (
        "to unquote a slug without a percent sign changes nothing"
    ),
    ("stream_app/domain/limits/budget.py", "break", "continue"): (
        "soft limits rise, so behind one that is not reached none is"
    ),
    ("stream_app/board/read_model/board_query.py", "break", "continue"): (
        "groups come by their newest record, so behind one that is too old all are"
    ),
    ("stream_app/partition/lane_queue.py", _OWED.format("0.0"), _OWED.format("-1.0")): (
        "a group that is owed nothing is below 1 either way"
    ),
    ("stream_app/domain/model/records.py", "@lru_cache(4096)", "@lru_cache( 4095)"): (
        "how many partitions are remembered changes no partition"
    ),
}
"""By file, line, and the line as it is changed."""
