"""What a dashboard consists of, and the queries that panels share.

Each gauge of a lane comes from the worker that owns it. After a rebalance two workers may show it
for one scrape, so queries take the `max by (workspace)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["lines", "stack", "number", "bars", "states", "heatmap"]

RELEASE: Final = 'release="$release"'
"""The label of the scraped processes that keeps another release out. Each selector has it."""
LANES: Final = f'workspace=~"$workspace",{RELEASE}'
TABLES: Final = f'destination=~"$destination",{RELEASE}'
PODS: Final = f'instance=~"$instance",{RELEASE}'


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        title: Its title.
        description: What it shows, and when to worry.
        unit: Grafana's unit.
        queries: PromQL by the text of the legend.
        kind: How it is drawn.
        span: Its width, of 24.
        limits: Value -> colour from that value on, for a panel with a meaning of good and bad.
        states: Value -> text and colour, for states that are numbers.
        least: The smallest value of the axis. None for values that may fall below 0.
        most: The largest value of the axis.
        exemplars: True to show the traces of single observations of a histogram.
    """

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    kind: Kind = "lines"
    span: int = 8
    limits: dict[float | None, str] = field(default_factory=dict)
    states: dict[str, tuple[str, str]] = field(default_factory=dict)
    least: float | None = 0
    most: float | None = None
    exemplars: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: rows of panels.

    Attributes:
        uid: Its stable id, also the name of its file.
        title: Its title.
        description: Who looks at it, and for what.
        variables: Variable -> a query for its values. Each dashboard has `release`, too.
        rows: Title of a row -> its panels.
        repeat: The variable that each row is repeated for.
        annotations: Name -> a query whose results are marked on all panels.
    """

    uid: str
    title: str
    description: str
    variables: dict[str, str]
    rows: dict[str, tuple[Panel, ...]]
    repeat: str = ""
    annotations: dict[str, str] = field(default_factory=dict)


def births(labels: str, by: str, window: str = "$__range") -> str:
    """The increase of lead events. A series starts at 1, which `increase` alone does not count."""
    name = f"stream_app_lead_events_total{{{labels}}}"
    return f"sum by ({by}) (({name} unless {name} offset {window}) or increase({name}[{window}]))"


BREAKER: Final = {"0": ("closed", "green"), "1": ("half open", "yellow"), "2": ("open", "red")}
CALM: Final[dict[float | None, str]] = {None: "green", 1: "red"}


def rate(name: str, labels: str, *by: str) -> str:
    """How fast a counter grows, per second, summed by these labels."""
    return f"sum by ({', '.join(by)}) (rate({name}{{{labels}}}[$__rate_interval]))"


def increase(name: str, labels: str, *by: str, window: str = "$__rate_interval") -> str:
    """By how much a counter grew, summed by these labels."""
    return f"sum by ({', '.join(by)}) (increase({name}{{{labels}}}[{window}]))"


def highest(name: str, labels: str, *by: str) -> str:
    """The value of a gauge, once for each of these labels."""
    return f"max by ({', '.join(by)}) ({name}{{{labels}}})"


def quantile(part: float, name: str, by: str, labels: str) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({part}, {rate(f'{name}_bucket', labels, 'le', by)})"
