"""Record docs/images/demo.svg, the demo in some twenty seconds: `python docs/images/demo.py`.

The picture is one SVG, whose frames are shown one after the other by CSS. It is made from what the
demo prints, and ends with its last screen. Where a reader has asked for less motion, or shows no
animation, that screen stands still.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group
from rich.text import Text

from stream_app.cli import demo, output, tables

WIDTH: Final = 110
STORY_S: Final = 15.0
"""How long the frames before the last screen take together, in seconds."""
LAST_S: Final = 7.0
FRAMES: Final = 36
_HEADLINES: Final = 8  # the most that the demo says above its table in a frame


def console() -> Console:
    return Console(
        record=True,
        file=StringIO(),
        force_terminal=True,
        width=WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


screen = console()
"""Records all that the demo prints."""


def recorded(**_: Any) -> Console:
    """Stand in for the consoles of the demo."""
    return screen


class Recorder(demo.Screen):
    """The demo's screen, which keeps what it would show.

    Attributes:
        frames: By the time in seconds: what was said until then, and the table.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[float, list[Text], Group]] = []
        self._lines: list[Text] = []

    def __enter__(self) -> Recorder:
        recorders.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        # The last screen has what comes after the story.
        screen.export_text(clear=True)

    def say(self, line: str) -> None:
        self._lines.append(self._timed(line))

    def show(self, state: Any) -> None:
        table = Group(*demo._shown(state, WIDTH))
        self.frames.append((time.monotonic(), self._lines[-_HEADLINES:], table))


recorders: list[Recorder] = []


def chosen(
    frames: Sequence[tuple[float, list[Text], Group]],
) -> list[tuple[list[Text], Group]]:
    """Choose so many frames, evenly over the time of the demo."""
    begin_s = frames[0][0]
    every_s = (frames[-1][0] - begin_s) / FRAMES
    picked: list[tuple[list[Text], Group]] = []
    for at_s, lines, table in frames:
        if at_s - begin_s >= len(picked) * every_s:
            picked.append((lines, table))
    return picked


def matrix(of: Console, name: str) -> tuple[str, str]:
    """Return the styles and the text of what a console has printed, with classes of this name."""
    svg = of.export_svg(title="stream-app demo", code_format=form(), unique_id=name)
    styles = "".join(re.findall(rf"^\s*\.{name}-r\d+ {{.*?}}$", svg, flags=re.MULTILINE))
    group = re.search(rf'<g class="{name}-matrix">(.*?)</g>', svg, flags=re.DOTALL)
    assert group is not None, "this version of rich writes its text in another element"
    text = re.sub(r' clip-path="[^"]*"', "", group[1])
    return styles, re.sub(r"\s*\n\s*", "\n", text)


def form() -> str:
    """The form of the picture, with the reader's own font in place of one that is loaded."""
    plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    own = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
    return plain.replace("Fira Code, monospace", own)


def main() -> int:
    """Run the demo, and write the picture of it. Returns the exit code of the demo."""
    demo.console = recorded
    output.console = recorded
    tables.console = recorded
    demo.Screen = Recorder
    demo._NEXT = ""
    code = demo.demo()
    (recorder,) = recorders
    pictures = []
    for lines, table in chosen(recorder.frames):
        frame = console()
        frame.print(*lines, sep="\n")
        frame.print()
        frame.print(table)
        pictures.append(frame)
    svg = animated(pictures, screen)
    Path(__file__).with_suffix(".svg").write_text(svg, encoding="utf-8")
    return code


def animated(frames: Sequence[Console], last: Console) -> str:
    """Return one SVG of these frames and of the last screen."""
    whole_s = STORY_S + LAST_S
    each_s = STORY_S / len(frames)
    whole = last.export_svg(
        title="stream-app demo",
        code_format=form(),
        unique_id="demo",
        clear=False,
    )
    styles = []
    groups = []
    for number, frame in enumerate(frames):
        name = f"f{number}"
        classes, text = matrix(frame, name)
        begins = 100 * number * each_s / whole_s
        ends = 100 * (number + 1) * each_s / whole_s
        styles.append(
            f"{classes}"
            f"@keyframes {name} {{0%{{opacity:0}}{begins:.2f}%{{opacity:1}}"
            f"{ends:.2f}%{{opacity:0}}}}\n"
            f".{name} {{opacity:0;animation:{name} {whole_s:g}s step-end infinite}}\n",
        )
        groups.append(f'<g class="frame demo-matrix {name}">{text}</g>\n')
    styles.append(
        f"@keyframes last {{0%{{opacity:0}}{100 * STORY_S / whole_s:.2f}%{{opacity:1}}}}\n"
        f".last {{animation:last {whole_s:g}s step-end infinite}}\n"
        "@media (prefers-reduced-motion: reduce) {.frame {display:none} .last {animation:none}}\n",
    )
    whole = whole.replace("</style>", f"{''.join(styles)}</style>", 1)
    place = '<g class="demo-matrix">'
    return whole.replace(place, f'{"".join(groups)}{place[:-2]} last">', 1)


if __name__ == "__main__":
    sys.exit(main())
