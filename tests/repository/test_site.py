"""The site of docs/: it builds without a warning, has every page, and loads nothing of another
host.
"""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.pace import BUSY

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source|link[^>]+stylesheet)[^>]*(?:src|href)=["']?(?:https?:)?//""",
)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with the module beside it in reach."""
    monkeypatch.syspath_prepend(DOCS)
    spec = importlib.util.spec_from_file_location("docs_site", DOCS / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_navigation_has_every_page_once(site: ModuleType) -> None:
    nav = tomllib.loads((DOCS / "zensical.toml").read_text())["project"]["nav"]
    pages = list(site.pages_of(nav))
    assert sorted(pages) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert [next(iter(section)) for section in nav] == ["Start", "How to", "Reference", "Why"]


def test_the_reference_is_generated(site: ModuleType, tmp_path: Path) -> None:
    site.write_reference(tmp_path)
    for name in site.PAGES:
        assert (tmp_path / name).read_text() == (DOCS / "reference" / name).read_text(), (
            "write it again: python docs/site.py reference"
        )


@pytest.mark.timeout(300)
def test_the_site_builds_and_loads_nothing_of_another_host(tmp_path: Path) -> None:
    argv = [sys.executable, str(DOCS / "site.py"), "build", str(tmp_path / "site")]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=280 * BUSY, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list(DOCS.rglob("*.md")))
    for page in pages:
        assert not ELSEWHERE.search(page.read_text(encoding="utf-8")), page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(
            r"(?:@import|url\()\s*[\"']?https?:",
            sheet.read_text(encoding="utf-8"),
        ), sheet
