"""Garbage of one test is not left to the end."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def collect_garbage() -> Iterator[None]:
    """A failed task that is first collected, and so reported, while pytest parses sources for its summary crashes
    pytest on CPython 3.11 ("AST constructor recursion depth mismatch").
    """
    yield
    gc.collect()
