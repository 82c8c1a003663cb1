"""The documents pass a linter of prose: proselint, with the checks that have a clear answer (proselint.json)."""

import re
import subprocess
import sys
from pathlib import Path

from tests.repository.test_docs import DOCUMENTS, ROOT
from tests.support.pace import BUSY

CONFIG = Path(__file__).with_name("proselint.json")


def prose(text: str) -> str:
    """The text without code, digits and the borders of cells, on the same lines. Paragraphs stay apart."""
    text = re.sub(r"^( *)```.*?^\1```", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S)
    text = re.sub(r"\d", "#", text)
    text = re.sub(r"`[^`\n]+`", lambda code: f"code{code.start()}", text)
    text = re.sub(r" *\|[-| ]*", " . ", text)
    return re.sub(r"^$", ".", text, flags=re.M)


def found_by_proselint(folder: Path, texts: dict[str, str]) -> str:
    """What proselint says of these texts, one line for each place."""
    for name, text in texts.items():
        (folder / name).write_text(prose(text), encoding="utf-8")
    argv = [sys.executable, "-m", "proselint", "check", "--config", str(CONFIG), "-o", "compact", str(folder)]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=120 * BUSY, check=False)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_the_documents_pass(tmp_path: Path) -> None:
    pages = {str(page.relative_to(ROOT)).replace("/", "+"): page.read_text(encoding="utf-8") for page in DOCUMENTS}
    assert found_by_proselint(tmp_path, pages) == ""


def test_a_slip_is_found(tmp_path: Path) -> None:
    text = "# Page\n\n```sh\nthe the\n```\n\nThe lead has has irregardless.\n"
    report = found_by_proselint(tmp_path, {"page.md": text})
    assert re.findall(r"page\.md:(\d+)", report) == ["7", "7"]
