"""The program `stream-app`: parse the command line, run the command, and turn errors into lines.

Each error has its exit code. Help pages are plain text without boxes, so that a pipe can show them.
"""

from __future__ import annotations

import atexit
import difflib
import gc
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from inspect import BoundArguments
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from cyclopts import (
    UNSET,
    App,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnusedCliTokensError,
)

from stream_app import __version__
from stream_app.cli.base import (
    COMMON,
    EXIT_CODE_OF,
    EXIT_CODES,
    INTERRUPTED,
    NO,
    OK,
    OPTIONS,
    Common,
)
from stream_app.cli.output import say, show_json
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.text import wrapped

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_MAX_LABEL_WIDTH: Final = 22
_VALUES: Final = {
    "PATH": "FILE",
    "STR": "TEXT",
    "INT": "N",
    "FLOAT": "N",
    "DATETIME": "TIME",
    "TIMEDELTA": "AGE",
}
_IN_WORDS: Final[dict[Any, str]] = {
    int: "a whole number",
    float: "a number",
    datetime: "a time such as 2026-11-24T08:00",
    timedelta: "an age such as 30m, 2h or 7d",
}


class PlainHelp:
    """Prints help pages in two columns, as plain text."""

    def __init__(self, summaries: Mapping[str, str]) -> None:
        """`summaries`: what the page of the program says of commands that are not imported."""
        self._summaries = summaries

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        words = [_VALUES.get(word, word) for word in str(usage).split()]
        _print(console, wrapped(f"usage: {' '.join(words)}", _width()))

    def render_description(
        self,
        console: Console,
        options: ConsoleOptions,
        description: Any,
    ) -> None:
        """Print what the command does. An example stays on one line, so that it can be copied."""
        lines: list[str] = []
        for line in str(description.primary_renderable).splitlines():
            if _is_text(line) and lines and _is_text(lines[-1]):
                lines[-1] += f" {line}"  # the source breaks its lines where they end, not the page
            else:
                lines.append(line)
        _print(
            console,
            "\n".join(wrapped(line, _width()) if _is_text(line) else line for line in lines),
        )

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        if not panel.entries:
            return
        rows = [(_label(entry), self._text(entry)) for entry in panel.entries]
        indent = min(max(len(label) for label, _ in rows), _MAX_LABEL_WIDTH) + 4
        lines = [wrapped(f"{panel.title}:", _width())]
        for label, text in rows:
            texts = textwrap.wrap(text, _width() - indent, break_on_hyphens=False) or [""]
            if len(label) > indent - 4:
                lines.append(f"  {label}")
            else:
                lines.append(f"  {label:{indent - 2}}{texts.pop(0)}")
            lines += [" " * indent + text for text in texts]
        _print(console, "\n".join(line.rstrip() for line in lines))

    def _text(self, entry: HelpEntry) -> str:
        described = getattr(entry.description, "primary_renderable", entry.description)
        text = str(described or "") or self._summaries.get("".join(entry.names), "")
        notes = ["required"] if entry.required and not entry.positional_label else []
        if entry.default not in (None, "False", "()", "-"):
            notes.append(f"default: {entry.default}")
        return f"{text} ({'; '.join(notes)})".lstrip() if notes else text


def _is_text(line: str) -> bool:
    """True for a line of a paragraph, which an empty line or an example is not."""
    return bool(line) and not line.startswith("  ")


def _label(entry: HelpEntry) -> str:
    if entry.positional_label:
        return f"{entry.positional_label}{' ' + '|'.join(entry.choices) if entry.choices else ''}"
    names = ", ".join(sorted(entry.all_options, key=len))
    if not entry.metavar:
        return names
    value = entry.metavar.removesuffix("...").replace("CHOICE", "|".join(entry.choices or ()))
    dots = "..." if entry.metavar.endswith("...") else ""
    return f"{names} {'|'.join(_VALUES.get(part, part) for part in value.split('|'))}{dots}"


def usage_problem(error: CycloptsError) -> str:
    """Return one line: what is wrong with the command line, and which help page is about it."""
    page = " ".join(["stream-app", *(error.command_chain or ()), "--help"])
    return f"{_problem(error).rstrip('.')} (see `{page}`)"


