"""The chart, loaded once for each file of tests."""

from collections.abc import Iterator

import pytest
from helm_python import Chart

from tests.unit.deploy.rendered import CHART


@pytest.fixture(scope="module")
def chart() -> Iterator[Chart]:
    with Chart.load(CHART) as loaded:
        yield loaded
