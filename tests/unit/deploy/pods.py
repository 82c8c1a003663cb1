"""The pods of the chart."""

from typing import Any

PROCESSES = ("worker", "replay", "gateway", "board", "trace")


def leaves(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Each value by its path. Tables whose keys are the user's own are values."""
    by_path: dict[str, Any] = {}
    for name, value in values.items():
        at = f"{path}{name}"
        if (
            isinstance(value, dict)
            and value
            and name not in ("annotations", "labels", "requests", "limits")
        ):
            by_path |= leaves(value, f"{at}.")
        else:
            by_path[at] = value
    return by_path
