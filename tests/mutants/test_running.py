"""A mutant is in force in whatever a test runs, also in a file that nothing has imported yet."""

import importlib
import sys
from importlib.machinery import SourceFileLoader

import pytest

from tests.mutants.drawing import ROOT, Mutant
from tests.mutants.running import change_functions

PATH = "stream_app/client/doctor/setup.py"


def test_a_file_that_a_test_imports_itself_has_the_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceFileLoader, "get_code", SourceFileLoader.get_code)
    monkeypatch.delitem(sys.modules, "stream_app.client.doctor.setup", raising=False)
    source = (ROOT / PATH).read_text()
    line = next(text for text in source.splitlines() if text.startswith("_API: "))
    after = '_API: Final = "changed"'
    mutant = Mutant(PATH, 1, range(1, 2), "", line, after, source.replace(line, after))
    change_functions(mutant, {str(ROOT / PATH): []})
    setup = importlib.import_module("stream_app.client.doctor.setup")
    assert setup._API == "changed"
