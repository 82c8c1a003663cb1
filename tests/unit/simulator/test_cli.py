"""`stream-app sim` and `python -m stream_app.dev.simulator` take the same arguments."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from stream_app.cli.main import main
from stream_app.dev import simulator

EVERY_OPTION = "--host 0.0.0.0 --port 1 --control-port 2 --seed 3 --script a.toml --ledger b.jsonl"


@pytest.mark.parametrize("typed", ["", EVERY_OPTION])
def test_the_same_options_with_the_same_defaults(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr("stream_app.dev.simulator.run", lambda options: given.append(dict(vars(options))))
    assert main(["sim", *typed.split()]) == 0
    alone = argparse.ArgumentParser()
    simulator.add_arguments(alone)
    assert given == [vars(alone.parse_args(typed.split()))]
    assert set(EVERY_OPTION.split()[::2]) == set(alone._option_string_actions) - {"-h", "--help"}
