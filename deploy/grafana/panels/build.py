"""Builds the JSON of a dashboard that Grafana reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders import heatmap as heatmaps
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from panels.model import Dashboard, Panel

_DATASOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


def build(source: Dashboard) -> str:
    """Return a dashboard as the JSON that Grafana reads."""
    board = (
        dashboard.Dashboard(source.title)
        .uid(source.uid)
        .description(source.description)
        .tags(["stream-app"])
        .readonly()
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("stream-app")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["stream-app"]),
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        )
    )
    board.with_variable(
        dashboard.QueryVariable("release")
        .label("Release")
        .query("label_values(stream_app_build_info, release)")
        .datasource(_DATASOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC),
    )
    for name, query in source.variables.items():
        board.with_variable(
            dashboard.QueryVariable(name)
            .label(name.capitalize())
            .query(query)
            .datasource(_DATASOURCE)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*"),
        )
    for name, query in source.annotations.items():
        board.annotation(
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(_DATASOURCE)
            .enable(True)
            .expr(query)
            .icon_color("blue"),
        )
    for title, panels in source.rows.items():
        row = dashboard.Row(title)
        board.with_row(row.repeat(source.repeat) if source.repeat else row)
        for panel in panels:
            board.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _panel(source: Panel) -> Any:
    """Build a panel of any kind."""
    panel = _KINDS[source.kind](source)
    panel.title(source.title).description(source.description).unit(source.unit).datasource(
        _DATASOURCE,
    )
    panel.span(source.span).height(5 if source.kind == "number" else 8)
    if source.least is not None:
        panel.min(source.least)
    if source.most is not None:
        panel.max(source.most)
    if source.limits:
        steps = [
            models.Threshold(value=value, color=colour) for value, colour in source.limits.items()
        ]
        panel.thresholds(
            dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps),
        )
        panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    if source.states:
        results = {
            value: models.ValueMappingResult(text=text, color=colour)
            for value, (text, colour) in source.states.items()
        }
        panel.mappings([models.ValueMap(options=results)])
    for number, (legend, query) in enumerate(source.queries.items()):
        target = (
            prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number))
        )
        if source.exemplars:
            target.exemplar(True)
        if source.kind == "heatmap":
            target.format(PromQueryFormat.HEATMAP)
        panel.with_target(target.instant() if source.kind in ("number", "bars") else target.range())
    return panel


def _lines(_: Panel) -> Any:
    legend = (
        common.VizLegendOptions().show_legend(True).placement(common_models.LegendPlacement.BOTTOM)
    )
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    return timeseries.Panel().legend(legend).tooltip(tooltip).fill_opacity(10)


def _stack(source: Panel) -> Any:
    return (
        _lines(source)
        .fill_opacity(60)
        .stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    )


def _bars(_: Panel) -> Any:
    return bargauge.Panel().orientation(common_models.VizOrientation.HORIZONTAL)


def _heatmap(_: Panel) -> Any:
    return (
        heatmaps.Panel()
        .calculate(False)
        .color(heatmaps.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME))
    )


_KINDS: Final[dict[str, Callable[[Panel], Any]]] = {
    "lines": _lines,
    "stack": _stack,
    "number": lambda _: stat.Panel(),
    "bars": _bars,
    "states": lambda _: statetimeline.Panel().row_height(0.8),
    "heatmap": _heatmap,
}
