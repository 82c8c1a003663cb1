"""What the tables of a page say that Clay finds, and what they should say by counts."""

import re

from tests.board.client import plain

Yields = dict[tuple[str, str, str], tuple[int, ...]]
"""Workspace, destination and column -> answers, those with a value, and credits."""
Shown = dict[tuple[str, str, str], tuple[str, str]]
"""Workspace, destination and column -> share with answers, and credits for each value."""


def yield_texts(yields: Yields) -> Shown:
    """Return what pages and commands make of the counts."""
    return {
        place: (
            f"{100 * filled / answered:.1f} % of {answered}",
            f"{credits_ / filled:,.1f}".removesuffix(".0") if filled else "-",
        )
        for place, (answered, filled, credits_) in yields.items()
    }


def shown_yields(text: str, workspace: str = "") -> Shown:
    """Return the table of a page, of all workspaces or of one that the page is about."""
    if 'id="yield"' not in text:
        return {}
    table = text[text.index('id="yield"') :]
    shown: Shown = {}
    for row in re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", table[: table.index("</table>")]):
        head, *cells = [plain(cell).split() for cell in re.split(r"</t[hd]>", row)[:-1]]
        column, *place = head
        share, sign, _, answers = cells[1]
        of = workspace or place[0]
        price = cells[3][0]
        shown[of, place[-1], column] = (
            f"{share} {sign} of {answers}",
            price,
        )
    return shown


def yields_on_import(text: str) -> dict[str, tuple[str, int, str]]:
    """Return the table of an import's page.

    Returns:
        By column the share with the answers, all credits, and those for each value.
    """
    if 'id="yield"' not in text:
        return {}
    table = text[text.index('id="yield"') :]
    shown: dict[str, tuple[str, int, str]] = {}
    for row in re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", table[: table.index("</table>")]):
        head, *cells = [plain(cell).split() for cell in re.split(r"</t[hd]>", row)[:-1]]
        share, sign, _, answers = cells[0]
        credits_ = int(cells[1][0].replace(",", ""))
        price = cells[2][0]
        shown[head[0]] = (
            f"{share} {sign} of {answers}",
            credits_,
            price,
        )
    return shown
