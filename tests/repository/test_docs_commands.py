"""Each shell command in the documents is known, and has options that its program takes."""

import re
import shlex
from pathlib import Path

from tests.repository.test_docs import ROOT, CommandError, each_document, parse
from tests.support.shell import commands_of, lines_of

EXCUSED = {
    *(".", "cat", "cp", "echo", "export", "kill", "printf", "rm", "sleep"),  # parts of an example
    *("helm", "kubectl"),  # need a cluster; tests/unit/deploy renders the chart
    *("pip", "pre-commit", "pytest", "$lock"),  # tools of their own; $lock is uv, as the line before it says
}
"""Programs that are not ours."""


def problem_of(words: list[str]) -> str | None:
    """What is wrong with a command."""
    program, arguments = words[0].rpartition("/")[2] or words[0], words[1:]
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
