"""What the chart renders, as objects: by kind and name, by process, and the settings that a pod
loads.
"""

import copy
import functools
import json
import secrets
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

from stream_app.config import Settings, load_settings

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "chart"


def objects(chart: Chart, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that a release of these values consists of."""
    return copy.deepcopy(_objects(chart, json.dumps(values)))


@functools.cache
def _objects(chart: Chart, values: str) -> list[dict[str, Any]]:
    rendered = chart.render(json.loads(values), name="leads", namespace="sales")
    return [
        item
        for path, text in rendered.items()
        if not path.endswith("NOTES.txt")
        for item in yaml.safe_load_all(text)
        if item
    ]


def find(rendered: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (only,) = [
        item
        for item in rendered
        if (item["kind"], item["metadata"]["name"]) == (kind, f"leads-stream-app{name}")
    ]
    return only


def processes(rendered: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod template of each process, by its command."""
    templates = [item["spec"]["template"] for item in rendered if item["kind"] == "Deployment"]
    return {template["spec"]["containers"][0]["args"][0]: template for template in templates}


def pods(rendered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The spec of each pod: of the processes, and of what Helm runs around them."""
    specs = [item["spec"] for item in rendered if "spec" in item]
    inner = [spec["template"]["spec"] if "template" in spec else spec for spec in specs]
    return [spec for spec in inner if "containers" in spec]


def settings(rendered: list[dict[str, Any]], tmp_path: Path, kind: str = "") -> Settings:
    """The settings that a pod loads from its ConfigMap and its Secret."""
    text = find(rendered, "ConfigMap", kind)["data"]["stream_app.toml"].replace(
        "/run/secrets/stream-app",
        str(tmp_path),
    )
    (tmp_path / "stream_app.toml").write_text(text)
    for name, value in {
        "CALLBACK_KEY": secrets.token_hex(32),
        "BOARD_TOKEN": secrets.token_hex(32),
        "WEBHOOK": "https://api.clay.com/v3/sources/webhook/acme--people",
        "NOTIFY_URL": "https://hooks.example.com/leads",
    }.items():
        (tmp_path / name).write_text(value)
    return load_settings(tmp_path / "stream_app.toml", {}, ("clay", "gateway", "board"))