def _problem(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return _unexpected(error.unused_tokens[0], error.app)
    if (
        isinstance(error, MissingArgumentError)
        and error.argument is not None
        and not error.argument.tokens
    ):
        return (
            f"{error.argument.name} is missing"
            if error.keyword is None
            else f"{error.keyword} needs a value"
        )
    if (
        isinstance(error, CoercionError)
        and error.msg is None
        and error.token
        and error.target_type is not None
    ):
        return (
            f"{error.token.keyword or 'argument'}: {error.token.value!r} is not "
            f"{in_words(error.target_type)}"
        )
    return str(error)


def _print(console: Console, text: str) -> None:
    """Print lines that are wrapped, and an empty line."""
    console.out(text, end="\n\n", highlight=False)


def _width() -> int:
    """Return the columns of the terminal now.

    A console of cyclopts keeps those that it found first.
    """
    return shutil.get_terminal_size().columns


def _unexpected(word: str, app: App | None) -> str:
    commands = [name for name in app or () if not name.startswith("-")]
    if not commands:
        return f"unexpected argument {word!r}"
    near = difflib.get_close_matches(word, commands, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(commands)}"
    return f"unknown command {word!r}; {hint}"


def in_words(kind: Any) -> str:
    """Return what a value of this type is, for people."""
    *first, last = _values_of(kind)
    return f"{', '.join(first)} or {last}" if first else last


def _values_of(kind: Any) -> Sequence[str]:
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if parts := [part for part in get_args(kind) if part not in (NoneType, ...)]:
        return [value for part in parts for value in _values_of(part)]
    return [_IN_WORDS.get(kind, getattr(kind, "__name__", str(kind)))]


COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("demo:demo", "run the whole system on this machine, through an outage of Clay"),
    "sim": ("demo:app", "run a simulated Clay with scripted faults and a ledger"),
    "topics": ("setup:topics", "create missing topics, and show how existing ones differ"),
    "publish": ("publish:publish", "publish leads from CSV or JSON Lines; shows the cost first"),
    "worker": ("processes:worker", "send leads to Clay; several can run at once"),
    "replay": ("replay:app", "bring dead letters and deferred leads back; or plan that by hand"),
    "gateway": ("processes:gateway", "receive Clay's callbacks over HTTP; several can run at once"),
    "trace": ("processes:trace", "send traces of leads to an OpenTelemetry receiver"),
    "board": (
        "processes:board",
        "serve the board and the look-up API, and take operators' commands",
    ),
    "open": ("processes:open_board", "open the board in a browser, or print how to reach it"),
    "clay-setup": ("setup:clay_setup", "print what to set up in the Clay table"),
    "doctor": ("doctor:doctor", "check the whole set-up without spending a credit"),
    "status": ("status:status", "show where a lead is, with the time and reason of each step"),
    "imports": ("status:imports", "show each publication of leads, and where its leads are"),
    "yield": ("status:yields", "show how often Clay finds what you pay for, and at what price"),
    "results": ("results:results", "write the last result of each lead as CSV or JSON Lines"),
    "lanes": ("lanes:app", "show all lanes; pause one, change its budget or rate live"),
    "explain": ("status:explain", "show why leads are not moving, and what lifts it"),
    "suppress": ("people:app", "list the people who are never sent to Clay; add, remove"),
    "erase": ("people:erase", "erase a lead or a person from results, cache and look-up"),
    "dlq": ("dlq:app", "count, list, show and export dead letters"),
    "books": ("books:books", "prove that every lead and credit is accounted for"),
    "skip": ("setup:skip", "skip unreadable records, so that their partition continues"),
    "completion": ("main:completion", "print a script that completes commands in your shell"),
}
"""Command -> where it is in `stream_app.cli`, and a summary.

A command is imported when it runs or shows its help.
"""

EXTRA_OF: Final = {
    "demo": "local",
    "sim": "local",
    "doctor": "worker",  # it asks Clay's hosts and Redis as a worker does
    **{process: process for process in ("worker", "replay", "gateway", "trace", "board")},
}
"""The extra of the package that a command needs. A command without one needs none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program, by default with the arguments of the process. Returns the exit code."""
    collect_rarely()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        command, arguments = parse(words)
        _mute_libraries()
        code = command(*arguments.args, **arguments.kwargs)
        sys.stdout.flush()
    except CycloptsError as error:
        return _failed(SettingsError([usage_problem(error)]), words)
    except StreamAppError as error:
        return _failed(error, words)
    except ImportError as error:
        if (problem := _missing_extra(error, words)) is None:
            raise
        return _failed(SettingsError([problem]), words)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed it (such as `| head`). Python's flush at exit must not
        # fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO
    return code or OK  # None: a help page


def collect_rarely() -> None:
    """Collect with high thresholds, and not when the process ends.

    Python's own thresholds cost a fifth of a lead's CPU and a tenth of a start's, and find little.
    Its last collection takes a worker 0.25 s of CPU, in which no lead is sent. `benchmarks/line.py`
    and `benchmarks/start.py` measure it.
    """
    gc.set_threshold(200_000, 20, 50)
    atexit.register(gc.freeze)


