"""Each shell command in the documents is known, and has options that its program takes."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.repository.documents import ROOT, CommandError, each_document, parse

EXCUSED = {
    # parts of an example
    *(".", "cat", "cd", "cp", "echo", "export", "kill", "printf", "rm", "set", "sleep"),
    "curl",  # asks the simulated Clay; tests/e2e/test_break_it.py decodes what the page sends
    *("helm", "kubectl"),  # need a cluster; tests/unit/deploy renders the chart
    "docker",  # needs an engine; tests/containers builds the image
    # tools of their own; $lock is uv, as the line before it says
    *("git", "pip", "pre-commit", "pytest", "$lock"),
}
"""Programs that are not ours."""
_KEYWORDS = frozenset({"do", "then", "else", "!"})
_ENDS = frozenset({"done", "fi"})


def lines_of(document: Path) -> list[str]:
    """The lines of all blocks that a shell runs. The text of a here-document is none of them."""
    text = document.read_text(encoding="utf-8")
    lines: list[str] = []
    for _, block in re.findall(r"^( *)```sh\n(.*?)^\1```", text, re.M | re.S):
        without_input = re.sub(
            r"(<<'?(\w+)'?\n).*?^\2$",
            r"\1",
            textwrap.dedent(block),
            flags=re.M | re.S,
        )
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


def problem_of(words: list[str]) -> str | None:
    """What is wrong with a command."""
    program = words[0].rpartition("/")[2] or words[0]
    arguments = words[1:]
    if program == "stream-app":
        if not any("$" in word for word in arguments):  # a loop over names: the shell knows them
            try:
                parse(arguments)
            except CommandError as error:
                return str(error)
        return None
    if program.startswith("python"):
        return _problem_of_module(arguments)
    return None if program in EXCUSED else f"{program} is neither ours nor excused"


def _problem_of_module(arguments: list[str]) -> str | None:
    if arguments[:1] != ["-m"]:
        script = ROOT / arguments[0]
        return None if script.exists() or arguments[0] == "-c" else f"{script} is missing"
    if arguments[1] == "venv":
        return None
    at = ROOT / Path(*arguments[1].split("."))
    files = [at.with_suffix(".py")] if at.with_suffix(".py").exists() else sorted(at.glob("*.py"))
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    options = {word.partition("=")[0] for word in arguments[2:] if word.startswith("--")}
    unknown = sorted(option for option in options if f'"{option}"' not in source)
    return f"python -m {arguments[1]} has no {', '.join(unknown)}" if unknown or not files else None


@each_document
def test_each_shell_command_is_known(document: Path) -> None:
    for line in lines_of(document):
        for words in commands_of(line):
            assert problem_of(words) is None, line


@each_document
def test_modules_in_the_text_take_their_options(document: Path) -> None:
    for line in re.findall(r"`(python -m [^`]+)`", document.read_text(encoding="utf-8")):
        assert problem_of(shlex.split(line)) is None, line
