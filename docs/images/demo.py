"""Record docs/images/demo.svg, the last screen of the demo: `python docs/images/demo.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from stream_app.cli import demo, output, tables

screen = Console(
    record=True,
    force_terminal=True,
    width=132,
    highlight=False,
    markup=False,
    emoji=False,
)
"""Records all that the demo prints."""


class Printed(demo.Screen):
    """The demo's screen without its live table."""

    def __enter__(self) -> Printed:
        return self

    def show(self, state: Any) -> None:
        """Leave out the table."""


def recorded(**_: Any) -> Console:
    """Stand in for the consoles of the demo."""
    return screen


demo.Console = output.console = tables.console = recorded
demo.Screen = Printed
demo._NEXT = ""
code = demo.demo()
# The fonts that rich names are loaded from elsewhere; the reader's own is used instead.
form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
form = form.replace(
    "Fira Code, monospace",
    "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace",
)
text = screen.export_svg(title="stream-app demo", code_format=form, unique_id="demo")
Path(__file__).with_suffix(".svg").write_text(text, encoding="utf-8")
sys.exit(code)