def parse(words: Sequence[str]) -> tuple[Callable[..., int | None], BoundArguments]:
    """Find the command and its arguments. Raises CycloptsError if the command line is wrong."""
    app = build_app()
    command, arguments, _ = app.parse_args(
        in_order(app, words),
        exit_on_error=False,
        print_error=False,
    )
    return command, arguments


def build_app() -> App:
    """Build the program with all commands. None is imported."""
    app = App(
        name="stream-app",
        help="Read leads from Kafka, send each one once to Clay, and publish every step on Kafka.",
        help_epilogue=f"{EXIT_CODES}\n\nexample:\n  stream-app publish leads.csv --workspace acme",
        help_format="plaintext",
        help_formatter=PlainHelp({name: summary for name, (_, summary) in COMMANDS.items()}),
        version=f"stream-app {__version__}",
        default_command=_no_command,
        default_parameter=Parameter(negative=(), allow_repeating=True),
        group_parameters=OPTIONS,
    )
    for number, (name, (place, _)) in enumerate(COMMANDS.items()):
        no_epilogue = {} if place.endswith(":app") else {"help_epilogue": ""}
        app.command(f"stream_app.cli.{place}", name=name, sort_key=number, **no_epilogue)
    return app


def in_order(app: App, words: Sequence[str]) -> list[str]:
    """Bring a command line into the order that cyclopts expects: commands, options, arguments.

    A `-` alone is an argument.
    """
    commands: list[str] = []
    options: list[str] = []
    arguments: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += rest
            break
        if word.startswith("-") and word != "-":
            options.append(word)
            if rest and _takes_value(app, word, rest[0]):
                value = rest.pop(0)
                options[-1:] = [f"{word}=-"] if value == "-" else [word, value]
        elif word in app and not arguments:
            app = app[word]
            commands.append(word)
        else:
            arguments.append(word)
    return [*commands, *options, *(["--"] if arguments else []), *arguments]


def _takes_value(app: App, option: str, word: str) -> bool:
    """Return True if the word after an option is its value.

    Where the value may be missing, it must be a number.
    """
    try:
        argument, _, implied = app.assemble_argument_collection().match(option)
    except ValueError:
        return False  # no such option, or `--option=value`
    if implied is not UNSET or not argument.parameter.consume_multiple:
        return implied is UNSET
    try:
        float(word)
    except ValueError:
        return False
    return True


def _no_command(*, common: Common = COMMON) -> int:
    raise SettingsError(["a command is missing (see `stream-app --help`)"])


def completion(shell: Literal["bash", "zsh", "fish"], /, *, common: Common = COMMON) -> int:
    """Print a script that completes commands, options and file names in your shell.

    example:
      stream-app completion bash > ~/.local/share/bash-completion/completions/stream-app
      stream-app completion zsh > ~/.zfunc/_stream-app    # a folder of your fpath
      stream-app completion fish > ~/.config/fish/completions/stream-app.fish

    Args:
        shell: the shell that reads the script
    """
    sys.stdout.write(build_app().generate_completion(shell=shell))
    return OK


def _missing_extra(error: ImportError, words: Sequence[str]) -> str | None:
    """Return one line that names the extra which brings a missing package.

    None if no extra brings it.
    """
    # cyclopts raises an error of its own for a command that it imports late.
    missing = error if error.name else error.__cause__
    command = next((word for word in words if word in EXTRA_OF), None)
    package = (
        str(missing.name).partition(".")[0] if isinstance(missing, ModuleNotFoundError) else ""
    )
    # A module of this package that is missing is a bug.
    if command is None or package in ("", "stream_app"):
        return None
    return (
        f"`stream-app {command}` needs {package}, which is not installed: pip install "
        f"'stream-app[{EXTRA_OF[command]}]'"
    )


def _failed(error: StreamAppError, words: Sequence[str]) -> int:
    code = EXIT_CODE_OF.get(type(error), NO)
    text = str(error)
    if "--json" in words:
        show_json({"error": text.split("\n"), "exit_code": code})
    say(text)
    return code


def _mute_libraries() -> None:
    """Turn off aiokafka's log.

    Commands print these errors themselves, and its DEBUG records cost CPU.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_is_not_abandoned)


def _is_not_abandoned(record: logging.LogRecord) -> bool:
    # This imports asyncio, which a help page does not need.
    from stream_app.tasks import is_not_abandoned

    return is_not_abandoned(record)
