"""The shell commands that documents show, cut into words."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

_KEYWORDS = frozenset({"do", "then", "else", "!"})
_ENDS = frozenset({"done", "fi"})


def lines_of(document: Path) -> list[str]:
    """The lines of all blocks that a shell runs. The text of a here-document is none of them."""
    text = document.read_text(encoding="utf-8")
    lines: list[str] = []
    for _, block in re.findall(r"^( *)```sh\n(.*?)^\1```", text, re.M | re.S):
        without_input = re.sub(r"(<<'?(\w+)'?\n).*?^\2$", r"\1", textwrap.dedent(block), flags=re.M | re.S)
        lines += filter(None, without_input.splitlines())
    return lines


def commands_of(line: str) -> Iterator[list[str]]:
    """Each simple command of a line of shell, without redirections, assignments and comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for token in [*lexer, ";"]:
        if skip:
            skip = False
        elif re.fullmatch(r"[<>]+&?", token):
            skip = True
            if words and words[-1].isdecimal():
                words.pop()
        elif re.fullmatch(r"[();|&]+", token):
            while words and (words[0] in _KEYWORDS or re.match(r"\w+=", words[0])):
                words = words[1:]
            if words and words[0] not in _ENDS and words[0] != "for":
                yield words
            words = []
        else:
            words.append(token)
