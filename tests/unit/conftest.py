"""Tests in this folder run without a broker and without Redis."""

from typing import NoReturn

import pytest


@pytest.fixture(scope="session")
def kafka() -> NoReturn:
    pytest.fail("tests/unit runs without Kafka: move this test to tests/integration", pytrace=False)


@pytest.fixture(scope="session")
def redis_url() -> NoReturn:
    pytest.fail("tests/unit runs without Redis: move this test to tests/integration", pytrace=False)
