"""A broker that tests may break."""

from collections.abc import Iterator

import pytest

from stream_app.dev.process import StartError
from tests.support.proxy import ProxiedKafka


@pytest.fixture(scope="module")
def broker() -> Iterator[ProxiedKafka]:
    try:
        with ProxiedKafka() as own:
            yield own
    except StartError as error:
        pytest.fail(str(error), pytrace=False)
