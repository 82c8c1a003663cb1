"""What a lead costs, on docs/reference/clay.md, follows from the plan that the page names."""

import re
from pathlib import Path

from stream_app.domain.plan import Destination

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "clay.md").read_text(encoding="utf-8")
COSTS = PAGE.partition("## What a lead costs\n")[2].partition("\n## ")[0]
ROWS = {
    cells[0]: cells[1:]
    for line in COSTS.splitlines()
    if line.startswith("| ") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
}


def number(text: str) -> float:
    """The first number of a text."""
    found_number = re.search(r"[\d,]+(?:\.\d+)?", text)
    assert found_number is not None, text
    return float(found_number[0].replace(",", ""))


def test_the_price_of_a_lead_follows_from_the_plan() -> None:
    plan = re.search(r"\$(\d+) a month, with ([\d,]+)\s+Data\s+Credits and ([\d,]+) Actions", COSTS)
    assert plan is not None
    (dollars, credits_a_month, actions) = map(number, plan.groups())
    costs = [number(title) for title in ROWS[""]]
    assert costs == [1, 6, 20]
    batch = 300
    for column, credits_a_lead in enumerate(costs):
        row = {name: number(cells[column]) for name, cells in ROWS.items() if name}
        price = dollars / credits_a_month * credits_a_lead
        assert row["Leads a month that the credits pay for"] == credits_a_month // credits_a_lead
        assert abs(row["Money for each, with the plan's price shared out"] - price) <= 0.0051
        assert abs(row[f"A batch of {batch} leads"] - batch * price) <= 0.51
        assert abs(row["The same batch sent twice: what is lost"] - batch * price) <= 0.51
        lasts_s = credits_a_month / credits_a_lead / 10
        stated = ROWS["A loop at 10 leads a second uses up the month's credits in"][column]
        assert number(stated) * (60 if "minutes" in stated else 1) == lasts_s
    assert number(COSTS.partition("40,000 Actions are ")[2]) == actions // 7


def test_the_default_estimate_and_ceiling_are_those_of_the_page() -> None:
    table = Destination("people", "acme", ())
    stated = re.search(
        r"default estimate of a destination is (\d+) credits and its ceiling (\d+)",
        COSTS,
    )
    assert stated is not None
    assert stated.groups() == (str(table.estimate_credits), str(table.ceiling_credits))
