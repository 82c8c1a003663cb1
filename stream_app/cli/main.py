"""The program `stream-app`: parse the command line, run the command, turn errors into lines and exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from inspect import BoundArguments
from typing import Final, Literal

from cyclopts import UNSET, App, CycloptsError, Parameter

from stream_app import __version__
from stream_app.cli.base import (
    COMMON,
    EXIT_CODES,
    INTERRUPTED,
    NO,
    NO_BOARD,
    NO_KAFKA,
    OK,
    OPTIONS,
    REFUSED,
    USAGE,
    Common,
    say,
    show_json,
)
from stream_app.cli.help import PlainHelp, usage_problem
from stream_app.domain.errors import (
    BoardUnavailable,
    BrokerUnavailable,
    KafkaRefused,
    NotTheBoard,
    SettingsError,
    StreamAppError,
)
from stream_app.ops.garbage import collect_rarely

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("demo:demo", "run the whole system on this machine, through an outage of Clay"),
    "sim": ("sim:app", "run a simulated Clay with scripted faults and a ledger"),
    "topics": ("topics:topics", "create missing topics, and show how existing ones differ"),
    "publish": ("publish:publish", "publish leads from CSV or JSON Lines; shows the cost first"),
    "worker": ("processes:worker", "send leads to Clay; several can run at once"),
    "replay": ("replay:app", "bring dead letters and deferred leads back; or plan that by hand"),
    "gateway": ("processes:gateway", "receive Clay's callbacks over HTTP; several can run at once"),
    "trace": ("processes:trace", "send traces of leads to an OpenTelemetry receiver"),
    "board": ("processes:board", "serve the board and the look-up API, and take operators' commands"),
    "open": ("open:open_board", "open the board in a browser, or print how to reach it"),
    "clay-setup": ("clay_setup:clay_setup", "print what to set up in the Clay table"),
    "doctor": ("doctor:doctor", "check the whole set-up without spending a credit"),
    "status": ("status:status", "show where a lead is, with the time and reason of each step"),
    "imports": ("imports:imports", "show each publication of leads, and where its leads are"),
    "results": ("results:results", "write the last result of each lead as CSV or JSON Lines"),
    "lanes": ("lanes:app", "show all lanes; pause one, change its budget or rate live"),
    "explain": ("explain:explain", "show why leads are not moving, and what lifts it"),
    "suppress": ("suppress:app", "list the people who are never sent to Clay; add, remove"),
    "erase": ("erase:erase", "erase a lead or a person from results, cache and look-up"),
    "dlq": ("dlq:app", "count, list, show, export and import dead letters"),
    "books": ("books:books", "prove that every lead and credit is accounted for"),
    "skip": ("topics:skip", "skip unreadable records, so that their partition continues"),
    "schemas": ("schemas:schemas", "write the JSON Schemas and the AsyncAPI document"),
    "completion": ("main:completion", "print a script that completes commands in your shell"),
}
"""Command -> where it is in `stream_app.cli`, and a summary. A command is imported when it runs or shows its help."""

EXIT_CODE_OF: Final = {
    SettingsError: USAGE,
    BrokerUnavailable: NO_KAFKA,
    BoardUnavailable: NO_BOARD,
    NotTheBoard: NO_BOARD,
    KafkaRefused: REFUSED,
}
"""The exit code of a command that an error ends. It is NO for all others."""


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
        return _failed(USAGE, usage_problem(error), as_json="--json" in words)
    except StreamAppError as error:
        return _failed(EXIT_CODE_OF.get(type(error), NO), str(error), as_json="--json" in words)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed it (such as `| head`). Python's flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO
    return code or OK  # None: a help page


def parse(words: Sequence[str]) -> tuple[Callable[..., int | None], BoundArguments]:
    """Find the command and its arguments. Raises CycloptsError if the command line is wrong."""
    app = build_app()
    command, arguments, _ = app.parse_args(in_order(app, words), exit_on_error=False, print_error=False)
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
    """Bring a command line into the order that cyclopts expects: commands, options, arguments (also `-`)."""
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
    """Return True if the word after an option is its value. Where the value may be missing, it must be a number."""
    try:
        found, _, implied = app.assemble_argument_collection().match(option)
    except ValueError:
        return False  # no such option, or `--option=value`
    return implied is UNSET and (not found.parameter.consume_multiple or _is_number(word))


def _is_number(word: str) -> bool:
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


def _failed(code: int, text: str, *, as_json: bool) -> int:
    if as_json:
        show_json({"error": text.split("\n"), "exit_code": code})
    say(text)
    return code


def _mute_libraries() -> None:
    """Turn off aiokafka's log. Commands print these errors themselves, and its DEBUG records cost CPU."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_is_not_abandoned)


def _is_not_abandoned(record: logging.LogRecord) -> bool:
    from stream_app.tasks import is_not_abandoned  # imports asyncio, which a help page does not need

    return is_not_abandoned(record)
