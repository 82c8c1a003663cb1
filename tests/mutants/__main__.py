"""`python -m tests.mutants --seed 26 --mutants 300`: draw changes to the code, and see which the
fast tests notice.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Final

from stream_app.dev.kafka import kafka_for
from tests.mutants.drawing import ROOT, Mutant, draw
from tests.mutants.equivalent import outdated, why_equivalent
from tests.mutants.running import (
    BOUND_S,
    FOLDERS,
    OF_IMPORTS,
    Collected,
    Reach,
    Tests,
    change_functions,
    change_import,
    functions,
    in_forks,
    measure,
    run_pytest,
    warm,
)

_MIN_KILLED_SHARES: Final = {"core": 0.92, "edge": 0.88}
_MAX_EQUIVALENT: Final = 15
_FILES_OF_IMPORTS: Final = tuple(name.partition("::")[0] for name in OF_IMPORTS)
_FIRST_FILES: Final = 8  # importing all tests takes longer than most need to notice
_LIMIT_S: Final = 2 * BOUND_S + 240
_WHOLE_RUN_S: Final = 4 * 3600  # of a busy machine
_ALL_PASSED: Final = "-"
Ends = dict[int, str]
"""What became of each mutant: the test that failed, how it ended otherwise, or that all passed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "--seed",
        type=int,
        default=int(time.time()),
        help="what draws the mutants (default: the time)",
    )
    parser.add_argument("--mutants", type=int, default=300, help="how many (default 300)")
    parser.add_argument(
        "--reach",
        type=Path,
        help="a folder that keeps which tests reach which line, for this code",
    )
    args = parser.parse_args()
    began_s = time.monotonic()
    _print(f"seed {args.seed}")
    warm()
    drawn = draw(args.seed, args.mutants)
    with tempfile.TemporaryDirectory() as folder, kafka_for(_print) as kafka:
        os.environ["KAFKA_BOOTSTRAP"] = kafka.bootstrap  # the forks use it, too
        work = args.reach or Path(folder)
        if not (work / "seconds.json").exists():
            work.mkdir(exist_ok=True)
            list(in_forks([partial(measure, work)], _WHOLE_RUN_S))
        ends = _ends(drawn, Reach(work))
    survived = [mutant for index, mutant in enumerate(drawn) if ends[index] == _ALL_PASSED]
    equivalent = [mutant for mutant in survived if why_equivalent(mutant)]
    for mutant in survived:
        _print(
            f"equivalent: {mutant}: {why}"
            if (why := why_equivalent(mutant))
            else f"survived: {mutant}",
        )
    missed = False
    for part, at_least in _MIN_KILLED_SHARES.items():
        judged = [mutant for mutant in drawn if mutant.part == part and mutant not in equivalent]
        killed = sum(mutant not in survived for mutant in judged)
        missed |= killed < at_least * len(judged)
        _print(f"{part}: {killed} of {len(judged)} were killed, {killed / max(1, len(judged)):.1%}")
    _print(
        f"seed {args.seed}: of {len(drawn)} mutants {len(equivalent)} are equivalent, and "
        f"{len(drawn) - len(survived)} "
        f"were killed; {time.monotonic() - began_s:.0f} s",
    )
    gone = outdated()
    for entry in gone:
        _print(f"tests/mutants/equivalent.py: {entry} any more: take the entry out")
    return int(missed or len(equivalent) > _MAX_EQUIVALENT or bool(gone))


def _ends(drawn: Sequence[Mutant], reach: Reach) -> Ends:
    """What became of each; a test that fails without a change as well is left out, and its mutants
    are run again.
    """
    ends: Ends = {}
    left = list(range(len(drawn)))
    while left:
        imported = {
            index: partial(_imported, drawn[index], reach)
            for index in left
            if reach.of(drawn[index])[1]
        }
        called = {index: drawn[index] for index in left if index not in imported}
        ends |= _report(imported, drawn)
        [(_, answer)] = in_forks([partial(_collected, called, ends, reach)], _WHOLE_RUN_S)
        result = json.loads(answer)
        ends |= {int(index): end for index, end in result["ends"].items()}
        reach.unreliable.update(result["unreliable"])
        left = [index for index, end in ends.items() if end in reach.unreliable]
    return ends


def _report(
    tasks: Mapping[int, Callable[[], str]],
    drawn: Sequence[Mutant] | Mapping[int, Mutant],
) -> Ends:
    ends = Ends()
    numbers = list(tasks)
    for place, end in in_forks(list(tasks.values()), 3 * _LIMIT_S):
        ends[numbers[place]] = end
        _print(f"{'survived' if end == _ALL_PASSED else 'killed'}: {drawn[numbers[place]]} [{end}]")
    return ends


def _imported(mutant: Mutant, reach: Reach) -> str:
    """The end of one whose line runs at import: all is imported again, with the files that name its
    module first.
    """
    change_import(mutant)
    tests = reach.of(mutant)[0]
    files = [file for file, _ in Counter(name.partition("::")[0] for name in tests).most_common()]
    module = re.compile(rf"\b{Path(mutant.path).stem}\b")
    files.sort(
        key=lambda file: (
            not file.startswith(_FILES_OF_IMPORTS),
            not module.search((ROOT / file).read_text()),
        ),
    )
    for some in filter(None, (files[:_FIRST_FILES], files[_FIRST_FILES:])):
        [(_, end)] = in_forks([partial(_in_files, some, tests)], _LIMIT_S)
        if end != _ALL_PASSED:
            return end
    return _ALL_PASSED


def _in_files(files: Sequence[str], tests: Tests) -> str:
    end = "not collected"

    def work(collected: Collected) -> None:
        nonlocal end
        end = _end(collected, tests)

    run_pytest(files, Collected(work))
    return end


def _collected(mutants: dict[int, Mutant], others: Ends, reach: Reach) -> str:
    """The ends of those that change functions, as JSON, and the tests that fail without a change as
    well.
    """
    answer = "{}"
    by_file = dict[str, list[FunctionType]]()

    def called(mutant: Mutant, collected: Collected) -> str:
        change_functions(mutant, by_file)
        return _end(collected, reach.of(mutant)[0])

    def work(collected: Collected) -> None:
        nonlocal answer, by_file
        by_file = functions()
        ends = _report(
            {index: partial(called, mutant, collected) for index, mutant in mutants.items()},
            mutants,
        )
        killers = {end: 1.0 for end in {**others, **ends}.values() if "::" in end}
        answer = json.dumps(
            {"ends": ends, "unreliable": collected.failures(killers, 3600, len(killers) + 1)},
        )

    run_pytest(FOLDERS, Collected(work))
    return answer


def _end(collected: Collected, tests: Tests) -> str:
    return next(iter(collected.failures(tests, BOUND_S, most=1)), _ALL_PASSED)


def _print(line: str) -> None:
    os.write(_STDOUT, f"{line}\n".encode())


_STDOUT: Final = os.dup(1)  # pytest takes the other
if __name__ == "__main__":
    sys.exit(main())
