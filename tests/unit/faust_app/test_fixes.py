"""Each fix of Faust says what upstream does, which test shows it, and when the fix can go."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from stream_app.faust_app import fixes

ROOT = Path(__file__).parents[3]
COMBINING = {"app", "consumer", "consumer_thread"}
FIXES = sorted({module.name for module in pkgutil.iter_modules(fixes.__path__)} - COMBINING)


@pytest.mark.parametrize("name", FIXES)
def test_a_fix_names_its_cause_its_tests_and_its_end(name: str) -> None:
    text = importlib.import_module(f"{fixes.__name__}.{name}").__doc__ or ""
    assert text.startswith("Fix: ")
    assert re.search(r"^Upstream(:| \(not reported\):)", text, re.MULTILINE)
    assert re.search(r"^Remove it", text, re.MULTILINE)
    path = r"(?:tests|benchmarks)/[\w/]+\.py"
    sources = [(ROOT / file).read_text() for file in re.findall(path, text)]
    assert sources
    for test in re.findall(r"\btest_\w+", re.sub(path, "", text)):
        assert any(f"def {test}(" in source for source in sources), test
