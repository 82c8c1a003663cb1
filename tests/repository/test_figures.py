"""One number for one thing: each measured figure in the prose of README and docs/ is one of
docs/figures.md.
"""

import re
from pathlib import Path

from tests.repository.documents import DOCS, each_document

FIGURES = DOCS / "figures.md"
NUMBER = r"\d[\d.,]*(?: to \d[\d.,]*)?"
MEASURED = re.compile(
    rf"{NUMBER} (?:us|MB|GB|bytes (?:a|for each) lead)\b"
    rf"|{NUMBER} times (?:the CPU|what)\b"
    rf"|{NUMBER} % on top\b"
    rf"|{NUMBER} s \(p\d\d\)",
)
"""What reads like a measurement: of time, memory, disk or CPU. Goals and settings have other units,
or are LIMITS.
"""

LIMITS = {
    "50 MB": "what the demo downloads, and the largest file for the board",
    "51 MB": "what a proxy before the board has to let through",
    "1 MB": "Kafka's default of a fetch",
    "10 MB": "the traffic of the attacks",
    "150 MB": "what a worker or a board may grow by under a batch of a producer",
    "16 times what": "the bound of a batch, as a multiple of its compressed size",
}
"""Numbers that are given and not measured -> what they are."""

OF_OTHERS = {"reference/settings.md", "reference/commands.md", "reference/messages.md"}


def prose_of(document: Path) -> str:
    """The text without code, and without the tables of measurements of why-not.md."""
    text = re.sub(r"^( *)```.*?^\1```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"^\|.*$", "", text, flags=re.M) if document.name == "why-not.md" else text


@each_document
def test_each_figure_in_the_prose_is_one_that_was_measured(document: Path) -> None:
    name = document.relative_to(DOCS).as_posix() if document.is_relative_to(DOCS) else document.name
    if document == FIGURES or name in OF_OTHERS or name.startswith("reference/upstream/"):
        return
    measured = " ".join(FIGURES.read_text(encoding="utf-8").split())
    figures = MEASURED.findall(" ".join(prose_of(document).split()))
    assert not [figure for figure in figures if figure not in measured and figure not in LIMITS]
